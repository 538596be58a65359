"""REPA and Geometry Forcing: what teachers see, values against their definitions, what learns; without weights."""

import sys
from copy import deepcopy
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange

from mvtrack.config.features import TeacherConfig
from mvtrack.config.run import RunConfig
from mvtrack.config.tree import from_tree
from mvtrack.correspondence.nearest_neighbours import points_from_depth
from mvtrack.data.loader import BatchDataset
from mvtrack.data.synthetic.test_scenes import render_still_scene
from mvtrack.geometry.camera import Camera
from mvtrack.models import feature_teachers
from mvtrack.models.feature_teachers import colour_features, point_features, teacher_of
from mvtrack.models.reshoot_model import build_model, load_model, save_model
from mvtrack.training.objective import Objective

GRID = (3, 5)
COLOURS, POINTS = {"kind": "colours", "weights": None}, {"kind": "points", "weights": None}


@pytest.fixture
def views():
    """A still scene in three views as a batch of one: pictures, cameras, depth."""
    clip = render_still_scene(3, 3, 1, (48, 80))
    return clip.video[None], clip.camera[None], clip.depth[None]


def feature_tree(small_run, root, backbone: str, loss: str) -> dict:
    tree = deepcopy(small_run)
    features, teacher = (48, COLOURS) if loss == "repa" else (24, POINTS)
    projector = {"layer": 1, "features": features, "hidden": 16, "scale": loss == "geometry_forcing"}
    if backbone == "cat3d":
        tree["model"] = {
            "dit": None, "codec": {"channels": 12, "stride": 8}, "diffusion": {"steps": 4},
            "cat3d": {"block_channels": [8, 16], "num_heads": [1, 2], "layers_per_block": 1, "norm_groups": 4,
                      "channels": 12},
        }  # fmt: skip
    else:
        tree["model"]["dit"]["rope_frames"] = "by_view"
    tree["model"] |= {"views": {"count": 3, "references": [1, 2]}, "num_frames": 1, "tap_layer": 1,
                      "sizes": [[32, 48]], "feature_projector": projector}  # fmt: skip
    tree["data"] |= {"num_frames": 1, "banks": [
        {"root": str(root / "still"), "size": [32, 48], "num_scenes": 2, "num_frames": 1, "num_views": 3,
         "num_points": 5, "static": True}]}  # fmt: skip
    tree["loss"] = {"features": {loss: 0.5, "teacher": teacher}}
    return tree


@pytest.mark.parametrize("loss", ["repa", "geometry_forcing"])
@pytest.mark.parametrize("backbone", ["dit", "cat3d"])
def test_loss_is_its_definition_and_its_gradient_ends_at_the_layer(small_run, tmp_path, backbone, loss):
    config = from_tree(RunConfig, feature_tree(small_run, tmp_path, backbone, loss), "tree")
    model = build_model(config.model, seed=1)
    batch = BatchDataset(config.data, 0, 2, 2, views=config.model.views)[0][0]
    model.codec.fit(list(batch.video), 0.5)
    step, hidden = Objective(config).prepare(batch, model.codec), {}
    name = "unet.mid_block.attentions.0.transformer_blocks.0" if backbone == "cat3d" else "blocks.1"
    block = model.dit.get_submodule(name)
    hook = block.register_forward_hook(lambda _m, _in, out: hidden.update(x=out))
    parts = Objective(config)(model.dit, step)
    hook.remove()
    x = hidden["x"][0] if isinstance(hidden["x"], tuple) else rearrange(hidden["x"], "(b v) n d -> b (v n) d", v=3)
    wanted = step.targets[loss].features.flatten(1, 4)
    projected = model.dit.feature_projector.mlp(x)
    cosine = -F.cosine_similarity(projected, wanted, dim=-1).mean()
    expected = cosine
    if loss == "geometry_forcing":
        scaled = model.dit.feature_projector.scale(projected / projected.norm(dim=-1, keepdim=True))
        expected = 0.5 * cosine + 0.05 * (scaled - wanted).square().mean()
    assert step.targets[loss].known.all()
    torch.testing.assert_close(parts[loss], expected, atol=1e-5, rtol=0)
    parts[loss].backward()
    reached = {n for n, p in model.dit.named_parameters() if p.grad is not None and p.grad.any()}
    assert {n for n in reached if n.startswith("feature_projector.")} == {
        f"feature_projector.{n}" for n, _ in model.dit.feature_projector.named_parameters()
    }
    assert any(n.startswith(name) for n in reached)
    assert not any(n.startswith(("unet.up_blocks", "unet.conv_out", "head.")) for n in reached)
    save_model(model, tmp_path / "model")
    assert load_model(tmp_path / "model").dit.feature_projector is not None


def test_encoded_clips_show_the_teacher_what_the_codec_decodes(small_run, tmp_path):
    config = from_tree(RunConfig, feature_tree(small_run, tmp_path, "cat3d", "repa"), "tree")
    model = build_model(config.model, seed=1)
    batch = BatchDataset(config.data, 0, 2, 2, views=config.model.views)[0][0]
    model.codec.fit(list(batch.video), 0.5)
    encoded = replace(batch, video=None, latents=model.codec.encode(batch.video))
    shown = model.codec.decode(encoded.latents)
    targets = Objective(config).prepare(encoded, model.codec).targets["repa"]
    assert torch.equal(targets.features, colour_features(shown, (2, 3), batch.camera, None))


def test_dinov2_sees_each_view_alone_with_a_patch_a_token(views, tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(5)
    sizes = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14, "image_size": 28}
    network = transformers.Dinov2Model(transformers.Dinov2Config(**sizes)).eval()
    network.save_pretrained(tmp_path / "dino")
    teacher = teacher_of(TeacherConfig(weights=str(tmp_path / "dino")))
    video, camera, depth = views
    features = teacher(video, GRID, camera, depth)
    assert features.shape == (1, 3, 1, *GRID, 12)
    picture = F.interpolate(video[0, 1], (42, 70), mode="bicubic", antialias=True).clamp(-1, 1) / 2 + 0.5
    mean, spread = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        alone = network((picture - mean[:, None, None]) / spread[:, None, None]).last_hidden_state[0, 1:]
    torch.testing.assert_close(features[0, 1, 0].flatten(0, 1), alone, atol=1e-5, rtol=0)


def test_vggt_sees_all_views_together(views, monkeypatch):
    """Its interface on random numbers: five special tokens, then patches of 14 pixels, the last layer counts."""
    seen = {}

    class Vggt(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(()))

        @classmethod
        def from_pretrained(cls, _weights):
            return cls()

        def aggregator(self, pictures):
            seen["shape"], (low, high) = tuple(pictures.shape), pictures.aminmax()
            assert 0 <= low <= high <= 1
            patches = F.avg_pool2d(pictures.flatten(0, 1), 14).flatten(2).mT.unflatten(0, pictures.shape[:2])
            return [None, torch.cat([torch.full((*pictures.shape[:2], 5, 3), 9.0), patches], 2)], 5

    for name in ("vggt", "vggt.models", "vggt.models.vggt"):
        module = ModuleType(name)
        module.__spec__ = SimpleNamespace(name=name)
        monkeypatch.setitem(sys.modules, name, module)
    sys.modules["vggt.models.vggt"].VGGT = Vggt
    feature_teachers._vggt.cache_clear()
    video, camera, depth = views
    features = teacher_of(TeacherConfig("vggt", "facebook/VGGT-1B"))(video, GRID, camera, depth)
    feature_teachers._vggt.cache_clear()
    assert seen["shape"] == (1, 3, 3, 14 * 22, 14 * 37)
    assert features.shape == (1, 3, 1, *GRID, 3)
    mean = F.adaptive_avg_pool2d(video[:, :, 0].flatten(0, 1), GRID).unflatten(0, (1, 3)) / 2 + 0.5
    assert (features[:, :, 0] - rearrange(mean, "b v c h w -> b v h w c")).abs().mean() < 0.1


def test_points_are_the_same_from_every_view_and_in_any_world(views):
    video, camera, depth = views
    grid = video.shape[-2:]  # a token a pixel
    features = point_features(video, grid, camera, depth)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(4)))[0]
    pose = torch.eye(4)
    pose[:3, :3], pose[:3, 3] = turn * turn.det(), torch.tensor([3.0, -2.0, 5.0])
    moved = Camera(pose @ camera.c2w, camera.K, camera.size)
    known = features.isfinite()
    torch.testing.assert_close(features[known], point_features(video, grid, moved, depth)[known], atol=2e-4, rtol=0)
    points = points_from_depth(depth, camera)[0, :, 0].flatten(2).mT
    gap, match = torch.cdist(points[0], points[1]).nan_to_num(torch.inf).min(1)
    same = gap < 0.01  # of what the views see 2 units away: 40 steps of the lowest angle
    assert same.sum() > 50
    first, second = (features[0, v, 0].flatten(0, 1) for v in (0, 1))
    assert (first[same] - second[match[same]]).abs().max() < 0.03
    with pytest.raises(ValueError, match="needs depth.*set it to vggt"):
        point_features(video, GRID, camera, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loss": {"features": {}}}, "loss.features trains model.feature_projector: set both"),
        ({"model": {"feature_projector": None}}, "loss.features trains model.feature_projector: set both"),
        ({"loss": {"features": {"repa": 0.5, "geometry_forcing": 0.5}}}, "set one of them to 0"),
        ({"loss": {"features": {"geometry_forcing": 0.5}}}, "set it true for that loss alone"),
        ({"loss": {"features": {"repa": 0.5, "teacher": {"kind": "colours"}}}}, "need them, got facebook/dinov2-base"),
        ({"model": {"feature_projector": {"layer": 9, "features": 8}}}, "layer 9 must be below 4"),
    ],
)
def test_conflicting_settings_name_fix(small_run, tmp_path, change, message):
    tree = feature_tree(small_run, tmp_path, "cat3d", "repa")
    for section, values in change.items():
        tree[section] |= values
    with pytest.raises(ValueError, match=message):
        from_tree(RunConfig, tree, "tree")


def test_teachers_that_are_not_there_are_refused(small_run, tmp_path, monkeypatch):
    monkeypatch.setattr(feature_teachers.importlib.util, "find_spec", lambda _name: None)
    feature_teachers._vggt.cache_clear()
    with pytest.raises(ValueError, match="needs the package vggt in this environment.*teacher.kind points"):
        teacher_of(TeacherConfig("vggt", "facebook/VGGT-1B"))
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"teacher.weights .*nowhere cannot be loaded"):
        teacher_of(TeacherConfig(weights=str(tmp_path / "nowhere")))
    tree = feature_tree(small_run, tmp_path, "cat3d", "repa")
    tree["model"]["feature_projector"]["features"] = 47
    config = from_tree(RunConfig, tree, "tree")
    model = build_model(config.model)
    batch = BatchDataset(config.data, 0, 1, 1, views=config.model.views)[0][0]
    with pytest.raises(ValueError, match="gives 48 features, set model.feature_projector.features to it, got 47"):
        Objective(config).prepare(batch, model.codec)
