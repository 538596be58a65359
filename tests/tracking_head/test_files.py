import json
import re
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import save_file

from tracking_head import CorrelationConfig, HeadConfig, TrackingHead, load_head, save_head
from tracking_head.files import FILE_NAME, FORMAT, write_head

CONFIG = HeadConfig(
    CorrelationConfig(levels=2, radius=1, softmax="none"), correlation_hidden=7, correlation_dim=6, dim=16, heads=2,
    layers=1, virtual_tracks=3, camera="mean", displacement=True,
)  # fmt: skip


@pytest.mark.parametrize("name", ["head.safetensors", "folder"])
def test_head_file_round_trips(tmp_path, name):
    head = TrackingHead(CONFIG)
    path = save_head(head, tmp_path / name)
    assert path == tmp_path / (name if name.endswith("safetensors") else f"folder/{FILE_NAME}")
    again = load_head(tmp_path / name)
    assert again.config == CONFIG
    assert not again.training
    for key, value in head.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_foreign_head_files_raise(tmp_path):
    with pytest.raises(ValueError, match=re.escape(f"no tracking head at {tmp_path / FILE_NAME}")):
        load_head(tmp_path)
    damaged = tmp_path / "d.safetensors"
    damaged.write_bytes(b"x" * 99)
    with pytest.raises(ValueError, match="d.safetensors is not a whole safetensors file"):
        load_head(damaged)
    save_file({"a": torch.zeros(2)}, tmp_path / "o.safetensors", metadata={"format": "mvtrack-1"})
    with pytest.raises(ValueError, match="o.safetensors is not a tracking head .*--part tracking_head"):
        load_head(tmp_path / "o.safetensors")


def test_mismatched_head_weights_raise(tmp_path):
    head = TrackingHead(CONFIG)
    path = write_head(replace(CONFIG, dim=32), head.state_dict(), tmp_path / "h.safetensors")
    with pytest.raises(ValueError, match="h.safetensors does not fit its config"):
        load_head(path)
    tree = asdict(CONFIG) | {"later": 1}
    state = {k: v.contiguous() for k, v in head.state_dict().items()}
    save_file(state, path, metadata={"format": FORMAT, "config": json.dumps(tree)})
    with pytest.raises(ValueError, match=r"unknown keys \['later'\]"):
        load_head(path)
