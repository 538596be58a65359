"""Read some scenes and say what they hold: `python datasets/movi.py ROOT`.

MOVi (Kubric, TensorFlow Datasets): docs/datasets/kubric.md
"""

import sys

from check import main

if __name__ == "__main__":
    sys.exit(main(["--layout", "movi", *sys.argv[1:]]))
