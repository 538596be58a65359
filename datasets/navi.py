"""Read some scenes and say what they hold: `python datasets/navi.py ROOT`.

NAVI: docs/datasets/navi.md
"""

import sys

from check import main

if __name__ == "__main__":
    sys.exit(main(["--layout", "navi", *sys.argv[1:]]))
