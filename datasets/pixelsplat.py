"""Read some scenes and say what they hold: `python datasets/pixelsplat.py ROOT`.

chunks of pixelSplat and MVSplat (RealEstate10K, ACID, DTU): docs/datasets/realestate10k.md
"""

import sys

from check import main

if __name__ == "__main__":
    sys.exit(main(["--layout", "pixelsplat", *sys.argv[1:]]))
