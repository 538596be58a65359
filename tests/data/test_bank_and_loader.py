import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from mvtrack.config.data import BankConfig, DataConfig
from mvtrack.correspondence.targets import targets_from_depth
from mvtrack.data.loader import BatchDataset, augment, batches, mirrored
from mvtrack.data.synthetic.bank import Bank, BankRecipe, render_scene_tensors
from mvtrack.geometry.camera import project, unproject

RECIPE = BankRecipe(size=(24, 32), num_frames=7, num_views=3, num_points=11, seed=5)


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    return Bank(tmp_path_factory.mktemp("bank"), RECIPE)


def config(bank: Bank, **changes) -> DataConfig:
    settings = BankConfig(
        str(bank.root), size=RECIPE.size, num_scenes=3, num_frames=7, num_views=3, num_points=11, seed=5
    )
    return DataConfig(**{"banks": (settings,), "num_frames": 5, "workers": 0} | changes)


def test_scene_depends_on_number_alone(bank):
    clip = bank.clip(2, [0, 1], slice(0, 7))
    fresh = render_scene_tensors(RECIPE, 2)
    torch.testing.assert_close(clip.video, fresh["video"][:2].float() / 127.5 - 1)
    assert not torch.equal(bank.clip(1, [0, 1], slice(0, 7)).video, clip.video)


def test_partial_read_equals_cut_of_whole(bank):
    whole, part = bank.clip(0, [0, 1, 2], slice(0, 7)), bank.clip(0, [2, 0], slice(1, 6))
    cut = whole.views([2, 0]).frames(slice(1, 6))
    torch.testing.assert_close(part.video, cut.video)
    torch.testing.assert_close(part.camera.c2w, cut.camera.c2w)
    torch.testing.assert_close(part.tracks.xy, cut.tracks.xy)
    torch.testing.assert_close(part.depth, cut.depth)


def test_build_renders_missing_scenes(tmp_path):
    bank = Bank(tmp_path, replace(RECIPE, num_frames=5))
    bank.ensure(1)
    kept = bank.path(1).stat().st_mtime_ns
    bank.build(range(3), workers=2)
    assert all(bank.path(n).exists() for n in range(3))
    assert bank.path(1).stat().st_mtime_ns == kept
    assert not list(tmp_path.glob(".*"))  # nothing half-written


def test_other_recipe_raises(bank):
    with pytest.raises(ValueError, match=r"recipe.json holds scenes of another recipe \(different: seed\)"):
        Bank(bank.root, replace(RECIPE, seed=6))
    assert json.loads((bank.root / "recipe.json").read_text())["seed"] == 5


def test_sample_depends_on_seed_and_number_alone(bank):
    """Any number of ranks sees the same global batch, in any micro-batching."""
    one = BatchDataset(config(bank), seed=3, batch_size=4, micro_batch_size=4)[6]
    two = [BatchDataset(config(bank), 3, 4, 1, rank, world=2)[6] for rank in range(2)]
    whole = one[0]
    parts = [micro for rank in two for micro in rank]
    torch.testing.assert_close(whole.video, torch.cat([p.video for p in parts]))
    assert whole.index.tolist() == [24, 25, 26, 27]
    other = BatchDataset(config(bank), seed=4, batch_size=4, micro_batch_size=4)[6][0]
    assert not torch.equal(whole.video, other.video)


def test_worker_processes_keep_samples(bank):
    dataset = BatchDataset(config(bank), 0, 1, 1)
    here = [micro[0].video for micro in batches(dataset, 0, 3, workers=0)]
    there = [micro[0].video for micro in batches(dataset, 0, 3, workers=1)]
    for a, b in zip(here, there, strict=True):
        assert torch.equal(a, b)


def test_indivisible_batch_size_raises(bank):
    with pytest.raises(ValueError, match="must be a multiple of 2 ranks x train.micro_batch_size 2"):
        BatchDataset(config(bank), 0, 6, 2, world=2)


def test_new_scenes_shift_window(bank):
    settings = replace(config(bank).banks[0], new_scenes_per_step=0.5)
    dataset = BatchDataset(config(bank, banks=(settings,)), 0, 1, 1)
    numbers = [int(dataset[step][0].keys[0].split("/")[1]) for step in (0, 1, 8, 9)]
    assert all(n < 3 for n in numbers[:2])
    assert all(4 <= n < 7 for n in numbers[2:])


def assert_geometry_holds(clip):
    """Tracks stay where cameras and depth say that their points are."""
    height, width = clip.camera.size
    visible = clip.tracks.visible[0] & clip.tracks.visible[1]  # (T, N)
    frame, point = visible.nonzero(as_tuple=True)
    assert len(frame) > 20
    xy = clip.tracks.xy[0, frame, point]
    depth = clip.depth[0, frame, xy[:, 1].long(), xy[:, 0].long()]
    world = unproject(xy[:, None], depth[:, None], clip.camera[0, frame])
    seen, _ = project(world, clip.camera[1, frame])
    error = (seen[:, 0] - clip.tracks.xy[1, frame, point]).norm(dim=-1)
    assert error.median() < 0.6  # depth is read at the nearest pixel
    assert (clip.tracks.xy[clip.tracks.visible] >= 0).all()
    assert (clip.tracks.xy[clip.tracks.visible] < torch.tensor([width, height])).all()


def test_augmentations_keep_geometry(bank):
    clip = bank.clip(0, [0, 2], slice(0, 5))
    assert_geometry_holds(clip)
    assert_geometry_holds(mirrored(clip))
    assert_geometry_holds(clip.views([1, 0]))
    assert_geometry_holds(clip.frames(torch.arange(4, -1, -1)))


def test_mirroring_is_an_involution(bank):
    clip = bank.clip(1, [0, 1], slice(0, 5))
    again = mirrored(mirrored(clip))
    torch.testing.assert_close(again.video, clip.video)
    torch.testing.assert_close(again.camera.c2w, clip.camera.c2w)
    torch.testing.assert_close(again.camera.K, clip.camera.K)
    torch.testing.assert_close(again.tracks.xy, clip.tracks.xy, atol=1e-5, rtol=0)
    assert torch.linalg.det(mirrored(clip).camera.c2w[..., :3, :3]).min() > 0.99  # still proper rotations


class Highest(np.random.Generator):
    """Draws the upper end of every range."""

    def uniform(self, _low=0.0, high=1.0):
        return high


def test_a_turn_of_hue_leaves_grey_and_permutes_colours_at_120_degrees(bank):
    clip = bank.clip(0, [0, 1], slice(0, 5))
    grey = replace(clip, video=clip.video[:, :, :1].expand_as(clip.video))

    settings = {"mirror": False, "reverse": False, "palette": False}
    turned = config(bank, **settings, hue_deg=120.0)
    torch.testing.assert_close(augment(grey, Highest(np.random.PCG64()), turned).video, grey.video, atol=1e-5, rtol=0)
    found = augment(clip, Highest(np.random.PCG64()), turned).video
    torch.testing.assert_close(found, clip.video[:, :, [2, 0, 1]], atol=1e-5, rtol=0)
    bright = augment(clip, Highest(np.random.PCG64()), config(bank, **settings, gain=0.25)).video
    torch.testing.assert_close(bright, ((clip.video + 1) * 1.25 - 1).clamp(max=1), atol=1e-5, rtol=0)


def test_augmentation_depends_on_generator_alone(bank):
    clip = bank.clip(0, [0, 1], slice(0, 5))
    drawn = [augment(clip, np.random.default_rng(s), config(bank)).video for s in (1, 1, 2)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    plain = augment(clip, np.random.default_rng(1), config(bank, mirror=False, reverse=False, palette=False))
    assert torch.equal(plain.video, clip.video)


def test_loader_targets_agree_with_tracks(bank):
    """The cell a token asks for is where a track through that token is seen in the reference."""
    batch = BatchDataset(config(bank), 0, 3, 3)[0][0]
    targets = targets_from_depth(batch.depth, batch.camera, 4)
    rows, columns = targets.grid
    asked = targets.weight[:, :, 0].unflatten(1, (2, rows * columns)).diagonal(dim1=1, dim2=3)  # (B, cells, f)
    label = targets.label[:, :, 0].unflatten(1, (2, rows * columns)).diagonal(dim1=1, dim2=3)
    xy, seen = batch.tracks.xy[:, :, ::4], batch.tracks.visible[:, :, ::4].all(1)
    b, frame, point = seen.nonzero(as_tuple=True)
    cell = (xy[b, 1, frame, point] // 4).long()
    token = cell[:, 1] * columns + cell[:, 0]
    known = asked[b, token, frame] > 0
    found = label[b, token, frame][known]
    centre = torch.stack([found % columns + 0.5, found // columns + 0.5], -1) * 4
    error = (centre - xy[b, 0, frame, point][known]).norm(dim=-1)
    assert known.float().mean() > 0.7
    assert error.median() < 4  # one cell: the track is anywhere in its token
    assert (error < 9).float().mean() > 0.9
