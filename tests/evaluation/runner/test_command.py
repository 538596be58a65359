import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mvtrack.evaluation.command import default_workers, methods_of, run_benchmark, size_of
from mvtrack.evaluation.methods.baselines import Baseline
from mvtrack.evaluation.runner.plan import Plan
from mvtrack.evaluation.runner.stages import run_stages
from mvtrack.models.reshoot_model import save_model
from mvtrack.video.writer import write_video

ROOT = Path(__file__).parents[3]


@pytest.fixture
def run(command):
    def run(benchmark, *words: object) -> dict | None:
        options = command(*words)
        settings = options.settings()
        return run_benchmark(benchmark, options, settings, methods_of(options.rows, settings))

    return run


def test_rows_gather_in_one_folder(run, davis, small_model, tmp_path, capsys):
    """A model, a baseline, and what another program made: three commands, one table."""
    folder, out = save_model(small_model, tmp_path / "m").parent, tmp_path / "out"
    quick = ["--out", out, "--stages", "generate,score"]
    run(davis, *quick, "--baselines", "copy")
    run(davis, *quick, "--model", folder, "--title", "Mine", "--steps", 1, "--backbone", "copy")
    summary = run(davis, *quick, "--videos", out / "methods/m/videos", "--name", "peer")
    scores = {r["name"]: r["scores"]["psnr"]["mean"] for r in summary["rows"]}
    assert list(scores) == ["m", "peer", "copy"]
    assert scores["m"] == scores["peer"]
    assert summary["rows"][0]["change"]["psnr"]["mean"] == pytest.approx(scores["m"] - scores["copy"])
    shown = capsys.readouterr().out
    assert "| Mine |" in shown
    assert str(out / "table.tex") in shown


def test_every_report_of_a_miniature_says_so_and_shows_no_published_rows(run, davis, tmp_path, capsys):
    """In title, caption and protocol of every format; the papers' rows come on demand, and with real data."""
    quick = ["--out", tmp_path, "--stages", "generate,score", "--metrics", "fidelity"]
    summary = run(davis, *quick, "--baselines", "copy")
    assert capsys.readouterr().out.startswith("DAVIS, rendered miniature\n")
    assert "not comparable to published ones" in summary["footnotes"][0]
    for name in ("table.md", "table.tex", "index.html"):
        text = (tmp_path / name).read_text()
        assert "DAVIS, rendered miniature, 2 cases" in text
        assert "The data is a rendered miniature" in text
        assert "Published" not in text
    assert run(davis, *quick, "--published")["published"]["rows"]


def test_what_would_mix_is_refused(run, davis, toy, small_model, tmp_path):
    folder, out = save_model(small_model, tmp_path / "m").parent, tmp_path / "out"
    arguments = ["--out", out, "--stages", "generate", "--model", folder]
    run(davis, *arguments, "--steps", 1)
    with pytest.raises(ValueError, match="a row 'm' that was made with .*'steps': 1.*'steps': 2.*pass --name"):
        run(davis, *arguments, "--steps", 2)
    assert run(davis, *arguments, "--steps", 2, "--replace")["rows"][0]["settings"]["sample"]["steps"] == 2
    with pytest.raises(ValueError, match=f"{out} holds results of davis with .* and 2 cases: choose another --out"):
        run(toy, "--out", out)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--baselines", "copie"], "unknown baseline 'copie'; known: copy, blur"),
        (["--model", "nowhere"], "no model at nowhere"),
        (["--metrics", "psnr"], "unknown metric 'psnr'; known: .*fidelity"),
        (["--stages", "generate,scores"], "unknown stage 'scores'"),
        (["--shard", "2"], "--shard must look like 1/4"),
        (["--shard", "0/2"], "--shard must look like 1/4, got '0/2'"),
    ],
)
def test_options_that_cannot_be(run, toy, tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        run(toy, "--out", tmp_path / "out", *arguments)


def test_sizes(command):
    assert size_of("480x832") == (480, 832)
    for text in ("480", "480x0", "480×832", "a"):
        with pytest.raises(ValueError, match="must look like 480x832"):
            size_of(text)


def test_failures_are_listed_on_stderr(run, toy, tmp_path, capsys):
    toy.broken = ("cows",)
    summary = run(toy, "--out", tmp_path, "--baselines", "copy", "--stages", "generate,score")
    assert "failed: copy, cows: inputs: sequence cows is missing" in capsys.readouterr().err
    assert summary["rows"][0]["scores"]["psnr"]["failed"] == 1


def test_rows_that_are_there_are_gone_on_with(run, davis, small_model, tmp_path):
    """Without a row, what earlier commands left is scored with all that can run now; a model's attention, too."""
    out, folder = tmp_path / "out", save_model(small_model, tmp_path / "m").parent
    first = ["--out", out, "--stages", "generate,score", "--metrics", "fidelity"]
    run(davis, *first, "--model", folder, "--steps", 1)
    run(davis, *first, "--baselines", "copy")
    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("videos/*")}
    summary = run(davis, "--out", out, "--metrics", "fidelity,temporal_flickering,correspondence")
    for row in summary["rows"]:
        assert row["scores"]["psnr"]["count"] == row["scores"]["temporal_flickering"]["count"] == 2
        assert (row["scores"]["attention_pck"]["count"] == 2) == (row["name"] == "m")
    assert {p: p.stat().st_mtime_ns for p in out.rglob("videos/*")} == stamps
    assert (out / "page/m" / f"{davis.case_keys()[0]}.mp4").is_file()


def test_failures_are_tried_again_by_the_flag_alone(run, toy, tmp_path, monkeypatch):
    """Of videos and of scores, in one shard only where one is named."""
    quick = ["--out", tmp_path, "--stages", "generate,score", "--metrics", "fidelity"]

    def broken(*arguments):
        raise OSError("disk full")

    with monkeypatch.context() as during:
        during.setattr("mvtrack.evaluation.measures.fidelity.Fidelity.score", broken)
        run(toy, *quick, "--baselines", "copy")
        during.setattr("mvtrack.evaluation.methods.baselines.gaussian_blur", broken)
        run(toy, *quick, "--baselines", "blur")

    def failures(*arguments) -> dict:
        summary = run(toy, *quick, *arguments) or run(toy, "--out", tmp_path, "--stages", "page")
        return {row["name"]: row["scores"]["psnr"]["failed"] for row in summary["rows"]}

    assert failures() == {"copy": 3, "blur": 3}
    assert failures("--retry-failed", "--shard", "2/3") == {"copy": 2, "blur": 2}
    assert failures("--retry-failed") == {"copy": 0, "blur": 0}


def test_a_row_that_cannot_be_made_again_keeps_its_videos(run, toy, tmp_path, capsys):
    """It is scored as it is; why a video failed stays said."""
    out, videos = tmp_path / "out", tmp_path / "theirs"
    for key in toy.names[:2]:
        write_video(videos / f"{key}.mp4", torch.zeros(7, 3, 13, 17), 24.0, lossless=True)  # padded, so copied
    first = ["--out", out, "--stages", "generate,score", "--videos", videos, "--name", "peer"]
    run(toy, *first, "--metrics", "fidelity")
    shutil.rmtree(videos)
    capsys.readouterr()
    summary = run(toy, "--out", out, "--stages", "score", "--metrics", "temporal_flickering", "--retry-failed")
    assert f"peer: its videos {videos} is gone or has changed" in capsys.readouterr().err
    score = summary["rows"][0]["scores"]["temporal_flickering"]
    assert (score["count"], score["failed"]) == (2, 1)
    assert "no video of this case" in next(iter(score["reasons"]))


def test_videos_of_another_folder_do_not_replace_a_row_unasked(run, toy, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = ["--out", tmp_path / "out", "--stages", "generate", "--name", "peer", "--videos"]
    run(toy, *first, tmp_path / "a")
    run(toy, *first, tmp_path / "a")
    with pytest.raises(ValueError, match="a row 'peer' that was made with .*/a'.*/b'.*pass --name"):
        run(toy, *first, tmp_path / "b")
    run(toy, *first, tmp_path / "b", "--replace")


def test_shards_and_a_last_run_leave_the_bytes_of_one_run(run, toy, tmp_path, contents, capsys):
    rest = ["--metrics", "fidelity,temporal_flickering", "--baselines", "copy,blur"]
    run(toy, "--out", tmp_path / "whole", *rest)
    for shard in ("2/2", "1/2"):
        capsys.readouterr()
        assert run(toy, "--out", tmp_path / "parts", *rest, "--shard", shard) is None
        assert "run again without --shard for the report" in capsys.readouterr().out
    assert not (tmp_path / "parts/table.md").exists()
    run(toy, "--out", tmp_path / "parts", "--metrics", "fidelity,temporal_flickering")
    assert contents(tmp_path / "parts") == contents(tmp_path / "whole")


def test_a_gpu_is_for_one_process(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 7)
    for there, workers in ((False, 7), (True, 1)):
        monkeypatch.setattr("torch.cuda.is_available", lambda there=there: there)
        assert default_workers() == workers


def command(script: str, *arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "eval" / script), *map(str, arguments)]


def finish(*arguments: object, cwd: Path) -> str:
    done = subprocess.run(command(*arguments), capture_output=True, text=True, cwd=cwd, timeout=600)
    assert done.returncode == 0, done.stderr
    failed = [line for line in done.stderr.splitlines() if line.startswith("failed:")]
    # COLMAP finds too little in 32 x 24 pixels, for its own stage and for what reads its cameras.
    assert not [line for line in failed if ": colmap, " not in line and "camera_accuracy:" not in line]
    return done.stdout


@pytest.mark.slow
def test_the_scripts(run, davis, iphone, tmp_path):
    """Cases and cameras for another program; rows on both benchmarks; a bad folder is one line."""
    out = tmp_path / "out"
    base = ["davis.py", "--data", davis.root, "--size", "24x32", "--num-frames", 5, "--out", out, "--workers", 1]
    listed = finish(*base, "--list-cases", cwd=tmp_path)
    assert listed == "".join(f"{key}: 5 frames, 5 with a true target\n" for key in davis.case_keys())
    assert {p.stem for p in (out / "cameras").iterdir()} == set(davis.case_keys())
    assert "copy of the reference" in finish(*base, "--baselines", "copy,depth_warp", cwd=tmp_path)
    again = finish(*base, "--list", out / "cases.csv", cwd=tmp_path)
    assert "warp by true depth" in again
    shown = finish(
        "iphone.py", "--data", iphone.root, "--sequences", "scene-00", "--size", "28x24", "--num-frames", 8,
        "--out", tmp_path / "iphone", "--baselines", "all", "--workers", 1, cwd=tmp_path,
    )  # fmt: skip
    assert "| ground truth | ∞ |" in shown
    wrong = subprocess.run(command("davis.py", "--data", tmp_path), capture_output=True, text=True, cwd=tmp_path)
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1


@pytest.mark.slow
def test_worker_processes_give_the_same_bytes(run, davis, tmp_path, contents):
    for name, workers in (("a", 1), ("b", 2)):
        run(davis, "--baselines", "all", "--out", tmp_path / name, "--workers", workers)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


@pytest.fixture(scope="module")
def ray_cluster():
    """One for all commands: the address, which they take from $RAY_ADDRESS."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install -e '.[ray]'")
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.mark.slow
def test_two_ray_workers_give_the_same_bytes(ray_cluster, davis, small_model, tmp_path, contents, monkeypatch):
    """A model and a baseline by a benchmark's own command; all benchmarks are run by the same code."""
    monkeypatch.setenv("RAY_ADDRESS", ray_cluster)
    rows = ["--model", save_model(small_model, tmp_path / "m").parent, "--steps", 2, "--baselines", "copy"]
    base = ["davis.py", "--data", davis.root, "--size", "24x32", "--num-frames", 5, *rows, "--metrics", "fidelity"]
    finish(*base, "--out", tmp_path / "alone", "--workers", 1, cwd=tmp_path)
    finish(*base, "--out", "spread", "--ray", "--ray-workers", 2, cwd=tmp_path)  # relative, as people write it
    assert contents(tmp_path / "spread") == contents(tmp_path / "alone")


def test_processes_of_this_machine_are_not_for_a_cluster(run, davis, tmp_path):
    with pytest.raises(ValueError, match="--workers .*--ray-workers"):
        run(davis, "--out", tmp_path, "--baselines", "copy", "--ray")


@pytest.mark.slow
def test_commands_at_once_over_one_folder(davis, tmp_path, contents):
    """Two shards, and twice the whole, all at the same time: nothing collides, and the bytes are those of one run."""
    base = ["davis.py", "--data", davis.root, "--size", "24x32", "--num-frames", 5, "--workers", 1]
    base += ["--metrics", "fidelity,temporal_flickering", "--baselines", "copy,blur"]
    finish(*base, "--out", tmp_path / "whole", cwd=tmp_path)
    out = tmp_path / "shared"
    shards = [["--shard", "1/2"], ["--shard", "2/2"], [], []]
    running = [
        subprocess.Popen(command(*base, "--out", out, *shard), cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        for shard in shards
    ]
    for process in running:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    finish(*base, "--out", out, cwd=tmp_path)
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.slow
def test_killed_and_run_again(davis, tmp_path, contents):
    """SIGKILL at several moments, then a run to the end: the bytes of a run that nobody killed."""
    base = ["davis.py", "--data", davis.root, "--size", "24x32", "--num-frames", 5, "--workers", 1]
    base += ["--baselines", "all"]
    finish(*base, "--out", tmp_path / "whole", cwd=tmp_path)
    out = tmp_path / "killed"
    for files in (1, 4, 9):
        process = subprocess.Popen(
            command(*base, "--out", out), cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 300
        while process.poll() is None and len(list(out.rglob("*.mp4"))) < files and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    stamps = {p: p.stat().st_mtime_ns for p in out.rglob("methods/*/videos/*.mp4") if not p.name.startswith(".")}
    finish(*base, "--out", out, cwd=tmp_path)
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in stamps.items())
    leftovers = [p for p in out.rglob(".*") if p.is_file()]
    for path in leftovers:
        path.unlink()  # what the kill cut off lies beside its place, under a hidden name
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.slow
def test_the_page_in_a_browser(run, davis, browser, tmp_path):
    """The page opens from the disk, plays its videos together, sorts and finds cases; nothing goes wrong in it."""
    run(davis, "--out", tmp_path, "--baselines", "all")
    view = browser.new_page(viewport={"width": 1300, "height": 900})
    troubles = []
    view.on("pageerror", lambda error: troubles.append(str(error)))
    view.on("requestfailed", lambda request: troubles.append(request.url))
    view.set_default_timeout(120_000)
    view.goto((tmp_path / "index.html").as_uri())
    view.wait_for_function("[...document.querySelectorAll('video')].some(v => v.readyState >= 2)")
    names = view.locator("figcaption").all_inner_texts()
    assert names[0] == "reference"
    assert "true target" in names
    assert "warp by true depth" in names
    view.get_by_role("button", name="Play").click()
    view.wait_for_function("[...document.querySelectorAll('video')].filter(v => v.currentTime > 0.02).length > 3")
    view.get_by_role("button", name="Pause").click()
    view.select_option("#order", "psnr")
    view.select_option("#whose", "copy")
    view.locator("#filter").fill(davis.cases[1].sequence)
    assert view.locator("section").count() == 1
    assert view.locator("#count").inner_text() == "1 of 2 cases"
    assert troubles == []


def test_a_rerun_starts_no_worker(toy, tmp_path):
    """With everything done, a run only reads: no pool, no model, no video is opened."""
    plan = Plan(toy, (Baseline("copy"),), (), folder=tmp_path)
    run_stages(plan)
    toy.load = lambda key: pytest.fail("inputs were read again")
    assert run_stages(plan, workers=4) == []
