"""Read some scenes and say what they hold: `python datasets/wonder3d.py ROOT`.

Wonder3D's six orthographic views: docs/datasets/objects.md
"""

import sys

from check import main

if __name__ == "__main__":
    sys.exit(main(["--layout", "wonder3d", *sys.argv[1:]]))
