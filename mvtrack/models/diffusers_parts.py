"""The one place that imports diffusers: its schedulers and networks, taken as they are; and peft, in the same way."""

import importlib
import importlib.util
import warnings
from typing import Any

from mvtrack.models.diffsynth_parts import declare_torchvision_operators


def diffusers_class(name: str) -> Any:
    """A public class of diffusers. Raises ValueError with the command that installs it, or why it is not there."""
    return _member("diffusers", name, "sd")


def peft_member(name: str) -> Any:
    """The same of peft."""
    return _member("peft", name, "train")


def _member(package: str, name: str, extra: str) -> Any:
    if importlib.util.find_spec(package) is None:
        raise ValueError(f"{name} needs the package {package}: pip install -e '.[{extra}]'")
    declare_torchvision_operators()
    with warnings.catch_warnings():  # of the packages that it imports
        warnings.simplefilter("ignore")
        try:
            return getattr(importlib.import_module(package), name)
        except (ImportError, RuntimeError, AttributeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise ValueError(
                f"{package} is installed but {name} cannot be imported ({reason}): pip install -e '.[{extra}]' in a "
                "fresh environment"
            ) from error
