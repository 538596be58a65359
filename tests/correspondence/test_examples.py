import runpy
import warnings
from pathlib import Path

import pytest
import torch

from mvtrack.correspondence.features import features_from_tokens
from mvtrack.correspondence.probe import probe_rows
from mvtrack.correspondence.probe_scores import sum_scores
from mvtrack.models.backbone import MultiViewBackbone
from mvtrack.models.diffsynth_parts import declare_torchvision_operators
from mvtrack.models.hooks import visiting_layers
from mvtrack.models.perturb import perturbed_attention

EXAMPLES = Path(__file__).parents[2] / "docs/examples"


def test_example_supervises_attention_of_diffusers():
    declare_torchvision_operators()
    torch.manual_seed(0)
    with warnings.catch_warnings():  # of the packages that diffusers imports
        warnings.simplefilter("ignore")
        pytest.importorskip("diffusers", reason="diffusers is not installed")
        losses = runpy.run_path(str(EXAMPLES / "supervise_diffusers.py"))["losses"]
    assert losses[-1] < 0.7 * losses[0]


def test_example_brings_a_backbone_that_everything_works_on():
    """Loss and sampling in the script itself; interface, analysis and perturbation here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = runpy.run_path(str(EXAMPLES / "bring_your_own_backbone.py"))
    network, inputs = example["network"], (example["clean"], torch.tensor([500]), example["conditioning"])
    assert isinstance(network, MultiViewBackbone)
    assert network.num_layers == 3
    assert example["losses"][-1] < 0.8 * example["losses"][0]
    made, clean = example["made"], example["clean"]
    assert made.isfinite().all()
    assert torch.equal(made[:, 0], clean[:, 0])
    errors = {}

    def measure(layer, q, k):
        q, k = (features_from_tokens(x.flatten(2), 3, 1, (4, 4), 2) for x in (q, k))
        rows = probe_rows(q, k, example["targets"], 16)
        errors[layer] = sum_scores(rows, example["targets"], 16.0).over_all_kinds()["alignment_error"]

    with torch.no_grad():
        with visiting_layers(network, measure):
            whole = network(*inputs).prediction
        for layer in range(3):
            with perturbed_attention(network, layer, "identity", views=3):
                assert not torch.equal(network(*inputs).prediction, whole)
    assert min(errors, key=errors.get) == 1  # the layer that was taught
    own = "class DiTViews" + (EXAMPLES / "bring_your_own_backbone.py").read_text().split("class DiTViews")[1]
    own = own.split("\n\n\n")[0]
    assert len(own.splitlines()) <= 40
    assert own in (EXAMPLES.parent / "backbones.md").read_text()
