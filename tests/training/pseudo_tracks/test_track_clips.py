"""Folders of clips by a tracker whose tracks are known: files, keys, kills, what is left out."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mvtrack.config.datasets import DatasetOptions
from mvtrack.data.public.fitting import FittedScene
from mvtrack.data.public.registry import find_layout
from mvtrack.training.pseudo_tracks.files import TrackParts, disk_bytes
from mvtrack.training.pseudo_tracks.track_clips import TrackJob, estimate_lines, track_clips
from mvtrack.training.pseudo_tracks.views import FrameTracks, GridQueries, QueryFrame
from mvtrack.video.resize import fit_to

FRAMES, SIZES = 7, [(24, 32), (36, 28), (20, 40)]
QUERIES = GridQueries((2, 3), (5, 1), "all")


class Drifting:
    """Points that drift by (view, -1) pixels a frame from the query, found in views below the query frame's number."""

    def follow(self, views, queries, frames):
        count = len(views.videos)
        for view, frame in frames:
            start = queries.points(views.videos[view].size)
            time = (torch.arange(views.num_frames) - frame)[:, None, None]
            xy = torch.stack([start + time * torch.tensor([float(v), -1.0]) for v in range(count)])
            found = torch.ones(count, len(start), dtype=torch.bool)
            found[frame:] = False
            yield FrameTracks(xy, torch.ones(xy.shape[:3], dtype=torch.bool), found)


def parts_of(root: Path) -> TrackParts:
    """Of the first clip."""
    work = job(root)
    return work.parts(work.clips()[0])


def job(root: Path, queries: GridQueries = QUERIES, **more) -> TrackJob:
    return TrackJob(root, queries, {"tracker": "drifting"}, **more)


def run(root: Path, **more):
    return track_clips(job(root, **more), lambda views: Drifting())


def test_tracks_file_is_what_clips_read(make_clip, tmp_path):
    folder = make_clip(tmp_path / "one")
    assert run(tmp_path) == (1, 0, ())
    assert sorted(path.name for path in folder.iterdir() if path.suffix != ".mp4") == [
        "a.json", "b.json", "c.json", "tracks.npz",
    ]  # fmt: skip
    with np.load(folder / "tracks.npz", allow_pickle=False) as file:
        arrays = dict(file)
    points = QUERIES.count * 6
    assert arrays["xy"].shape == (3, FRAMES, points, 2)
    order = [(view, frame) for view in range(3) for frame in (1, 5)]
    assert arrays["query"][:: QUERIES.count, :2].tolist() == [[*pair] for pair in order]
    for i, (view, frame) in enumerate(order):
        part = slice(i * QUERIES.count, (i + 1) * QUERIES.count)
        centres = arrays["query"][part, 2:]
        height, width = SIZES[view]
        assert centres[0].tolist() == pytest.approx([width / 6, height / 4])
        assert centres[-1].tolist() == pytest.approx([width * 5 / 6, height * 3 / 4])
        np.testing.assert_array_equal(arrays["found"][:, part].all(1), [True, frame > 1, frame > 1])
        np.testing.assert_allclose(arrays["xy"][0, frame, part], centres)
        np.testing.assert_allclose(arrays["xy"][0, 0, part, 1], centres[:, 1] + frame)
        assert not arrays["visible"][:, :, part][~arrays["found"][:, part].all(1)].any()
    inside = (arrays["xy"] >= 0).all(-1) & (arrays["xy"] < np.array([s[::-1] for s in SIZES])[:, None, None]).all(-1)
    assert not (arrays["visible"] & ~inside).any()
    assert (arrays["visible"] == (inside & arrays["found"][:, None])).all()
    assert abs((folder / "tracks.npz").stat().st_size - disk_bytes(3, FRAMES, points)) < 2000

    layout = find_layout(tmp_path)
    [scene] = layout.scenes(tmp_path, DatasetOptions())
    read = FittedScene(layout.read(scene), 5, lambda size: fit_to(size, (24, 32), "stretch")).tracks()
    assert read.xy.shape == (3, 5, points, 2)
    torch.testing.assert_close(read.xy[0], torch.from_numpy(arrays["xy"][0, :5]))


def test_tracks_of_a_public_dataset_lie_where_it_is_read(make_clip, tmp_path, monkeypatch):
    """Scenes in place, or in a folder of tracks beside a dataset that nothing is written into."""
    make_clip(tmp_path / "data/one")
    options = DatasetOptions(tracks=tmp_path / "tracks")
    assert run(tmp_path / "data", dataset=options) == (1, 0, ())
    assert [path.name for path in (tmp_path / "tracks").iterdir()] == ["one.npz"]
    assert not (tmp_path / "data/one/tracks.npz").exists()
    [scene] = find_layout(tmp_path / "data").scenes(tmp_path / "data", options)
    assert scene.tracks == tmp_path / "tracks/one.npz"


_KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import test_track_clips as tests
from mvtrack.training.pseudo_tracks import files
written, write, join = [], files.TrackParts.write, files._write_array
def last(*arguments):
    written.append(1)
    if len(written) > {parts}:
        (arguments[0].folder / ".half.safetensors.aside").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    write(*arguments)
def joining(archive, name, *arguments):
    if name == "visible" and {parts} >= 6:
        os.kill(os.getpid(), signal.SIGKILL)
    join(archive, name, *arguments)
files.TrackParts.write, files._write_array = last, joining
tests.run(Path({root!r}))
"""


def test_killed_work_goes_on_to_the_same_bytes(make_clip, tmp_path):
    """Killed while a query frame is written, and again while tracks.npz is."""
    folder = make_clip(tmp_path / "clips/one")
    run(tmp_path / "clips")
    expected = (folder / "tracks.npz").read_bytes()
    (folder / "tracks.npz").unlink()
    for parts in (2, 6):
        code = _KILLED.format(tests=str(Path(__file__).parent), root=str(tmp_path / "clips"), parts=parts)
        assert subprocess.run([sys.executable, "-c", code]).returncode == -signal.SIGKILL
        assert not (folder / "tracks.npz").exists()
        [left] = folder.glob(".tracks.npz.*")
        assert len(list(left.glob("view*.safetensors"))) == parts

    class Refusing(Drifting):
        def follow(self, views, queries, frames):
            assert frames == []
            return iter(())

    assert track_clips(job(tmp_path / "clips"), lambda views: Refusing()) == (1, 0, ())
    assert (folder / "tracks.npz").read_bytes() == expected
    assert not list(folder.glob(".*"))


def test_broken_parts_are_made_anew(make_clip, tmp_path):
    folder = make_clip(tmp_path / "one")
    run(tmp_path)
    expected = (folder / "tracks.npz").read_bytes()
    (folder / "tracks.npz").unlink()
    parts, frames = parts_of(tmp_path), QUERIES.of(3, FRAMES)
    views = job(tmp_path).clips()[0].open()
    for frame, tracks in zip(frames, Drifting().follow(views, QUERIES, frames), strict=True):
        parts.write(frame, tracks.cleaned(views))
    broken = next(parts.folder.glob("view001_frame000005*"))
    broken.write_bytes(broken.read_bytes()[:-10])
    assert parts.missing(frames) == [QueryFrame(1, 5)]
    run(tmp_path)
    assert (folder / "tracks.npz").read_bytes() == expected


def test_tracks_that_are_there_are_kept_and_others_refused(make_clip, tmp_path):
    folder = make_clip(tmp_path / "one")
    run(tmp_path)
    assert run(tmp_path) == (0, 1, ())
    before = (folder / "tracks.npz").read_bytes()
    tracked, kept, [left_out] = run(tmp_path, queries=GridQueries((2, 2)))
    assert (tracked, kept) == (0, 0)
    assert re.search(r"one/tracks.npz holds tracks of another origin.*--overwrite", left_out)
    assert (folder / "tracks.npz").read_bytes() == before
    np.savez(folder / "tracks.npz", xy=np.zeros(3))
    assert "--overwrite" in run(tmp_path).failed[0]
    assert run(tmp_path, overwrite=True) == (1, 0, ())


def test_changed_videos_and_cameras_need_new_tracks(make_clip, tmp_path):
    folder = make_clip(tmp_path / "one")
    run(tmp_path)
    (folder / "a.json").write_text((folder / "a.json").read_text().replace("\n", " \n"))
    assert "--overwrite" in run(tmp_path).failed[0]


def test_broken_clips_are_left_out_and_named(make_clip, tmp_path):
    make_clip(tmp_path / "one")
    (make_clip(tmp_path / "two") / "b.mp4").write_bytes(b"no video")
    tracked, kept, failed = run(tmp_path)
    assert (tracked, kept, len(failed)) == (1, 0, 1)
    assert "two/b.mp4" in failed[0]
    assert (tmp_path / "one/tracks.npz").exists()


def test_query_frames_that_videos_lack_are_named(make_clip, tmp_path):
    make_clip(tmp_path / "one")
    _, _, failed = run(tmp_path, queries=GridQueries((2, 2), (3, 7)))
    assert failed == ("query frame 7 is not in the videos, which have frames 0 to 6",)
    assert GridQueries((2, 2), "all").of(2, 3) == [QueryFrame(0, frame) for frame in range(3)]
    for wrong in ({"grid": (0, 3)}, {"frames": ()}, {"frames": (-1,)}):
        with pytest.raises(ValueError, match="grid must|query frames must"):
            GridQueries(**wrong)


def test_estimate_tells_disk_and_time_and_keeps_what_it_made(make_clip, tmp_path):
    make_clip(tmp_path / "one")
    make_clip(tmp_path / "two")
    lines = list(estimate_lines(job(tmp_path), lambda views: Drifting(), torch.device("cpu")))
    assert lines[0] == "2 clips, 0 of them have their tracks"
    assert lines[1] == "if all are like one: 3 views of 7 frames, 6 query frames of 6 points"
    assert lines[2].startswith(f"disk: {2 * disk_bytes(3, FRAMES, 36) / 1e9:.3g} GB of tracks")
    assert lines[3].startswith("time: ")
    assert lines[4].startswith("memory: ")
    assert len(parts_of(tmp_path).missing(QUERIES.of(3, FRAMES))) == 4
