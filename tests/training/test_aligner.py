"""Training of an aligning decoder: what it learns from, and that it learns from the other view."""

import json
from dataclasses import replace

import pytest
import torch

from mvtrack.cli.train_decoder import main
from mvtrack.data.synthetic.bank import Bank, BankRecipe
from mvtrack.models.decoder.files import FILE, load_aligner
from mvtrack.models.decoder.scene import DecoderScene
from mvtrack.training import aligner as training
from mvtrack.training.aligner import AlignerRun, Example, make_example, train_aligner


@pytest.fixture(scope="module")
def bank(tmp_path_factory) -> Bank:
    return Bank(
        tmp_path_factory.mktemp("scenes"), BankRecipe((24, 32), num_frames=5, num_views=2, num_points=3, seed=5)
    )


def test_aligner_restores_target_latents(small_model, bank):
    clip = bank.clip(0, [0, 1], slice(0, 5))
    example = make_example(small_model, clip, 0.7, seed=3)
    own = small_model.encode(clip.video[None])[0]
    assert torch.equal(example.latents[0], own[0])
    assert not torch.equal(example.latents[1], own[1])
    again = make_example(small_model, clip, 0.7, seed=3)
    assert torch.equal(again.latents, example.latents)
    # a model of velocities is at the truth where it predicts noise less truth; at no noise both kinds restore all
    velocity = replace(
        small_model, config=replace(small_model.config, flow=replace(small_model.config.flow, prediction="velocity"))
    )
    torch.testing.assert_close(make_example(velocity, clip, 0.0, seed=3).latents, own)


@pytest.mark.slow
def test_aligner_learns_from_other_view(small_model, bank, tmp_path, monkeypatch):
    """The target's latents say nothing here: all that there is to learn lies in the reference."""

    def blind(model, clip, sigma, seed):
        latents = model.encode(clip.video[None])[0]
        return Example(clip, torch.stack([latents[0], torch.zeros_like(latents[1])]))

    monkeypatch.setattr(training, "make_example", blind)
    run = AlignerRun(scenes=3, steps=120, frames=3, lr=5e-3, depth_noise=0.0, settings={"width": 8, "dim": 16})
    train_aligner(small_model, bank, tmp_path, run)
    record = json.loads((tmp_path / "decoder.json").read_text())
    assert record["steps_done"] == 120
    aligner, errors = load_aligner(tmp_path, small_model.config.codec), {"codec": 0.0, "aligned": 0.0, "wrong": 0.0}
    with torch.no_grad():
        for number in range(3):
            clip = bank.clip(number, [0, 1], slice(0, 5))
            latents = blind(small_model, clip, 0.7, number).latents
            true = DecoderScene.of(clip.camera, clip.depth, {0: clip.video[0]})
            wrong = DecoderScene.of(clip.camera, clip.depth, {0: clip.video[0].flip(-1)})
            made = {
                "codec": small_model.codec.decode(latents[None])[0].clamp(-1, 1),
                "aligned": aligner.decode(small_model.codec, latents, true, (1,)),
                "wrong": aligner.decode(small_model.codec, latents, wrong, (1,)),
            }
            for name, video in made.items():
                errors[name] += (video[1] - clip.video[1]).square().mean().item()
    assert errors["aligned"] < 0.7 * errors["codec"]
    assert errors["aligned"] < 0.9 * errors["wrong"]


def test_invalid_settings_raise(small_model, bank, tmp_path):
    with pytest.raises(ValueError, match="steps must be positive, got 0"):
        AlignerRun(steps=0)
    with pytest.raises(ValueError, match="sigma must be two noise levels"):
        AlignerRun(sigma=(0.9, 0.2))
    with pytest.raises(ValueError, match="a perceptual weight needs a distance"):
        train_aligner(small_model, bank, tmp_path, AlignerRun(perceptual=0.1))


def test_aligner_takes_perceptual_distance(small_model, bank, tmp_path):
    seen = []

    def distance(made: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(made.shape))
        return (made - truth).abs().mean()

    train_aligner(
        small_model, bank, tmp_path, AlignerRun(2, 2, 1, perceptual=0.5, settings={"width": 8, "dim": 8}), distance
    )
    assert seen == [(1, 3, 24, 32)] * 2


def test_aligner_command_trains_and_does_not_overwrite(small_model, tmp_path, capsys):
    from mvtrack.models.reshoot_model import save_model

    save_model(small_model, tmp_path / "m")
    arguments = ["--model", str(tmp_path / "m"), "--out", str(tmp_path / "d"), "--scenes", "2", "--steps", "2"]
    assert main([*arguments, "--alone"]) == 0, capsys.readouterr().err
    assert load_aligner(tmp_path / "d", small_model.config.codec).settings["points"] == []
    assert main(arguments) == 2
    assert f"{tmp_path / 'd' / FILE} exists already: choose another folder" in capsys.readouterr().err
