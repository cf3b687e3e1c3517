"""What can be read off a program's graph alone: where weights act, and where it can be cut."""
