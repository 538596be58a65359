import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from safetensors.torch import load_file

from mvtrack.config.decoder import DecoderRunConfig
from mvtrack.config.run import RunConfig
from mvtrack.config.tree import from_tree, to_tree
from mvtrack.evaluation.ablation.experiment import (
    SCALES,
    Arm,
    Expectation,
    Experiment,
    Pretraining,
    Regained,
    arm_runs,
    base_run,
    experiments,
    load_experiment,
    refuse_difference,
)
from mvtrack.evaluation.ablation.report import (
    arms_table,
    compare,
    curve_table,
    plot_arms,
    plot_curves,
    rank_correlation,
    regained,
    regained_lines,
    steps_to_reach,
    verdict_lines,
    verdicts,
)
from mvtrack.evaluation.ablation.run import write_plan
from mvtrack.evaluation.ablation.scores import validation_curves, validation_scores
from mvtrack.evaluation.ablation.training import forecast, remembered, take_over, train_in_a_process
from mvtrack.training.adapters import empty_training_network
from mvtrack.training.decoder_run import new_aligner
from mvtrack.training.optimizer import freeze

WITHOUT = [{"pck": [0.2], "psnr_db": [19.0, 21.0]}, {"pck": [0.3], "psnr_db": [20.0, 22.0]}]
WITH = [{"pck": [0.5], "psnr_db": [20.0, 21.5]}, {"pck": [0.5], "psnr_db": [21.0, 22.5]}]
RUNS = {"without": WITHOUT, "with": WITH}
SMOKE = Experiment(
    title="smoke",
    claim="nothing",
    config="configs/smoke.yaml",
    steps=4,
    reference="without",
    arms=(Arm("without", "without the loss", ("loss.correspondence=0",)), Arm("with", "with the loss")),
    expected=(Expectation("pck", "with", "without"), Expectation("alignment_error", "without", "with")),
    pretraining=Pretraining(6, ("loss.correspondence=0",)),
    layers=False,
)


def test_every_experiment_builds_every_arm_at_both_scales(tmp_path):
    names = {scale: experiments(scale) for scale in SCALES}
    assert {
        "table3", "table4", "layers", "cameo-table1", "cameo-table2", "cameo-table2-transformer", "cameo-figure4",
        "cameo-figure4-unet", "cameo-figure4-hunyuan", "decoder-table2",
    } <= set(names["miniature"])  # fmt: skip
    assert {"table3", "table4"} <= set(names["paper"])
    for experiment in (load_experiment(name, scale) for scale in SCALES for name in names[scale]):
        runs = list(arm_runs(experiment, 2, tmp_path))
        assert len({run.folder for run in runs}) == 2 * len(experiment.arms)
        for run in runs[: len(experiment.arms)]:
            if isinstance(run.config, DecoderRunConfig):
                wanted = run.config.decoder.aligner.points
                points = tuple(level.config.points for level in new_aligner(run.config).levels)
                assert points == ((7, 7, 7) if wanted is None else wanted)
                continue
            model, loss = run.config.model, run.config.loss
            network = empty_training_network(run.config)
            freeze(network, run.config.optim.trainable)
            assert any(p.requires_grad for p in network.parameters())
            assert (loss.tracking > 0) == any(n.startswith("tracking_head") for n, _ in network.named_parameters())
            assert 0 <= run.layer < model.num_layers


def test_arms_of_a_seed_share_all_but_what_they_say(tmp_path):
    without, with_it, again, _ = arm_runs(SMOKE, 2, tmp_path, ("optim.lr=0.5",))
    assert without.config.train.seed == with_it.config.train.seed != again.config.train.seed
    assert without.config.train.init_from == with_it.config.train.init_from == str(tmp_path / "base" / "model")
    assert without.config.optim.lr == 0.5
    same = replace(with_it.config, loss=replace(with_it.config.loss, correspondence=0.0))
    refuse_difference(without.config, same, "with")
    with pytest.raises(ValueError, match=r"with differs in more than its arm says: loss.correspondence is 0.1, not 0"):
        refuse_difference(without.config, with_it.config, "with")
    assert base_run(SMOKE, tmp_path).config.train.steps == 6


def test_an_arms_own_file_may_differ_only_in_what_it_says(tmp_path, monkeypatch):
    tree = yaml.safe_load(Path("configs/smoke.yaml").read_text())
    tree["loss"] = {"correspondence": 0.0}
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(tree))
    honest = replace(SMOKE, arms=(replace(SMOKE.arms[0], config=str(path)), SMOKE.arms[1]))
    assert next(arm_runs(honest, 1, tmp_path)).config.loss.correspondence == 0
    tree["optim"]["lr"] = 0.7
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(ValueError, match=r"arm 'without' .*differs in more than its arm says: optim.lr is 0.7, not 0"):
        list(arm_runs(honest, 1, tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reference": "withot"}, "there is no arm 'withot'; did you mean 'without'"),
        ({"arms": SMOKE.arms[:1]}, "arms must be two or more"),
        ({"arms": SMOKE.arms[:1] * 2}, "of different names"),
        ({"layers": True, "pretraining": None}, "it needs pretraining"),
        ({"expected": (Expectation("pck", "both", "with"),)}, "there is no arm 'both'"),
        ({"regains": (Regained("pck", "both", "with"),)}, "there is no arm 'both'"),
        ({"regains": (Regained("pck", "without", "with"),), "pretraining": None}, "regains compares with the base"),
    ],
)
def test_wrong_experiments_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(SMOKE, **changes)


def test_differences_are_taken_seed_by_seed_and_case_by_case():
    found = compare(RUNS, "without")
    pck, psnr = found["pck"]["with"], found["psnr_db"]["with"]
    assert pck["difference"]["values"] == pytest.approx([0.3, 0.2])
    assert pck["difference"]["interval"] is None
    assert psnr["mean"] == pytest.approx(21.25)
    assert psnr["difference"]["values"] == pytest.approx([0.75, 0.75])
    assert psnr["difference"]["interval"]["low"] == pytest.approx(0.5)
    assert psnr["difference"]["interval"]["high"] == pytest.approx(1.0)
    assert "difference" not in found["pck"]["without"]
    assert compare({"without": WITHOUT[:1], "with": WITH[:1]}, "without")["pck"]["with"]["sd"] is None
    with pytest.raises(ValueError, match="1 are NaN"):
        compare({"without": [{"pck": [float("nan")]}], "with": [{"pck": [1.0]}]}, "without")


def test_the_report_says_what_was_measured(tmp_path):
    found = compare(RUNS, "without")
    lines = arms_table(SMOKE, found, {"pck": [0.1], "psnr_db": [18.0, 18.0]}).splitlines()
    assert lines[0] == "|  | the base | without the loss | with the loss |"
    pck = "| cross-view PCK of the supervised layer, % | 10.0 | 25.0 ± 7.1 | 50.0 ± 0.0 (+25.0 ± 7.1) |"
    assert pck in lines
    plot_arms(tmp_path / "new" / "arms.png", SMOKE, found)
    assert (tmp_path / "new" / "arms.png").stat().st_size > 5000


def test_verdicts_are_reversed_or_open_where_they_are():
    def word(runs: dict, score: str) -> str:
        experiment = replace(SMOKE, expected=(Expectation(score, "with", "without"),))
        (found,) = verdicts(experiment, runs)
        assert found["verdict"] in verdict_lines(experiment, [found])
        return found["verdict"]

    assert word(RUNS, "pck") == "holds"
    assert word({arm: runs[:1] for arm, runs in RUNS.items()}, "pck") == "cannot be told"
    assert word({"without": WITH, "with": WITHOUT}, "psnr_db") == "reversed"
    assert word({"without": WITHOUT, "with": [WITH[0], WITHOUT[1]]}, "pck") == "cannot be told"
    mixed = [{"psnr_db": [20.0, 20.5]}, {"psnr_db": [21.0, 21.5]}]  # better in one case, worse in the other
    assert word({"without": WITHOUT, "with": mixed}, "psnr_db") == "cannot be told"
    near = [{"pck": [x]} for x in (0.5, 0.5, 0.5)], [{"pck": [x]} for x in (0.5001, 0.5001, 0.7)]  # one seed makes it
    assert word({"without": near[0], "with": near[1]}, "pck") == "cannot be told"
    lower = {arm: [{"alignment_error": [x]}] * 2 for arm, x in (("without", 2.0), ("with", 1.0))}
    assert word(lower, "alignment_error") == "holds"


@pytest.mark.parametrize(
    ("base", "reached", "word"), [(18.0, 0.75, "falls short"), (17.0, 0.8, "holds"), (22.0, None, "cannot be told")]
)
def test_a_share_of_another_arms_gain_over_the_base(base, reached, word):
    experiment = replace(SMOKE, regains=(Regained("psnr_db", "with", "without"),))
    runs = {"without": [{"psnr_db": [21.0, 23.0]}], "with": [{"psnr_db": [20.0, 22.0]}]}  # means 22 and 21
    (found,) = regained(experiment, compare(runs, "without"), {"psnr_db": [base, base]})
    assert found["verdict"] == word
    assert found["reached"] == (None if reached is None else pytest.approx(reached))
    assert word in regained_lines(experiment, [found])


def test_steps_to_reach_the_other_arms_end():
    def curve(values: list[float]) -> dict:
        return {"step": [10, 20, 30, 40], "validation/psnr_db": values}

    slow, fast = curve([10.0, 12.0, 14.0, 16.0]), curve([12.0, 15.0, 17.0, 18.0])
    reached = steps_to_reach({"without": [slow], "with": [fast]}, "without", "validation/psnr_db")
    assert reached == {"without": 40, "with": 25.0}
    early = curve([17.0, 12.0, 18.0, 18.0])  # which starts well, falls, and comes back
    again = steps_to_reach({"without": [slow], "with": [early]}, "without", "validation/psnr_db")["with"]
    assert again == pytest.approx(20 + 10 * 4 / 6)
    assert steps_to_reach({"without": [fast], "with": [slow]}, "without", "validation/psnr_db")["with"] is None
    assert rank_correlation([1.0, 2.0, 3.0], [5.0, 7.0, 9.0]) == pytest.approx(1.0)
    assert rank_correlation([1.0, 2.0, 3.0], [9.0, 7.0, 5.0]) == pytest.approx(-1.0)


def test_curves_come_from_the_log(tmp_path):
    lines = [
        {"step": 2, "loss/total": 1.0},
        {"step": 4, "validation/psnr_db": 3.0, "validation/pck": 0.1, "validation/unknown": 7.0},
        {"step": 8, "validation/psnr_db": 5.0, "validation/pck": 0.5},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    curve = validation_curves(tmp_path)
    assert curve == {"step": [4, 8], "validation/psnr_db": [3.0, 5.0], "validation/pck": [0.1, 0.5]}
    assert validation_scores(tmp_path) == {"validation/psnr_db": [5.0], "validation/pck": [0.5]}
    higher = {name: values if name == "step" else [v + 1 for v in values] for name, values in curve.items()}
    rows = curve_table({"without": [curve, higher], "with": [curve]}).splitlines()
    assert rows[0] == "|  | step 4 | step 8 |"
    assert "| PSNR of validation, dB, without | 3.50 ± 0.71 | 5.50 ± 0.71 |" in rows
    plot_curves(tmp_path / "curves.png", {"without": [curve], "with": [higher]})
    assert (tmp_path / "curves.png").stat().st_size > 5000
    (tmp_path / "metrics.jsonl").write_text(json.dumps(lines[0]) + "\n")
    with pytest.raises(ValueError, match="holds no validation"):
        validation_curves(tmp_path)


def test_scores_are_measured_once_per_key(tmp_path):
    calls = []

    def measure() -> dict:
        calls.append(1)
        return {"pck": len(calls)}

    path = tmp_path / "scores.json"
    assert [remembered(path, {"cases": 3}, measure) for _ in range(2)] == [{"pck": 1}] * 2
    assert remembered(path, {"cases": 4}, measure) == {"pck": 2}
    assert len(calls) == 2


def test_a_finished_run_is_not_trained_again_and_another_one_is_refused(tmp_path, small_run):
    tree = small_run | {"train": small_run["train"] | {"run_dir": str(tmp_path / "arm_0")}}
    config = from_tree(RunConfig, tree, "tree")
    (tmp_path / "arm_0" / "model").mkdir(parents=True)
    (tmp_path / "arm_0" / "model" / "training.json").write_text(json.dumps({"step": 4}))
    assert train_in_a_process(config) == tmp_path / "arm_0" / "model"
    other = replace(config, optim=replace(config.optim, lr=0.3))
    (tmp_path / "arm_0" / "config.yaml").write_text(yaml.safe_dump(to_tree(other)))
    with pytest.raises(ValueError, match=r"arm_0 differs in more than its arm says: optim.lr is 0.3, not"):
        train_in_a_process(config)
    (tmp_path / "arm_0" / "config.yaml").unlink()
    (tmp_path / "arm_0" / "model" / "training.json").write_text(json.dumps({"step": 3}))
    tree["train"]["init_from"] = "nowhere"
    with pytest.raises(ValueError, match="arm_0 ended with exit code 2"):
        train_in_a_process(from_tree(RunConfig, tree, "tree"))


def test_runs_that_two_tables_share_are_trained_once(tmp_path):
    def runs(table: str) -> list:
        return [base_run(SMOKE, tmp_path / table), *arm_runs(SMOKE, 1, tmp_path / table)]

    base, without, with_loss = runs("first")
    for run in (base, without, with_loss):
        (run.folder / "model").mkdir(parents=True)
        (run.folder / "config.yaml").write_text(yaml.safe_dump(to_tree(run.config)))
    for run in (base, without):  # the third has not ended
        (run.folder / "model" / "training.json").write_text(json.dumps({"step": run.config.train.steps}))
    for run in runs("second"):
        take_over(run, tmp_path)
    shared = {path.name: path.resolve() for path in (tmp_path / "second").iterdir()}
    assert shared == {"base": base.folder, "without_0": without.folder}
    longer = replace(SMOKE, pretraining=Pretraining(7, SMOKE.pretraining.changes))
    for run in arm_runs(longer, 2, tmp_path / "third"):  # another start, another seed
        base_run(longer, tmp_path / "third").folder.mkdir(parents=True, exist_ok=True)
        config = tmp_path / "third" / "base" / "config.yaml"
        config.write_text(yaml.safe_dump(to_tree(base_run(longer, tmp_path / "third").config)))
        take_over(run, tmp_path)
    assert [path.name for path in (tmp_path / "third").iterdir()] == ["base"]


def test_too_little_disk_or_time_is_said_first(tmp_path, monkeypatch):
    runs = list(arm_runs(replace(SMOKE, pretraining=None), 2, tmp_path))
    asked = []
    monkeypatch.setattr(
        "mvtrack.evaluation.ablation.training.seconds_a_step", lambda config, scratch: asked.append(1) or 1800.0
    )
    assert forecast(runs, tmp_path, None).startswith("4 runs to go: about 8.0 h of training")
    assert len(asked) == 2  # each arm once
    with pytest.raises(ValueError, match=r"4 runs take about 8.0 h here, --hours allows 7"):
        forecast(runs, tmp_path, 7)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1))
    with pytest.raises(ValueError, match=r"need \d+\.\d GB of disk, 0.0 are free"):
        forecast(runs, tmp_path, None)


def test_a_paper_scale_plan_is_written_to_start_elsewhere(tmp_path):
    planned = list(write_plan(load_experiment("table3", "paper"), 1, tmp_path, (), 4))
    assert [Path(p.command.split()[5]).is_file() for p in planned] == [True] * 4
    assert planned[0].command.startswith("deepspeed --num_gpus 4 mvtrack/train.py --config ")
    assert planned[0].config.model.tracking is None
    assert planned[3].config.loss.tracking == planned[3].config.loss.correspondence == 0.01


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_experiment_ends_as_an_uninterrupted_one(tmp_path):
    """To the bit: SIGKILL when the base has ended, and again when an arm has."""
    script = tmp_path / "experiment.py"
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from test_ablation import SMOKE\n"
        "from mvtrack.evaluation.ablation import training\n"
        "from mvtrack.evaluation.ablation.run import Protocol, run_experiment\n"
        "training.seconds_a_step = lambda config, scratch: 0.0\n"
        "run_experiment(SMOKE, 'smoke', Path(sys.argv[1]), Protocol(1, 2, 1))\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}

    def start(out: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, str(script), str(tmp_path / out)], cwd=tmp_path, env=environment, start_new_session=True
        )

    assert start("whole").wait() == 0
    for finished in ("base", "without_0"):
        process = start("killed")
        while not (tmp_path / "killed" / finished / "model" / "training.json").is_file():
            assert process.poll() is None
            time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()  # its training may have been in the middle of a step
    assert start("killed").wait() == 0
    records = [json.loads((tmp_path / out / "smoke.json").read_text()) for out in ("whole", "killed")]
    for record in records:
        record.pop("seconds")
        for curves in record["curves"].values():
            assert all(curve["step"] == [2, 4] for curve in curves)
    assert records[0] == records[1]
    for run in ("base", "without_0", "with_0"):
        one, other = (load_file(tmp_path / out / run / "model" / "model.safetensors") for out in ("whole", "killed"))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one), run
