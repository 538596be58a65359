"""Each tracker on views of different sizes: coordinates, views in any order, environments, what is refused."""

import itertools
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from mvtrack.cli.main import main as cli
from mvtrack.config.datasets import DatasetOptions
from mvtrack.config.placement import Placement
from mvtrack.data.public.registry import find_layout
from mvtrack.data.synthetic.point_tracks import carry_points, track_points
from mvtrack.data.synthetic.renderer import render
from mvtrack.data.synthetic.test_scenes import CaseSpec, set_up_case
from mvtrack.geometry.camera import unproject
from mvtrack.geometry.pose_files import CameraSequence, write_cameras
from mvtrack.inference.external_program import WorkerError
from mvtrack.inference.memory.memory_tracker import allocate_fake, fake_tensors
from mvtrack.inference.pipeline import shipped_model
from mvtrack.models.reshoot_model import load_model, save_model
from mvtrack.training.pseudo_tracks.clips import tracked_clips
from mvtrack.training.pseudo_tracks.cotracker import CoTracker, CoTrackerTracker
from mvtrack.training.pseudo_tracks.mvtap import MVTAPTracker, mvtap_bytes, mvtap_flops
from mvtrack.training.pseudo_tracks.options import TrackerOptions
from mvtrack.training.pseudo_tracks.scene_model import CrossViewStarts, SceneModel, ViewStarts
from mvtrack.training.pseudo_tracks.trackers import TrackerSource
from mvtrack.training.pseudo_tracks.views import GridQueries, QueryFrame
from mvtrack.video.writer import write_video
from tests.data.public.synthesis import synthesise
from tests.data.public.test_multicamvideo import write_scene
from tracking_head import MVTAP, Cameras, CorrelationConfig, HeadConfig, MVTAPConfig, Queries, Tracker, Tracks
from tracking_head.correlation import prepare
from tracking_head.mvtap import INPUT_SIZE
from tracking_head.pyramid import axis_table, pyramid_levels

HEAD = HeadConfig(
    correlation=CorrelationConfig(levels=2, radius=1, softmax="none", scaled=False, coarse="pool", coordinates="index"),
    correlation_hidden=8, correlation_dim=8, dim=16, heads=2, layers=1, virtual_tracks=3, iterations=2,
    displacement=True, camera="mvtap", time_length=4,
)  # fmt: skip
RELEASED = MVTAPConfig().head
QUERIES = GridQueries((2, 3), (1, 5), "all")


class KnownStarts(CrossViewStarts):
    """Points begin at the same share of the picture in every view, a frame later in each; one is in the first only."""

    def __init__(self) -> None:
        super().__init__(None)

    def find(self, views, frames, xy):
        sizes = torch.tensor([video.size[::-1] for video in views.videos])
        places = xy / sizes[0] * sizes[:, None]
        found = torch.ones(places.shape[:2], dtype=torch.bool)
        found[1:, 4] = False
        later = torch.arange(len(sizes))[:, None, None].expand(*places.shape[:2], 1)
        return [ViewStarts(torch.cat([(frame + later).clamp(max=6), places], -1), found) for frame in frames]


@pytest.fixture
def views(make_clip, tmp_path):
    make_clip(tmp_path / "clips/one")
    return tracked_clips(tmp_path / "clips", DatasetOptions())[0].open()


@pytest.fixture
def model() -> MVTAP:
    torch.manual_seed(2)
    return MVTAP(MVTAPConfig(HEAD, width=8, window=4))


def all_tracks(tracker, views, queries=QUERIES):
    frames = queries.of(len(views.videos), views.num_frames)
    return frames, list(tracker.follow(views, queries, frames))


def expected_starts(views, frame: QueryFrame):
    """(V, n, 2): where `KnownStarts` has the points of a query frame in each view, and whether they are there."""
    shares = QUERIES.points(views.videos[frame.view].size) / torch.tensor(views.videos[frame.view].size[::-1])
    xy = torch.stack([shares * torch.tensor(video.size[::-1]) for video in views.videos])
    found = torch.ones(xy.shape[:2], dtype=torch.bool)
    found[[v for v in range(len(views.videos)) if v != frame.view], 4] = False
    return xy, found


def test_mvtap_keeps_resting_points_where_they_begin(views, model):
    """A head that moves nothing: what is left is the way from each video's pixels to the network's and back."""
    for layer in (model.head.transformer.to_shift, model.head.transformer.to_logits):
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.constant_(layer.bias, 9.0 if layer is model.head.transformer.to_logits else 0.0)
    for frame, tracks in zip(*all_tracks(MVTAPTracker(model, KnownStarts(), (28, 44)), views), strict=True):
        xy, found = expected_starts(views, frame)
        assert (tracks.found == found).all()
        moved = (tracks.xy - xy[:, None])[found[:, None].expand(tracks.visible.shape)]
        assert moved.abs().max() < 1e-4
        assert tracks.cleaned(views).visible[found[:, None].expand(tracks.visible.shape)].all()
        assert not tracks.cleaned(views).visible[~found[:, None].expand(tracks.visible.shape)].any()


def test_mvtap_query_frames_are_tracked_alone(views, model):
    """One query frame's tracks are the same whichever others are asked for: any chunk of the work gives the whole's."""
    tracker = MVTAPTracker(model, KnownStarts(), (28, 44))
    frames, together = all_tracks(tracker, views)
    assert len(together) == 6
    for frame, expected in zip(frames, together, strict=True):
        [alone] = tracker.follow(views, QUERIES, [frame])
        torch.testing.assert_close(alone.xy, expected.xy, atol=1e-3, rtol=0)
    assert (together[0].xy - together[1].xy).abs().max() > 0.1


def test_mvtap_leaves_out_views_in_which_nothing_begins(views, model):
    tracker = MVTAPTracker(model, CrossViewStarts(None), (28, 44))
    [tracks] = tracker.follow(views, QUERIES, [QueryFrame(1, 5)])
    assert tracks.found.all(1).tolist() == [False, True, False]
    [alone] = tracker.follow(views.ordered([1]), QUERIES, [QueryFrame(0, 5)])
    torch.testing.assert_close(tracks.xy[1], alone.xy[0], atol=1e-3, rtol=0)


def counted_bytes(views: int, frames: int, points: int) -> int:
    """What the released model takes for one window, by running it on tensors without storage."""
    config = MVTAPConfig(replace(RELEASED, correlation=replace(RELEASED.correlation, chunk_points=512), iterations=1))
    correlation, (height, width) = config.head.correlation, (INPUT_SIZE[0] // 4, INPUT_SIZE[1] // 4)
    for level in pyramid_levels((height, width), 4, correlation):
        for axis in level.y, level.x:
            axis_table(axis, correlation.radius, torch.device("cpu"))  # kept for others: no fake ones
    with torch.device("meta"):
        model = MVTAP(config)
    with fake_tensors() as counter, torch.no_grad():
        allocate_fake(model, torch.float32)
        counter.ignore(model.parameters())
        with counter:
            maps = torch.empty(1, views, frames, height, width, 1, config.width)
            valid = torch.ones(1, views, points, dtype=torch.bool)
            prepared = prepare(maps, maps, torch.zeros(1, views, points, 3), 4, correlation)
            prepared = prepared._replace(shown=torch.arange(config.window), active=valid.flatten())
            xy = torch.zeros(1, views, config.window, points, 2)
            cameras = Cameras(*(torch.zeros(1, views, config.window, side, side) for side in (4, 3)))
            model.head.refine(prepared, xy, xy, valid, INPUT_SIZE[::-1], cameras)
    return counter.peak


def test_mvtap_memory_forecast_covers_what_is_counted():
    """And the paper's ten views of 81 frames with 1,560 points fit one GPU, however many frames are asked for."""
    counted = counted_bytes(3, 20, 150)
    assert counted < mvtap_bytes(MVTAPConfig(), 3, 20, 150) < counted + 2**30
    assert 10 * 2**30 < mvtap_bytes(MVTAPConfig(), 10, 81, 1560) < 16 * 2**30


@torch.no_grad()
def test_work_of_mvtap_is_what_it_does():
    config, (views, frames, points), size = MVTAPConfig(HEAD, width=8, window=4), (3, 11, 7), (24, 32)
    txy = torch.tensor([0.0, 9, 11]).expand(views, points, 3)
    queries = Queries(txy, torch.ones(views, points, dtype=torch.bool), frames, size)
    cameras = Cameras(torch.eye(4).expand(views, frames, 4, 4), torch.eye(3).expand(views, frames, 3, 3))
    model = MVTAP(config).eval()
    with FlopCounterMode(display=False) as counter:
        Tracker(model)(model.encode(torch.zeros(views, frames, 3, *size)), queries, cameras)
    # what the counter sees beside: geometry, and interpolation where it is a product of matrices
    assert counter.get_total_flops() == pytest.approx(mvtap_flops(config, views, frames, points, size), rel=0.15)


_STANDIN = """
import torch

class CoTrackerPredictor(torch.nn.Module):
    def __init__(self, checkpoint, offline, window_len):
        super().__init__()
        assert offline and open(checkpoint).read() == "weights"

    def forward(self, video, queries, backward_tracking):
        # the point moves by (2, 1) pixels a frame; it is seen where the picture of its view is bright
        assert backward_tracking and video.shape[2:] == (3, 384, 512) and video.max() > 1
        time = torch.arange(video.shape[1])[:, None] - queries[0, :, 0]
        xy = queries[0, None, :, 1:] + time[..., None] * torch.tensor([2.0, 1.0])
        return xy[None], (video.mean((2, 3, 4))[0, :, None] > 128).expand(time.shape)[None]
"""


def test_cotracker_in_an_environment_of_its_own(views, environment, tmp_path):
    weights = tmp_path / "scaled_offline.pth"
    weights.write_text("weights")
    python = environment({"cotracker/__init__": "", "cotracker/predictor": _STANDIN})
    tracker = CoTrackerTracker(CoTracker(weights, python), KnownStarts())
    bright = torch.stack([v.read(0, 7, (384, 512)).float().mean((1, 2, 3)) > 128 for v in views.videos])
    for frame, tracks in zip(*all_tracks(tracker, views), strict=True):
        xy, found = expected_starts(views, frame)
        order = views.first(frame.view)
        begin = torch.tensor([min(frame.frame + order.index(v), 6) for v in range(3)])
        time = torch.arange(7) - begin[:, None]
        step = torch.stack([torch.tensor([2.0 * v.size[1] / 512, v.size[0] / 384]) for v in views.videos])
        expected = xy[:, None] + time[..., None, None] * step[:, None, None]
        seen = found[:, None].expand(tracks.visible.shape)
        torch.testing.assert_close(tracks.xy[seen], expected[seen], atol=1e-3, rtol=0)
        assert (tracks.visible[seen] == bright[..., None].expand(seen.shape)[seen]).all()


def test_cotracker_that_is_missing_or_fails_is_named(views, environment, tmp_path, monkeypatch):
    monkeypatch.delenv("MVTRACK_COTRACKER_PYTHON", raising=False)
    with pytest.raises(ValueError, match=r"CoTracker3: make an environment.*\$MVTRACK_COTRACKER_PYTHON"):
        all_tracks(CoTrackerTracker(CoTracker(tmp_path / "w.pth"), KnownStarts()), views)
    monkeypatch.setenv("MVTRACK_COTRACKER_PYTHON", sys.executable)
    with pytest.raises(ValueError, match="the package cotracker in"):
        all_tracks(CoTrackerTracker(CoTracker(tmp_path / "w.pth"), KnownStarts()), views)
    python = environment({"cotracker/__init__": "", "cotracker/predictor": _STANDIN})
    with pytest.raises(WorkerError, match=r"cotracker_worker.py failed: .*w.pth"):
        all_tracks(CoTrackerTracker(CoTracker(tmp_path / "w.pth", python), KnownStarts()), views)


def test_weights_that_are_not_free_wait_for_consent(tmp_path):
    weights = tmp_path / "mvtap.ckpt"
    weights.write_bytes(b"no weights")
    source = TrackerSource(TrackerOptions("mvtap", weights, starts="none"), None, Placement(device="cpu"))
    with pytest.raises(ValueError, match="--tracker mvtap cannot run: missing consent: .*pass --non-commercial"):
        source.made_by()
    with pytest.raises(ValueError, match="mvtap.ckpt"):
        TrackerSource(TrackerOptions("mvtap", weights, None, "none", 4.0, True), None, Placement(device="cpu")).build()
    with pytest.raises(ValueError, match=r"facebook/cotracker3 is for non-commercial use \(CC BY-NC 4.0\)"):
        TrackerSource(TrackerOptions("cotracker3", weights), None, Placement(device="cpu")).made_by()
    with pytest.raises(ValueError, match="needs --tracker-weights FILE"):
        TrackerSource(TrackerOptions("cotracker3"), None, Placement(device="cpu")).made_by()


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["--starts", "none"], "--starts none is for mvtap and cotracker3"),
        (["--tracker-weights", "x"], "--tracker-weights is for mvtap and cotracker3"),
        (["--tracker", "mvtap", "--tracker-python", "x"], "--tracker-python is for cotracker3"),
        (["--query-frames", "1,b"], "must be all, or numbers such as 0 or 0,40,80, got '1,b'"),
        (["--grid", "30"], "must look like"),
        (["--tracker", "mvtap", "--starts", "none", "--model", "m"], "--model has no effect, no model is at work"),
        ([], "clips has no layout that is known"),
    ],
)
def test_bad_options_are_refused_in_one_line(typed, message, tmp_path, capsys):
    (tmp_path / "clips").mkdir()
    assert cli(["pseudo-tracks", str(tmp_path / "clips"), *typed]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


class RenderedClip:
    """Two views of a rendered scene in a clip's folder, and where pixels of a view at one frame really go."""

    def __init__(self, root: Path) -> None:
        self.root, spec = root, CaseSpec(20_004, "arc_left", 15.0, 0.0)
        _, self.scene, self.camera, _ = set_up_case(spec)
        self.rendered = render(self.scene, self.camera)
        (root / "one").mkdir(parents=True)
        for view, name in enumerate("ab"):
            write_video(root / f"one/{name}.mp4", self.rendered.video[view].float() / 127.5 - 1, 12.0)
            camera = self.camera[view].to(dtype=torch.float64)
            sequence = CameraSequence(camera, tuple(map(str, range(spec.num_frames))))
            write_cameras(root / f"one/{name}.json", sequence, "json")

    def truth(self, view: torch.Tensor, frame: int, xy: torch.Tensor) -> Tracks:
        pixel = xy.long()
        depth = self.rendered.depth[view, frame, pixel[:, 1], pixel[:, 0]]
        world = unproject(xy[:, None], depth[:, None], self.camera[view, frame])[:, 0]
        surface = self.rendered.ids[view, frame, pixel[:, 1], pixel[:, 0]].long()
        moving = carry_points(self.scene, world, surface, torch.full((len(xy),), frame))
        return track_points(self.scene, self.camera, moving, surface)


@pytest.fixture(scope="module")
def rendered_clip(tmp_path_factory) -> RenderedClip:
    return RenderedClip(tmp_path_factory.mktemp("rendered") / "clips")


def test_own_tracker_follows_a_rendered_clip(rendered_clip, capsys):
    """Against exact tracks of the grid's points; points that rest at their starts are the line to beat."""
    typed = ["--grid", "7x8", "--query-frames", "4", "--query-views", "all"]
    assert cli(["pseudo-tracks", str(rendered_clip.root), *typed]) == 0, capsys.readouterr().err
    with np.load(rendered_clip.root / "one/tracks.npz") as file:
        xy, visible, found, query = (torch.from_numpy(file[name]) for name in ("xy", "visible", "found", "query"))
    home = query[:, 0].long()
    truth = rendered_clip.truth(home, 4, query[:, 2:])
    error = (xy - truth.xy).norm(dim=-1)
    resting = (query[:, 2:] - truth.xy).norm(dim=-1)
    for asked, view in itertools.product(range(2), range(2)):
        scored = truth.visible[view] & found[view] & (home == asked)
        assert error[view][scored].median() < 0.4 * resting[view][scored].median()
        assert error[view][scored].median() < 1.8  # of 64 pixels
        assert (visible == truth.visible)[view, :, found[view] & (home == asked)].float().mean() > 0.75
    assert found.float().mean() > 0.9


@pytest.mark.parametrize("frame", [8, 5])
def test_points_begin_in_the_other_view_where_they_are(rendered_clip, frame):
    """At a latent frame, and between two."""
    views = tracked_clips(rendered_clip.root, DatasetOptions())[0].open()
    xy = GridQueries((7, 8)).points((64, 64))
    model = SceneModel(load_model(shipped_model(tracking=True)), 4.0)
    [starts] = CrossViewStarts(model).find(views, [frame], xy)
    truth = rendered_clip.truth(torch.zeros(len(xy), dtype=torch.long), frame, xy)
    assert (starts.txy[0] == torch.cat([torch.full((len(xy), 1), float(frame)), xy], 1)).all()
    found, moment = starts.found[1], starts.txy[1, :, 0].long()
    there = truth.xy[1][moment, torch.arange(len(xy))]
    away = (starts.txy[1, :, 1:] - there).norm(dim=-1)[found]
    assert found.float().mean() > 0.8
    assert away.median() < min(1.6, 0.3 * (xy - there).norm(dim=-1)[found].median())


def test_multicamvideo_gets_tracks_where_it_lies(tmp_path, tracking_model, capsys):
    root, model = tmp_path / "MultiCamVideo", save_model(tracking_model, tmp_path / "model").parent
    for number in (1, 2):
        write_scene(root / f"train/f24_aperture5/scene{number}", synthesise(seed=number), with_tracks=False)
    typed = ["pseudo-tracks", str(root), "--grid", "3x4", "--query-frames", "0,3", "--model", str(model)]
    assert cli(typed) == 0, capsys.readouterr().err
    assert "2 clips tracked, 0 had their tracks" in capsys.readouterr().out
    layout = find_layout(root)
    for scene in layout.scenes(root, DatasetOptions()):
        assert layout.read(scene).tracks().xy.shape == (3, 5, 2 * 12, 2)
    assert cli(typed) == 0
    assert "0 clips tracked, 2 had their tracks" in capsys.readouterr().out
