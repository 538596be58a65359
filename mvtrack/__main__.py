"""`python -m mvtrack`: the same as the console command."""

import sys

from mvtrack.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
