"""One rank of a pool that stays alive: reads JSON jobs from stdin, trains, answers with a JSON line.

Run as a script with RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT set. A job: {"config": tree, "resume": str | null,
"faults": {rank: {function of faults.py: arguments}}}.
"""

import contextlib
import json
import os
import sys
import warnings


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")  # DeepSpeed prints to stdout; keep our channel clean
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    import faults
    import torch

    torch.set_num_threads(1)
    from mvtrack.config.run import training_from_tree
    from mvtrack.training.engine import start_distributed
    from mvtrack.training.loop import train

    start_distributed(timeout_s=120)
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        job = json.loads(line)
        with contextlib.ExitStack() as stack:
            for name, arguments in job["faults"].get(os.environ["RANK"], {}).items():
                stack.enter_context(getattr(faults, name)(**arguments))
            try:
                train(training_from_tree(job["config"], "job"), job["resume"], job["accept_changes"])
                answer = {"error": None}
            except (ValueError, OSError) as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
