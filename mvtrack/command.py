"""How every command ends: bad input is one line on stderr and exit code 2, not a traceback."""

import sys
from collections.abc import Callable


def run_command(work: Callable[[], None], name: str, debug: bool = False) -> int:
    """Run a command's work and return its exit code. `debug` lets errors through with their traceback."""
    try:
        work()
    except (ValueError, OSError) as error:
        if debug:
            raise
        sys.stderr.write(f"{name}: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"{name}: interrupted\n")
        return 130
    return 0
