"""The full-size recipes at reduced size, through the real commands: clips and captions are encoded by files as releases
have them, then a model is trained from a converted one."""

import importlib.util
import json
import multiprocessing
import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import pytest
import torch
import yaml

from mvtrack.cli.main import main as cli
from mvtrack.config.presets import preset, training_preset
from mvtrack.config.run import load_config
from mvtrack.config.tree import to_tree
from mvtrack.data.latents import LatentFolder
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.models.diffsynth_parts import diffsynth_module
from mvtrack.models.reshoot_model import build_model, load_model, save_model
from mvtrack.training.distillation_teacher import teacher_guidance
from tests.data.public.synthesis import synthesise
from tests.data.public.test_multicamvideo import FOCAL_MM, SENSOR_MM, write_scene
from tests.trained_by_command import last_metrics
from tracking_head import CorrelationConfig, HeadConfig

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("diffsynth"), reason="diffsynth is not installed")
ROOT = Path(__file__).parents[2]
SIZE, T = (32, 48), 9
HEAD = HeadConfig(
    dim=16, heads=2, layers=1, virtual_tracks=3, iterations=2, correlation_dim=6, correlation_hidden=10,
    correlation=CorrelationConfig(levels=2, radius=1),
)  # fmt: skip


@pytest.fixture
def clip_vit(tmp_path) -> Path:
    """CLIP's image encoder of random weights and one head, in a file as a release has it."""
    module = diffsynth_module("wan_video_image_encoder")
    network = module.VisionTransformer(
        image_size=12, patch_size=4, dim=80, mlp_ratio=2, out_dim=7, num_heads=1, num_layers=3, activation="gelu"
    )
    path = tmp_path / "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
    torch.save({f"visual.{name}": value for name, value in network.state_dict().items()}, path)
    return path


def reduced(name: str, umt5: Path, vae: Path, clip: Path, tmp_path: Path) -> Path:
    """A shipped config with a tiny transformer and tiny encoders; everything else is its own."""
    run = load_config(ROOT / f"configs/{name}.yaml")
    image_dim = 80 if run.model.image else 0
    dit = replace(
        run.model.dit, dim=24, ffn_dim=28, num_heads=2, num_layers=3, text_dim=12, freq_dim=10, image_dim=image_dim
    )
    model = replace(
        run.model, dit=dit, codec=replace(run.model.codec, weights=str(vae)), tap_layer=1, sizes=(SIZE,),
        text=replace(run.model.text, weights=str(umt5), length=7), num_frames=T, tracking=run.model.tracking and HEAD,
        image=replace(run.model.image, weights=str(clip)) if run.model.image else None,
    )  # fmt: skip
    latents = replace(run.data.latents[0], root=str(tmp_path / "latents"), size=SIZE, held_out=1)
    data = replace(run.data, latents=(latents,), num_frames=T, workers=0)
    loss = replace(run.loss, correspondence_queries=32, tracking_points=8)
    train = replace(
        run.train, steps=3, batch_size=2, compile=False, log_every=1, save_every=2, validate_every=3, validate_clips=1,
        keep_every=None, init_from=str(tmp_path / "start"), run_dir=str(tmp_path / "run"),
    )  # fmt: skip
    tree = to_tree(replace(run, model=model, data=data, loss=loss, train=train))
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(tree))
    start = replace(model, tracking=None, sampling=preset("recammaster_1.3b").sampling)  # as converted: without a head
    save_model(build_model(start, seed=5), tmp_path / "start")
    return tmp_path / "run.yaml"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["recammaster_1.3b", "redirector_1.3b", "wan_14b"])
def test_recipe_trains_at_reduced_size(umt5, wan_vae_file, clip_vit, tmp_path, monkeypatch, capsys, name):
    monkeypatch.setenv("MVTRACK_CACHE", str(tmp_path / "cache"))
    config = reduced(name, umt5, wan_vae_file, clip_vit, tmp_path)
    assert cli(["prepare", "--rendered", "3", "--config", str(config)]) == 0, capsys.readouterr().err
    folder = LatentFolder(load_config(config).data.latents[0], T)
    clip = folder.clip("rendered_000000", [0, 1], reverse=True)
    assert clip.latents.shape == (2, 3, 16, 4, 6)
    assert (clip.image is not None) == (name == "redirector_1.3b")
    assert folder.text("", 7).shape == (7, 12)
    partitioned = name == "wan_14b"
    assert (load_config(config).train.zero_stage == 3) == partitioned
    last = last_metrics(config, *(["--ranks", "2"] if partitioned else []))
    assert last["step"] == 3
    assert all(last[f"loss/{part}"] > 0 for part in ("flow", "correspondence", "tracking"))
    assert last["validation/psnr_db"] > 0
    assert "validation/true_minus_mirrored_db" in last
    start, made = load_model(tmp_path / "start"), load_model(tmp_path / "run/model")
    assert made.config.native_camera == training_preset({"wan_14b": "wan2.1_t2v_14b"}.get(name, name)).native_camera
    assert made.dit.tracking_head is not None
    after = dict(made.dit.named_parameters())
    moved = {n for n, p in start.dit.named_parameters() if (p - after[n]).abs().max() > 1e-2 * p.abs().max()}
    trained = ("self_attn.", "camera_proj.", "ray_encoder.", "cam_encoder.", "projector.")
    assert moved
    assert all(any(part in name for part in trained) for name in moved)


@pytest.mark.slow
def test_a_guided_teacher_is_distilled_at_reduced_size(umt5, wan_vae_file, clip_vit, tmp_path, monkeypatch, capsys):
    """The negative caption's features come from the text encoder; the student is sampled without guidance."""
    monkeypatch.setenv("MVTRACK_CACHE", str(tmp_path / "cache"))
    config = reduced("distill_1.3b", umt5, wan_vae_file, clip_vit, tmp_path)
    assert cli(["prepare", "--rendered", "3", "--config", str(config)]) == 0, capsys.readouterr().err
    assert teacher_guidance(load_config(config)) == 5
    last = last_metrics(config)
    assert last["step"] == 3
    assert last["loss/distillation"] > 0
    assert "loss/flow" not in last
    assert SamplerOptions.of(load_model(tmp_path / "run/model").config) == SamplerOptions(steps=4, guidance=1)


def write_multicamvideo(root: Path, scenes: int, views: int) -> Path:
    """A dataset with tracks and with captions of some videos, ReCamMaster's `metadata.csv`."""
    rows = ["file_name,text"]
    for n in range(scenes):
        truth = synthesise(n, views, T, size=(46, 46), square_lens=FOCAL_MM / SENSOR_MM)
        write_scene(root / f"train/f24_aperture5/scene{n + 1}", truth)
        rows += [f"train/f24_aperture5/scene{n + 1}/videos/cam{v:02d}.mp4,a dog {n} from {v}" for v in range(1, 4)]
    (root / "metadata.csv").write_text("\n".join(rows))
    return root


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("deepspeed"), reason="deepspeed is not installed")
def test_multicamvideo_is_prepared_and_trained_on_by_two_commands(umt5, wan_vae_file, clip_vit, tmp_path, monkeypatch):
    """Scenes of ten views with captions and tracks, as docs/finetune_recammaster.md has them."""
    monkeypatch.setenv("MVTRACK_CACHE", str(tmp_path / "cache"))
    config = reduced("recammaster_1.3b", umt5, wan_vae_file, clip_vit, tmp_path)
    data, tools = write_multicamvideo(tmp_path / "data", 3, 10) / "train", Path(sys.executable)
    for command in (
        [tools.with_name("mvtrack"), "prepare", data, "--config", config],
        [tools.with_name("deepspeed"), "--num_gpus", "2", "--master_port", "29643", ROOT / "mvtrack/train.py",
         "--config", config],
    ):  # fmt: skip
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=tmp_path, timeout=900)
        assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]
    folder = LatentFolder(load_config(config).data.latents[0], T)
    assert (len(folder.training), len(folder.held_out), folder.num_views(folder.training[0])) == (2, 1, 10)
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    last = {name: value for row in rows for name, value in row.items()}
    assert last["step"] == 3
    assert all(last[f"loss/{part}"] > 0 for part in ("flow", "correspondence", "tracking"))


def _with_cache(cache: str, command: list[str]) -> None:
    os.environ["MVTRACK_CACHE"] = cache
    cli(command)


@pytest.mark.slow
def test_twenty_kills_of_a_preparation_change_no_byte(umt5, wan_vae_file, clip_vit, tmp_path, monkeypatch):
    """Latents, tracks and captions equal those of a preparation that nobody killed, the files themselves."""
    monkeypatch.setenv("MVTRACK_CACHE", str(tmp_path / "cache"))
    config, root = reduced("recammaster_1.3b", umt5, wan_vae_file, clip_vit, tmp_path), tmp_path / "latents"
    data = write_multicamvideo(tmp_path / "data", 7, 3)
    command = ["prepare", str(data), "--config", str(config)]
    context = multiprocessing.get_context("forkserver")  # twenty processes, one import of all that they need
    context.set_forkserver_preload([__name__, "mvtrack.training.encode_clips", "transformers"])

    def contents() -> dict[str, bytes]:
        files = (path for path in root.rglob("*") if path.is_file() and not path.name.endswith(".lock"))
        # of safetensors' own, which a kill leaves
        files = (path for path in files if not path.name.startswith(".tmp"))
        return {str(path.relative_to(root)): path.read_bytes() for path in files}

    assert cli(command) == 0
    expected = contents()
    assert all(any(fnmatch(name, kind) for name in expected) for kind in ("clip_*", "tracks/*", "text/*"))
    root.rename(tmp_path / "whole")
    shutil.rmtree(tmp_path / "cache")  # of captions' features, which are written anew too
    draw = random.Random(5)
    for _ in range(20):
        process = context.Process(target=_with_cache, args=(os.environ["MVTRACK_CACHE"], command))
        before = set(root.rglob("*"))
        process.start()
        while process.is_alive() and not set(root.rglob("*")) - before:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.5))
        process.kill()
        process.join()
        if written := sorted(root.rglob("*.safetensors")):
            draw.choice(written).unlink()  # so that something is left to do
    assert cli(command) == 0
    assert contents() == expected
