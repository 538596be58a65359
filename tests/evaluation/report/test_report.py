import csv
import io
import json
import math
import shutil
import subprocess
from dataclasses import replace

import pytest

from mvtrack.evaluation.benchmarks.davis import Davis
from mvtrack.evaluation.benchmarks.iphone import IPhone
from mvtrack.evaluation.interface import Column, failed, skipped
from mvtrack.evaluation.measures.fidelity import Fidelity
from mvtrack.evaluation.methods.baselines import Baseline
from mvtrack.evaluation.report.columns import table_groups
from mvtrack.evaluation.report.summary import check_backbones, published_rows, summarise_column
from mvtrack.evaluation.report.tex import latex, tex
from mvtrack.evaluation.report.view import published_lines, scored_lines
from mvtrack.evaluation.report.write import markdown, page, scores_csv, summary_csv, write_report
from mvtrack.evaluation.runner.plan import Plan
from mvtrack.evaluation.runner.stages import run_stages

COLUMNS = [
    {"key": "psnr", "title": "PSNR", "better": "higher", "digits": 2},
    {"key": "met3r", "title": "MEt3R", "better": "lower", "digits": 3},
]


def row(name, psnr, met3r, group="Models", bound=False, change=None):
    scores = {"psnr": summarise_column(psnr), "met3r": summarise_column(met3r)}
    return {
        "name": name, "title": name.title(), "group": group, "bound": bound, "backbone": None, "scores": scores,
        "change": change or {},
    }  # fmt: skip


def summary_of(*rows):
    return {
        "benchmark": {"name": "davis", "title": "Toy & co", "cases": 3, "settings": {}},
        "groups": {"Visual quality": COLUMNS[:1], "Geometric_consistency": COLUMNS[1:]},
        "rows": list(rows),
        "published": {"source": "somewhere", "rows": []},
        "footnotes": ["100% of frames."],
        "cases": {},
    }


@pytest.fixture
def summary():
    part = [0.2, failed("pose | lost"), 0.2]
    return summary_of(
        row("ours", [20.0, 21.0, 22.0], [0.301, 0.3, 0.3], change={"psnr": {"mean": -0.2}, "met3r": {"mean": -0.06}}),
        row("peer", [21.004, 21.004, 20.996], part),
        row("none", [skipped("missing X")] * 3, [0.4, 0.4, 0.4]),
        row("truth", [math.inf] * 3, [0.1, 0.1, 0.1], "Bounds", True),
    )


def test_counts_and_means():
    values = [1.0, 3.0, math.inf, failed("a"), failed("a"), skipped("b")]
    score = summarise_column(values)
    assert (score["mean"], score["count"], score["cases"]) == (2.0, 2, 6)
    assert (score["infinite"], score["failed"], score["skipped"]) == (1, 2, 1)
    assert list(score["reasons"].items()) == [("failed: a", 2), ("skipped: b", 1)]
    assert score["low"] == 1.0
    assert score["high"] == 3.0
    assert summarise_column([failed("a")])["mean"] is None


def test_the_best_is_marked_fairly(summary):
    """Equal as printed: both. Of fewer cases, or knowing the truth: never. A single full row: nothing to be best of."""
    cells = {line.title: line.cells for line in scored_lines(summary)}
    assert [cells[t][0].is_best for t in ("Ours", "Peer", "None", "Truth")] == [True, True, False, False]
    assert [cells[t][1].is_best for t in ("Ours", "Peer", "None", "Truth")] == [True, False, False, False]
    assert cells["Peer"][1].coverage == "2/3"
    assert cells["None"][0].value == "–"
    assert cells["Truth"][0].value == "∞"
    assert cells["Ours"][0].change == "-0.20"
    assert [cell.is_gain for cell in cells["Ours"]] == [False, True]
    alone = scored_lines(summary_of(row("ours", [20.0] * 3, [0.3] * 3)))
    assert not any(cell.is_best for cell in alone[0].cells)


def test_markdown(summary):
    text = markdown(summary)
    table = [line for line in text.splitlines() if line.startswith("| ")]
    assert all(line.count("|") == table[0].count("|") for line in table[:7])
    assert "| Ours | **21.00** (-0.20) | **0.300** (-0.060) |" in text
    assert "| Peer | **21.00** | 0.200 [2/3] |" in text
    assert "| *Bounds* |" in text
    assert "| Peer | MEt3R | 1 | failed: pose / lost |" in text
    assert "| None | PSNR | 3 | skipped: missing X |" in text
    assert "0.200 (0.200 to 0.200; n=2)" in text
    assert "3 infinite" in text
    assert "1. 100% of frames." in text


def test_latex(summary):
    text = latex(summary)
    body = [line for line in text.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
    assert len(body) == 5
    assert all(line.count("&") == 2 for line in body)
    assert text.count("{") == text.count("}")
    assert r"Geometric\_consistency" in text
    assert r"\textbf{21.00} {\scriptsize\textcolor{red}{(-0.20)}}" in text
    assert r"\textcolor{green!50!black}{(-0.060)}" in text
    assert r"$\infty$" in text
    assert "∞" not in text
    assert "–" not in text
    assert text.index(r"\end{tabular}") < text.index(r"(1) 100\% of frames.")


HARD = r"\ { } ~ ^ & % _ # $ < > | [x] ≥ ≤ ° × ± δ σ ∞ → ↑ ↓ − – — … é"


def test_latex_takes_no_text_for_commands():
    assert tex(r"a_b^c~{d}\e") == r"a\_b\textasciicircum{}c\textasciitilde{}\{d\}\textbackslash{}e"
    assert tex("≥ 5 %") == r"$\geq$ 5 \%"
    assert tex("[1]") == "{[}1]"
    assert [letter for letter in tex(HARD) if not letter.isascii()] == ["é"]


def has_latex() -> bool:
    found = shutil.which("pdflatex") and shutil.which("kpsewhich")
    return bool(found) and subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True).returncode == 0


@pytest.mark.skipif(not has_latex(), reason="needs pdflatex, booktabs: apt-get install texlive-latex-recommended")
def test_latex_compiles(summary, tmp_path):
    """Into one page, with everything that is hard to print in titles and notes, and no wider than the line."""
    summary["rows"][0]["title"] = f"[ours] {HARD}"
    summary["groups"] = {f"Quality {HARD}": COLUMNS}
    summary["footnotes"].append(f"Hard: {HARD}")
    (tmp_path / "table.tex").write_text(latex(summary))
    head = r"\documentclass{article}\usepackage{booktabs,graphicx,xcolor}\begin{document}\begin{table}\centering"
    (tmp_path / "page.tex").write_text(f"{head}\n\\input{{table}}\n\\end{{table}}\\end{{document}}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, timeout=120)
    said = done.stdout.decode(errors="replace")
    assert done.returncode == 0, said[-2000:]
    assert "(1 page" in said
    assert "Missing character" not in said
    assert "Overfull" not in said


def test_csv(summary):
    rows = list(csv.DictReader(io.StringIO(summary_csv(summary))))
    [peer] = [r for r in rows if (r["method"], r["column"]) == ("peer", "met3r")]
    assert (float(peer["mean"]), peer["count"], peer["cases"], peer["failed"]) == (pytest.approx(0.2), "2", "3", "1")
    values = {"ours": {"bear": {"psnr": 20.0, "met3r": "failed: a, b"}}}
    rows = list(csv.reader(io.StringIO(scores_csv(summary | {"cases": values}))))
    assert rows[1:] == [["ours", "bear", "psnr", "20.0", ""], ["ours", "bear", "met3r", "", "failed: a, b"]]


def toy_of(name: str, toy):
    return replace(toy, name=name)


def test_published_rows_are_whole_and_their_bests_are_the_papers(toy, tmp_path):
    """Figures printed in bold in MVTrack4Gen's tables 1 and 2, and changes as printed."""
    davis, iphone = (published_rows(Plan(b, (), ())) for b in (Davis(tmp_path, ()), toy_of("iphone", toy)))
    assert "JoungBin Lee" in davis["source"]
    assert "arXiv:2606.26087" in davis["source"]
    assert "table 1 (camera accuracy from poses by Depth Anything 3" in davis["source"]
    assert "Depth Anything" not in iphone["source"]  # the paper names it for DAVIS alone
    assert [len(r["values"]) for r in davis["rows"]] == [11] * 8
    assert [len(r["values"]) for r in iphone["rows"]] == [4] * 8 + [7] * 4
    assert published_rows(Plan(toy_of("unknown", toy), (), ()))["rows"] == []
    assert published_rows(Plan(toy, (), (), with_published=False))["rows"] == []
    groups = table_groups(Davis(tmp_path, ()), ())
    table = {"groups": {t: [vars(c) for c in part] for t, part in groups.items()}, "published": davis}
    cells = {line.title: line.cells for line in published_lines(table)}
    ours = [cell.is_best for cell in cells["MVTrack4Gen (ReDirector)"]]
    assert ours == [True, True, True, True, False, True, True, False, False, True, True]
    assert [c.change for c in cells["MVTrack4Gen (ReCamMaster)"]] == [
        "-0.012", "+0.002", "+0.005", "+0.033", "-0.009", "-0.001", "-0.063", "-0.082", "-1.802", "-0.013", "-0.044",
    ]  # fmt: skip
    names = {r["name"] for r in davis["rows"]}
    assert {r["backbone"] for r in davis["rows"]} - {None} <= names


def test_columns_are_the_papers_then_the_rest(told, tmp_path):
    extra = told({}, columns=(Column("met3r", "MEt3R", "lower", 4), Column("mine", "Mine", "higher")))
    groups = table_groups(Davis(tmp_path, ()), (extra, Fidelity()))
    assert [len(part) for part in groups.values()] == [6, 2, 3, 4]
    assert [c.key for c in groups["Beside the paper's"]] == ["mine", "psnr", "ssim", "psnr_covisible"]
    assert groups["Geometric consistency"][0].digits == 4
    assert [c.key for c in table_groups(IPhone(tmp_path), ())["Visual quality"]] == ["psnr", "ssim", "lpips"]


def test_changes_are_over_the_cases_that_both_have(toy, told, tmp_path):
    values = {"bear": 1.0, "cows": 2.0, "dog": 6.0}
    plan = Plan(toy, (Baseline("copy"), Baseline("blur", backbone="copy")), (told(values),), folder=tmp_path)
    plan.metrics[0].score = lambda sample: (
        failed("no") if sample.inputs.key == "dog" and sample.file.parts[-3] == "copy" else
        {"score": values[sample.inputs.key] + (sample.file.parts[-3] == "blur")}
    )  # fmt: skip
    run_stages(plan, ["generate", "score"])
    summary, files = write_report(plan)
    [blur] = [r for r in summary["rows"] if r["name"] == "blur"]
    assert blur["scores"]["score"]["mean"] == 4.0
    assert blur["change"]["score"]["mean"] == 1.0  # not 4.0 - 1.5
    assert blur["change"]["score"]["count"] == 2
    assert all(path.is_file() for path in files)
    assert json.loads((tmp_path / "summary.json").read_text()) == summary


def test_changes_against_a_published_row_and_an_unknown_one(toy, told, tmp_path):
    met3r = told(dict.fromkeys(toy.names, 0.3), columns=(Column("met3r", "MEt3R", "lower"),))
    plan = Plan(toy, (Baseline("copy", backbone="recammaster"),), (met3r,), folder=tmp_path)
    run_stages(plan, ["generate", "score"])
    summary, _ = write_report(plan)
    assert summary["rows"][0]["change"]["met3r"]["mean"] == pytest.approx(-0.037)
    odd = Plan(toy, (Baseline("copy", backbone="nobody"),), (met3r,), folder=tmp_path)
    with pytest.raises(ValueError, match="backbone .nobody. of copy is no row: add it first, or name one of copy, gen"):
        check_backbones(odd)
    check_backbones(plan)


def test_the_page_names_only_videos_that_are_there(toy, told, tmp_path):
    metric = told({"bear": 1.0, "cows": ValueError("</script><b>odd</b>"), "dog": 6.0})
    plan = Plan(toy, (Baseline("copy"),), (metric,), folder=tmp_path)
    run_stages(plan)
    summary, _ = write_report(plan)
    text = page(plan, summary)
    data = json.loads(text.split('type="application/json">')[1].split("</script>")[0])
    sources = [v["src"] for case in data["cases"] for v in case["videos"]]
    assert len(sources) == 9
    assert all((tmp_path / src).is_file() for src in sources)
    assert "</script><b>" not in text.split('id="data"')[1].split("<script>")[0]


def test_the_page_says_what_the_tables_say(toy, told, tmp_path):
    """Where published rows are from, how sure the means are, and why some are lacking."""
    metric = told({"bear": 1.0, "cows": ValueError("<odd> pose"), "dog": 6.0})
    plan = Plan(toy, (Baseline("copy"),), (metric,), folder=tmp_path)
    run_stages(plan)
    summary, _ = write_report(plan)
    shown = page(plan, summary).split('<script id="data"')[0]
    assert "arXiv:2606.26087" in shown
    assert "3.50 (1.00 to 6.00; n=2)" in shown
    assert "<td>failed: &lt;odd&gt; pose</td>" in shown
    without = page(plan, summary | {"published": {"source": "somewhere", "rows": []}})
    assert "somewhere" not in without


def test_only_what_was_used_has_a_footnote(toy, told, weigh, tmp_path):
    """An estimator that no metric and no row asks for is not the table's; one that a row alone asks for is."""
    depth, poses = weigh(footnotes=("Depth by weighing.",)), weigh(gives="poses", footnotes=("Poses by weighing.",))
    estimators, values = {"depth": depth, "poses": poses}, dict.fromkeys(toy.names, 1.0)

    def notes(method: Baseline, metric) -> str:
        plan = Plan(toy, (method,), (metric,), estimators, tmp_path / f"{method.name}{len(list(tmp_path.iterdir()))}")
        run_stages(plan, ["generate"])
        return " ".join(write_report(plan)[0]["footnotes"])

    assert "weighing" not in notes(Baseline("copy"), told(values))
    asks = notes(Baseline("copy"), told(values, needs=("generated.poses",)))
    assert "Poses by weighing." in asks
    assert "Depth by weighing." not in asks
    absent = told(values, needs=("generated.poses",), absent="told: pip install told")
    assert "weighing" not in notes(Baseline("copy"), absent)
    assert "Depth by weighing." in notes(Baseline("depth_warp_estimated"), told(values))


def test_numbers_that_are_no_scores_have_no_best_and_no_arrow(summary):
    """Nor do columns beside the paper's appear that nobody has a number for."""
    share = {"key": "share", "title": "share compared", "better": "none", "digits": 2}
    empty = {"key": "lpips", "title": "LPIPS", "better": "lower", "digits": 3}
    summary["groups"]["Beside the paper's"] = [share, empty]
    for one in summary["rows"]:
        one["scores"]["share"] = summarise_column([0.5, 0.5, 0.5])
        one["scores"]["lpips"] = summarise_column([skipped("missing alexnet")] * 3)
        one["change"] = one["change"] | ({"share": {"mean": 0.1}} if one["change"] else {})
    text = markdown(summary)
    assert "| Beside the paper's<br>share compared |" in text
    assert "| Ours | **21.00** (-0.20) | **0.300** (-0.060) | 0.50 (+0.10) |" in text
    assert "| all | LPIPS | 12 | skipped: missing alexnet |" in text
    assert "LPIPS" not in text.split("## Means")[0]
    ours = latex(summary).split(r"\end{tabular}")[1]  # a second table, below the paper's columns
    assert r" & \shortstack{share \\ compared} \\" in ours
    assert "Ours & 0.50 " in ours
    assert "PSNR" not in ours
    assert [cells.cells[2].is_gain for cells in scored_lines(summary)] == [None] * 4
