"""Where work on one case, video or metric may go wrong without ending the run: it becomes a counted failure."""

from collections.abc import Callable
from typing import TypeVar

from mvtrack.evaluation.interface import Skipped, failed

Result = TypeVar("Result")
_ON_PURPOSE = (ValueError, OSError, RuntimeError)  # their message says all


def guarded(work: Callable[[], Result], about: str = "", debug: bool = False) -> Result | Skipped:
    """What `work` returns, or a failure with its reason after `about`.

    debug: an exception that no part raises on purpose is let through, with its traceback.
    """
    try:
        return work()
    except Exception as error:
        if debug and not isinstance(error, _ON_PURPOSE):
            raise
        message = " ".join(str(error).split())
        if isinstance(error, _ON_PURPOSE) and message:
            return failed(about + message)
        return failed(about + (f"{type(error).__name__}: {message}" if message else type(error).__name__))
