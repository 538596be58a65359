"""The one place that imports diffusers: its schedulers and networks, taken as they are."""

import importlib.util
import warnings
from typing import Any

from mvtrack.models.diffsynth_parts import declare_torchvision_operators


def diffusers_class(name: str) -> Any:
    """A public class of diffusers. Raises ValueError with the command that installs it, or why it is not there."""
    if importlib.util.find_spec("diffusers") is None:
        raise ValueError(f"{name} needs the package diffusers: pip install '.[sd]'")
    declare_torchvision_operators()
    with warnings.catch_warnings():  # of the packages that diffusers imports
        warnings.simplefilter("ignore")
        try:
            import diffusers

            return getattr(diffusers, name)
        except (ImportError, RuntimeError, AttributeError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
            raise ValueError(
                f"diffusers is installed but {name} cannot be imported ({reason}): pip install '.[sd]' in a fresh "
                "environment"
            ) from error
