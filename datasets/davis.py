"""Read some scenes and say what they hold: `python datasets/davis.py ROOT`.

DAVIS: docs/datasets/evaluation.md
"""

import sys

from check import main

if __name__ == "__main__":
    sys.exit(main(["--layout", "davis", *sys.argv[1:]]))
