"""`python -m scorefield` and the `scorefield` command."""

import sys

from scorefield.cli import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
