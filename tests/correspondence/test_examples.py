import runpy
import warnings
from pathlib import Path

import pytest
import torch

from mvtrack.models.diffsynth_parts import declare_torchvision_operators

EXAMPLES = Path(__file__).parents[2] / "docs/examples"


def test_example_supervises_attention_of_diffusers():
    declare_torchvision_operators()
    torch.manual_seed(0)
    with warnings.catch_warnings():  # of the packages that diffusers imports
        warnings.simplefilter("ignore")
        pytest.importorskip("diffusers", reason="diffusers is not installed")
        losses = runpy.run_path(str(EXAMPLES / "supervise_diffusers.py"))["losses"]
    assert losses[-1] < 0.7 * losses[0]
