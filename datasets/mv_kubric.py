"""Read some scenes and say what they hold: `python datasets/mv_kubric.py ROOT`.

MV-Kubric (MVTracker): docs/datasets/kubric.md
"""

import sys

from check import main

if __name__ == "__main__":
    sys.exit(main(["--layout", "mv-kubric", *sys.argv[1:]]))
