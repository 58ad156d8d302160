"""`python -m estbench` is the same as `estbench`."""

import sys

from estbench.cli import main

if __name__ == "__main__":
    sys.exit(main())
