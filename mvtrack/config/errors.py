"""How every command ends: bad input, or too little memory, is one line on stderr and exit code 2, not a traceback."""

import os
import sys
from collections.abc import Callable, Iterable
from typing import NoReturn

_NO_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")  # of CUDA, of PyTorch on a CPU


def run_command(work: Callable[[], None], name: str, debug: bool = False, less_memory: str = "") -> int:
    """Run a command's work and return its exit code.

    debug: let errors through with their traceback. less_memory: what to change where memory does not do.
    """
    try:
        work()
    except (ValueError, OSError) as error:
        if debug:
            raise
        sys.stderr.write(f"{name}: {error}\n")
        return 2
    except (MemoryError, RuntimeError) as error:
        if debug or not is_out_of_memory(error):
            raise
        sys.stderr.write(f"{name}: {out_of_memory(error, less_memory)}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"{name}: interrupted\n")
        return 130
    return 0


def leave(code: int) -> NoReturn:
    """End a program that may have used Ray. If it has, the interpreter's own clean-up is left out: Ray's threads can
    crash in it (SIGSEGV) when all is done and written, and the exit code would say that the work failed."""
    if "ray" not in sys.modules:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of a GPU or of the CPU."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _NO_MEMORY)


def out_of_memory(error: BaseException, less_memory: str = "") -> str:
    """One line that says so, what was asked for, and what to change."""
    said = (str(error).strip() or type(error).__name__).splitlines()[0]
    return f"memory ran out ({said[:160]}): {less_memory or 'close what else uses it, or use a larger machine'}"


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """`; did you mean 'arc_left'?` where a known name is near, else nothing."""
    import difflib  # takes as long to import as everything else that `mvtrack --help` needs

    close = difflib.get_close_matches(str(name), map(str, known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
