"""Clips as users have them, encoded and read back: the codec is the tiny one that needs nothing."""

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from mvtrack.cli.main import main as cli
from mvtrack.config.data import LatentsConfig
from mvtrack.config.run import RunConfig, load_config
from mvtrack.config.tree import from_tree
from mvtrack.data.latent_loader import LatentDataset
from mvtrack.data.latents import CARD, Encoders, LatentFolder, clip_file
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.geometry.path_language import parse_path
from mvtrack.geometry.pose_files import CameraSequence, write_cameras
from mvtrack.training import run
from mvtrack.training.latent_validation import mirrored
from mvtrack.training.memory import refuse_preparing
from mvtrack.training.run import open_dataset
from mvtrack.video.reader import open_video
from mvtrack.video.writer import write_video

T, SIZE, N = 7, (24, 32), 5  # the videos are longer than the 5 frames of a clip


def write_folder(root: Path, name: str, seed: int, common: bool = False) -> Path:
    """A clip of two views with cameras, a caption and tracks."""
    folder, g = root / name, torch.Generator().manual_seed(seed)
    folder.mkdir(parents=True)
    K = intrinsics_from_fov(50.0, SIZE).double().expand(T, 3, 3)
    for view, path in (("left", "static"), ("right", "arc_left 20deg")):
        coarse = torch.rand(T, 3, 3, 4, generator=g) * 2 - 1
        write_video(folder / f"{view}.mp4", torch.nn.functional.interpolate(coarse, SIZE, mode="bilinear"), 10.0)
        sequence = CameraSequence(Camera(parse_path(path).poses(T), K, SIZE, True), tuple(map(str, range(T))))
        write_cameras(folder / f"{view}.json", sequence, "json")
    if common:
        views = []
        for view in ("left", "right"):
            cameras = parse_path("static" if view == "left" else "arc_left 20deg").poses(T)
            views.append({"name": view, "c2w": cameras.tolist(), "K": K.tolist()})
            (folder / f"{view}.json").unlink()
        convention = "OpenCV axes (x right, y down, z forward); camera-to-world 4x4; raster pixels"
        size = {"height": SIZE[0], "width": SIZE[1]}
        record = {"size": size, "unit": "metres", "fps": 10.0, "views": views, "convention": convention}
        (folder / "cameras.json").write_text(json.dumps(record))
    (folder / "caption.txt").write_text(f"clip {name}\n")
    xy = torch.rand(2, T, N, 2, generator=g) * torch.tensor([30.0, 22.0])
    arrays = {"xy": xy.numpy(), "visible": np.ones((2, T, N), bool), "found": np.ones((2, N), bool)}
    np.savez(folder / "tracks.npz", **arrays)
    return folder


def make_portrait(pose_file: Path) -> None:
    document = json.loads(pose_file.read_text())
    document["size"] = {"height": SIZE[1], "width": SIZE[0]}
    pose_file.write_text(json.dumps(document))


@pytest.fixture
def clips(tmp_path) -> Path:
    write_folder(tmp_path / "clips", "a", 1)
    write_folder(tmp_path / "clips", "b", 2, common=True)
    return tmp_path / "clips"


def prepare(capsys, *arguments) -> tuple[int, str, str]:
    code = cli(["prepare", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out.strip(), captured.err.splitlines()[-1] if captured.err else ""


def load(config_file: Path) -> RunConfig:
    return from_tree(RunConfig, yaml.safe_load(config_file.read_text()), "config")


def test_clips_are_encoded_once_and_read_back(clips, config_file, small_model, tmp_path, capsys):
    code, out, error = prepare(capsys, clips, "--config", config_file)
    assert code == 0, error
    assert out == f"{tmp_path / 'latents'}: 2 clips encoded, 0 were there"
    code, out, _ = prepare(capsys, clips, "--config", config_file)
    assert out == f"{tmp_path / 'latents'}: 0 clips encoded, 2 were there"
    folder = LatentFolder(LatentsConfig(str(tmp_path / "latents"), SIZE, held_out=1), 5)
    assert (folder.training, folder.held_out, folder.directions) == (["a"], ["b"], 2)
    read = folder.clip("a", [1, 0])
    assert read.caption == "clip a"
    frames = [open_video(clips / "a" / f"{view}.mp4").read(0, 5, SIZE) for view in ("right", "left")]
    video = torch.stack(frames).float() / 127.5 - 1
    expected = small_model.codec.encode(video[:, None])[:, 0]
    torch.testing.assert_close(read.latents, expected, atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(read.camera.c2w[0], parse_path("arc_left 20deg").poses(T)[:5].float())
    backwards = folder.clip("a", [1, 0], reverse=True)
    expected = small_model.codec.encode(video.flip(1)[:, None])[:, 0]
    torch.testing.assert_close(backwards.latents, expected, atol=2e-3, rtol=1e-3)
    torch.testing.assert_close(backwards.camera.c2w, read.camera.c2w.flip(1))
    torch.testing.assert_close(backwards.tracks.xy, read.tracks.xy.flip(1))
    assert read.distance is None
    points = torch.arange(2 * 5.0).view(2, 5, 1, 1, 1).expand(-1, -1, 3, 2, 3)
    np.save(tmp_path / "a.npy", points.numpy())
    with_points = LatentFolder(LatentsConfig(str(tmp_path / "latents"), SIZE, points=str(tmp_path)), 5)
    assert torch.equal(with_points.clip("a", [1, 0]).points, points.flip(0))
    assert torch.equal(with_points.clip("a", [1, 0], reverse=True).points, points.flip(0, 1))
    both = folder.clip("b", [0, 1]).camera.c2w  # from one file that names its views
    torch.testing.assert_close(both[1], parse_path("arc_left 20deg").poses(T)[:5].float())


def test_rendered_scenes_have_depth_and_tracks(config_file, tmp_path, capsys):
    code, _, error = prepare(capsys, "--rendered", 2, "--config", config_file)
    assert code == 0, error
    folder = LatentFolder(LatentsConfig(str(tmp_path / "latents"), SIZE), 5)
    clip = folder.clip("rendered_000001", [2, 0])
    assert clip.distance > 0.5
    assert clip.camera.scale_known
    assert clip.tracks.visible.any()
    assert folder.num_views("rendered_000000") == 3


def test_samples_depend_on_their_number_only(clips, config_file, capsys):
    assert prepare(capsys, clips, "--config", config_file)[0] == 0
    config = load(config_file)
    data = replace(config.data, latents=(replace(config.data.latents[0], held_out=0),))
    whole, parts = LatentDataset(data, 3, 4, 4), [LatentDataset(data, 3, 4, 1, rank, 2) for rank in (0, 1)]
    one = whole[6][0]
    split = [micro for part in parts for micro in part[6]]
    assert torch.equal(one.latents, torch.cat([micro.latents for micro in split]))
    assert one.keys == tuple(key for micro in split for key in micro.keys)
    keys = {key for step in range(4) for key in whole[step][0].keys}
    assert keys == {"latents/a", "latents/b"}


def test_what_is_stale_is_an_error(clips, config_file, tmp_path, capsys):
    assert prepare(capsys, clips, "--config", config_file)[0] == 0
    entry = LatentsConfig(str(tmp_path / "latents"), SIZE)
    (clips / "a/caption.txt").write_text("another caption")
    (clips / "a/left.json").write_text((clips / "a/right.json").read_text())
    code, _, error = prepare(capsys, clips, "--config", config_file)
    assert code == 2
    assert "clip_a.safetensors was made of other files" in error
    assert "--overwrite" in error
    code, out, _ = prepare(capsys, clips, "--config", config_file, "--overwrite")
    assert out.endswith("1 clips encoded, 1 were there")
    with pytest.raises(ValueError, match=r"was encoded with another model\.codec"):
        LatentFolder(entry, 5).check(Encoders("other"))
    with pytest.raises(ValueError, match=r"holds 5 frames of \(24, 32\), the config asks for 9"):
        LatentFolder(entry, 9)
    # a file from another time under a name of now
    clip_file(tmp_path / "latents", "a").write_bytes(clip_file(tmp_path / "latents", "b").read_bytes())
    with pytest.raises(ValueError, match="clip_a.safetensors is stale"):
        LatentFolder(entry, 5).clip("a", [0, 1])
    clip_file(tmp_path / "latents", "a").unlink()
    with pytest.raises(ValueError, match="lacks 1 of its 2 clips, a first: run `mvtrack prepare` to its end"):
        LatentFolder(entry, 5)
    code, _, error = prepare(capsys, clips, "--config", config_file, "data.reverse=false")
    assert code == 2
    assert "holds clips whose directions is 2, now it is 1: choose another folder" in error
    (tmp_path / "latents" / CARD).write_text("{")
    with pytest.raises(ValueError, match="card.json is damaged"):
        LatentFolder(entry, 5)


def test_too_little_memory_is_refused(clips, config_file, capsys, monkeypatch):
    from mvtrack.inference.memory import check_memory as refuse

    monkeypatch.setattr(refuse, "free_gib", lambda _: 1e-6)
    code, _, error = prepare(capsys, clips, "--config", config_file)
    assert code == 2
    assert "encoding a view takes about" in error
    assert prepare(capsys, clips, "--config", config_file, "--ignore-memory")[0] == 0
    monkeypatch.setattr(refuse, "free_gib", lambda _: 12.0)
    with pytest.raises(ValueError, match=r"GiB free: set model.codec.tile=\[30,52\]; or start"):
        refuse_preparing(load_config("configs/wan_14b.yaml"), LatentsConfig("x", (960, 1664)), torch.device("cpu"))


def test_shards_share_the_work(clips, config_file, tmp_path, capsys):
    assert "1 clips encoded" in prepare(capsys, clips, "--config", config_file, "--shard", "2/2")[1]
    with pytest.raises(ValueError, match="lacks 1 of its 2 clips, a first"):
        LatentFolder(LatentsConfig(str(tmp_path / "latents"), SIZE), 5)
    assert "1 clips encoded" in prepare(capsys, clips, "--config", config_file, "--shard", "1/2")[1]
    LatentFolder(LatentsConfig(str(tmp_path / "latents"), SIZE), 5)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda a: (a / "right.mp4").unlink(), "holds 1 videos: a clip needs two or more views"),
        (lambda a: (a / "right.json").unlink(), "no cameras of right.mp4: expected right.json, or cameras.json"),
        (lambda a: (a / "right.txt").write_text("x"), "several pose files of right.mp4"),
        (lambda a: (a / "tracks.npz").write_bytes(b"no"), "cannot read xy, visible, found from "),
        (lambda a: np.savez(a / "tracks.npz", xy=np.zeros((1, T, 3, 2)), visible=0, found=0), "xy must be (2 views, "),
        (lambda a: write_video(a / "right.mp4", torch.zeros(5, 3, *SIZE), 10.0), "left.mp4 7, right.mp4 5"),
        (lambda a: write_video(a / "right.mp4", torch.zeros(T, 3, *SIZE), 25.0), "same frame rate, got left.mp4 10"),
        (lambda a: make_portrait(a / "right.json"), "right.json is for pictures of 24x32, the video is 32x24"),
    ],
)
def test_bad_clips_are_named(clips, config_file, capsys, break_it, message):
    break_it(clips / "a")
    code, _, error = prepare(capsys, clips, "--config", config_file)
    assert code == 2
    assert message in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a folder of clips, or give --rendered N"),
        (["nowhere"], "nowhere is no folder of clips"),
        (["--rendered", "0"], "--rendered must be at least 1"),
        (["--rendered", "1", "--into", "x"], "--into x is none of the folders in data.latents"),
        (["--rendered", "1", "--shard", "3/2"], "--shard must look like 1/4, got '3/2'"),
        (["--rendered", "1", "--set", "data.mirror=false"], "--set is gone: write section.key=value without it"),
        (["train.steps=x", "--rendered", "1"], "train: steps must be int, got 'x'"),
    ],
)
def test_bad_commands_are_one_line(config_file, capsys, arguments, message):
    code, _, error = prepare(capsys, *arguments, "--config", config_file)
    assert code == 2
    assert message in error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": {"mirror": True}}, "set data.mirror: false"),
        ({"data": {"banks": [{}]}}, "two kinds of data: set one of them to"),
        ({"data": {"caption_drop": 1.0}}, r"caption_drop must lie in \[0, 1\)"),
        ({"loss": {"correspondence_targets": "depth"}}, "set loss.correspondence_targets: tracks"),
        ({"train": {"init_from": None}}, "name it in train.init_from"),
        ({"data": {"latents": [{"root": "x", "size": [25, 32]}]}}, "not divisible by the token size 4"),
        ({"data": {"latents": [{"root": "x", "held_out": -1}]}}, "held_out must be at least 0, got -1"),
    ],
)
def test_settings_that_do_not_go_together(config_file, change, message):
    tree = yaml.safe_load(config_file.read_text())
    for section, values in change.items():
        tree[section] |= values
    with pytest.raises(ValueError, match=message):
        from_tree(RunConfig, tree, "config")


def test_rendered_scenes_come_with_the_empty_caption(small_run, monkeypatch):
    tree = deepcopy(small_run)
    tree["model"]["dit"]["text_dim"] = 7
    with pytest.raises(ValueError, match=r"with the empty caption: name its encoder in model.text"):
        open_dataset(from_tree(RunConfig, tree, "config"), 0, 1)
    tree["model"]["text"] = {"weights": "umt5"}
    config, features = from_tree(RunConfig, tree, "config"), torch.randn(1, 5, 7)
    monkeypatch.setattr(run, "embed_captions", lambda captions, *_, **__: features if captions == [None] else None)
    dataset = open_dataset(config, 0, 1)
    assert dataset[0][0].text is None
    dataset.text = run._empty_caption(config)
    batch = dataset[0][0]
    assert torch.equal(batch.text, features)
    batch = dataset.batch(0, [3, 4], 0)
    assert torch.equal(batch.text, features.expand(2, -1, -1))


def test_an_image_branch_trains_on_encoded_clips_only(small_run):
    tree = deepcopy(small_run)
    tree["model"]["dit"] |= {"image_dim": 7, "text_dim": 7}
    with pytest.raises(ValueError, match="run `mvtrack prepare`, set data.latents"):
        open_dataset(from_tree(RunConfig, tree, "config"), 0, 1)


def test_a_mirrored_path_goes_the_other_way():
    K = intrinsics_from_fov(50.0, SIZE).expand(2, T, 3, 3)
    start = parse_path("pan_left 30; dolly_in 1").poses(2)[1]
    poses = [start.expand(T, 4, 4), start @ parse_path("arc_left 20deg").poses(T)]
    found = mirrored(Camera(torch.stack(poses).float(), K, SIZE)).c2w
    expected = (start @ parse_path("arc_right 20deg").poses(T)).float()
    torch.testing.assert_close(found[1], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(found[0], poses[0].float())
