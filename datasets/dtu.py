"""Read some scenes and say what they hold: `python datasets/dtu.py ROOT`.

DTU as MVSNet and MVSplat prepare it: docs/datasets/dtu.md
"""

import sys

from check import main

if __name__ == "__main__":
    sys.exit(main(["--layout", "dtu", *sys.argv[1:]]))
