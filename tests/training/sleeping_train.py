"""`mvtrack/train.py` in which rank 1 falls asleep at step 2."""

import os
import sys
import time

import mvtrack.training.loop as loop
from mvtrack.train import main

_take_step = loop._step


def _sleepy_step(run, *arguments, **options):
    if os.environ["RANK"] == "1" and run.progress.step == 2:
        time.sleep(600)
    return _take_step(run, *arguments, **options)


if __name__ == "__main__":
    loop._step = _sleepy_step
    sys.exit(main())
