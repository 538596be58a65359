"""Training a student: the teacher is read, compared and counted; what the run leaves is sampled as it was taught."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mvtrack.config.model import SamplingConfig
from mvtrack.config.run import RunConfig, load_config
from mvtrack.config.tree import apply_override, from_tree
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.models.networks import empty_network
from mvtrack.models.pca_codec import build_codec
from mvtrack.models.reshoot_model import build_model, load_model, save_model
from mvtrack.models.weights.lora import LoRA, LowRank
from mvtrack.models.weights.lora_files import write_lora
from mvtrack.training import distillation_teacher
from mvtrack.training.checkpoint import CheckpointReader, checkpoints
from mvtrack.training.distillation_teacher import open_teacher, teacher_flops
from mvtrack.training.memory import estimate_training
from mvtrack.training.resume import refuse_changes

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base(tracking_model, tmp_path_factory) -> Path:
    """A teacher with a head that the student has not."""
    return save_model(tracking_model, tmp_path_factory.mktemp("base")).parent


@pytest.fixture
def job_of(job, base):
    def make(name: str = "run", **changes) -> dict:
        tree = job(name, **changes)
        tree["model"] = tree["model"] | {"sampling": {"steps": 2}}
        tree["loss"] = {"distillation": 1.0, "distillation_options": {"steps": 2, "teacher_steps": 6}}
        tree["train"]["init_from"] = str(base)
        return tree

    return make


@pytest.fixture
def config(job_of) -> RunConfig:
    return from_tree(RunConfig, job_of(), "tree")


@pytest.mark.parametrize("lora", [False, True])
def test_a_run_leaves_a_student_that_is_sampled_in_its_steps(one_rank, job_of, base, lora):
    tree = job_of("lora" if lora else "whole", train__steps=3, train__save_every=2, train__validate_every=3)
    if lora:
        tree["optim"] |= {"lora": {"rank": 3}, "trainable": []}
    assert one_rank.train(tree) == [None]
    run = Path(tree["train"]["run_dir"])
    made, teacher = load_model(run / "model"), load_model(base)
    assert SamplerOptions.of(made.config) == SamplerOptions(steps=2, guidance=1)
    changed = {n for n, p in made.dit.named_parameters() if not torch.equal(p, teacher.dit.get_parameter(n))}
    assert "blocks.1.self_attn.q.weight" in changed
    assert ("ray_encoder.net.0.weight" in changed) != lora
    assert (run / "lora").exists() == lora
    reader, tree["train"]["init_from"] = CheckpointReader(checkpoints(run / "checkpoints")[-1]), "elsewhere"
    with pytest.raises(ValueError, match=r"train.init_from was .* is 'elsewhere'"):  # it would be another teacher
        refuse_changes(from_tree(RunConfig, tree, "tree"), reader, accept=False)


def test_teacher_is_frozen_without_heads_and_has_the_runs_start(config, base, tracking_model, tmp_path):
    codec = tracking_model.codec
    teacher = open_teacher(config, codec, CPU)
    assert (teacher.guidance, teacher.negative_text, teacher.network.training) == (1, None, False)
    assert not any(p.requires_grad for p in teacher.network.parameters())
    assert {n.split(".")[0] for n, _ in teacher.network.named_parameters()}.isdisjoint({"tracking_head", "logit_heads"})
    half = open_teacher(replace(config, train=replace(config.train, precision="bf16")), codec, CPU)
    assert {p.dtype for p in half.network.parameters()} == {torch.bfloat16}
    pairs = {"blocks.1.ffn.0": LowRank(torch.ones(2, 24), torch.ones(32, 2), 0.5)}
    write_lora(LoRA(Path("here"), "peft", pairs, {}), tmp_path, "comfyui")
    lora = replace(config.train, init_lora=(str(tmp_path / "lora.safetensors"),))
    added = open_teacher(replace(config, train=lora), codec, CPU).network.blocks[1].ffn[0].weight
    torch.testing.assert_close(added, teacher.network.blocks[1].ffn[0].weight + 1)
    named = replace(config.loss, distillation_options=replace(config.loss.distillation_options, teacher=str(base)))
    own = open_teacher(replace(config, train=lora, loss=named), codec, CPU).network.blocks[1].ffn[0].weight
    assert torch.equal(own, teacher.network.blocks[1].ffn[0].weight)


def test_guided_as_it_is_meant_to_be_sampled(job_of, small_run, tmp_path, monkeypatch):
    """The teacher's own guidance unless the run names another, by the negative caption's features."""
    tree = job_of()
    tree["model"]["dit"] |= {"text_dim": 12}
    tree["model"]["text"] = {"length": 7}
    student = from_tree(RunConfig, tree, "tree")
    model = build_model(replace(student.model, sampling=SamplingConfig(steps=50, guidance=4.5)))
    save_model(model, tmp_path)
    student = replace(student, train=replace(student.train, init_from=str(tmp_path)))
    asked = []
    embed = lambda captions, config, device: asked.extend(captions) or torch.full((1, config.length, 12), 3.0)  # noqa: E731
    monkeypatch.setattr(distillation_teacher, "embed_captions", embed)
    teacher = open_teacher(student, model.codec, CPU)
    assert (teacher.guidance, asked) == (4.5, [distillation_teacher.NEGATIVE_PROMPT])
    assert teacher.negative_text.shape == (7, 12)
    options = replace(student.loss.distillation_options, guidance=1.0)
    plain = replace(student, loss=replace(student.loss, distillation_options=options))
    assert open_teacher(plain, model.codec, CPU).negative_text is None
    one, two = (teacher_flops(each, 96, 7, (2, 2)) for each in (plain, student))
    assert two == 2 * one > 0
    with pytest.raises(ValueError, match="guided by 4.5, which needs features of the negative caption: name the enc"):
        open_teacher(replace(student, model=replace(student.model, text=None)), model.codec, CPU)


def test_memory_and_time_count_the_teacher(config):
    plain = replace(config, loss=replace(config.loss, distillation=0.0))
    with_teacher, without = (estimate_training(each, device="cpu") for each in (config, plain))
    weights = sum(p.numel() for p in empty_network(config.model).parameters())
    assert with_teacher.parts == without.parts | {"teacher": 4 * weights}
    assert with_teacher.peak == without.peak + 4 * weights
    # three passes of the teacher beside forward and backward, which count as three
    assert with_teacher.flops == pytest.approx(2 * without.flops)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.flow.shift=5", "set model.flow.shift: 3 and prediction: x0, got 5 and x0"),
        ("model.flow.prediction=velocity", "prediction: x0, got 3 and velocity"),
        ("model.rays.fourier_bands=3", "takes other rays: set model.rays to its"),
        ("model.rays.scale=path_extent", "takes other rays: set model.rays.scale: median_depth"),
        ("model.native_camera.pose_view=own", "takes other cameras"),
        ("model.codec.whitening=0.25", "has other latents: set model.codec to its"),
        ("model.dit.ffn_dim=40", "has another architecture than model"),
        ("train.init_from=nowhere", "no model at nowhere"),
        ("train.init_from=null", "loss.distillation needs a teacher: name the model that"),
        ("model.sampling.steps=3", r"set model.sampling.steps: 2 \(the .*guidance: 1, got 3 and 1"),
        ("loss.distillation_options.guidance=3", "guidance is by text: set it to 1 where dit.text_dim is 0"),
        ("loss.distillation_options.teacher_steps=51", "must be a multiple of the student's steps 2: set it to 50"),
    ],
)
def test_what_cannot_teach_or_be_taught_is_refused(job_of, small_model, override, message):
    tree = job_of()
    apply_override(tree, override)
    with pytest.raises(ValueError, match=message):
        open_teacher(from_tree(RunConfig, tree, "tree"), small_model.codec, CPU)


def test_other_latents_and_networks_over_still_views_are_refused(config):
    with pytest.raises(ValueError, match="has other latents than the student, whose codec is another"):
        open_teacher(config, build_codec(config.model.codec), CPU)
    for name in ("cameo_cat3d_tiny", "cameo_tiny"):
        with pytest.raises(ValueError, match=r"re-shoots videos: set it to 0 with model.diffusion or model.views"):
            load_config(Path(__file__).parents[2] / f"configs/{name}.yaml", ["loss.distillation=1"])
