"""Read some scenes and say what they hold: `python datasets/iphone.py ROOT`.

iPhone captures of dycheck: docs/datasets/evaluation.md
"""

import sys

from check import main

if __name__ == "__main__":
    sys.exit(main(["--layout", "iphone", *sys.argv[1:]]))
