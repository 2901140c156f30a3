"""`python -m phasewise`: the same as `phasewise`."""

import sys

from phasewise.cli.entry import main

if __name__ == "__main__":
    sys.exit(main())
