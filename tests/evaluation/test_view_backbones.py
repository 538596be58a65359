"""Scripts and analysis on a U-Net over still views, whose layers have tokens of several sizes."""

import json
from dataclasses import replace

import pytest
import torch

from mvtrack.config.backbones import UNetConfig
from mvtrack.config.diffusion import DiffusionConfig
from mvtrack.config.encoders import CodecConfig
from mvtrack.config.model import ModelConfig
from mvtrack.config.views import ViewsConfig
from mvtrack.correspondence.nearest_neighbours import PointMaps, points_from_depth, targets_from_points
from mvtrack.evaluation.attention.analysis import AnalysisConfig, analyse
from mvtrack.evaluation.attention.quality import measure_harm
from mvtrack.evaluation.navi import draw_pairs, features, photograph_of
from mvtrack.inference.forward_noised import noised_videos, probe_layer
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.models.conditioning import Window
from mvtrack.models.reshoot_model import build_model, save_model
from mvtrack.training.static_validation import still_cases
from tests.data.public.synthesis import synthesise
from tests.data.public.test_objects import write_navi

SIZE, EVERY = (32, 64), 10**6


@pytest.fixture(scope="module")
def model():
    config = ModelConfig(
        dit=None, cat3d=UNetConfig((8, 16, 16), (1, 2, 2), 1, 4, channels=12), views=ViewsConfig(3, (1, 2)),
        codec=CodecConfig(channels=12, stride=8), diffusion=DiffusionConfig(steps=2), tap_layer=3, num_frames=1,
        sizes=(SIZE,),
    )  # fmt: skip
    model = build_model(config, seed=3)
    model.codec.fit([case.clip.video for case in still_cases(config.views, SIZE, 2, 50)], 0.5)
    torch.manual_seed(0)
    torch.nn.init.normal_(model.dit.unet.conv_out.weight, std=0.3)  # which starts at zero
    return replace(model, dit=model.dit.eval())


@pytest.fixture(scope="module")
def cases(model):
    return still_cases(model.config.views, SIZE, 2, first_seed=3)


def test_layers_of_every_token_size_agree_with_the_probe(model, cases):
    sizes = [model.config.token_px(layer) for layer in range(7)]
    assert len(set(sizes)) == 3
    analysis = analyse(model, cases[:1], AnalysisConfig(2, EVERY, seed=5))
    case = cases[0]
    videos = noised_videos(model, case.clip.video, Window(case.clip.camera, case.clip.scene_depth), 5, case.reference)
    points = PointMaps(points_from_depth(case.clip.depth[None], case.clip.camera[None]))
    for layer, px in enumerate(sizes):
        targets = targets_from_points(points, (SIZE[0] // px, SIZE[1] // px))
        found = probe_layer(model, videos, targets, layer, torch.tensor(analysis.sigmas))
        for sums, expected in zip(analysis.by_clip[0][layer], found, strict=True):
            assert sums.rows[2] == expected.rows.sum()
            own = expected.nll.sum(1) / expected.rows.sum()
            assert sums.nll[:, 2].div(sums.rows[2]).tolist() == pytest.approx(own.tolist(), rel=1e-5)
    assert analysis.sigmas == pytest.approx([0.999, 0.499])


def test_every_layer_can_be_perturbed(model, cases):
    harm = measure_harm(model, cases[:1], SamplerOptions(2, seed=2))
    drops = torch.tensor(harm.drop_db("identity"))
    assert drops.shape == (7, 1)
    assert (drops != 0).all()
    apart = torch.tensor(harm.drop_db("own_view"))
    assert (apart[[0, 5, 6]] == 0).all()  # the outermost level, whose views are apart already
    assert (apart[1:5] != 0).all()


@pytest.fixture(scope="module")
def navi(tmp_path_factory):
    root = tmp_path_factory.mktemp("navi")
    write_navi(root, synthesise(7, 6, 1, size=(48, 64), static=True, points=13))
    return root


def test_features_of_every_layer_have_its_tokens(model, navi):
    photo = photograph_of(draw_pairs(navi, "multiview")[0].first, 64)
    found = features(model, photo, 0.499, 1)
    assert [f.shape[1] for f in found] == [64 // model.config.token_px(layer) for layer in range(7)]
    assert [f.shape[0] for f in found] == [8, 16, 16, 16, 16, 8, 8]
    assert torch.equal(found[3], features(model, photo, 0.499, 1)[3])
    assert not torch.equal(found[3], features(model, photo, 0.999, 1)[3])


def test_scripts_take_its_folder(model, navi, tmp_path, run):
    folder = save_model(model, tmp_path / "model").parent
    code, shown, errors = run("static.py", "--model", folder, "--out", tmp_path / "static", "--cases", 2)
    assert code == 0, errors
    record = json.loads((tmp_path / "static/static.json").read_text())
    assert record["sample"]["camera_guidance"] == 2.0
    assert record["layer"] == 3
    assert {"psnr_db", "ssim", "alignment_error"} <= record["cases"][0].keys()
    given = ["--data", navi, "--model", folder, "--split", "multiview", "--steps", 2, "--out", tmp_path / "navi"]
    code, shown, errors = run("navi.py", *given, "--matches", 11)
    assert code == 0, errors
    of_bin = next(b for b in json.loads((tmp_path / "navi/navi.json").read_text())["precision"]["2cm"] if b)
    assert (len(of_bin), len(of_bin[0])) == (7, 2)
