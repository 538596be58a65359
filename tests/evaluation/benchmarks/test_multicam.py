"""MultiCamVideo as a benchmark: two views of a synthesised scene, their cameras, captions and truth."""

import json

import pytest

from mvtrack.config.datasets import DatasetOptions
from mvtrack.evaluation.benchmarks.multicam import MultiCam
from mvtrack.metrics.image import psnr, ssim
from tests.data.public.synthesis import reprojection_px, synthesise
from tests.data.public.test_kubric import write_mv_kubric
from tests.data.public.test_multicamvideo import truth_of, write_scene

SEEDS = (3, 4)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("MultiCamVideo-Dataset")
    for seed in SEEDS:
        write_scene(root / f"train/f24_aperture5/scene{seed}", truth_of(seed))
    rows = [f"train/f24_aperture5/scene3/videos/cam0{v}.mp4,view {v}" for v in (1, 2, 3)]
    (root / "metadata.csv").write_text("\n".join(["file_name,text", *rows]))
    return root


def small(root, **changes) -> MultiCam:
    return MultiCam(root, DatasetOptions(), **{"size": (24, 32), "num_frames": 5} | changes)


def test_views_cameras_captions_and_tracks_belong_together(root):
    benchmark = small(root)
    assert benchmark.case_keys() == [f"f24_aperture5_scene{seed}" for seed in SEEDS]
    pairs = set()
    for draw in range(7):
        inputs = small(root, seed=draw).load("f24_aperture5_scene3")
        truth = truth_of(3)
        assert reprojection_px([inputs.camera[0], inputs.camera[1]], truth.world, inputs.tracks) < 0.01
        centres = truth.camera.c2w[:, -1, :3, 3]
        reference, target = ((centres - at).norm(dim=-1).argmin().item() for at in inputs.camera.c2w[:, -1, :3, 3])
        assert reference != target
        assert inputs.caption == f"view {target + 1}"
        pairs.add((reference, target))
        assert (inputs.target.shape, inputs.target_frames) == ((5, 3, 24, 32), (0, 1, 2, 3, 4))
        assert (inputs.depth, inputs.subject_distance, inputs.fps) == (None, None, 15.0)
    assert len(pairs) > 2
    assert [len(small(root, num_scenes=1, seed=draw).case_keys()) for draw in (0, 1)] == [1, 1]


def test_only_the_pairs_files_are_in_the_digest(root, tmp_path):
    write_scene(tmp_path / "f24_aperture5/scene3", truth_of(3))
    benchmark = small(tmp_path)
    [key], before = benchmark.case_keys(), benchmark.digest("f24_aperture5_scene3")
    used = benchmark.load(key).camera.c2w[:, -1, :3, 3]
    centres = truth_of(3).camera.c2w[:, -1, :3, 3]
    chosen = {(centres - at).norm(dim=-1).argmin().item() for at in used}
    for v in range(3):
        video = tmp_path / f"f24_aperture5/scene3/videos/cam0{v + 1}.mp4"
        content = video.read_bytes()
        video.write_bytes(content + b"\0" * 8)
        assert (small(tmp_path).digest(key) != before) == (v in chosen)
        video.write_bytes(content)
    assert small(tmp_path, seed=1).digest(key) != before


def test_depth_of_both_views_is_given_where_there_is_some(tmp_path):
    truth = synthesise(5, views=2, frames=3, size=(38, 58), points=13)
    write_mv_kubric(tmp_path / "train/7", truth)
    inputs = small(tmp_path, num_frames=3).load("train_7")
    assert inputs.depth.shape == inputs.target_depth.shape == (3, 24, 32)
    first = [float(truth.depth[v, 0].median()) for v in range(2)]
    assert min(abs(float(inputs.depth[0].median()) / z - 1) for z in first) < 0.2
    assert inputs.subject_distance == pytest.approx(float(inputs.depth[0].median()))


def test_the_command_writes_the_papers_columns(root, run, tmp_path):
    given = ["--data", root, "--size", "24x32", "--num-frames", 5, "--workers", 1, "--out", tmp_path / "out"]
    code, shown, _ = run("multicam.py", *given, "--list-cases")
    assert (code, shown.splitlines()) == (0, [f"f24_aperture5_scene{s}: 5 frames, 5 with a true target" for s in SEEDS])
    code, shown, errors = run("multicam.py", *given, "--baselines", "copy,ground_truth", "--metrics", "fidelity")
    assert code == 0, errors
    last = json.loads(shown.splitlines()[-1])["figures"]
    assert list(last["copy"]) == ["psnr", "ssim", "lpips", "met3r", "mRotErr", "mTransErr", "mCamMC"]
    cases = [small(root).load(key) for key in small(root).case_keys()]
    for name, measure in (("psnr", psnr), ("ssim", ssim)):
        slow = [measure(a, b) for c in cases for a, b in zip(c.reference, c.target, strict=True)]
        assert last["copy"][name] == pytest.approx(sum(slow) / len(slow), rel=0.01)  # the copy is an 8-bit video
    assert last["copy"]["lpips"] is None
    assert "14.08" in (tmp_path / "out/table.md").read_text()  # layer 18 of the published table
    code, _, errors = run("multicam.py", *given, "--draw-seed", 5)
    assert (code, "choose another --out" in errors) == (2, True)


def test_what_has_no_second_view_is_refused(davis):
    benchmark = MultiCam(davis.root, DatasetOptions(layout="davis"), size=(24, 32), num_frames=5)
    key = benchmark.case_keys()[0]
    with pytest.raises(ValueError, match="holds one view of each moment: two videos of the same moments are needed"):
        benchmark.load(key)
