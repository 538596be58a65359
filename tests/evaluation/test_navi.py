"""NAVI's Precision@2cm: pairs, crops, matches and scores against slow ones, on a synthesised object."""

import json
import math
import shutil

import pytest
import torch

from mvtrack.correspondence.ratio_test import ratio_test_matches
from mvtrack.evaluation.navi import by_angle, draw_pairs, features, photograph_of, precision
from mvtrack.geometry.camera import project
from mvtrack.models.reshoot_model import save_model
from tests.data.public.synthesis import synthesise
from tests.data.public.test_objects import write_navi


@pytest.fixture(scope="module")
def navi(tmp_path_factory):
    root = tmp_path_factory.mktemp("navi")
    write_navi(root, synthesise(7, 6, 1, size=(48, 64), static=True, points=13))
    return root


def test_matches_are_the_surest_of_a_slow_search(generator):
    queries, keys = (torch.randn(n, 5, generator=generator) for n in (23, 17))
    rows = []
    for i, q in enumerate(queries):
        gaps = sorted((1 - float(q @ k / (q.norm() * k.norm())), j) for j, k in enumerate(keys))
        rows.append((1 - gaps[0][0] / gaps[1][0], i, gaps[0][1]))
    expected = [row[1:] for row in sorted(rows, reverse=True)[:7]]
    assert list(zip(*(x.tolist() for x in ratio_test_matches(queries, keys, 7)), strict=True)) == expected
    assert len(ratio_test_matches(queries, keys, 1000)[0]) == 23
    with pytest.raises(ValueError, match="two keys at least, got 1"):
        ratio_test_matches(queries, keys[:1], 7)


def test_pairs_are_drawn_once_and_for_all(navi):
    pairs = draw_pairs(navi, "multiview")
    assert [pair.first.name for pair in pairs] == ["000", "004"]  # every fourth
    for pair in pairs:
        assert pair.first.name != pair.second.name
        cosine = (pair.first.camera.c2w[0, :3, :3] * pair.second.camera.c2w[0, :3, :3]).sum()
        assert pair.angle_deg == pytest.approx(math.degrees(math.acos((float(cosine) - 1) / 2)), abs=1e-6)
    assert [p.second.name for p in draw_pairs(navi, "multiview")] == [p.second.name for p in pairs]
    with pytest.raises(ValueError, match="no two photographs within 120 degrees in a folder wild_set"):
        draw_pairs(navi, "wild_set")


def test_the_objects_square_keeps_its_points_and_camera(navi):
    view = draw_pairs(navi, "multiview")[0].first
    photo = photograph_of(view, 64)
    assert photo.picture.shape == (3, 64, 64)
    known = photo.points.isfinite().all(-1)
    assert 0.05 < known.float().mean() < 1
    xy, _ = project(photo.points[known].double(), photo.camera.to(dtype=torch.float64))
    cells = known.nonzero().flip(-1)
    box = view.masks(1)[0].nonzero()
    width = min(48, int((box.amax(0) + 1 - box.amin(0)).max()))
    # a cell's point is that of the pixel in which its centre lies: half a pixel of the source at most
    assert (xy - 4 * (cells + 0.5)).abs().max() <= 0.51 * 64 / width


def test_features_that_know_the_surface_match_it_and_others_do_not(navi, generator):
    pair = draw_pairs(navi, "multiview")[0]
    photos = photograph_of(pair.first, 128), photograph_of(pair.second, 128)
    waves = torch.randn(3, 64, generator=generator) * 3
    maps = tuple((photo.points.nan_to_num() @ waves).sin().movedim(-1, 0) for photo in photos)
    exact = precision(photos, maps, 50)
    noise = tuple(torch.randn(m.shape, generator=generator) for m in maps)
    assert (exact.diff() >= 0).all()
    assert exact[2] > precision(photos, noise, 50)[2] + 0.3
    rows, keys = (m[:, p.points.isfinite().all(-1)].mT for m, p in zip(maps, photos, strict=True))
    places = [p.points[p.points.isfinite().all(-1)] for p in photos]
    chosen = zip(*(x.tolist() for x in ratio_test_matches(rows, keys, 50)), strict=True)
    near = [float((places[0][i] - places[1][j]).norm()) < 0.02 for i, j in chosen]
    assert exact[1].item() == pytest.approx(sum(near) / len(near))


def test_angles_are_binned(unchecked):
    means = by_angle(torch.tensor([1.0, 2.0, 3.0, 5.0]), torch.tensor([29.9, 30.0, 59.0, 119.0]))
    assert [None if m is None else float(m) for m in means] == [1.0, 2.5, None, 5.0]


@pytest.mark.parametrize("kind", ["videos", "images", "path"])
def test_every_sort_of_model_gives_features(kind, navi, small_model, still_model):
    model = small_model if kind == "videos" else still_model(kind)
    photo = photograph_of(draw_pairs(navi, "multiview")[0].first, 24)
    clean, noisy = (features(model, photo, sigma, 1) for sigma in (0.01, 0.9))
    assert [f.shape for f in clean] == [(24, 6, 6)] * 2
    assert not torch.equal(clean[1], noisy[1])
    assert torch.equal(clean[0], features(model, photo, 0.01, 1)[0])


def test_the_command_says_what_it_scores(navi, small_model, tmp_path, run):
    save_model(small_model, tmp_path / "model")
    given = ["--data", navi, "--model", tmp_path / "model", "--split", "multiview", "--steps", 2]
    code, shown, errors = run("navi.py", *given, "--matches", 11, "--out", tmp_path / "out")
    assert code == 0, errors
    record = json.loads((tmp_path / "out/navi.json").read_text())
    assert "Scores the best 11 matches of a pair" in (tmp_path / "out/navi.md").read_text()
    assert len(record["pairs"]) == 2
    last = json.loads(shown.splitlines()[-1])
    known = [of_bin for of_bin in record["precision"]["2cm"] if of_bin is not None]
    assert [(len(of_bin), len(of_bin[0])) for of_bin in known] == [(2, 2)] * len(known)
    step = [round(s, 5) for s in record["sigmas"]].index(last["sigma"])
    at = [None if b is None else round(b[last["layer"]][step], 5) for b in record["precision"]["2cm"]]
    assert last["precision_2cm_by_angle"] == at
    data = tmp_path / "damaged"
    shutil.copytree(navi, data)
    (data / "dino/multiview-00-pixel_5/masks/000.png").unlink()
    code, shown, errors = run("navi.py", "--data", data, *given[2:], "--out", tmp_path / "damaged_out")
    assert (code, "navi: left out: " in errors, "000.jpg has no mask" in errors) == (0, True, True)
    assert json.loads(shown.splitlines()[-1])["skipped"] == 1
    code, _, errors = run("navi.py", *given, "--side", 30)
    assert (code, "--side must be a multiple of 4" in errors) == (2, True)
