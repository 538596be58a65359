"""Recorded passes: what can be known without a GPU, and what a GPU has to show."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from mvtrack.config.placement import Placement
from mvtrack.config.presets import preset
from mvtrack.inference.cuda_graphs import RecordedPasses
from mvtrack.inference.device import place, placed_config
from mvtrack.inference.memory.transformer import InputShape, random_inputs
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.models.conditioning import Conditioning
from mvtrack.models.networks import empty_network
from mvtrack.models.reshoot_model import ReshootModel
from mvtrack.models.step_cache import StepCache
from tests.inference.test_device import video


class FromTheCpu(TorchDispatchMode):
    """Operations that take a tensor of the CPU, or a value back to it: a GPU cannot record them. Tensors without
    storage stand for the GPU's."""

    def __init__(self) -> None:
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):  # noqa: ANN001
        out = operator(*args, **(kwargs or {}))
        given = [x for x in args if isinstance(x, Tensor) and x.device.type == "cpu" and x.ndim]
        here = isinstance(out, Tensor) and out.device.type == "meta" and given
        if here or any(word in str(operator) for word in ("_local_scalar_dense", "nonzero")):
            self.found.append(str(operator))
        return out


def on_meta(value: object) -> object:
    return value.to("meta") if isinstance(value, Tensor) else value


@pytest.mark.parametrize("name", ["small", "recammaster_1.3b", "redirector_1.3b"])
def test_a_second_pass_asks_the_cpu_for_nothing(small_model, name):
    config = small_model.config if name == "small" else preset(name)
    network = empty_network(config)
    network.attention_kernel = lambda device, tokens: "efficient"
    latents, timestep, conditioning = random_inputs(config, InputShape((64, 96), 5))
    inputs = (on_meta(latents), on_meta(timestep), Conditioning(*map(on_meta, conditioning)))
    found = []
    for _ in range(2):
        with torch.no_grad(), FromTheCpu() as watch:
            network(*inputs)
        found.append(watch.found)
    assert found[0], "the table of RoPE comes from the CPU"
    assert found[1] == []


def test_what_remembers_passes_is_not_recorded(small_model):
    network = deepcopy(small_model.dit)
    network.step_cache = StepCache(0.1, 5, (1.0, 0.0))
    latents, timestep, conditioning = random_inputs(small_model.config, InputShape((24, 32), 5))
    with pytest.raises(ValueError, match="cannot remember the one before it: leave out --cuda-graphs"):
        RecordedPasses().run(network, latents, timestep, conditioning)


def test_a_source_that_is_computed_once_is_not_recorded(small_model):
    dit = replace(small_model.config.dit, reference_attention="own")
    with pytest.raises(ValueError, match="this model computes its source once: leave it out"):
        placed_config(replace(small_model.config, dit=dit), Placement(cuda_graphs=True))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_recorded_passes_make_the_same_video(tracking_model, precision):
    """Twice, so that the second is made of replays alone; then with other weights of the same network. Between them a
    pass of another shape, which takes the place of what was kept of the first."""

    def copy() -> ReshootModel:
        return ReshootModel(tracking_model.config, deepcopy(tracking_model.dit), deepcopy(tracking_model.codec))

    plain = place(copy(), Placement("cuda", precision))
    recorded = place(copy(), Placement("cuda", precision, cuda_graphs=True))
    for _ in range(2):
        expected, made = video(plain, SamplerOptions(3)), video(recorded, SamplerOptions(3))
        torch.testing.assert_close(made, expected, atol=1e-3, rtol=0)
        for model in (plain, recorded):
            nn.init.constant_(model.dit.head.head.bias, 0.3)
        other = random_inputs(tracking_model.config, InputShape((32, 24), 5))
        with torch.no_grad():
            recorded.run(*other)
        torch.cuda.empty_cache()
