"""The command line. Nothing heavy is imported before a command runs, so help is instant."""

from qcompiler.cli.app import main

__all__ = ["main"]
