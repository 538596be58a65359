import math
import os
import signal
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from mvtrack.config.cluster import RayOptions, shard_of
from mvtrack.evaluation.interface import BatchMetric, Column
from mvtrack.evaluation.measures.fidelity import Fidelity
from mvtrack.evaluation.methods.baselines import Baseline
from mvtrack.evaluation.methods.existing_rows import ExternalVideos
from mvtrack.evaluation.report.summary import summarise
from mvtrack.evaluation.report.write import write_report
from mvtrack.evaluation.runner.plan import Plan
from mvtrack.evaluation.runner.stages import STAGES, forget_failures, run_stages
from mvtrack.video.reader import open_video
from mvtrack.video.writer import write_video

COPY, TRUTH = Baseline("copy"), Baseline("ground_truth")
GOOD = {"bear": 1.0, "cows": 2.0, "dog": 6.0}


def run(plan: Plan, **options) -> list[str]:
    """All stages but the page's previews, which cost most here and matter least."""
    return run_stages(plan, STAGES[:3], **options)


def scores_of(plan: Plan, method: str = "copy", column: str = "score") -> dict:
    [row] = [r for r in summarise(plan)["rows"] if r["name"] == method]
    return row["scores"][column]


def test_what_is_done_is_not_done_again(toy, told, tmp_path, contents):
    metric = told(GOOD)
    plan = Plan(toy, (COPY, TRUTH), (metric, Fidelity()), folder=tmp_path)
    assert run_stages(plan) == []
    assert sorted(metric.calls) == sorted(2 * list(GOOD))
    write_report(plan)
    before, stamps = contents(tmp_path), {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*")}
    os.sync()
    assert run_stages(plan) == []
    write_report(plan)
    assert len(metric.calls) == 6
    assert contents(tmp_path) == before
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*") if p.is_file()}.items() <= stamps.items()


def test_a_run_in_pieces_leaves_the_same_bytes(toy, told, tmp_path, contents):
    """Two shards, one of them stage by stage, and a last run that gathers: as one run without a break."""
    whole, pieces = (Plan(toy, (COPY,), (told(GOOD), Fidelity()), folder=tmp_path / n) for n in ("a", "b"))
    run_stages(whole)
    write_report(whole)
    run_stages(pieces, shard=(2, 2))
    for stage in ("generate", "score", "page"):
        run_stages(pieces, [stage], shard=(1, 2))
    assert len(pieces.metrics[0].calls) == 3
    run_stages(pieces)
    write_report(pieces)
    assert len(pieces.metrics[0].calls) == 3
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@dataclass(frozen=True)
class DyingCopy(Baseline):
    """Kills its process in the middle of a case, once."""

    mark: Path = Path()

    def generate(self, inputs, estimates):
        if inputs.key == "cows" and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().generate(inputs, estimates)


@pytest.mark.slow
def test_two_ray_workers_leave_the_same_bytes_when_one_is_killed(toy, tmp_path, contents):
    pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")
    for name, cluster in (("alone", None), ("spread", RayOptions(ray=True, ray_workers=2))):
        mark = tmp_path / f"{name} died"
        if cluster is None:
            mark.touch()
        plan = Plan(toy, (DyingCopy("copy", mark=mark), TRUTH), (Fidelity(),), folder=tmp_path / name)
        assert run_stages(plan, cluster=cluster) == []
        assert mark.exists()
        write_report(plan)
    assert contents(tmp_path / "spread") == contents(tmp_path / "alone")


def test_shards_share_nothing_and_cover_all():
    keys = [str(i) for i in range(11)]
    parts = [shard_of(keys, (i, 3)) for i in (1, 2, 3)]
    assert sorted(sum(parts, [])) == sorted(keys)
    with pytest.raises(ValueError, match="shard 4/3 does not exist"):
        shard_of(keys, (4, 3))


@pytest.mark.parametrize(
    ("bad", "kind", "reason"),
    [
        (ValueError("cannot read\n the mask x.png"), "failed", "cannot read the mask x.png"),
        (RuntimeError("out of memory"), "failed", "out of memory"),
        (KeyError("depth"), "failed", "KeyError: 'depth'"),
        (ZeroDivisionError(), "failed", "ZeroDivisionError"),
        ({"score": math.nan}, "failed", "score is nan"),
        ({"score": -math.inf}, "failed", "score is -inf"),
        ({}, "failed", "told gave no score"),
        ("skip", "skipped", "no dynamic pixel"),
    ],
)
def test_bad_values_are_counted_and_never_averaged(toy, told, decline, tmp_path, bad, kind, reason):
    value = decline["skipped"]("no dynamic pixel") if bad == "skip" else bad
    plan = Plan(toy, (COPY,), (told(GOOD | {"cows": value}),), folder=tmp_path)
    troubles = run(plan)
    assert troubles == ([f"copy, cows, told: {reason}"] if kind == "failed" else [])
    score = scores_of(plan)
    assert (score["mean"], score["count"], score["cases"]) == (3.5, 2, 3)
    assert score[kind] == 1
    assert score["reasons"] == {f"{kind}: {reason}": 1}


@pytest.mark.parametrize("where", ["digest", "load", "generate", "estimate", "score"])
def test_what_nobody_foresaw_costs_its_case_alone(toy, told, weigh, tmp_path, monkeypatch, where):
    """Wherever it happens; for someone who looks for it, it ends the run with its traceback."""
    estimator = weigh()
    plan = Plan(toy, (COPY,), (told(GOOD, needs=("reference.depth",)),), {"depth": estimator}, tmp_path)
    owner = {"generate": Baseline, "estimate": estimator, "score": plan.metrics[0]}.get(where, toy)
    real = getattr(owner, where)

    def odd(*arguments):
        if any(getattr(getattr(a, "inputs", a), "key", a) == "cows" for a in arguments):
            raise KeyError("frames")
        return real(*arguments)

    monkeypatch.setattr(owner, where, odd, raising=True)
    run(plan)
    score = scores_of(plan)
    assert (score["mean"], score["count"], score["failed"]) == (3.5, 2, 1)
    assert "KeyError: 'frames'" in next(iter(score["reasons"]))
    with pytest.raises(KeyError, match="frames"):
        run(replace(plan, folder=tmp_path / "looked at", debug=True))


def test_a_preview_that_cannot_be_written_is_said_and_tried_again(toy, told, tmp_path, monkeypatch):
    plan = Plan(toy, (COPY,), (told(GOOD),), folder=tmp_path)
    run(plan)

    def odd(path, *arguments, **options):
        raise IndexError(f"no codec for {path.parent.name}")

    with monkeypatch.context() as during:
        during.setattr("mvtrack.evaluation.runner.videos.write_video", odd)
        troubles = run_stages(plan, ["page"])
    assert troubles == [f"{key}, page: IndexError: no codec for _target" for key in GOOD]
    assert run_stages(plan, ["page"]) == []
    assert (tmp_path / "page/copy/dog.mp4").is_file()


def test_failures_are_tried_again_only_when_asked(toy, told, tmp_path):
    metric = told(GOOD | {"dog": ValueError("network down")})
    plan = Plan(toy, (COPY,), (metric,), folder=tmp_path)
    run(plan)
    metric.values = GOOD
    run(plan)
    assert (len(metric.calls), scores_of(plan)["failed"]) == (3, 1)
    assert forget_failures(plan) == 1
    run(plan)
    assert metric.calls[3:] == ["dog"]
    assert scores_of(plan)["mean"] == 3.0


def test_a_case_that_cannot_be_read_fails_in_every_column(toy, told, tmp_path):
    plan = Plan(replace(toy, broken=("cows",)), (COPY,), (told(GOOD), Fidelity()), folder=tmp_path)
    [line] = run(plan)
    assert line == "copy, cows: inputs: sequence cows is missing: no .jpg in cows/"
    for column in ("score", "psnr", "ssim"):
        score = scores_of(plan, column=column)
        assert (score["count"], score["failed"], score["cases"]) == (2, 1, 3)
    mended = replace(plan, benchmark=toy)
    run(mended)
    assert scores_of(mended)["count"] == 3


def test_what_changed_is_done_again(toy, told, tmp_path):
    metric = told(GOOD)
    plan = Plan(toy, (COPY,), (metric,), folder=tmp_path)
    run(plan)
    newer = told(GOOD, version=2)
    run(replace(plan, metrics=(newer,)))
    assert len(newer.calls) == 3
    other = told(GOOD, version=2)
    changed = replace(plan, benchmark=replace(toy, content="corrected"), metrics=(other,))
    assert scores_of(changed)["reasons"] == {"skipped: not done yet": 3}
    run(changed)
    assert len(other.calls) == 3


def test_scores_of_other_settings_are_told_from_work_not_done(toy, told, tmp_path):
    plan = Plan(toy, (COPY,), (told(GOOD),), folder=tmp_path)
    run(plan)
    other = replace(plan, metrics=(told(GOOD, settings={"net": "vgg"}),))
    [reason] = scores_of(other)["reasons"]
    assert reason.startswith("skipped: scored with other settings")
    new = replace(plan, metrics=(told(GOOD, name="new"),))
    assert scores_of(new)["reasons"] == {"skipped: not done yet": 3}


def test_a_metric_without_its_weights_says_what_is_missing(toy, told, tmp_path):
    metric = told(GOOD, absent="DINO weights dino.pth")
    plan = Plan(toy, (COPY,), (metric,), folder=tmp_path)
    assert run(plan) == []
    assert scores_of(plan)["reasons"] == {"skipped: missing DINO weights dino.pth": 3}
    metric.absent = None
    run(plan)
    assert scores_of(plan)["mean"] == 3.0


def test_equal_videos_have_infinite_psnr_that_no_mean_holds(toy, tmp_path):
    plan = Plan(toy, (TRUTH,), (Fidelity(),), folder=tmp_path)
    run(plan)
    # the truth is kept in 8 bit, the toy's target is not: equal up to rounding
    assert scores_of(plan, "ground_truth", "psnr")["mean"] > 50
    assert scores_of(plan, "ground_truth", "ssim")["mean"] > 0.999


def test_infinite_values_are_counted_apart(toy, told, tmp_path):
    plan = Plan(toy, (COPY,), (told(GOOD | {"dog": {"score": math.inf}}),), folder=tmp_path)
    run(plan)
    score = scores_of(plan)
    assert (score["mean"], score["count"], score["infinite"], score["failed"]) == (1.5, 2, 1, 0)


class Batch(BatchMetric):
    """Sees several videos at once, and fails on all of them when told."""

    name = "together"
    columns = (Column("mean", "Mean", "lower"),)

    def __init__(self) -> None:
        self.sizes, self.down = [], False

    def score_batch(self, samples):
        means = [{"mean": float(s.generated.mean())} for s in samples]
        self.sizes.append(len(means))
        self.threads = torch.get_num_threads()
        if self.down:
            raise OSError("the other program ended with 1")
        return means


def test_metrics_that_see_several_videos_at_once(toy, tmp_path):
    metric = Batch()
    plan = Plan(toy, (COPY, TRUTH), (metric,), folder=tmp_path)
    metric.down = True
    assert len(run(plan)) == 6
    metric.down = False
    assert forget_failures(plan) == 6
    torch.set_num_threads(2)
    try:
        assert run(plan) == []
    finally:
        torch.set_num_threads(1)
    assert metric.sizes == [6, 6]
    assert metric.threads == 1  # as in a worker, for the same bytes
    expected = sum(float(toy.load(k).reference.mean()) for k in toy.names) / 3
    assert abs(scores_of(plan, column="mean")["mean"] - expected) < 2e-3


def test_estimates_are_made_once_and_their_failures_stay_with_the_case(toy, told, weigh, tmp_path):
    estimator = weigh(fails=("cows",))
    first = told(GOOD, needs=("generated.depth", "reference.depth"))
    second = told(GOOD, name="other", columns=(Column("other", "Other", "higher"),), needs=("generated.depth",))
    plan = Plan(toy, (COPY,), (first, second), {"depth": estimator}, tmp_path)
    troubles = run(plan)
    assert len(estimator.calls) == len(set(estimator.calls)) == 6
    assert "copy, cows: no feature matched" in troubles
    assert scores_of(plan)["reasons"] == {"failed: no feature matched": 1}
    assert scores_of(plan, column="other")["reasons"] == {"failed: no feature matched": 1}
    run(replace(plan, metrics=(replace(second, version=2),)))
    assert len(estimator.calls) == 6
    estimator.fails = ()
    forget_failures(plan)
    assert run(plan) == []
    assert scores_of(plan)["count"] == 3


def test_a_need_that_nothing_gives(toy, told, tmp_path):
    plan = Plan(toy, (COPY,), (told(GOOD, needs=("generated.poses",)),), folder=tmp_path)
    run(plan)
    assert scores_of(plan)["reasons"] == {"skipped: missing an estimator of poses": 3}
    with pytest.raises(ValueError, match="needs 'poses', which nothing gives"):
        Plan(toy, (COPY,), (told(GOOD, needs=("poses",)),), folder=tmp_path)


def test_names_that_cannot_be(toy, told):
    with pytest.raises(ValueError, match="metric 'told' occurs twice"):
        Plan(toy, (), (told({}), told({})))
    with pytest.raises(ValueError, match="case 'a/b' cannot be a file name"):
        Plan(replace(toy, names=("a/b",)), (), ())


@pytest.fixture
def given(toy, tmp_path) -> Path:
    """Another program's videos: a good one, one of another size, one of another length."""
    folder = tmp_path / "videos"
    frames = toy.load("bear").reference
    write_video(folder / "bear.mp4", frames, 24.0, lossless=True)
    write_video(folder / "cows.mp4", torch.zeros(5, 3, 26, 34), 24.0)
    write_video(folder / "dog.mp4", torch.zeros(6, 3, 13, 17), 24.0, lossless=True)
    return folder


def test_videos_of_another_program(toy, told, given, tmp_path):
    method = ExternalVideos("peer", "Peer", given)
    plan = Plan(toy, (method,), (told(GOOD),), folder=tmp_path / "out")
    assert run(plan) == [
        f"peer, cows: {given}/cows.mp4 is 26x34, the benchmark 13x17 (height x width): write it at that size, or set "
        "row.resize_videos",
        f"peer, dog: {given}/dog.mp4 has 6 frames, the reference 5: lengths must be equal (or 7, a padded clip)",
    ]
    assert scores_of(plan, "peer")["mean"] == 1.0
    (given / "dog.mp4").unlink()
    run(plan)
    assert any("no video of this case" in r for r in scores_of(plan, "peer")["reasons"])
    write_video(given / "dog.mp4", torch.zeros(7, 3, 13, 17), 24.0, lossless=True)
    resizing = replace(plan, methods=(replace(method, resize=True),))
    assert run(resizing) == []
    assert scores_of(resizing, "peer")["count"] == 3
    copies = {p.stem: open_video(p) for p in (tmp_path / "out/methods/peer/videos").glob("*.mp4")}
    assert {k: (len(f), f.size) for k, f in copies.items()} == {"cows": (5, (13, 17)), "dog": (5, (13, 17))}


def test_a_video_that_was_replaced_is_scored_again(toy, told, given, tmp_path):
    metric = told(GOOD)
    plan = Plan(toy, (ExternalVideos("peer", "Peer", given),), (metric,), folder=tmp_path / "out")
    run(plan)
    write_video(given / "bear.mp4", torch.zeros(5, 3, 13, 17), 24.0, lossless=True)
    run(plan)
    assert metric.calls == ["bear", "bear"]


def test_damaged_records_are_named(toy, told, tmp_path):
    plan = Plan(toy, (COPY,), (told(GOOD),), folder=tmp_path)
    run(plan)
    path = plan.scores_file("copy", "dog", "told")
    path.write_text("{")
    with pytest.raises(ValueError, match=f"{path} is damaged: delete it"):
        run(plan)


@pytest.fixture
def hurt(toy, told, tmp_path):
    """A plan whose videos are made and of which one is then cut off; the metrics have not seen them yet."""
    plan = Plan(toy, (COPY,), (told(GOOD), Batch()), folder=tmp_path)
    run_stages(plan, ["generate"])
    path = plan.video_file("copy", "cows")
    path.write_bytes(path.read_bytes()[:200])
    return plan, path


def test_a_damaged_video_is_a_failed_case_and_not_the_end(hurt):
    """It is counted for every metric, those that see several at once too; deleted, it is made again."""
    plan, path = hurt
    troubles = run_stages(plan)
    assert [line.split(": ")[0] for line in troubles] == [
        "copy, cows, told",
        "copy, cows, together",
        "copy, cows, page",
    ]
    assert all(f"the video cannot be read, delete {path} to have it made again" in line for line in troubles)
    assert plan.metrics[0].calls == ["bear", "dog"]
    assert plan.metrics[1].sizes == [2]
    for column in ("score", "mean"):
        score = scores_of(plan, column=column)
        assert (score["count"], score["failed"], score["cases"]) == (2, 1, 3)
    write_report(plan)
    path.unlink()
    assert forget_failures(plan) == 2
    assert run_stages(plan) == []
    assert scores_of(plan)["count"] == 3


def test_a_video_that_was_replaced_behind_the_records_back_fails(hurt):
    plan, path = hurt
    path.unlink()
    write_video(path, torch.zeros(5, 3, 20, 22), 24.0, lossless=True)
    run_stages(plan, ["score"])
    [reason] = scores_of(plan)["reasons"]
    assert reason == f"failed: {path} is (5, 3, 20, 22), the reference (5, 3, 13, 17): it was replaced"


def test_a_given_video_that_is_cut_off_fails_alone(toy, told, given, tmp_path):
    """Its head says 5 frames, so it is found and read only when it is scored."""
    for key in ("cows", "dog"):
        write_video(given / f"{key}.mp4", toy.load(key).reference, 24.0, lossless=True)
    whole = (given / "dog.mp4").read_bytes()
    start = whole.index(b"mdat")
    (given / "dog.mp4").write_bytes(whole[: start + 8] + bytes(len(whole) - start - 8 - 600) + whole[-600:])
    plan = Plan(toy, (ExternalVideos("peer", "Peer", given),), (told(GOOD),), folder=tmp_path / "out")
    run(plan)
    score = scores_of(plan, "peer")
    assert (score["count"], score["failed"]) == (2, 1)


def test_a_given_video_that_may_not_be_read_fails_alone(toy, told, given, tmp_path, monkeypatch):
    def denied(path):
        if path.name == "cows.mp4":
            raise PermissionError(13, "Permission denied", str(path))
        return "sha"

    monkeypatch.setattr("mvtrack.evaluation.runner.videos._sha", denied)
    write_video(given / "cows.mp4", toy.load("cows").reference, 24.0, lossless=True)
    plan = Plan(toy, (ExternalVideos("peer", "Peer", given),), (told(GOOD),), folder=tmp_path / "out")
    troubles = run(plan)
    assert any("peer, cows: [Errno 13] Permission denied" in line for line in troubles)
    assert scores_of(plan, "peer")["count"] == 1


def test_a_damaged_estimate_is_made_again(toy, told, weigh, tmp_path):
    estimator = weigh()
    plan = Plan(toy, (COPY,), (told(GOOD, needs=("reference.depth",)),), {"depth": estimator}, tmp_path)
    run(plan)
    assert len(estimator.calls) == 3
    [kept, *_] = sorted((tmp_path / "estimates/weigh").glob("*.npz"))
    kept.write_bytes(kept.read_bytes()[:50])
    run(replace(plan, metrics=(replace(plan.metrics[0], version=2),)))
    assert len(estimator.calls) == 4
    assert scores_of(replace(plan, metrics=(replace(plan.metrics[0], version=2),)))["count"] == 3


def test_inputs_that_break_between_the_stages_fail_in_batches_too(toy, tmp_path):
    """The digest is still the old one, but the pictures cannot be read any more."""
    metric = Batch()
    plan = Plan(toy, (COPY,), (metric,), folder=tmp_path)
    run_stages(plan, ["generate"])
    load = toy.load

    def broken(key):
        if key == "dog":
            raise OSError("cannot read dog/00002.jpg")
        return load(key)

    toy.load = broken
    assert run_stages(plan, ["score"]) == ["copy, dog, together: inputs: cannot read dog/00002.jpg"]
    assert scores_of(plan, column="mean")["count"] == 2
