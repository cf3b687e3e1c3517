"""Programs to look at: parts of them, what is known of their nodes, how two of them correspond, and other formats."""
