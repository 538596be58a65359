"""`mvtrack prepare` over a public dataset's own folders, and training on what it wrote."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open

from mvtrack.config.data import LatentsConfig
from mvtrack.config.datasets import DatasetOptions
from mvtrack.config.model import ModelConfig
from mvtrack.config.run import load_config
from mvtrack.config.tree import from_tree
from mvtrack.data.latent_loader import LatentDataset
from mvtrack.data.latents import SKIPPED, LatentFolder, clip_file, tracks_file
from mvtrack.geometry.camera import project
from mvtrack.models.reshoot_model import ReshootModel, build_model, save_model
from mvtrack.training.clip_sources import sources_of_folder
from mvtrack.training.preparation_estimate import estimate_preparation
from tests.cli.test_prepare import prepare
from tests.data.public.synthesis import TO_Z_UP, synthesise
from tests.data.public.test_kubric import write_mv_kubric
from tests.data.public.test_multicamvideo import truth_of, write_scene
from tests.data.public.test_stills import write_realestate10k
from tests.trained_by_command import last_metrics

ROOT, SIZE = Path(__file__).parents[2], (24, 32)


@pytest.fixture
def dataset(tmp_path) -> Path:
    root = tmp_path / "MultiCamVideo-Dataset"
    for n, lens in enumerate(("f24_aperture5", "f24_aperture5", "f35_aperture2.4")):
        write_scene(root / f"train/{lens}/scene{n + 1}", truth_of(n))
    return root


def contents(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file() and not path.name.endswith(".lock"))
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_a_dataset_is_encoded_and_trained_on(dataset, config_file, tmp_path, capsys):
    code, out, error = prepare(capsys, dataset, "--config", config_file)
    assert code == 0, error
    assert out == f"{tmp_path / 'latents'}: 3 clips encoded, 0 were there"
    folder = LatentFolder(LatentsConfig(str(tmp_path / "latents"), SIZE), 5)
    assert folder.training == ["f24_aperture5_scene1", "f24_aperture5_scene2", "f35_aperture2.4_scene3"]
    clip = folder.clip("f24_aperture5_scene2", [2, 0])
    assert (clip.domain, clip.camera.scale_known, tuple(clip.latents.shape[:2])) == ("rendered", True, (2, 2))
    assert clip.tracks.visible.any()
    last = last_metrics(config_file)
    assert last["step"] == 2
    assert last["loss/correspondence"] > 0


@pytest.mark.slow
def test_two_ray_workers_write_the_same_bytes(dataset, config_file, tmp_path, capsys):
    """And a broken scene is listed as alone."""
    (dataset / "train/f24_aperture5/scene2/cameras/camera_extrinsics.json").write_text("{}")
    written = []
    for extra in ([], ["--ray", "--ray-workers", 2]):
        code, out, error = prepare(capsys, dataset, "--config", config_file, "--max-skipped", 1, *extra)
        assert code == 0, error
        assert "2 clips encoded, 0 were there, 1 cannot be read" in out
        written.append(contents(tmp_path / "latents"))
        shutil.rmtree(tmp_path / "latents")
    assert written[0] == written[1]


def test_disk_and_time_are_said_before_work(dataset, config_file, tmp_path, capsys):
    code, out, error = prepare(capsys, dataset, "--config", config_file, "--estimate")
    assert code == 0, error
    assert not (tmp_path / "latents").exists()
    assert out.startswith("3 clips with 3 views each, as the first has; 0 captions\ndisk: ")
    assert "CPU hours" in out
    config = load_config(config_file)
    sources = sources_of_folder(dataset, config, config.data.latents[0], DatasetOptions())
    estimate = estimate_preparation(config, config.data.latents[0], sources, torch.device("cpu"))
    assert "_scene" in vars(sources[0])
    sources[0].close()
    assert "_scene" not in vars(sources[0])
    assert prepare(capsys, dataset, "--config", config_file)[0] == 0
    written = [safe_open(path, "pt").get_slice("latents").get_shape() for path in (tmp_path / "latents").glob("clip_*")]
    assert estimate.disk == sum(2 * math.prod(shape) for shape in written)
    assert estimate.hours > estimate.device_hours > 0


def test_new_tracks_and_captions_encode_no_video_anew(dataset, config_file, tmp_path, capsys):
    root, name = tmp_path / "latents", "f24_aperture5_scene1"
    tracks = dataset / "train/f24_aperture5/scene1/tracks.npz"
    arrays = dict(np.load(tracks))
    tracks.unlink()
    assert prepare(capsys, dataset, "--config", config_file)[0] == 0
    before = clip_file(root, name).stat().st_mtime_ns
    assert LatentFolder(LatentsConfig(str(root), SIZE), 5).clip(name, [0, 1]).tracks is None
    np.savez(tracks, **arrays)
    (dataset / "metadata.csv").write_text("file_name,text\ntrain/f24_aperture5/scene1/videos/cam02.mp4,a ball\n")
    code, out, error = prepare(capsys, dataset, "--config", config_file)
    assert code == 0, error
    assert out.endswith("0 clips encoded, 2 were there, 1 got new tracks")
    assert clip_file(root, name).stat().st_mtime_ns == before
    clip = LatentFolder(LatentsConfig(str(root), SIZE), 5).clip(name, [0, 1])
    assert clip.caption == "a ball"  # of the target
    assert clip.tracks.xy.shape[-2] == arrays["xy"].shape[-2]
    tracks_file(root, name).unlink()
    with pytest.raises(ValueError, match="lacks 1 of its 3 clips, f24_aperture5_scene1 first"):
        LatentFolder(LatentsConfig(str(root), SIZE), 5)


def test_broken_scenes_are_listed_and_left_out(dataset, config_file, tmp_path, capsys):
    video = dataset / "train/f24_aperture5/scene1/videos/cam02.mp4"
    whole = video.read_bytes()
    video.write_bytes(whole[: len(whole) // 2])
    (dataset / "train/f24_aperture5/scene2/cameras/camera_extrinsics.json").unlink()
    code, _, error = prepare(capsys, dataset, "--config", config_file, "--max-skipped", "1")
    assert code == 2
    assert "(2 of 3 clips cannot be read, listed in" in error
    code, out, error = prepare(capsys, dataset, "--config", config_file, "--max-skipped", "70%")
    assert code == 0, error
    assert out.endswith("1 clips encoded, 0 were there, 2 cannot be read and are left out (skipped.jsonl)")
    rows = [json.loads(line) for line in (tmp_path / "latents" / SKIPPED).read_text().splitlines()]
    assert [row["name"] for row in rows] == ["f24_aperture5_scene1", "f24_aperture5_scene2"]
    assert [Path(text).name for row in rows for text in row["reason"].split() if text.endswith((".mp4", ".json:"))] == [
        "cam02.mp4",
        "camera_extrinsics.json:",
    ]
    assert LatentFolder(LatentsConfig(str(tmp_path / "latents"), SIZE), 5).training == ["f35_aperture2.4_scene3"]
    video.write_bytes(whole)
    code, out, _ = prepare(capsys, dataset, "--config", config_file, "--max-skipped", "1")
    assert out.endswith("1 clips encoded, 1 were there, 1 cannot be read and are left out (skipped.jsonl)")
    code, _, error = prepare(capsys, dataset, "--config", config_file, "--max-skipped", "x")
    assert "must be a number of clips or a share such as 1%, got 'x'" in error


def test_what_a_killed_one_left_is_cleared_and_done_again(dataset, config_file, tmp_path, capsys):
    assert prepare(capsys, dataset, "--config", config_file)[0] == 0
    root = tmp_path / "latents"
    expected = contents(root)
    half = clip_file(root, "f24_aperture5_scene2")
    half.write_bytes(half.read_bytes()[:1000])
    tracks_file(root, "f24_aperture5_scene1").unlink()
    (root / f".clip_x.safetensors.{32 * 'a'}").write_bytes(b"half")
    code, out, error = prepare(capsys, dataset, "--config", config_file)
    assert code == 0, error
    assert out.endswith("1 clips encoded, 1 were there, 1 got new tracks")
    assert contents(root) == expected


def still_config(config_file: Path, encoding: str, small_model) -> Path:
    """The same run on still sets: three views of one moment, or a path of nine frames."""
    tree, frames = yaml.safe_load(config_file.read_text()), 1 if encoding == "images" else 9
    tree["model"]["dit"]["rope_frames"] = "by_view"
    tree["model"] |= {"views": {"count": 3, "references": [1, 2], "encoding": encoding}, "num_frames": frames}
    tree["data"]["num_frames"] = frames
    points = {"correspondence": 0.1, "correspondence_targets": "points", "correspondence_queries": None,
              "correspondence_options": {"exclude": "own_view"}}  # fmt: skip
    tree["loss"] = points if encoding == "images" else {"correspondence": 0}
    config = from_tree(ModelConfig, tree["model"], "model")
    save_model(ReshootModel(config, build_model(config, seed=4).dit, small_model.codec), config_file.parent / "still")
    tree["train"]["init_from"] = str(config_file.parent / "still")
    config_file.write_text(yaml.safe_dump(tree))
    return config_file


@pytest.mark.parametrize("encoding", ["images", "path"])
def test_still_sets_are_encoded_and_trained_on(config_file, small_model, tmp_path, capsys, encoding):
    root = tmp_path / "data"
    for n in range(2):
        truth = synthesise(n, 4 if encoding == "images" else 9, 1, size=(38, 58), static=True, points=5)
        if encoding == "images":
            write_mv_kubric(root / f"train/{n}", truth)
        else:
            write_realestate10k(root / str(n), truth)
    roots = [root] if encoding == "images" else [root / "0"]
    config = still_config(config_file, encoding, small_model)
    if encoding == "path":
        shutil.move(root / "1/train/0a1b", root / "0/train/2c3d")
        shutil.move(root / "1/train/0a1b.txt", root / "0/train/2c3d.txt")
    code, out, error = prepare(capsys, roots[0], "--config", config)
    assert code == 0, error
    assert out.endswith("2 clips encoded, 0 were there")
    folder = LatentFolder(LatentsConfig(str(tmp_path / "latents"), SIZE), 1 if encoding == "images" else 9)
    clip = folder.clip(folder.training[0], [0])
    assert tuple(clip.latents.shape[:2]) == ((1, 1) if encoding == "images" else (1, 3))
    assert (clip.depth is not None) == (encoding == "images")
    last = last_metrics(config)
    assert last["step"] == 2
    assert last["validation/psnr_db"] > 0
    assert ("loss/correspondence" in last) == (encoding == "images")


def test_a_datasets_own_tracks_and_depth_are_encoded(config_file, tmp_path, capsys):
    truth = synthesise(5, 3, 5, size=(38, 58), points=7)
    write_mv_kubric(tmp_path / "data/train/0", truth)
    code, _, error = prepare(capsys, tmp_path / "data", "--config", config_file)
    assert code == 0, error
    clip = LatentFolder(LatentsConfig(str(tmp_path / "latents"), SIZE), 5).clip("train_0", [1, 0])
    xy, _ = project(truth.turned(TO_Z_UP)[1].float(), clip.camera)
    visible = clip.tracks.visible
    assert visible.any()
    assert (xy - clip.tracks.xy)[visible].norm(dim=-1).max() < 0.01
    assert clip.distance == pytest.approx(float(truth.depth[1, 0].median()), rel=0.2)  # of a crop


def test_views_of_a_sample_are_neighbours_of_a_domain(config_file, small_model, tmp_path, capsys):
    for n in range(2):
        write_mv_kubric(tmp_path / f"data/train/{n}", synthesise(n, 6, 1, size=(38, 58), static=True, points=5))
    config = load_config(still_config(config_file, "images", small_model))
    assert prepare(capsys, tmp_path / "data", "--config", config_file)[0] == 0
    entry = replace(config.data.latents[0], view_window=3)
    data = replace(config.data, latents=(entry,))
    dataset = LatentDataset(data, 0, 1, 1, views=config.model.views)
    folder = dataset.folders[0]
    for seed in range(20):
        drawn = dataset._draw_views(np.random.default_rng(seed), folder, "train_0")
        assert sorted(drawn) == list(range(min(drawn), min(drawn) + 3))
    few = replace(config.data, latents=(replace(entry, view_window=2),))
    dataset = LatentDataset(few, 0, 1, 1, views=config.model.views)
    with pytest.raises(ValueError, match="offers 2 views, a sample has 3"):
        dataset[0]
    with pytest.raises(ValueError, match="has 0 clips"):
        LatentFolder(replace(entry, domains=("photo",)), 1)
    assert LatentFolder(replace(entry, domains=("photo", "rendered")), 1).training == ["train_0"]
