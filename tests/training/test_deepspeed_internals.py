"""The names inside DeepSpeed that checkpoints are read and written by: a version without them fails here, in words."""

import importlib
import inspect
import re
from importlib import metadata
from pathlib import Path

import pytest

pytest.importorskip("deepspeed", reason="deepspeed is not installed")

# Used by mvtrack/training/{zero_shards,ema,telemetry}.py: where each name is set.
INTERNALS = {
    "deepspeed.utils.tensor_fragment": (
        "lp_fragment_address", "hp_fragment_address", "param_group_index", "hp_fragment", "get_full_hp_param",
    ),
    "deepspeed.runtime.bf16_optimizer": ("fp32_groups_flat_partition", "_hp_mapping"),
    "deepspeed.runtime.zero.stage_1_and_2": ("single_partition_of_fp32_groups", "_hp_mapping"),
    "deepspeed.runtime.zero.stage3": (
        "_z3_optimizer", "_get_fp32_opt_state_partition", "fp32_partitioned_groups_flat", "release_swap_buffers",
        "optim_state_key",
    ),
    "deepspeed.runtime.zero.partition_parameters": ("ds_id", "ds_tensor", "ds_numel", "ds_shape"),
}  # fmt: skip


@pytest.mark.parametrize("module", INTERNALS)
def test_deepspeed_still_has_the_names_that_checkpoints_need(module):
    source = inspect.getsource(importlib.import_module(module))
    gone = [name for name in INTERNALS[module] if not re.search(rf"\b{name}\b", source)]
    assert not gone, (
        f"DeepSpeed {metadata.version('deepspeed')} has no {', '.join(gone)} in {module}: adapt "
        "mvtrack/training/zero_shards.py before pyproject.toml allows this version"
    )


def test_deepspeed_is_capped_below_the_next_minor_version():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    cap = re.search(r'"deepspeed>=[\d.]+,<(\d+)\.(\d+)"', text)
    assert cap, "deepspeed needs a cap: its internals are used"
    installed = tuple(int(part) for part in metadata.version("deepspeed").split(".")[:2])
    assert installed == (int(cap[1]), int(cap[2]) - 1)
