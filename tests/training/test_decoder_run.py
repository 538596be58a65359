"""Training of aligning decoders by the one trainer: what they learn from, that they learn, and that they go on."""

import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mvtrack.config.decoder import DecoderConfig, DecoderDataConfig
from mvtrack.config.run import load_config, load_training_config, training_from_tree
from mvtrack.config.training import TrainConfig
from mvtrack.data.synthetic.bank import Bank, BankRecipe
from mvtrack.data.synthetic.objects import object_clip
from mvtrack.models.decoder.files import load_aligner, load_fitted_codec
from mvtrack.models.decoder.scene import DecoderScene
from mvtrack.models.pca_codec import build_codec
from mvtrack.models.reshoot_model import save_model
from mvtrack.models.sd_vae import empty_autoencoder
from mvtrack.training import decoder_run
from mvtrack.training.decoder_examples import (
    ClipDataset,
    noisy_depth,
    restored_latents,
    scene_of,
    shown_by_first,
    surface_depth,
    swept_depth,
    unit_of,
)
from mvtrack.training.loop import train
from tests.data.public.object_layouts import ORTHO_SCALE, write_objects

CONFIGS = Path(__file__).parents[2] / "configs"
SIZES = {
    "block_out_channels": (32, 64, 128, 128), "layers_per_block": 2, "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4, "scaling_factor": 0.18215,
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A small SVD's VAE in a folder, and beside it a bank of objects."""
    folder = tmp_path_factory.mktemp("svd")
    with torch.random.fork_rng():
        torch.manual_seed(5)
        empty_autoencoder("svd_vae", SIZES).save_pretrained(folder / "vae")
    return folder


@pytest.fixture
def svd_job(place, tmp_path):
    """A config tree of six views of 16 pixels, in a folder of its own."""

    def make(name: str = "run", **train) -> dict:
        codec = {"kind": "svd_vae", "channels": 4, "stride": 8, "scaling": 0.18215, "weights": str(place)}
        aligner = {"width": 32, "points": [3, 2, 2, 1], "dim": 8, "sources": 2}
        return {
            "decoder": {"codec": codec, "aligner": aligner},
            "data": {"kind": "wonder3d", "root": str(place / "bank"), "size": [16, 16], "num_scenes": 3, "workers": 0},
            "optim": {"lr": 1.0e-2, "warmup_steps": 0, "schedule": "constant"},
            "train": {
                "steps": 4, "batch_size": 2, "micro_batch_size": 1, "save_every": 2, "validate_every": 4,
                "validate_clips": 2, "log_every": 1, "run_dir": str(tmp_path / name), **train,
            },
        }  # fmt: skip

    return make


def weights_of(run_dir: str | Path, codec) -> dict[str, torch.Tensor]:
    return load_aligner(Path(run_dir) / "model", codec).state_dict()


def largest_difference(one: dict, other: dict) -> float:
    return max((one[name] - other[name]).abs().max().item() for name in one)


def test_decoder_trains_by_the_one_trainer_and_goes_on(svd_job, one_rank, tmp_path):
    assert one_rank.train(svd_job("whole")) == [None]
    config = training_from_tree(svd_job("whole"), "job")
    whole = weights_of(config.train.run_dir, config.decoder.codec)
    assert all(whole[f"levels.{i}.out.weight"].abs().max() > 0 for i in range(4))
    lines = [json.loads(line) for line in (Path(config.train.run_dir) / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss/mse" in line] == [1, 2, 3, 4]
    assert lines[0]["speed/tflops_per_device"] > 0
    scores = next(line for line in lines if "validation/psnr_db" in line)
    assert 0 <= scores["validation/codec_pixel_matches"] < 1
    assert scores["validation/gain_db"] == pytest.approx(
        scores["validation/psnr_db"] - scores["validation/codec_psnr_db"]
    )
    assert one_rank.train(svd_job("parts", stop_after=2)) == [None]
    assert one_rank.train(svd_job("parts", gradient_checkpointing=True), resume="auto") == [None]
    parts = weights_of(tmp_path / "parts", config.decoder.codec)
    assert largest_difference(whole, parts) == 0
    changed = svd_job("parts")
    changed["decoder"]["noise"] = "none"
    (error,) = one_rank.train(changed, resume="auto")
    assert "decoder.noise was 'structured', is 'none'" in error


@pytest.mark.parametrize(("tune", "patterns"), [("both", ["levels.*", "host.conv_out.*"]), ("decoder", ["*"])])
def test_host_is_tuned_as_asked_and_goes_on(svd_job, one_rank, place, tune, patterns):
    """By patterns of its weights; alone, attention stays as it starts. Precision of training does not matter to it."""

    def job(name: str, **train) -> dict:
        tree = svd_job(name, **train)
        tree["decoder"]["tune"], tree["optim"]["trainable"] = tune, patterns
        return tree

    assert one_rank.train(job("whole")) == [None]
    assert one_rank.train(job("parts", stop_after=2)) == [None]
    assert one_rank.train(job("parts"), resume="auto") == [None]
    config = training_from_tree(job("whole"), "job")
    aligners = [load_aligner(Path(training_from_tree(job(n), "job").train.run_dir) / "model", config.decoder.codec)
                for n in ("whole", "parts")]  # fmt: skip
    whole, parts = ({**x.state_dict(), **x.tuned} for x in aligners)
    assert largest_difference(whole, parts) == 0
    assert (whole["levels.0.out.weight"].abs().max() > 0) == (tune == "both")
    own = build_codec(config.decoder.codec).network(torch.device("cpu")).decoder.state_dict()
    moved = {name.split(".")[0] for name, value in own.items() if not torch.equal(value, whole[name])}
    assert moved == ({"conv_out"} if tune == "both" else {name.split(".")[0] for name in own})


def test_fitted_codec_goes_on_and_lies_with_the_decoder(one_rank, svd_job, tmp_path):
    tree = svd_job("fitted", stop_after=2, validate_every=2)
    tree["decoder"] = {"codec": {"kind": "pca", "channels": 5, "stride": 4}, "aligner": {"width": 8, "dim": 8}}
    assert one_rank.train(tree) == [None]
    first = load_fitted_codec(tmp_path / "fitted/model")
    del tree["train"]["stop_after"]
    assert one_rank.train(tree, resume="auto") == [None]
    codec = load_fitted_codec(tmp_path / "fitted/model")
    assert all(torch.equal(x, first.state_dict()[name]) for name, x in codec.state_dict().items())
    clip = ClipDataset(training_from_tree(tree, "job").data, TrainConfig()).clip(0)
    latents = codec.encode(clip.video[None])
    assert latents.shape == (1, 6, 1, 5, 4, 4)
    aligner = load_aligner(tmp_path / "fitted/model", codec.config)
    scene = scene_of(clip, surface_depth(clip))
    assert aligner.decode(codec, latents[0], scene).shape == clip.video.shape
    assert (codec.decode(latents)[0] - clip.video).abs().mean() < 0.2


@pytest.mark.parametrize("rig", ["wonder3d", "syncdreamer"])
def test_public_renders_train_a_decoder(svd_job, one_rank, tmp_path, rig):
    """Of four objects two are validated on; where files have no depth it is swept."""
    write_objects(tmp_path / "gso", rig, [object_clip(seed, rig, 16) for seed in range(4)])
    tree = svd_job("renders", steps=2, validate_every=2)
    tree["decoder"] = {"codec": {"kind": "pca", "channels": 5, "stride": 4}, "aligner": {"width": 8, "dim": 8}}
    tree["data"] |= {"kind": "renders", "root": str(tmp_path / "gso"), "num_scenes": 100, "views": [0, 1, 2]}
    tree["data"] |= {"ortho_scale": ORTHO_SCALE} if rig == "wonder3d" else {}
    assert one_rank.train(tree) == [None]
    config = training_from_tree(tree, "job")
    dataset = ClipDataset(config.data, config.train)
    assert dataset.num_scenes == 2
    assert [number for number, _ in dataset.held_out(2)] == [2, 3]
    clip = dataset.clip(0)
    assert (clip.depth[clip.masks] > 0).all()
    assert (clip.depth[~clip.masks] == 0).all()
    tree["train"]["validate_clips"] = 4
    (error,) = one_rank.train(tree | {"train": tree["train"] | {"run_dir": str(tmp_path / "none")}})
    assert "holds 4 objects, of which train.validate_clips takes 4: none is left" in error


@pytest.mark.slow
def test_two_ranks_train_what_one_does(svd_job, one_rank, two_ranks, tmp_path):
    assert one_rank.train(svd_job("one")) == [None]
    codec = training_from_tree(svd_job(), "job").decoder.codec
    one = weights_of(tmp_path / "one", codec)
    for stage in (0, 2):
        assert two_ranks.train(svd_job(f"two{stage}", zero_stage=stage)) == [None, None]
        assert largest_difference(one, weights_of(tmp_path / f"two{stage}", codec)) < 1e-5


@pytest.fixture(scope="module")
def bank(tmp_path_factory) -> Bank:
    return Bank(
        tmp_path_factory.mktemp("scenes"), BankRecipe((24, 32), num_frames=5, num_views=2, num_points=3, seed=5)
    )


def test_target_latents_are_restored_by_the_model(small_model, bank):
    clip = bank.clip(0, [0, 1], slice(0, 5))
    latents = restored_latents(small_model, clip, 0.7, seed=3)
    own = small_model.encode(clip.video[None])[0]
    assert torch.equal(latents[0], own[0])
    assert not torch.equal(latents[1], own[1])
    assert torch.equal(restored_latents(small_model, clip, 0.7, seed=3), latents)
    # a model of velocities is at the truth where it predicts noise less truth; at no noise both kinds restore all
    velocity = replace(
        small_model, config=replace(small_model.config, flow=replace(small_model.config.flow, prediction="velocity"))
    )
    torch.testing.assert_close(restored_latents(velocity, clip, 0.0, seed=3), own)


def test_objects_have_a_surface_everywhere_and_noise_in_their_own_unit(tmp_path):
    data = DecoderDataConfig("wonder3d", str(tmp_path), (22, 22), num_scenes=2)
    clip = ClipDataset(data, TrainConfig()).clip(1)
    depth = surface_depth(clip)
    assert torch.equal(depth[clip.masks], clip.depth[clip.masks])
    torch.testing.assert_close(depth[~clip.masks], torch.full_like(depth[~clip.masks], 1.3))
    assert unit_of(clip) == 1.0
    none, structured, independent = (
        noisy_depth(clip, DecoderConfig(noise=noise), torch.Generator().manual_seed(2))
        for noise in ("none", "structured", "independent")
    )
    exact = scene_of(clip, depth)
    assert exact.radius == pytest.approx(0.1)
    assert torch.equal(none, depth)
    assert exact.pixels[0, :, 3].all()
    assert not exact.pixels[1:, :, 3].any()
    away = (structured - depth).abs()
    assert 0.01 < away.max() < 0.1 * (1 + 1 / 3 + 1 / 9)
    assert 0.09 < (independent - depth).abs().max() <= 0.1 + 1e-6
    assert (structured - depth).diff(dim=-1).abs().mean() < 0.8 * (independent - depth).diff(dim=-1).abs().mean()


def test_some_views_of_a_rig_are_trained_on(tmp_path):
    """In the order asked for; what the first one shows is known of the others."""
    data = DecoderDataConfig("syncdreamer", str(tmp_path), (24, 24), num_scenes=2, views=(0, 1, 15))
    clip = ClipDataset(data, TrainConfig()).clip(1)
    whole = ClipDataset(replace(data, views=None), TrainConfig()).clip(1).views([0, 1, 15])
    assert torch.equal(clip.video, whole.video)
    assert torch.equal(clip.camera.c2w, whole.camera.c2w)
    shown = shown_by_first(clip)
    assert torch.equal(shown[0], clip.masks[0])
    for view in (1, 2):
        assert 0.3 < shown[view].sum() / clip.masks[view].sum() < 1
        assert not (shown[view] & ~clip.masks[view]).any()
    for views, kind in (((0,), "wonder3d"), ((0, 6), "wonder3d"), ((1, 1), "syncdreamer"), ((0, 1), "moving")):
        with pytest.raises(ValueError, match=r"data\.views"):
            DecoderDataConfig(kind, views=views)


def test_depth_of_objects_is_found_from_their_neighbours(tmp_path):
    data = DecoderDataConfig("syncdreamer", str(tmp_path), (64, 64), num_scenes=1)
    clip = ClipDataset(data, TrainConfig()).clip(0).views([0, 1, 2])
    swept, away = swept_depth(clip, clip.video), float(clip.camera.c2w[0, 0, :3, 3].norm())
    wrong = (swept - clip.depth).abs()[clip.masks].median()
    assert wrong < 0.5 * (away - clip.depth).abs()[clip.masks].median()  # better than a plane through the centre


def test_samples_are_numbered_over_all_ranks(tmp_path):
    data = DecoderDataConfig("wonder3d", str(tmp_path), (22, 22), num_scenes=5)
    train = TrainConfig(batch_size=4, micro_batch_size=2)
    whole = ClipDataset(data, train)[3]
    parts = [ClipDataset(data, train, rank, 2)[3] for rank in range(2)]
    assert [batch.keys for part in parts for batch in part] == [batch.keys for batch in whole]
    assert torch.cat([batch.index for batch in whole]).tolist() == [12, 13, 14, 15]
    held_out = {clip.key for _, clip in ClipDataset(data, train).held_out(2)}
    assert held_out.isdisjoint(key for step in range(8) for b in ClipDataset(data, train)[step] for key in b.keys)
    with pytest.raises(ValueError, match="train.batch_size 4 must be a multiple of 3 ranks"):
        ClipDataset(data, train, 0, 3)


@pytest.mark.slow
def test_aligner_learns_from_other_view(small_model, tmp_path, monkeypatch):
    """The target's latents say nothing here: all that there is to learn lies in the reference."""

    def blind(model, clip, sigma, seed):
        latents = model.encode(clip.video[None])[0]
        return torch.stack([latents[0], torch.zeros_like(latents[1])])

    monkeypatch.setattr(decoder_run, "restored_latents", blind)
    save_model(small_model, tmp_path / "m")
    tree = {
        "decoder": {
            "model": str(tmp_path / "m"), "latents": "restored", "noise": "none", "aligner": {"width": 8, "dim": 16},
        },
        "data": {"root": str(tmp_path / "bank"), "size": [24, 32], "num_scenes": 3, "num_frames": 5, "frames": 3,
                 "seed": 5, "workers": 0},
        "optim": {"lr": 5.0e-3, "warmup_steps": 5},
        "train": {"steps": 120, "ema_decay": 0.9, "validate_clips": 1, "run_dir": str(tmp_path / "run")},
    }  # fmt: skip
    config = training_from_tree(tree, "run")
    aligner = load_aligner(train(config), small_model.config.codec)
    errors = {"codec": 0.0, "aligned": 0.0, "wrong": 0.0}
    with torch.no_grad():
        for number in range(3):
            clip = ClipDataset(config.data, config.train).clip(number)
            latents = blind(small_model, clip, 0.7, number)
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder": {"model": "m"}}, "decoder.model has a codec: leave decoder.codec out"),
        ({"decoder": {"latents": "restored"}}, "decoder.latents restored needs the model"),
        ({"decoder": {"sigma": [0.9, 0.2]}}, "decoder.sigma must be two noise levels, the lower first"),
        ({"decoder": {"perceptual": 0.1}}, "decoder.perceptual and decoder.perceptual_backbone go together"),
        ({"decoder": {"noise": "loud"}}, "noise must be one of structured, independent, none"),
        ({"data": {"num_frames": 5}}, "data.kind wonder3d has square pictures of one frame"),
        ({"data": {"frames": 2}}, "data.frames 2 are more than data.num_frames, 1"),
        ({"train": {"zero_stage": 3}}, "train.zero_stage is not for the training of a decoder: set it to 2"),
        ({"train": {"compile": True}}, "train.compile is not for the training of a decoder"),
        (
            {"train": {"gradient_checkpointing": True, "checkpoint_keep": "attention"}},
            "train.checkpoint_keep is not for the training of a decoder: set it to nothing",
        ),
        ({"decoder": {"matching": {"matcher": "loftr"}}}, "matching.matcher loftr needs matching.weights"),
    ],
)
def test_unfit_settings_are_refused(svd_job, change, message):
    tree = deepcopy(svd_job())
    for section, values in change.items():
        tree[section] = {**tree[section], **values}
    with pytest.raises(ValueError, match=message):
        training_from_tree(tree, "run.yaml")


def test_decoders_configs_are_for_training_alone(capsys):
    for path in sorted(CONFIGS.glob("decoder_*.yaml")):
        assert load_training_config(path).decoder.noise == "structured"
        with pytest.raises(ValueError, match=rf"{path.name} trains an .* only `mvtrack train` and `mvtrack doctor`"):
            load_config(path)
