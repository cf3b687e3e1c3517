"""`python -m qcompiler` is the command line."""

import sys

from qcompiler.cli import main

if __name__ == "__main__":
    sys.exit(main())
