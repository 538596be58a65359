from dataclasses import replace

import numpy as np
import pytest
import torch

from mvtrack.geometry.camera import camera_rays, pixel_grid
from mvtrack.geometry.inverse_depth import correspondence
from mvtrack.models.refiner.cost_volume import OFFSETS
from mvtrack.models.refiner.files import Refiner, load_refiner
from mvtrack.training.refiner import RefinerRun, augmented, train_refiner
from mvtrack.training.refiner_data import RefinerExample, RefinerScenes, read_example
from mvtrack.training.refiner_depth import depth_losses_of, ensure_depth_example, parallax

SCENES = {"scale": 2, "wide": 0.0, "detailed": 0.5}


@pytest.fixture(scope="module")
def config(small_model):
    """Long enough for moments OFFSETS apart on both sides."""
    return replace(small_model.config, num_frames=17)


@pytest.fixture(scope="module")
def example(tmp_path_factory, config) -> RefinerExample:
    scenes = RefinerScenes(tmp_path_factory.mktemp("scenes"), **SCENES)
    return read_example(ensure_depth_example(scenes, 3, config))


def test_depth_example_depends_on_its_number_alone(tmp_path, config, example):
    again = read_example(ensure_depth_example(RefinerScenes(tmp_path / "a", **SCENES), 3, config))
    other = read_example(ensure_depth_example(RefinerScenes(tmp_path / "a", **SCENES), 4, config))
    assert torch.equal(again.source, example.source)
    assert torch.equal(again.camera.c2w, example.camera.c2w)
    assert not torch.equal(other.source, example.source)
    assert len(example.source) == 1 + len(OFFSETS)
    assert (example.source_depth > 0).all()
    assert 0.2 < example.distance / float(example.source_depth[1].median()) < 5


@pytest.mark.parametrize("seed", range(4))
def test_augmented_views_still_correspond(example, seed):
    """A surface keeps its colour, up to the order of channels, between two moments of a clip that was changed."""
    still = replace(example, source=torch.stack([1 / example.source_depth] * 3, 1))
    for clip in (still, augmented(still, np.random.default_rng(seed))):
        rays = camera_rays(pixel_grid(clip.camera.size), clip.camera.K[0, 1])
        points = rays[..., :3] * clip.source_depth[1][..., None]
        world = points @ clip.camera.c2w[0, 1, :3, :3].T + clip.camera.c2w[0, 1, :3, 3]
        seen = (world - clip.camera.c2w[0, 2, :3, 3]) @ clip.camera.c2w[0, 2, :3, :3]
        xy, inverse = correspondence(1 / clip.source_depth[1:2], clip.camera[0, 1], clip.camera[0, 2])
        torch.testing.assert_close(1 / seen[..., 2], inverse[0], atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(clip.source[1, 0], 1 / clip.source_depth[1], atol=1e-3, rtol=1e-3)
        assert xy.isfinite().all()
    assert parallax(example.camera).shape == (3,)


def test_depth_losses_fall_when_one_example_is_learned(example):
    torch.manual_seed(0)
    network, rng = Refiner((8, 8, 8, 8), (8, 8, 8)).depth, np.random.default_rng(0)
    optimizer, totals = torch.optim.Adam(network.parameters(), lr=3e-3), []
    for _ in range(25):
        losses = depth_losses_of(network, example, rng)
        assert set(losses) == {"planes", "depth"}
        totals.append(sum(losses.values()))
        optimizer.zero_grad()
        totals[-1].backward()
        optimizer.step()
    assert sum(totals[-5:]) < 0.8 * sum(totals[:5])


def test_both_stages_train_their_own_network_and_the_file_is_read_back(tmp_path, small_model, config):
    torch.manual_seed(0)
    model, start = replace(small_model, config=config), Refiner((8, 8, 8, 8), (8, 8, 8))
    before = {name: value.half().float() for name, value in start.state_dict().items()}  # as files hold them
    run = RefinerRun(depth_scenes=1, depth_steps=3, scenes=1, steps=0, clips=1)
    scenes = RefinerScenes(tmp_path / "scenes", **SCENES)
    (tmp_path / "out").mkdir()
    train_refiner(model, scenes, tmp_path / "out", run, start)
    after = load_refiner(tmp_path / "out").state_dict()
    moved = {name.split(".")[0] for name in before if not torch.equal(after[name], before[name])}
    assert moved == {"depth"}
    train_refiner(model, scenes, tmp_path / "out", replace(run, depth_steps=0, steps=3), load_refiner(tmp_path / "out"))
    last = load_refiner(tmp_path / "out").state_dict()
    moved = {name.split(".")[0] for name in after if not torch.equal(after[name], last[name])}
    assert moved == {"blend"}
