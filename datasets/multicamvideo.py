"""Read some scenes and say what they hold: `python datasets/multicamvideo.py ROOT`.

MultiCamVideo (ReCamMaster): docs/datasets/multicamvideo.md
"""

import sys

from check import main

if __name__ == "__main__":
    sys.exit(main(["--layout", "multicamvideo", *sys.argv[1:]]))
