import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from mvtrack.data.synthetic.detailed_scenes import detailed_case
from mvtrack.data.synthetic.renderer import FIRST_OBJECT
from mvtrack.data.synthetic.scene import SceneStyle
from mvtrack.evaluation.benchmarks import davis as davis_module
from mvtrack.evaluation.benchmarks import davis_cameras
from mvtrack.evaluation.benchmarks.davis import Davis
from mvtrack.evaluation.benchmarks.davis_list import DavisCase, find_sequences, make_list, read_list, write_list
from mvtrack.evaluation.interface import Skipped
from mvtrack.evaluation.measures.fidelity import Fidelity
from mvtrack.evaluation.methods.baselines import Baseline, warp_and_fill
from mvtrack.evaluation.runner.plan import Plan
from mvtrack.evaluation.runner.stages import run_stages
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.geometry.path_language import parse_path
from mvtrack.geometry.pose_files import CameraSequence, write_cameras
from mvtrack.geometry.pose_files.distortion import Distortion
from mvtrack.geometry.presets import PRESETS
from mvtrack.geometry.trajectory import CameraPath
from mvtrack.inference.camera_estimation.colmap import colmap_missing
from mvtrack.inference.camera_estimation.estimated_cameras import CameraEstimationError
from mvtrack.inference.camera_estimation.source_cameras import MeasuredSource
from mvtrack.metrics.camera_accuracy import camera_accuracy
from mvtrack.metrics.image import psnr


@pytest.fixture
def own(davis, tmp_path):
    """A copy of the rendered DAVIS that a test may damage."""
    shutil.copytree(davis.root, tmp_path / "davis")
    return replace(davis, root=tmp_path / "davis")


def masks_of(benchmark, sequence):
    return sorted((benchmark.root / "Annotations/480p" / sequence).glob("*.png"))


def test_cameras_depth_and_true_targets_belong_together(davis):
    """The reference warped by its depth to the asked-for camera is the true target, where both views see."""
    for key in davis.case_keys():
        inputs = davis.load(key)
        assert inputs.reference.shape == (5, 3, 24, 32)
        assert inputs.source_camera_known
        warped = warp_and_fill(inputs.reference, inputs.depth, inputs.camera)
        seen = inputs.covisible
        assert 0.3 < seen.float().mean() < 1
        copied = psnr(inputs.reference[1:], inputs.target[1:], seen[1:])
        assert psnr(warped[1:], inputs.target[1:], seen[1:]) > copied + 6
        assert psnr(inputs.reference[0], inputs.target[0]) > 30  # paths start at the source; the rest is JPEG


def test_what_moves_is_dynamic(davis):
    """Pixels that the masks call dynamic change more than the rest once the camera's motion is undone."""
    inputs = davis.load(davis.case_keys()[0])
    assert inputs.dynamic.shape == (5, 24, 32)
    assert 0.02 < inputs.dynamic.float().mean() < 0.9
    numbers = np.unique(np.stack([np.array(Image.open(p)) for p in masks_of(davis, davis.cases[0].sequence)]))
    assert numbers.tolist() == list(range(len(numbers)))
    assert len(numbers) > 1


def test_void_is_no_object_in_2017_and_the_object_in_2016(own):
    sequence = own.cases[0].sequence
    for i, path in enumerate(masks_of(own, sequence)):
        mask = np.zeros((36, 52), np.uint8)
        mask[:18], mask[18:] = (1 if i == 0 else 0), 255
        Image.fromarray(mask, mode="L").save(path)
    dynamic = own.load(own.case_keys()[0]).dynamic
    assert dynamic[0, :10].all()
    assert not dynamic[0, 14:].any()
    assert not dynamic[1].any()
    first = np.zeros((36, 52), np.uint8)
    first[18:] = 255
    Image.fromarray(first, mode="L").save(masks_of(own, sequence)[0])
    assert own.load(own.case_keys()[0]).dynamic[:, 14:].all()


def test_damaged_files_are_named_and_cost_only_what_needs_them(own):
    first, second = own.case_keys()
    sequence = own.cases[0].sequence
    before = own.digest(first)
    path = masks_of(own, sequence)[3]
    path.write_bytes(path.read_bytes()[:40])
    assert own.digest(first) != before
    inputs = own.load(first)
    assert inputs.dynamic is None
    assert inputs.why_missing("dynamic").kind == "failed"
    assert str(path) in inputs.why_missing("dynamic").reason
    path.unlink()
    assert str(path) in own.load(first).problems["dynamic"]
    assert own.load(second).problems == {}
    picture = own.root / "JPEGImages/480p" / sequence / "00002.jpg"
    picture.write_bytes(b"")
    with pytest.raises(ValueError, match=f"cannot read {picture} as an image"):
        own.load(first)
    shutil.rmtree(picture.parent)
    with pytest.raises(ValueError, match=f"sequence {sequence} is missing"):
        own.digest(first)
    with pytest.raises(ValueError, match="is missing"):
        own.load(first)


def test_short_clips_keep_their_length_or_are_left_out(own):
    longer = replace(own, num_frames=9)
    inputs = longer.load(own.case_keys()[0])
    assert len(inputs.reference) == len(inputs.dynamic) == inputs.camera.shape[1] == 5
    assert inputs.target_frames == (0, 1, 2, 3, 4)
    declined = replace(longer, short_clips="skip").load(own.case_keys()[0])
    assert isinstance(declined, Skipped)
    assert declined.kind == "skipped"
    assert declined.reason == "the clip has 5 frames, fewer than 9"
    assert len(replace(own, num_frames=3).load(own.case_keys()[0]).reference) == 3


def test_without_cameras_the_source_is_still(own):
    """Real DAVIS has neither cameras nor depth nor targets."""
    shutil.rmtree(own.root / "Truth")
    inputs = own.load(own.case_keys()[0])
    assert not inputs.source_camera_known
    assert inputs.depth is None
    assert inputs.why_missing("target").reason == "this benchmark gives no true target video"
    torch.testing.assert_close(inputs.camera.c2w[0], torch.eye(4).expand(5, 4, 4))
    path = CameraPath(own.cases[0].trajectory, pivot_m=own.subject_distance)
    torch.testing.assert_close(inputs.camera.c2w[1], path.poses(5).float())
    # 50 degrees wide before the crop
    assert 2 * torch.atan(32 / 2 / inputs.camera.K[0, 0, 0, 0]).rad2deg() == pytest.approx(50, abs=7)


def test_given_source_cameras(own, tmp_path):
    (tmp_path / "poses").mkdir()
    with_poses = replace(own, cameras=tmp_path / "poses")
    with pytest.raises(ValueError, match="has 0 pose files scene-00"):
        with_poses.load(own.case_keys()[0])
    truth = own.root / "Truth/480p/scene-00/cameras.json"
    shutil.copy(truth, tmp_path / "poses/scene-00.json")
    expected = own.load(own.case_keys()[0]).camera
    shutil.rmtree(own.root / "Truth")
    given = with_poses.load(own.case_keys()[0])
    assert given.source_camera_known
    torch.testing.assert_close(given.camera.c2w[0], expected.c2w[0])


def test_pose_files_are_of_the_sequences_pictures(own, tmp_path):
    """As `mvtrack reshoot` takes them: of all its frames, with what was done said, and of nothing else."""
    (tmp_path / "poses").mkdir()

    def given(size, names, lens=None):
        K = intrinsics_from_fov(50.0, size).double().repeat(len(names), 1, 1)
        camera = Camera(parse_path("truck_right 2").poses(len(names)), K, size, True)
        sequence = CameraSequence(camera, tuple(names), distortion=lens)
        write_cameras(tmp_path / "poses/scene-00.json", sequence, "json", overwrite=True)
        return replace(own, cameras=tmp_path / "poses", num_frames=4)

    for message, *other in (
        ("is for pictures of 52x52, the video is 52x36: the aspects differ", (52, 52), "01234"),
        ("holds 10 cameras, but the video has 5 frames", (36, 52), "0123456789"),
        ("distorted lens", (36, 52), "01234", Distortion(torch.tensor([-0.3, 0, 0, 0, 0]).double())),
    ):
        with pytest.raises(ValueError, match=message):
            given(*other).load(own.case_keys()[0])
    few = given((36, 52), ("0.jpg", "2.jpg", "4.jpg"))
    assert few.load(own.case_keys()[0]).camera[0].c2w[:, 0, 3].tolist() == pytest.approx([0, 0.5, 1, 1.5], abs=1e-3)
    assert few.pose_notes[0].endswith("holds 3 cameras for 5 frames: 2 are interpolated, by its names")


@pytest.fixture
def measure(monkeypatch):
    """Sets the cameras that are measured; returns the arguments of the calls, masks as arrays."""

    def tell(answer: Camera | Exception) -> list:
        calls = []

        def run(pictures, fov_deg, subject_distance, masks):
            moving = np.stack([np.array(Image.open(p)) for p in sorted(masks.iterdir())])
            calls.append((pictures, fov_deg, subject_distance, moving))
            if isinstance(answer, Exception):
                raise answer
            return MeasuredSource(answer, {}, ())

        monkeypatch.setattr(davis_cameras, "measured_cameras", run)
        monkeypatch.setattr(davis_module, "colmap_missing", lambda: None)
        return calls

    return tell


def test_measured_source_cameras(own, measure):
    """Of the whole sequence, with what is annotated masked; the truth belongs to other cameras and is not used."""
    found = Camera(
        parse_path("pan_left 10").poses(5), intrinsics_from_fov(60.0, (36, 52)).double().repeat(5, 1, 1), (36, 52)
    )
    calls = measure(found)
    auto = replace(own, cameras="auto", num_frames=3, subject_distance=2.5)
    key, sequence = own.case_keys()[0], own.cases[0].sequence
    inputs = auto.load(key)
    [(pictures, fov_deg, distance, moving)] = calls
    assert pictures == own.root / "JPEGImages/480p" / sequence
    assert (fov_deg, distance, moving.shape) == (None, 2.5, (5, 36, 52))
    expected = np.stack([np.array(Image.open(p)) > 0 for p in masks_of(own, sequence)])
    assert np.array_equal(moving, expected * 255)
    assert inputs.source_camera_known
    torch.testing.assert_close(inputs.camera.c2w[0], found.c2w[:3].float())
    assert inputs.depth is None
    assert inputs.target is None
    assert inputs.subject_distance == 2.5
    assert "measured in each sequence's own frames" in " ".join(auto.footnotes)
    before = auto.digest(key)
    assert before != replace(own, num_frames=3, subject_distance=2.5).digest(key)
    masks_of(own, sequence)[4].write_bytes(
        masks_of(own, sequence)[3].read_bytes()
    )  # of a frame that only measuring sees
    assert auto.digest(key) != before
    masks_of(own, sequence)[4].unlink()
    with pytest.raises(ValueError, match="cannot read the mask"):
        auto.load(key)


def test_a_sequence_whose_cameras_cannot_be_measured_fails_alone(own, measure, monkeypatch, tmp_path):
    measure(CameraEstimationError("the cameras of scene-00 cannot be measured: only 3 points could be matched"))
    auto = replace(own, cameras="auto")
    plan = Plan(auto, (Baseline("copy"),), (Fidelity(),), {}, tmp_path / "out")
    troubles = run_stages(plan, ("generate",))
    assert len(troubles) == 2
    assert "copy, scene-00--pan_right: inputs: the cameras of scene-00 cannot be measured: only 3 points" in troubles[0]
    monkeypatch.setattr(davis_module, "colmap_missing", lambda: "pycolmap: pip install pycolmap")
    with pytest.raises(ValueError, match="missing pycolmap: pip install pycolmap, or give a folder of pose files"):
        replace(own, cameras="auto")


@pytest.mark.skipif(colmap_missing() is not None, reason=f"missing {colmap_missing()}")
def test_pictures_that_do_not_tell_say_so(own, monkeypatch, tmp_path):
    """The real thing, on pictures that are too small; the answer is kept."""
    monkeypatch.setenv("MVTRACK_CACHE", str(tmp_path / "cache"))
    folder = own.root / "JPEGImages/480p/scene-00"
    for _ in range(2):
        with pytest.raises(CameraEstimationError, match=f"the cameras of {folder} cannot be measured: "):
            replace(own, cameras="auto").load(own.case_keys()[0])
    assert len(list((tmp_path / "cache/cameras").glob("*.npz"))) == 1


@pytest.mark.slow
@pytest.mark.skipif(colmap_missing() is not None, reason=f"missing {colmap_missing()}")
def test_an_arc_is_measured_from_pictures_and_masks(monkeypatch, tmp_path):
    """Things move, and count for nothing under their masks; K and path come out for the benchmark's size."""
    monkeypatch.setenv("MVTRACK_CACHE", str(tmp_path / "cache"))
    _, camera, rendered = detailed_case(5, "arc_left", 20.0, 9, (240, 320), SceneStyle(min_objects=2, max_objects=3))
    for part in ("JPEGImages", "Annotations"):
        (tmp_path / part / "480p/arc").mkdir(parents=True)
    for t in range(9):
        picture = Image.fromarray(rendered.video[0, t].permute(1, 2, 0).numpy())  # (H, W, 3)
        picture.save(tmp_path / f"JPEGImages/480p/arc/{t:05d}.jpg", quality=95)
        moving = (rendered.ids[0, t] >= FIRST_OBJECT).numpy().astype(np.uint8)  # an index image without a palette
        Image.fromarray(moving).save(tmp_path / f"Annotations/480p/arc/{t:05d}.png")
    case = DavisCase("arc", "pan_left")
    inputs = Davis(tmp_path, (case,), (120, 160), num_frames=9, cameras="auto").load(case.key)
    accuracy = camera_accuracy(inputs.camera.c2w[0].double(), camera.c2w[0].double()).means()
    assert accuracy["mRotErr"] < 0.3
    assert accuracy["mTransErr"] < 0.02
    assert float(inputs.camera.K[0, 0, 0, 0]) == pytest.approx(float(camera.K[0, 0, 0, 0]) / 2, rel=0.02)


def test_pose_files_of_unknown_unit_are_said(own, tmp_path):
    K = intrinsics_from_fov(50.0, (36, 52)).double().repeat(5, 1, 1)
    (tmp_path / "poses").mkdir()
    for sequence, scale_known in (("scene-00", True), ("scene-01", False)):
        camera = Camera(parse_path("dolly_in 2").poses(5), K, (36, 52), scale_known)
        write_cameras(tmp_path / "poses" / f"{sequence}.json", CameraSequence(camera, tuple("01234")), "json")
    given = replace(own, cameras=tmp_path / "poses")
    assert given.unit_warning.startswith("1 of 2 do not say that they are in metres (scene-01): there, a path's metres")
    assert given.unit_warning in given.footnotes[2]
    assert replace(given, cases=given.cases[:1]).unit_warning is None
    assert own.unit_warning is None


def test_every_setting_that_changes_inputs_changes_the_digest(own):
    key = own.case_keys()[0]
    variants = [own, replace(own, size=(32, 24)), replace(own, fov_deg=40.0), replace(own, num_frames=4)]
    variants += [replace(own, fit="pad"), replace(own, subject_distance=3.0)]
    assert len({v.digest(key) for v in variants}) == len(variants)
    (own.root / "Truth/480p/scene-00/depth.npz").unlink()
    assert own.digest(key) != variants[0].digest(own.case_keys()[1])


def test_lists(tmp_path):
    assert len(make_list(["a", "b"], "all10")) == 20
    assert [c.trajectory for c in make_list(list("abcdefghijkl"), "round_robin")] == [*PRESETS, *list(PRESETS)[:2]]
    cases = (DavisCase("bear", "arc_left", "ease", "a bear, walking"), DavisCase("cows", "arc_left 10deg; zoom_in"))
    write_list(tmp_path / "list.csv", cases)
    assert read_list(tmp_path / "list.csv") == cases
    assert [c.key for c in cases] == ["bear--arc_left-ease", "cows--arc_left_10deg_zoom_in"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sequence,trajectory\n", "has no rows"),
        ("sequence,path\nbear,arc_left\n", "needs columns sequence, trajectory"),
        ("sequence,trajectory\nbear\n", "line 2: expected 2 values"),
        ("sequence,trajectory\nbear,arc_lfet\n", "line 2: .*arc_lfet"),
        ("sequence,trajectory,speed\nbear,arc_left,fast\n", "line 2: unknown speed 'fast'"),
        ("sequence,trajectory,speed\nbear,arc_left 9deg,ease\n", "line 2: speed 'ease' is for a preset"),
        ("sequence,trajectory\n../bear,arc_left\n", "line 2: sequence '../bear' is no folder name"),
    ],
)
def test_lists_that_cannot_be_read(tmp_path, text, message):
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_list(tmp_path / "list.csv")


def test_splits_of_both_years(tmp_path):
    (tmp_path / "JPEGImages/480p/bear").mkdir(parents=True)
    (tmp_path / "ImageSets/2017").mkdir(parents=True)
    (tmp_path / "ImageSets/480p").mkdir()
    (tmp_path / "ImageSets/2017/val.txt").write_text("bear\ncows\n")
    rows = [
        f"/JPEGImages/480p/{s}/{i:05d}.jpg /Annotations/480p/{s}/{i:05d}.png\n" for s in ("dog", "cat") for i in (0, 1)
    ]
    (tmp_path / "ImageSets/480p/train.txt").write_text("".join(rows))
    assert find_sequences(tmp_path, "480p", "2017/val") == ["bear", "cows"]
    assert find_sequences(tmp_path, "480p", "480p/train") == ["dog", "cat"]
    assert find_sequences(tmp_path, "480p", None) == ["bear"]
    with pytest.raises(ValueError, match="there are: 2017/val, 480p/train"):
        find_sequences(tmp_path, "480p", "2016/val")
    with pytest.raises(ValueError, match="--data must be the folder"):
        find_sequences(tmp_path / "JPEGImages", "480p", None)


def test_files_of_the_truth_that_are_damaged_are_named(own):
    truth = own.root / "Truth/480p/scene-00"
    tracks = truth / own.cases[0].path_name / "tracks.npz"
    tracks.write_bytes(tracks.read_bytes()[:100])
    with pytest.raises(ValueError, match=f"cannot read xy, visible, valid from {tracks}"):
        own.load(own.case_keys()[0])
    tracks.unlink()
    assert own.load(own.case_keys()[0]).tracks is None
    np.savez(truth / "depth.npz", other=np.zeros(3))
    with pytest.raises(ValueError, match=r"cannot read subject_distance from .*depth.npz"):
        own.load(own.case_keys()[0])


def test_masks_of_another_size_are_no_masks_of_these_pictures(own):
    path = masks_of(own, own.cases[0].sequence)[2]
    Image.fromarray(np.zeros((52, 36), np.uint8)).save(path)
    why = own.load(own.case_keys()[0]).why_missing("dynamic")
    assert (why.kind, why.reason) == ("failed", f"the mask {path} is (52, 36), its picture (36, 52)")


def test_tracks_are_points_of_the_pictures(own):
    """A true track's colours agree between the views where it is seen in both."""
    inputs = own.load(own.case_keys()[0])
    views = torch.stack([inputs.reference, inputs.target])
    both = inputs.tracks.visible.all(0)
    assert both.sum() > 20
    t, n = both.nonzero().T
    row, column = (inputs.tracks.xy[:, t, n, i].floor().long() for i in (1, 0))
    row, column = row.clamp(0, 23), column.clamp(0, 31)
    seen = [views[v, t, :, row[v], column[v]] for v in (0, 1)]
    elsewhere = seen[1].roll(7, 0)
    assert (seen[0] - seen[1]).abs().mean() < 0.6 * (seen[0] - elsewhere).abs().mean()
