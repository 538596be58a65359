from pathlib import Path

import pytest
import yaml

from mvtrack.config.tree import to_tree
from mvtrack.evaluation import estimators
from mvtrack.evaluation.benchmarks.davis import Davis
from mvtrack.evaluation.benchmarks.iphone import IPhone
from mvtrack.evaluation.estimators import ColmapPoses, TruePoses
from mvtrack.evaluation.measures.registry import all_metrics, chosen_metrics, pose_estimator
from mvtrack.evaluation.readiness import evaluation_readiness, readiness_text
from mvtrack.evaluation.report.columns import CAMERA, table_groups
from mvtrack.evaluation.settings import EvaluationSettings, load_settings
from mvtrack.models.weights.registry import registry


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    for name in ("MVTRACK_WEIGHTS", "MVTRACK_VBENCH_PYTHON", "MVTRACK_DA3_PYTHON"):
        monkeypatch.delenv(name, raising=False)


def test_the_environment_fills_what_the_settings_leave(monkeypatch, tmp_path):
    python, other, file = (tmp_path / name for name in ("python", "other", "settings.yaml"))
    python.touch()
    other.touch()
    monkeypatch.setenv("MVTRACK_VBENCH_PYTHON", str(python))
    file.write_text("lpips_net: vgg\nconsistency: {geometry: [true_depth, vggt]}\n")
    settings = load_settings(file)
    assert settings.environments.python("vbench") == python
    assert settings.environments.python("vggt") is None
    assert (settings.weights, settings.lpips_net) == (None, "vgg")
    assert settings.consistency.geometry == ("true_depth", "vggt")
    monkeypatch.setenv("MVTRACK_WEIGHTS", str(tmp_path))
    settings = load_settings(file, [f"environments.vbench={other}", "lpips_net=alex"])
    assert (settings.environments.python("vbench"), settings.weights) == (other, tmp_path)
    assert settings.lpips_net == "alex"


def test_settings_are_the_same_after_writing_and_reading(tmp_path):
    settings = load_settings(None, ["poses.estimator=truth", f"weights={tmp_path}", "davis.cameras=auto"])
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(to_tree(settings)))
    assert load_settings(tmp_path / "s.yaml") == settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("consistency.geometry=[true_depth, duster]", "geometry.*must be one of true_depth, .*got 'duster'"),
        ("consistency.geometry_model=a/b", "geometry_model is for one network"),
        ("consistency.features=[sift]", "must be one of colours, dino, got 'sift'"),
        ("weights=nowhere", "weights nowhere is no folder"),
        ("consistency.depth_files=nowhere", "depth_files nowhere is no folder"),
        ("consistency.dynamic_mask=generated", "generated_masks, belong together"),
        ("environments.met3r=nowhere", "met3r nowhere does not exist"),
        ("poses.estimator=files", "estimator files and the folder .* go together"),
        ("poses.ray_pose=true", "are for estimator depth_anything_3, this is colmap"),
        ("davis.fov=50", "unknown key 'fov'.*fov_deg"),
    ],
)
def test_settings_that_cannot_be_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        load_settings(None, [change])


def test_a_settings_file_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "bad.yaml").write_text("a: [")
    for name in ("bad.yaml", "gone.yaml"):
        with pytest.raises(ValueError, match=f"cannot read the settings .*{name}"):
            load_settings(tmp_path / name)


def test_every_column_of_the_paper_has_a_metric(tmp_path):
    """But the camera's, which the poses give; with VBench's package or without, and every geometry."""
    (tmp_path / "python").touch()
    for changes in (
        [],
        [f"environments.vbench={tmp_path / 'python'}"],
        ["consistency.geometry=[true_depth, vggt]", "consistency.features=[colours, dino]"],
    ):
        metrics = all_metrics(load_settings(None, changes))
        columns = [c.key for m in metrics for c in m.columns]
        assert len(columns) == len(set(columns))
        for benchmark in (Davis(tmp_path, ()), IPhone(tmp_path)):
            asked = {key for keys in benchmark.paper_columns.values() for key in keys} - set(CAMERA)
            assert asked <= set(columns)
            assert table_groups(benchmark, metrics)
    assert {m.name for m in metrics if hasattr(m, "score_batch")} == {
        "vbench_imaging_quality", "vbench_motion_smoothness", "met3r", "warp_consistency.vggt.colours",
        "warp_consistency.vggt.dino",
    }  # fmt: skip


def test_metrics_are_chosen_by_name():
    metrics = all_metrics(EvaluationSettings())
    assert chosen_metrics(metrics, ()) == metrics
    assert [m.name for m in chosen_metrics(metrics, ("lpips", "fidelity", "lpips"))] == ["lpips", "fidelity"]
    with pytest.raises(ValueError, match="unknown metric 'met3rr'; known: .*met3r"):
        chosen_metrics(metrics, ("met3rr",))


def test_poses_come_from_what_the_settings_name(tmp_path):
    (tmp_path / "poses").mkdir()
    changes = ["poses.estimator=files", f"poses.files={tmp_path / 'poses'}"]
    with pytest.raises(ValueError, match="poses holds no files"):
        pose_estimator(load_settings(None, changes), 7)
    (tmp_path / "poses/a.json").write_text("{}")
    assert pose_estimator(load_settings(None, changes), 7).num_frames == 7
    assert isinstance(pose_estimator(EvaluationSettings(), 7), ColmapPoses)
    assert isinstance(pose_estimator(load_settings(None, ["poses.estimator=truth"]), 7), TruePoses)
    with pytest.raises(ValueError, match="cannot run: missing Depth Anything 3: make an environment"):
        pose_estimator(load_settings(None, ["poses.estimator=depth_anything_3"]), 7)


def test_readiness_says_what_is_there_and_how_to_get_the_rest(tmp_path):
    (tmp_path / "ViT-B-32.pt").write_bytes(b"another file")
    (tmp_path / "dino_vitbase16_pretrain.pth").write_bytes(b"whatever: its hash is not known")
    options = EvaluationSettings(weights=tmp_path)
    found = evaluation_readiness(options)
    metrics, weights = found.metrics, found.weights
    state = {m.name: m.missing for m in metrics}
    assert state["fidelity"] is None
    assert state["temporal_flickering"] is None
    assert state["subject_consistency"] is None
    assert "it is another file" in state["background_consistency"]
    assert "environments.vbench" in state["vbench_imaging_quality"]
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
    monkeypatch.setattr(estimators, "colmap_missing", lambda: "pycolmap: pip install pycolmap")
    monkeypatch.setenv("VBENCH_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path / "hub"))
    for path in ("pyiqa_model/musiq_spaq_ckpt-358bb6af.pth", "hub/checkpoints/dino16_jbu_stack_cocostuff.ckpt"):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_bytes(b"weights")
    found = evaluation_readiness(EvaluationSettings())
    missing = {m.name: m.missing for m in found.metrics + found.estimators}
    assert missing["camera_accuracy"] == missing["colmap"] == "pycolmap: pip install pycolmap"
    assert missing["depth_anything_3"].endswith("or $MVTRACK_DA3_PYTHON")
    assert missing["matches by loftr"].endswith("matching.python, or $MVTRACK_LOFTR_PYTHON")
    assert missing["matches by sift"] is None
    assert missing["plane_sweep"] is missing["warp_consistency.estimated_depth.colours"] is None
    kept = {w.entry.name: w for w in found.weights}
    assert kept["musiq_spaq"].path == tmp_path / "pyiqa_model/musiq_spaq_ckpt-358bb6af.pth"
    assert kept["featup_dino16"].path == tmp_path / "hub/checkpoints/dino16_jbu_stack_cocostuff.ckpt"
    assert kept["amt_s"].state == "missing"
    bound = {name for name, w in kept.items() if w.entry.non_commercial}
    assert {"musiq_spaq", "amt_s", "mast3r_vitl", "vggt_1b", "depth_anything_3_large"} <= bound
    lines = readiness_text(EvaluationSettings()).splitlines()
    told = [line for line in lines if "NON-COMMERCIAL: only with --non-commercial" in line]
    assert len(told) == len(bound)
    assert any(line.startswith("  VGGT-1B ") and line.endswith("; for geometry vggt") for line in told)
    assert "wan2.1_t2v_1.3b" not in kept


def test_every_metric_that_runs_by_itself_has_a_licence_on_record():
    unknown = [e.name for e in registry().values() if not e.of_model and (not e.licence or e.non_commercial is None)]
    assert unknown == []
