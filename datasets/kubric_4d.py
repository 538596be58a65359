"""Read some scenes and say what they hold: `python datasets/kubric_4d.py ROOT`.

Kubric-4D (GCD): docs/datasets/kubric.md
"""

import sys

from check import main

if __name__ == "__main__":
    sys.exit(main(["--layout", "kubric-4d", *sys.argv[1:]]))
