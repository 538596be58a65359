"""Read some scenes and say what they hold: `python datasets/syncdreamer.py ROOT`.

SyncDreamer's sixteen views: docs/datasets/objects.md
"""

import sys

from check import main

if __name__ == "__main__":
    sys.exit(main(["--layout", "syncdreamer", *sys.argv[1:]]))
