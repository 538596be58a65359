import subprocess
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mvtrack.config.encoders import CodecConfig, ImageConfig, TextConfig
from mvtrack.config.model import DiTConfig, ModelConfig, RayConfig, SamplingConfig
from mvtrack.config.placement import Placement
from mvtrack.config.run import RunConfig
from mvtrack.config.training import TrainConfig
from mvtrack.config.tree import from_tree
from mvtrack.inference.memory.check_memory import Memory, flags, judge_inference, refuse_inference
from mvtrack.inference.memory.encoders import encoders_of
from mvtrack.inference.memory.inference import GIB, UTILISATION, Work, estimate_inference, weights_bytes
from mvtrack.inference.memory.transformer import InputShape, forward_bytes
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.models.dit import empty_dit
from mvtrack.models.sequence_parallel import exchanged_bytes
from mvtrack.training.memory import estimate_training, judge_training, overrides, refuse_training

CPU = Placement("cpu")
MODEL = ModelConfig(
    dit=DiTConfig(dim=48, ffn_dim=64, num_heads=2, num_layers=3, text_dim=7, freq_dim=8),
    rays=RayConfig(token_px=8, stride=4),
    codec=CodecConfig(channels=16, stride=4),
    sampling=SamplingConfig(3, 2.0),
    tap_layer=1,
    sizes=((32, 48),),
    num_frames=9,
)
SIZE = (32, 48)
NOWHERE = "nobody/nothing"  # encoders that are not on this machine count as the released ones
ENCODED = replace(
    MODEL, dit=replace(MODEL.dit, image_dim=5), text=TextConfig(weights=NOWHERE), image=ImageConfig(weights=NOWHERE)
)


def on_cpu(count: int) -> Memory:
    return Memory(count, shared=True)


@pytest.fixture
def run(small_run) -> RunConfig:
    config = from_tree(RunConfig, small_run, "small_run")
    return replace(config, loss=replace(config.loss, correspondence_targets="tracks"))


def test_weights_are_counted_exactly():
    whole, block = weights_bytes(MODEL, torch.bfloat16)
    dit = empty_dit(MODEL)
    assert whole == 2 * sum(p.numel() for p in dit.parameters())
    assert block == 2 * sum(p.numel() for p in dit.blocks[2].parameters())


def test_activations_grow_with_what_is_put_through():
    one = forward_bytes(MODEL, InputShape(SIZE, 9), torch.float32)
    assert forward_bytes(MODEL, InputShape(SIZE, 9), torch.bfloat16) < one
    twice = forward_bytes(MODEL, InputShape(SIZE, 9, batch=2), torch.float32)
    assert 1.8 * one < twice < 2.2 * one
    deeper = replace(MODEL, dit=replace(MODEL.dit, num_layers=6))
    assert forward_bytes(deeper, InputShape(SIZE, 9), torch.float32) == one


def test_several_gpus_share_the_passes():
    """Two take one of guidance's predictions each, four share the tokens too; eight cannot share two heads."""
    cuda = Placement("cuda")
    one, two, four = (estimate_inference(MODEL, SIZE, 9, placement=replace(cuda, gpus=n)) for n in (1, 2, 4))
    assert one.flops == two.flops == four.flops
    for estimate, ranks in ((one, 1), (two, 2), (four, 4)):
        assert estimate.seconds(0.5) == pytest.approx((one.flops / ranks + one.codec_flops) / (0.5 * UTILISATION))
    assert (one.sent, two.sent) == (0, 0)
    assert four.sent == 3 * exchanged_bytes(48, 3, 2 * 3 * 24, 64, 2, 4)  # 3 steps; 24 tokens a frame
    weights = weights_bytes(MODEL, torch.float32)[0]
    sampling = [estimate.phases["sampling"] - weights for estimate in (one, two, four)]
    assert sampling[0] == sampling[1]
    assert sampling[1] / 2 < sampling[2] < sampling[1]  # inputs and the prediction are whole on each
    with pytest.raises(ValueError, match="--gpus 8 cannot share 2 heads: use one of 1, 2, 4"):
        estimate_inference(MODEL, SIZE, 9, placement=replace(cuda, gpus=8))
    here, both = (estimate_inference(MODEL, SIZE, 9, placement=replace(CPU, gpus=n)) for n in (1, 2))
    assert both.seconds(1.0) == here.seconds(1.0)  # of one processor
    assert both.phases["sampling"] > here.phases["sampling"] + weights
    verdict = judge_inference(MODEL, SIZE, 9, SamplerOptions(1), replace(cuda, gpus=2), Memory(1000))
    assert "offload" not in verdict.advice


def test_shared_windows_take_what_one_device_takes_for_each():
    """7 windows of 9 frames, 2 shared, on 3 devices: three rounds, and 9 windows' time; the CPU has one memory."""
    cuda, shared = Placement("cuda"), Placement("cuda", gpus=3, share="windows")
    one, three = (estimate_inference(MODEL, SIZE, 51, placement=on) for on in (cuda, shared))
    assert three.phases == one.phases
    assert (three.flops, three.codec_flops, three.sent) == (9 / 7 * one.flops, 9 / 7 / 3 * one.codec_flops, 0)
    here, all_here = (estimate_inference(MODEL, SIZE, 51, placement=replace(on, device="cpu")) for on in (cuda, shared))
    assert all_here.phases == {name: 3 * needed for name, needed in here.phases.items()}
    assert all_here.flops == here.flops
    with pytest.raises(ValueError, match="9 frames are one window: leave out --share windows"):
        estimate_inference(MODEL, SIZE, 9, placement=shared)


def test_offloading_takes_from_the_device_what_it_gives_to_the_host():
    none, model, blocks = (
        estimate_inference(MODEL, SIZE, 30, placement=Placement("cuda", offload=offload))
        for offload in ("none", "model", "blocks")
    )
    whole, block = weights_bytes(MODEL, torch.float32)
    assert none.host == 0
    assert blocks.host == 3 * block
    for phase in ("sampling", "encoding"):  # of three blocks two have a place on the device
        assert none.phases[phase] - blocks.phases[phase] == block
    assert none.phases["encoding"] - model.phases["encoding"] == whole
    assert model.host > whole  # the codec too
    on_host = estimate_inference(MODEL, SIZE, 30, placement=Placement("cpu", offload="model"))
    assert on_host.phases["encoding"] == none.phases["encoding"]
    # four windows of 9 frames, two of them shared; three steps, guided
    assert none.flops == pytest.approx(4 * 3 * 2 * estimate_inference(MODEL, SIZE, 9, SamplerOptions(1)).flops)


def test_recomputing_and_sharing_take_less(run):
    plain = estimate_training(run)
    again = estimate_training(replace(run, train=replace(run.train, gradient_checkpointing=True)))
    assert again.work < plain.work
    assert again.flops > plain.flops
    shared = estimate_training(replace(run, train=replace(run.train, zero_stage=1)), world_size=2)
    assert shared.parts["optimiser state"] == pytest.approx(plain.parts["optimiser state"] / 2, rel=0.01)
    on_host = TrainConfig(zero_stage=1, offload_optimizer=True)
    assert estimate_training(replace(run, train=on_host)).parts.get("optimiser state") is None
    assert estimate_training(replace(run, train=on_host)).host > 0


def test_what_to_change_is_what_fits():
    need = estimate_inference(MODEL, SIZE, 9, placement=CPU).peak
    fine = judge_inference(MODEL, SIZE, 9, SamplerOptions(1), CPU, on_cpu(need))
    assert fine.fits
    assert (fine.steps, fine.advice) == ((), "")
    tight = judge_inference(MODEL, SIZE, 9, SamplerOptions(1), CPU, on_cpu(need - 1))
    assert not tight.fits
    assert tight.advice.startswith("add --precision bfloat16 (about ")
    on_host = judge_inference(MODEL, SIZE, 9, SamplerOptions(1), CPU, on_cpu(1000))
    assert [step.typed for step in on_host.steps][-1] == "--precision bfloat16 --offload blocks"
    assert len(on_host.steps) == 2
    hopeless = judge_inference(MODEL, SIZE, 9, SamplerOptions(1), Placement("cuda"), Memory(1000))
    assert [step.typed for step in hopeless.steps] == [
        "--precision bfloat16", "--precision bfloat16 --offload model", "--precision bfloat16 --offload blocks",
    ]  # fmt: skip
    assert "even with --precision bfloat16 --offload" in hopeless.advice
    assert hopeless.advice.endswith("use fewer pixels or frames, or a larger device")


def test_encoders_count_where_they_work():
    cuda, work = Placement("cuda"), Work(encoders_of(ENCODED))
    phases = estimate_inference(ENCODED, SIZE, 9, placement=cuda, work=work).phases
    assert phases["captions"] == pytest.approx(10.6 * GIB, rel=0.01)  # umT5 in bfloat16
    assert phases["image tokens"] == pytest.approx(2.4 * GIB, rel=0.02)
    precise = replace(ENCODED, text=TextConfig(weights=NOWHERE, precision="float32"))
    assert estimate_inference(precise, SIZE, 9, placement=cuda, work=work).phases["captions"] == 2 * phases["captions"]
    for elsewhere in (replace(cuda, encoders_on_cpu=True), replace(cuda, offload="blocks")):
        assert set(estimate_inference(ENCODED, SIZE, 9, placement=elsewhere, work=work).phases) == {
            "encoding", "sampling", "decoding",
        }  # fmt: skip
    on_host = replace(CPU, encoders_on_cpu=True)  # where they are anyway
    assert estimate_inference(ENCODED, SIZE, 9, placement=on_host, work=work).peak == phases["captions"]
    assert set(estimate_inference(MODEL, SIZE, 9, placement=cuda, work=Work(encoders_of(MODEL))).phases) == {
        "encoding", "sampling", "decoding",
    }  # fmt: skip


def test_encoders_that_are_too_large_go_to_the_cpu():
    work = Work(encoders_of(ENCODED))
    verdict = judge_inference(ENCODED, SIZE, 9, SamplerOptions(1), Placement("cuda"), Memory(8 * GIB), work)
    assert verdict.advice.startswith("add --encoders-on-cpu (about 0.0 GiB then)")
    tiny = judge_inference(ENCODED, SIZE, 9, SamplerOptions(1), Placement("cuda"), Memory(1000), work)
    assert [step.typed for step in tiny.steps][-1] == "--precision bfloat16 --offload blocks"  # which puts them there


def test_captions_in_the_cache_need_no_encoder(tmp_path, monkeypatch):
    from mvtrack.models import text_encoder
    from mvtrack.models.feature_cache import write_features

    config = replace(ENCODED, text=TextConfig(weights=str(tmp_path)))
    assert encoders_of(config, ["a dog"]) == ("captions", "image tokens")
    monkeypatch.setenv("MVTRACK_CACHE", str(tmp_path))
    monkeypatch.setattr(text_encoder, "encoder_id", lambda _: "known")
    for file in text_encoder._files(["a dog", None], config.text, None).values():
        write_features(file, torch.zeros(2, 7))
    assert encoders_of(config, ["a dog", None]) == ("image tokens",)
    assert encoders_of(config, ["a cat"]) == ("captions", "image tokens")
    assert encoders_of(config) == ("captions", "image tokens")


def test_what_rests_on_the_cpu_must_fit_there(run):
    placement = Placement("cuda", offload="model")
    host = estimate_inference(MODEL, SIZE, 9, placement=placement).host
    assert judge_inference(MODEL, SIZE, 9, SamplerOptions(1), placement, Memory(GIB, host)).fits
    short = judge_inference(MODEL, SIZE, 9, SamplerOptions(1), placement, Memory(GIB, host - 1))
    assert short.problem("cuda:0").startswith("leaves ")
    assert "in the CPU's memory, which has" in short.problem("cuda:0")
    assert short.advice.startswith("add --precision bfloat16")
    # of the ways to help the device, none fills the CPU's memory over its brim
    stuck = judge_inference(MODEL, SIZE, 9, SamplerOptions(1), Placement("cuda"), Memory(1000, 10))
    assert "would rest in the CPU's memory" in stuck.advice or "even with" in stuck.advice
    offloaded = replace(run, train=TrainConfig(zero_stage=1, offload_optimizer=True))
    need = estimate_training(offloaded)
    assert judge_training(offloaded, 1, Memory(need.peak, need.host)).fits
    assert not judge_training(offloaded, 1, Memory(need.peak, need.host - 1)).fits
    assert not judge_training(offloaded, 1, on_cpu(need.peak + need.host - 1)).fits
    assert judge_training(offloaded, 1, on_cpu(need.peak + need.host)).fits


def test_a_trainings_settings_are_changed_in_order(run):
    verdict = judge_training(replace(run, train=replace(run.train, micro_batch_size=2)), 2, Memory(1000))
    assert [step.typed for step in verdict.steps] == [
        "train.gradient_checkpointing=true train.checkpoint_keep=attention",
        "train.micro_batch_size=1 train.gradient_checkpointing=true train.checkpoint_keep=attention",
        "train.micro_batch_size=1 train.gradient_checkpointing=true",
        "train.micro_batch_size=1 train.zero_stage=2 train.gradient_checkpointing=true",
        "train.micro_batch_size=1 train.zero_stage=3 train.gradient_checkpointing=true",
        "train.micro_batch_size=1 train.sequence_parallel=2 train.zero_stage=3 train.gradient_checkpointing=true",
        "train.micro_batch_size=1 train.sequence_parallel=2 train.zero_stage=3 train.offload_optimizer=true "
        "train.gradient_checkpointing=true",
        "train.micro_batch_size=1 train.sequence_parallel=2 train.zero_stage=3 train.offload_optimizer=true "
        "train.offload_parameters=true train.gradient_checkpointing=true",
    ]  # fmt: skip
    muon = replace(run, optim=replace(run.optim, name="muon"))
    assert all("zero" not in step.typed for step in judge_training(muon, 2, Memory(1000)).steps)


def test_changes_are_spelled_as_they_are_typed():
    assert flags(Placement(compile=True), Placement(offload="blocks", tiled=True)) == (
        "--tiled --offload blocks (and no --compile)"
    )
    before = TrainConfig(gradient_checkpointing=True, checkpoint_blocks=3)
    after = replace(before, checkpoint_blocks=None)
    assert overrides(before, after) == "train.checkpoint_blocks=null"


def test_too_little_memory_is_refused_before_anything(run, monkeypatch):
    import mvtrack.inference.memory.check_memory as module

    monkeypatch.setattr(module, "free_gib", lambda _: 1e-4)
    with pytest.raises(ValueError, match=r"has 0\.0 GiB free: (add|even with) .*--ignore-memory"):
        refuse_inference(MODEL, SIZE, 9, SamplerOptions(1), CPU)
    with pytest.raises(ValueError, match=r"a rank's training step takes about .* GiB and .*--ignore-memory"):
        refuse_training(run, 1, 1)
    monkeypatch.setattr(module, "free_gib", lambda _: None)
    refuse_inference(MODEL, SIZE, 9, SamplerOptions(1), CPU)
    monkeypatch.setattr(module, "free_gib", lambda _: 64.0)
    monkeypatch.setattr(module, "judge_inference", lambda *_: pytest.fail("small models are not to be held up"))
    refuse_inference(MODEL, SIZE, 9, SamplerOptions(1), CPU)


@pytest.mark.parametrize("gib", [64.0, 1e-4])
def test_every_length_can_be_judged(gib, monkeypatch):
    """Lengths that are not 4n + 1 are padded, as making the video does."""
    import mvtrack.inference.memory.check_memory as module

    monkeypatch.setattr(module, "free_gib", lambda _: gib)
    for frames in range(1, MODEL.num_frames + 4):
        with nullcontext() if gib > 1 else pytest.raises(ValueError, match="--ignore-memory") as refused:
            refuse_inference(MODEL, SIZE, frames, SamplerOptions(1), CPU)
        if refused:
            assert f"{min(-(-(frames - 1) // 4) * 4 + 1, MODEL.num_frames)} frames at a time" in str(refused.value)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["sampling, small", "training, small"])
def test_foretold_memory_is_what_is_measured(case):
    """In float32: a CPU without bfloat16 products takes over ten minutes for what others do in one."""
    script = Path(__file__).parents[3] / "benchmarks/estimates.py"
    done = subprocess.run([sys.executable, script, "--only", case], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]


def test_the_smallest_estimate_is_not_zero():
    assert estimate_inference(MODEL, SIZE, 1, placement=CPU).peak > GIB * 1e-5
