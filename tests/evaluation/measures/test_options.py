import argparse
from pathlib import Path

import pytest

from mvtrack.evaluation.estimators import colmap_poses
from mvtrack.evaluation.interface import BatchMetric
from mvtrack.evaluation.measures.options import (
    MeasureOptions,
    add_measure_arguments,
    environment_options,
    measure_options,
)
from mvtrack.evaluation.measures.registry import all_metrics, chosen_metrics
from mvtrack.evaluation.readiness import evaluation_readiness, readiness_text
from mvtrack.evaluation.report.columns import table_groups
from mvtrack.models.weights.registry import registry


def parsed(*arguments: object) -> MeasureOptions:
    parser = argparse.ArgumentParser()
    add_measure_arguments(parser)
    return measure_options(parser.parse_args([str(a) for a in arguments]))


def test_the_environment_fills_what_the_command_line_leaves(monkeypatch, tmp_path):
    python, other = tmp_path / "python", tmp_path / "other"
    python.touch()
    other.touch()
    monkeypatch.delenv("MVTRACK_WEIGHTS", raising=False)
    monkeypatch.setenv("MVTRACK_VBENCH_PYTHON", str(python))
    options = parsed("--lpips-net", "vgg", "--geometry", "true_depth, vggt,vggt")
    assert options.pythons == {"vbench": python}
    assert (options.weights, options.lpips_net, options.geometry) == (None, "vgg", ("true_depth", "vggt"))
    monkeypatch.setenv("MVTRACK_WEIGHTS", str(tmp_path))
    assert environment_options().pythons == {"vbench": python}
    options = parsed("--vbench-python", other, "--da3-python", other)
    assert options.pythons == {"vbench": other, "da3": other}
    assert options.weights == tmp_path


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--geometry", "true_depth,duster"], "unknown --geometry 'duster'; known: true_depth, .*, depth_anything_3"),
        (["--geometry-model", "a/b", "--geometry", "vggt,mast3r"], "--geometry-model is for one network"),
        (["--features", "sift"], "unknown --features 'sift'; known: colours, dino"),
        (["--weights-dir", "nowhere"], "--weights-dir nowhere is no folder"),
        (["--depth-files", "nowhere"], "--depth-files nowhere is no folder"),
        (["--dynamic-mask", "generated"], "--generated-masks, belong together"),
        (["--met3r-python", "nowhere"], "--met3r-python nowhere does not exist"),
    ],
)
def test_options_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        parsed(*arguments)


def test_every_column_of_the_paper_has_a_metric(tmp_path):
    """But the camera's, which the poses give; with VBench's package or without, and every geometry."""
    python = tmp_path / "python"
    for options in (
        MeasureOptions(),
        MeasureOptions(pythons={"vbench": python}) if python.touch() is None else None,
        MeasureOptions(geometry=("true_depth", "vggt"), features=("colours", "dino")),
    ):
        metrics = all_metrics(options)
        columns = [c.key for m in metrics for c in m.columns]
        assert len(columns) == len(set(columns))
        for benchmark in ("davis", "iphone"):
            groups = table_groups(benchmark, metrics)
            asked = {c.key for title in list(groups)[:3] for c in groups[title]} - {"mRotErr", "mTransErr", "mCamMC"}
            assert asked <= set(columns)
    batches = {m.name for m in all_metrics(options) if isinstance(m, BatchMetric)}
    assert batches == {
        "vbench_imaging_quality", "vbench_motion_smoothness", "met3r", "warp_consistency.vggt.colours",
        "warp_consistency.vggt.dino",
    }  # fmt: skip


def test_the_benchmark_says_what_cameras_are_relative_to():
    parser = argparse.ArgumentParser()
    add_measure_arguments(parser)
    silent = parser.parse_args([])
    for benchmark, origin in (("iphone", "reference"), ("davis", "own")):
        options = measure_options(silent, benchmark=benchmark)
        [metric] = chosen_metrics("camera_accuracy", options)
        assert metric.origin == origin
    told = parser.parse_args(["--camera-origin", "own"])
    assert measure_options(told, benchmark="iphone").camera_origin == "own"


def test_metrics_are_chosen_by_name():
    assert [m.name for m in chosen_metrics("lpips,fidelity,lpips")] == ["lpips", "fidelity"]
    with pytest.raises(ValueError, match="unknown metric 'met3rr'; known: .*met3r"):
        chosen_metrics("met3rr")


def test_readiness_says_what_is_there_and_how_to_get_the_rest(tmp_path):
    (tmp_path / "ViT-B-32.pt").write_bytes(b"another file")
    (tmp_path / "dino_vitbase16_pretrain.pth").write_bytes(b"whatever: its hash is not known")
    options = MeasureOptions(weights=tmp_path)
    found = evaluation_readiness(options)
    metrics, weights = found.metrics, found.weights
    state = {m.name: m.missing for m in metrics}
    assert state["fidelity"] is None
    assert state["temporal_flickering"] is None
    assert state["subject_consistency"] is None
    assert "it is another file" in state["background_consistency"]
    assert "--vbench-python" in state["vbench_imaging_quality"]
    assert {"warp_consistency.mast3r.dino", "warp_consistency.depth_files.colours"} <= set(state)
    by_file = {Path(w.entry.file).name: w for w in weights}
    assert by_file["dino_vitbase16_pretrain.pth"].state.startswith("there, SHA-256 ")
    assert "it is another file" in by_file["ViT-B-32.pt"].state
    assert by_file["ViT-L-14.pt"].state == "missing"
    lines = readiness_text(options).splitlines()
    assert lines[0] == f"metrics that can run ({sum(m.ready for m in metrics)} of {len(metrics)})"
    assert any(line.startswith("  lpips ") and "missing alexnet" in line for line in lines)
    assert any(line.startswith("  ViT-L-14.pt") and "missing; MIT (free); for aesthetic" in line for line in lines)
    assert f"weights ({tmp_path})" in lines


def test_readiness_knows_what_estimators_and_other_environments_need(tmp_path, monkeypatch):
    """Camera accuracy cannot run without its estimator; what is not free is told, and found where it is kept."""
    monkeypatch.setattr(colmap_poses, "colmap_missing", lambda: "pycolmap: pip install pycolmap")
    monkeypatch.setenv("VBENCH_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "hub"))
    for path in ("pyiqa_model/musiq_spaq_ckpt-358bb6af.pth", "hub/checkpoints/dino16_jbu_stack_cocostuff.ckpt"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_bytes(b"weights")
    found = evaluation_readiness(MeasureOptions())
    missing = {m.name: m.missing for m in found.metrics + found.estimators}
    assert missing["camera_accuracy"] == missing["colmap"] == "pycolmap: pip install pycolmap"
    assert missing["depth_anything_3"].endswith("pass --da3-python da3/bin/python")
    assert missing["plane_sweep"] is missing["warp_consistency.estimated_depth.colours"] is None
    kept = {w.entry.name: w for w in found.weights}
    assert kept["musiq_spaq"].path == tmp_path / "pyiqa_model/musiq_spaq_ckpt-358bb6af.pth"
    assert kept["featup_dino16"].path == tmp_path / "hub/checkpoints/dino16_jbu_stack_cocostuff.ckpt"
    assert kept["amt_s"].state == "missing"
    bound = {name for name, w in kept.items() if w.entry.non_commercial}
    assert {"musiq_spaq", "amt_s", "mast3r_vitl", "vggt_1b", "depth_anything_3_large"} <= bound
    lines = readiness_text(MeasureOptions()).splitlines()
    told = [line for line in lines if "NON-COMMERCIAL: only with --non-commercial" in line]
    assert len(told) == len(bound)
    assert any(line.startswith("  VGGT-1B ") and line.endswith("; for geometry vggt") for line in told)
    assert "wan2.1_t2v_1.3b" not in kept


def test_every_metric_that_runs_by_itself_has_a_licence_on_record():
    unknown = [e.name for e in registry().values() if not e.of_model and (not e.licence or e.non_commercial is None)]
    assert unknown == []
