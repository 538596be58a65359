"""From files as releases have them to a video: transformer, VAE, text encoder and tokenizer, all tiny."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import yaml

from mvtrack.cli.convert import main as convert
from mvtrack.cli.main import main as cli
from mvtrack.config.encoders import CodecConfig, ImageConfig, TextConfig
from mvtrack.config.model import DiTConfig, ModelConfig, RayConfig, SamplingConfig
from mvtrack.config.placement import EncoderSources
from mvtrack.config.tree import to_tree
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.inference import batch
from mvtrack.inference import device as placement
from mvtrack.inference import pipeline as reshooting
from mvtrack.inference import sampler as generating
from mvtrack.inference.memory import check_memory as refuse
from mvtrack.inference.sampler import SamplerOptions, generate
from mvtrack.models import image_encoder, wan_vae
from mvtrack.models import reshoot_model as backbone_model
from mvtrack.models.conditioning import Window
from mvtrack.models.decoder.files import load_aligner
from mvtrack.models.diffsynth_parts import diffsynth_module
from mvtrack.models.encoder_sources import with_sources
from mvtrack.models.prompts import Captions, make_prompts
from mvtrack.models.reshoot_model import build_model, load_model, save_model
from mvtrack.video.reader import open_video
from mvtrack.video.writer import write_video

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("diffsynth"), reason="diffsynth is not installed")
T, H, W = 5, 32, 48


@pytest.fixture
def config(umt5, wan_vae_file, tmp_path, monkeypatch) -> ModelConfig:
    """Of a tiny ReCamMaster whose encoders lie in files."""
    monkeypatch.setenv("MVTRACK_CACHE", str(tmp_path / "cache"))
    return ModelConfig(
        dit=DiTConfig(dim=24, ffn_dim=28, num_heads=2, num_layers=2, text_dim=12, freq_dim=10, projector=True),
        rays=RayConfig(token_px=16, stride=8),
        codec=CodecConfig(kind="wan_vae", channels=16, stride=8, weights=str(wan_vae_file)),
        text=TextConfig(weights=str(umt5), length=7),
        tap_layer=1,
        sizes=((H, W),),
        num_frames=T,
        sampling=SamplingConfig(steps=2, guidance=3.0, precision="bfloat16"),
    )


def test_converted_model_generates_video(config, tmp_path):
    made = build_model(config, seed=3).dit.state_dict()
    released = {k: v for k, v in made.items() if not k.startswith("ray_encoder.") and ".camera_proj." not in k}
    torch.save(released, tmp_path / "step20000.ckpt")
    tree = {"model": to_tree(config), "data": {"num_frames": T, "banks": [{"size": [H, W], "num_frames": T}]}}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree))
    assert convert([str(tmp_path), str(tmp_path / "model"), "--config", str(tmp_path / "run.yaml")]) == 0

    model = load_model(tmp_path / "model")
    reference = torch.rand(T, 3, H, W, generator=torch.Generator().manual_seed(1)) * 2 - 1
    camera = Camera(torch.eye(4).expand(2, T, 4, 4), intrinsics_from_fov(60.0, (H, W)).expand(2, T, 3, 3), (H, W))

    def video(caption: str, guidance: float) -> torch.Tensor:
        told = make_prompts(model.config, reference[0], Captions(caption, guidance=guidance))
        sample = SamplerOptions(steps=2, guidance=guidance)
        return generate(model, reference, Window(camera, 4.0, told), sample)

    first = video("a red ball", 5.0)
    assert first.shape == reference.shape
    assert first.isfinite().all()
    assert torch.equal(video("a red ball", 5.0), first)
    assert not torch.equal(video("down the hill", 5.0), first)
    assert not torch.equal(video("a red ball", 1.0), first)
    empty = generate(model, reference, Window(camera, 4.0), SamplerOptions(steps=2))
    assert torch.equal(video("", 1.0), empty)
    unguided = make_prompts(model.config, reference[0], Captions("a red ball"))
    with pytest.raises(ValueError, match="guidance needs the features of two captions"):
        generate(model, reference, Window(camera, 4.0, unguided), SamplerOptions(2, guidance=5.0))


@pytest.fixture
def folder(config, tmp_path):
    return save_model(build_model(config, seed=3), tmp_path / "model").parent


def run(capsys, *arguments) -> tuple[int, str]:
    code = cli(["reshoot", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.err.splitlines()[-1] if captured.err else captured.out


def test_reshoot_uses_models_sampling_defaults(video, folder, tmp_path, capsys, monkeypatch):
    code, error = run(capsys, video, "--camera", "arc_left", "--model", folder, "--out", tmp_path / "o")
    assert code == 0, error
    record = json.loads((tmp_path / "o/run.json").read_text())
    assert record["shot"]["sample"] == {"steps": 2, "guidance": 3.0, "seed": 0, "camera_guidance": 1.0}
    assert "caption" not in record["shot"]
    assert record["placement"] == {
        "device": "cpu", "offload": "none", "compile": False, "attention": "auto", "batched_guidance": False,
        "tiled": False, "encoders_on_cpu": False, "precision": "bfloat16",
    }  # fmt: skip
    assert record["peak_memory_gib"] > 0
    arguments = [
        "--caption",
        "a red ball",
        "--guidance",
        1,
        "--steps",
        1,
        "--offload",
        "blocks",
        "--precision",
        "float32",
    ]
    code, error = run(capsys, video, "--camera", "arc_left", "--model", folder, "--out", tmp_path / "p", *arguments)
    assert code == 0, error
    record = json.loads((tmp_path / "p/run.json").read_text())
    assert record["shot"]["sample"]["guidance"] == 1
    assert record["shot"]["caption"] == "a red ball"
    assert record["placement"]["precision"] == "float32"


@pytest.mark.slow
def test_aligner_trains_behind_wan_vae(video, folder, tmp_path, capsys):
    sizes = {"width": 4, "points": [3, 3, 2, 2], "dim": 8}
    scenes = {"root": str(tmp_path / "scenes"), "size": [H, W], "num_scenes": 1, "num_frames": T, "frames": T}
    tree = {
        "decoder": {"model": str(folder), "latents": "restored", "aligner": sizes},
        "data": {**scenes, "workers": 0},
        "train": {"steps": 2, "validate_clips": 1, "run_dir": str(tmp_path / "d")},
    }
    config, made = tmp_path / "decoder.json", tmp_path / "d/model"  # JSON is YAML
    config.write_text(json.dumps(tree))
    subprocess.run([sys.executable, "-m", "mvtrack", "train", "--config", str(config)], check=True, timeout=300)
    aligner = load_aligner(made, load_model(folder).config.codec)
    assert all(level.out.weight.abs().max() > 0 for level in aligner.levels)
    arguments = [video, "--camera", "arc_left", "--model", folder, "--steps", 1, "--decoder", made]
    code, error = run(capsys, *arguments, "--out", tmp_path / "o")
    assert code == 0, error
    assert len(open_video(tmp_path / "o/video.mp4")) == 7
    code, error = run(capsys, *arguments, "--out", tmp_path / "p", "--tiled")
    assert code == 0, error
    assert len(open_video(tmp_path / "p/video.mp4")) == 7


@pytest.mark.slow
def test_encoder_paths_of_command_override_model(video, config, folder, umt5, wan_vae_file, tmp_path, capsys):
    """A model that was converted on another machine names paths that are not there."""
    gone = EncoderSources(vae=str(tmp_path / "gone.pth"), text=str(tmp_path / "gone"))
    elsewhere = save_model(build_model(with_sources(config, gone), seed=3), tmp_path / "elsewhere").parent
    arguments, out = [video, "--camera", "arc_left", "--steps", 1], tmp_path / "o"
    assert run(capsys, *arguments, "--model", folder, "--out", tmp_path / "as_told")[0] == 0
    code, error = run(capsys, *arguments, "--model", elsewhere, "--out", out)
    assert code == 2
    assert str(tmp_path / "gone") in error
    found = ["--vae", wan_vae_file, "--text", umt5]
    code, error = run(capsys, *arguments, "--model", elsewhere, "--out", out, *found)
    assert code == 0, error
    assert (out / "video.mp4").read_bytes() == (tmp_path / "as_told/video.mp4").read_bytes()
    record = json.loads((out / "run.json").read_text())
    assert record["placement"]["encoders"] == {"vae": str(wan_vae_file), "text": str(umt5)}
    assert record["model"]["config"]["codec"]["weights"] == str(wan_vae_file)
    code, error = run(capsys, *arguments, "--model", folder, "--out", tmp_path / "none", "--image", wan_vae_file)
    assert code == 2
    assert "this model takes no --image: it has no such encoder" in error


def test_table_captions_load_encoder_once(video, folder, tmp_path, capsys, monkeypatch):
    from mvtrack.models import text_encoder

    read = []
    load = text_encoder.load_encoder
    monkeypatch.setattr(text_encoder, "load_encoder", lambda *a, **k: read.append(1) or load(*a, **k))
    table = tmp_path / "jobs.csv"
    rows = [
        "video,caption,negative,guidance,steps,out",
        f"{video},a red ball,,,,a",
        f"{video},down the hill,a hill,2,1,b",
    ]
    table.write_text("\n".join(rows) + "\n")
    arguments = [table, "--camera", "pan_left", "--model", folder, "--out", tmp_path / "o", "--caption", "the hill"]
    code, error = run(capsys, *arguments)
    assert code == 0, error
    first, second = (json.loads((tmp_path / "o" / name / "run.json").read_text())["shot"] for name in "ab")
    assert (first["caption"], first["sample"]["guidance"], first["sample"]["steps"]) == ("a red ball", 3.0, 2)
    assert (second["caption"], second["negative"]) == ("down the hill", "a hill")
    assert (second["sample"]["guidance"], second["sample"]["steps"]) == (2.0, 1)
    assert len(read) == 1


@pytest.mark.slow
def test_vae_tiles_make_whole_video(video, folder, tmp_path, capsys, monkeypatch):
    """Latents of 4 x 6, in tiles of 3 x 4."""
    monkeypatch.setattr(placement, "TILE", (3, 4))
    monkeypatch.setattr(placement, "TILE_STRIDE", (1, 2))
    coded = []
    tiles = wan_vae.tiles

    def note(*arguments):
        coded.append(list(tiles(*arguments)))
        return coded[-1]

    monkeypatch.setattr(wan_vae, "tiles", note)
    made = {}
    for name, options in (("whole", []), ("tiled", ["--tiled"])):
        out = tmp_path / name
        arguments = [video, "--camera", "arc_left", "--model", folder, "--out", out, "--steps", 1, *options]
        code, error = run(capsys, *arguments)
        assert code == 0, error
        made[name] = open_video(out / "video.mp4").read(0, T, (H, W)).float()
    assert {1, 4} == set(map(len, coded))  # whole pictures, then tiles
    assert made["tiled"].shape == made["whole"].shape
    assert not torch.equal(made["tiled"], made["whole"])  # random weights see their whole picture
    assert json.loads((tmp_path / "tiled/run.json").read_text())["placement"]["tiled"] is True


@pytest.fixture
def seeing(config, tmp_path):
    """A model with an image branch, like ReDirector's base, and a tiny CLIP."""
    network = diffsynth_module("wan_video_image_encoder").VisionTransformer(
        image_size=12, patch_size=4, dim=80, mlp_ratio=2, out_dim=7, num_heads=1, num_layers=2, activation="gelu"
    )
    state = {f"visual.{name}": value for name, value in network.state_dict().items()}
    state |= {"textual.norm.weight": torch.ones(2), "log_scale": torch.zeros(())}
    clip = tmp_path / "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
    torch.save(state, clip)
    dit = replace(config.dit, image_dim=80, rope_frames="shared")
    config = replace(config, dit=dit, image=ImageConfig(weights=str(clip)))
    return save_model(build_model(config, seed=3), tmp_path / "seeing").parent


def test_windows_see_own_first_frame_and_clip_loads_once(video, seeing, tmp_path, capsys, monkeypatch):
    """Two videos of two windows each; CLIP is gone when the transformer comes."""
    still = open_video(video).read(0, 7)
    moving = torch.stack([frame.roll(11 * t, -1) for t, frame in enumerate(still)])
    video = write_video(tmp_path / "moving.mp4", moving.float() / 127.5 - 1, fps=12.0)
    read = []
    load_clip, load_dit = image_encoder.load_encoder, batch.load_model
    monkeypatch.setattr(image_encoder, "load_encoder", lambda *a, **k: read.append("clip") or load_clip(*a, **k))
    monkeypatch.setattr(batch, "load_model", lambda *a: read.append("transformer") or load_dit(*a))
    images = []
    encode = generating.encode_conditioning

    def note(*arguments):
        images.append(encode(*arguments).image)
        return encode(*arguments)

    monkeypatch.setattr(generating, "encode_conditioning", note)
    table = tmp_path / "jobs.csv"
    table.write_text(f"video,camera,out,guidance,steps\n{video},pan_left,a,1,1\n{video},pan_right,b,1,1\n")
    arguments = [table, "--camera", "pan_left", "--model", seeing, "--out", tmp_path / "o"]
    code, error = run(capsys, *arguments)
    assert code == 0, error
    assert read == ["clip", "transformer"]
    assert len(images) == 4  # seven frames in windows of five
    assert torch.equal(images[0], images[2])
    assert not torch.equal(images[0], images[1])


def test_clip_is_freed_before_transformer_loads(video, seeing, tmp_path, capsys, monkeypatch):
    read = []
    load_clip, load_dit = image_encoder.load_encoder, backbone_model.load_model
    monkeypatch.setattr(image_encoder, "load_encoder", lambda *a, **k: read.append("clip") or load_clip(*a, **k))
    monkeypatch.setattr(backbone_model, "load_model", lambda *a: read.append("transformer") or load_dit(*a))
    arguments = [video, "--camera", "pan_left", "--model", seeing, "--steps", 1, "--query", "40,20,5"]
    assert cli(["attention", *map(str, arguments), "--out", str(tmp_path / "o")]) == 0, capsys.readouterr().err
    assert read == ["clip", "transformer"]
    far = [*arguments[:-1], "40,20,99"]
    assert cli(["attention", *map(str, far), "--out", str(tmp_path / "p")]) == 2
    assert "the query's frame 99 does not exist: it must lie in [0, 6]" in capsys.readouterr().err
    assert read == ["clip", "transformer"]  # refused before anything is loaded


@pytest.mark.slow
def test_longer_window_covers_video(video, seeing, tmp_path, capsys, monkeypatch):
    arguments = [video, "--camera", "pan_left", "--model", seeing, "--steps", 1]
    code, error = run(capsys, *arguments, "--out", tmp_path / "o", "--window", 9)
    assert code == 0, error
    record = json.loads((tmp_path / "o/run.json").read_text())
    assert record["shot"]["window"] == 9
    assert record["model"]["config"]["num_frames"] == 9
    assert len(open_video(tmp_path / "o/video.mp4")) == 7
    for wrong, message in ((8, "4n + 1 frames, such as 81 or 121, got 8"), (0, "at least 1, got 0")):
        code, error = run(capsys, *arguments, "--out", tmp_path / "p", "--window", wrong)
        assert code == 2
        assert f"--window must be {message}" in error


def test_unavailable_kernel_fails_before_loading(video, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(reshooting, "load_model", lambda _: pytest.fail("the model was loaded"))
    monkeypatch.setattr(reshooting, "shot_prompts", lambda *_: pytest.fail("captions were encoded"))
    arguments = [video, "--camera", "pan_left", "--model", folder, "--out", tmp_path / "o"]
    code, error = run(capsys, *arguments, "--attention", "flash_attn_3")
    assert code == 2
    assert "attention kernel flash_attn_3: the package flash_attn_interface is not installed; works here: auto" in error


def test_low_memory_for_encoders_raises(video, folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(refuse, "free_gib", lambda _: 1e-6)
    arguments = [video, "--camera", "pan_left", "--model", folder, "--out", tmp_path / "o", "--steps", 1]
    code, error = run(capsys, *arguments)
    assert code == 2
    assert "GiB free" in error
    assert "--ignore-memory" in error
    assert run(capsys, *arguments, "--ignore-memory")[0] == 0


def test_out_of_memory_fails_one_video(video, folder, tmp_path, capsys, monkeypatch):
    def fail(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    monkeypatch.setattr(reshooting, "generate_stream", fail)
    table = tmp_path / "jobs.csv"
    table.write_text(f"video,out\n{video},a\n{video},b\n")
    code, error = run(capsys, table, "--camera", "pan_left", "--model", folder, "--out", tmp_path / "o")
    assert code == 2
    assert "2 of 2 videos failed" in error
    assert "memory ran out (CUDA out of memory. Tried to allocate 2.00 GiB.): try --offload model" in error


def test_unsupported_conditioning_is_one_line(video, small_model, tmp_path, capsys):
    plain = save_model(small_model, tmp_path / "plain").parent
    for option, message in (
        (["--caption", "a dog"], "takes no captions"),
        (["--guidance", "5"], "takes no captions"),
        (["--device", "cuda:99"], "device cuda:99 is not there"),
    ):
        code, error = run(capsys, video, "--camera", "arc_left", "--model", plain, "--out", tmp_path / "o", *option)
        assert code == 2
        assert message in error
        assert not (tmp_path / "o").exists()
