"""Where work on one case, video or metric may go wrong without ending the run: it becomes a counted failure."""

from collections.abc import Callable
from typing import TypeVar

from mvtrack.evaluation.interface import Declined, failed

Result = TypeVar("Result")
_TOLD = (ValueError, OSError, RuntimeError)  # what parts raise on purpose: their message says all


def guarded(work: Callable[[], Result], about: str = "", debug: bool = False) -> Result | Declined:
    """What `work` returns, or a failure with its reason after `about`.

    debug: an exception that no part raises on purpose is let through, with its traceback.
    """
    try:
        return work()
    except Exception as error:
        if debug and not isinstance(error, _TOLD):
            raise
        return failed(about + in_words(error))


def in_words(error: Exception) -> str:
    """The message on one line; with the type's name where the message alone may say nothing."""
    message = " ".join(str(error).split())
    if isinstance(error, _TOLD) and message:
        return message
    return f"{type(error).__name__}: {message}" if message else type(error).__name__
