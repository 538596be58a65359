"""An option that would have no effect is an error: the result would not be what its giver thinks."""

import argparse
from collections.abc import Callable


def refuse_idle(
    options: argparse.Namespace,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    names: tuple[str, ...],
    is_used: bool,
    needs: str,
) -> None:
    """Raise ValueError for the first option among `names` that was given though nothing uses it.

    add_arguments: declares them, with the defaults that mean that none was given. needs: what would use them.
    """
    declared = argparse.ArgumentParser()
    add_arguments(declared)
    for name in () if is_used else names:
        value = getattr(options, name)
        if value != declared.get_default(name):
            shown = f"--{name.replace('_', '-')}" + ("" if value is True else f" {value}")
            raise ValueError(f"{shown} has no effect, it is for {needs}: leave it out")
