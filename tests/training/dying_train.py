"""`mvtrack/train.py`, killed at the DIE_AT-th file operation below a folder named `checkpoints`."""

import os
import sys

import faults

from mvtrack.train import main

if __name__ == "__main__":
    faults.die_at_file_operation(int(os.environ["DIE_AT"]), below="checkpoints")
    sys.exit(main())
