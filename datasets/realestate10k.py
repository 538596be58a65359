"""Read some scenes and say what they hold: `python datasets/realestate10k.py ROOT`.

RealEstate10K, text files and frames: docs/datasets/realestate10k.md
"""

import sys

from check import main

if __name__ == "__main__":
    sys.exit(main(["--layout", "realestate10k", *sys.argv[1:]]))
