"""Read some scenes and say what they hold: `python datasets/dtu_pixelnerf.py ROOT`.

DTU as pixelNeRF prepares it (rs_dtu_4): docs/datasets/dtu.md
"""

import sys

from check import main

if __name__ == "__main__":
    sys.exit(main(["--layout", "dtu-pixelnerf", *sys.argv[1:]]))
