"""Still sets by an evaluation index: the pictures that it names, and their scores."""

import json
from pathlib import Path

import pytest
import torch

from mvtrack.config.datasets import DatasetOptions
from mvtrack.evaluation.still_sets import open_still_set
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.inference.views.generate import generate_views
from mvtrack.metrics.image import psnr, ssim
from mvtrack.models.reshoot_model import save_model
from mvtrack.video.resize import fit_to
from tests.data.public.test_stills import WRITERS, still_set

INDEX = {"0a1b": {"context": [5, 1], "target": [2, 0, 3]}, "other": None, "absent": {"context": [0], "target": [1]}}


def indexed(root: Path, table: object) -> Path:
    path = root / "index.json"
    path.write_text(json.dumps(table))
    return path


@pytest.mark.parametrize(
    ("layout", "key", "order"),
    [("pixelsplat", "0a1b", [5, 1, 2]), ("realestate10k", "0a1b", [5, 1, 2]), ("dtu", "scan8", [2, 0, 1]),
     ("dtu-pixelnerf", "scan8", [2, 0, 1])],
)  # fmt: skip
def test_an_index_names_pictures_by_their_numbers(layout, key, order, tmp_path, still_model):
    truth, model = still_set(layout), still_model("images")
    WRITERS[layout][0](tmp_path / "data", truth)
    index = indexed(tmp_path, {key: {"context": order[:2], "target": order[2:]}})
    (case,) = open_still_set(tmp_path / "data", index, DatasetOptions(), model.config, 2, 280)
    fit = fit_to(truth.camera.size, (24, 32), "crop")
    assert (case.num_given, case.num_reference) == (2, 2)
    for image, camera, v in zip(case.images, case.camera, order, strict=True):
        pose = truth.camera.c2w[v, 0].double()
        torch.testing.assert_close(camera.c2w.double(), pose, rtol=1e-4, atol=1e-4)
        small = torch.nn.functional.interpolate(
            truth.video[v].float(), fit.scaled, mode="bilinear", antialias=True, align_corners=False
        )
        top, left = fit.cut
        expected = small[0, :, top : top + 24, left : left + 32] / 127.5 - 1
        assert (image - expected).abs().mean() < 0.1  # another filter, the same picture
    K = fit.camera(truth.camera).K[order[0], 0]
    torch.testing.assert_close(case.camera.K[0], K.float(), rtol=1e-4, atol=1e-3)


def test_the_command_scores_as_by_hand(tmp_path, still_model, run):
    WRITERS["pixelsplat"][0](tmp_path / "data", still_set("pixelsplat"))
    model, index = still_model("images", scale="path_extent"), indexed(tmp_path, INDEX)
    save_model(model, tmp_path / "model")
    given = ["--model", tmp_path / "model", "--data", tmp_path / "data", "--steps", 1, "--out", tmp_path / "out"]
    code, shown, errors = run("static.py", *given, "--index", index)
    assert code == 0, errors
    assert "static: 1 scenes, 1 given\nstatic: 1 scenes, 2 given" in errors
    record = json.loads((tmp_path / "out/static.json").read_text())
    assert [(row["given"], row["scene"]) for row in record["cases"]] == [
        (1, "re10k_train_0a1b"),
        (2, "re10k_train_0a1b"),
    ]
    for row in record["cases"]:
        n = row["given"]
        (case,) = open_still_set(tmp_path / "data", index, DatasetOptions(), model.config, n, 1)
        made = generate_views(model, case.images[:n], case.camera, SamplerOptions(1))
        pairs = list(zip(made, case.images[n:], strict=True))
        assert len(pairs) == 3 - n
        assert row["psnr_per_view_db"] == pytest.approx(sum(psnr(a, b) for a, b in pairs) / len(pairs), rel=1e-5)
        assert row["ssim"] == pytest.approx(sum(ssim(a, b) for a, b in pairs) / len(pairs), rel=1e-5)
        assert not any(name.startswith("pck") for name in row)
    last = json.loads(shown.splitlines()[-1])["figures"]
    assert last["2 given"]["ssim"] == pytest.approx(record["cases"][1]["ssim"], abs=1e-5)
    code, _, errors = run("static.py", *given)
    assert (code, "--data needs --index" in errors) == (2, True)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([], "expected an object of scenes"),
        ({"0a1b": {"context": [0]}}, "0a1b must be null or"),
        ({"0a1b": {"context": [0, 1], "target": [1]}}, "0a1b names a picture twice"),
        ({"nowhere": {"context": [0], "target": [1, 2]}}, "none of its scenes is there"),
        ({"0a1b": {"context": [0], "target": [1]}}, "1 scenes that are there have too few pictures"),
        ({"0a1b": {"context": [0], "target": [1, 77]}}, "has no picture 77, which the index names"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(table, message, tmp_path, still_model):
    WRITERS["pixelsplat"][0](tmp_path / "data", still_set("pixelsplat"))
    with pytest.raises(ValueError, match=message):
        list(open_still_set(tmp_path / "data", indexed(tmp_path, table), DatasetOptions(),
                            still_model("images").config, 1, 5))  # fmt: skip


def test_lines_without_pictures_are_refused(tmp_path, still_model):
    """An index counts lines: with a picture missing, all behind it would be another one."""
    WRITERS["realestate10k"][0](tmp_path / "data", still_set("realestate10k"))
    next((tmp_path / "data/train/0a1b").glob("*.png")).unlink()
    with pytest.raises(ValueError, match="6 pictures for 7 lines"):
        list(open_still_set(tmp_path / "data", indexed(tmp_path, INDEX), DatasetOptions(),
                            still_model("images").config, 1, 5))  # fmt: skip
