"""Memory of the second decoding: foretold on tensors without storage, counted on real ones."""

from dataclasses import replace

import pytest
import torch

from mvtrack.config.decoder import DecoderRunConfig
from mvtrack.config.encoders import CodecConfig
from mvtrack.config.placement import Placement
from mvtrack.config.run import training_from_tree
from mvtrack.data.synthetic.objects import wonder3d_rig
from mvtrack.geometry.camera import Camera, intrinsics_from_fov
from mvtrack.inference.memory.aligned import AlignerSize, aligned_cost
from mvtrack.inference.memory.inference import Work, estimate_inference
from mvtrack.inference.memory.memory_tracker import MemoryCounter
from mvtrack.models.decoder.depth import stereo_depth
from mvtrack.models.decoder.hosted import recompute
from mvtrack.models.decoder.scene import DecoderScene
from mvtrack.models.decoder.sd import SDAligner
from mvtrack.models.decoder.small import SmallAligner
from mvtrack.models.pca_codec import build_codec
from mvtrack.training.decoder_memory import estimate_decoder_training
from tests.inference.memory.test_estimates import MODEL
from tests.models.decoder.test_sd import small_network

SIZE, FRAMES = (24, 32), 5
PCA = CodecConfig(kind="pca", channels=5, stride=8)


def fitted(codec: CodecConfig, size: tuple[int, int], frames: int = 1):
    made = build_codec(codec)
    made.fit([torch.rand(2, frames, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1], 0.5)
    return made


def counted(work, held) -> int:
    counter = MemoryCounter()
    counter.ignore(held)
    with counter:
        work()
    return counter.peak


def test_second_decoding_takes_what_is_foretold():
    codec, aligner = fitted(PCA, SIZE, FRAMES), SmallAligner(8)
    poses = torch.eye(4).repeat(2, FRAMES, 1, 1)
    poses[1, :, 0, 3] = 1
    camera = Camera(poses, intrinsics_from_fov(60.0, SIZE).repeat(2, FRAMES, 1, 1), SIZE)
    scene = DecoderScene.of(camera, torch.full((2, FRAMES, *SIZE), 4.0))
    latents = torch.randn(2, 2, 5, 3, 4)

    @torch.no_grad()
    def decode() -> None:
        inputs = [x.clone() for x in (scene.depth, scene.pixels, latents)]
        aligner.decode(codec, latents, scene, (1,))
        del inputs

    real = counted(decode, [*aligner.parameters(), *codec.parameters(), *codec.buffers()])
    cost = aligned_cost(PCA, AlignerSize.of(aligner), SIZE, FRAMES)
    assert cost.decode == pytest.approx(real, rel=0.02)
    assert cost.weights == 4 * sum(p.numel() for p in aligner.parameters())
    swept = counted(lambda: stereo_depth(torch.rand(2, 1, 3, *SIZE), camera[:2, :1], 4.0), [])
    assert cost.sweep == pytest.approx(swept, rel=0.15)


@pytest.mark.slow
def test_long_videos_are_extrapolated():
    size = AlignerSize.of(SmallAligner(8))
    foretold = aligned_cost(PCA, size, SIZE, 13).decode
    codec, aligner = fitted(PCA, SIZE, 13), SmallAligner(8)
    camera = Camera(torch.eye(4).repeat(2, 13, 1, 1), intrinsics_from_fov(60.0, SIZE).repeat(2, 13, 1, 1), SIZE)
    scene = DecoderScene.of(camera, torch.full((2, 13, *SIZE), 4.0))

    @torch.no_grad()
    def decode() -> None:
        inputs = [x.clone() for x in (scene.depth, scene.pixels)]
        aligner.decode(codec, torch.zeros(2, 4, 5, 3, 4), scene, (1,))
        del inputs

    real = counted(decode, [*aligner.parameters(), *codec.parameters(), *codec.buffers()])
    assert foretold == pytest.approx(real, rel=0.15)


def test_second_decoding_is_a_phase():
    size = AlignerSize.of(SmallAligner(8))
    codec, model = MODEL.codec, MODEL
    plain, aligned = (
        estimate_inference(model, (32, 48), 1, placement=Placement("cpu"), work=Work(aligner=aligner))
        for aligner in (None, size)
    )
    extra = {"second decoding", "depth between views"}
    assert set(aligned.phases) - set(plain.phases) == extra
    assert aligned.codec_flops > plain.codec_flops
    on_device = estimate_inference(model, (32, 48), 1, placement=Placement("cuda"), work=Work(aligner=size))
    assert set(on_device.phases) - set(plain.phases) == extra - {"depth between views"}
    tuned = replace(size, tuned=10**6)
    assert aligned_cost(codec, tuned, SIZE, 1).weights == aligned_cost(codec, size, SIZE, 1).weights + 10**6


def decoder_run(side: int = 24, **decoder) -> DecoderRunConfig:
    tree = {
        "decoder": {"codec": {"kind": "pca", "channels": 5, "stride": 4}, "aligner": {"width": 8, "dim": 8}} | decoder,
        "data": {"kind": "wonder3d", "views": [0, 1, 5], "size": [side, side]},
        "train": {"batch_size": 4, "micro_batch_size": 2},
    }
    return training_from_tree(tree, "job")


def test_training_step_takes_what_is_foretold():
    """Forward and backward of a micro-batch of two objects, gradients included."""
    config = decoder_run()
    codec, aligner = fitted(config.decoder.codec, (24, 24)), SmallAligner(8, dim=8)
    scene = DecoderScene.of(wonder3d_rig(24)[[0, 1, 5]], torch.full((3, 1, 24, 24), 1.3), radius=0.1)

    def step() -> None:
        losses = []
        for seed in range(2):
            generator = torch.Generator().manual_seed(seed)
            _, made = aligner(codec, torch.randn(3, 1, 5, 6, 6), scene, (1, 2), 1, generator)
            losses.append((made[1:] - torch.zeros(2, 1, 3, 24, 24)).square().mean())
        torch.stack(losses).mean().backward()

    real = counted(step, [*aligner.parameters(), *codec.parameters(), *codec.buffers()])
    estimate = estimate_decoder_training(config)
    assert estimate.work == pytest.approx(real, rel=0.15)
    trained = sum(p.numel() for p in aligner.parameters())
    assert estimate.parts["optimiser state"] == 8 * trained
    assert estimate.flops > 0
    halved = estimate_decoder_training(replace(config, train=replace(config.train, micro_batch_size=1)))
    assert halved.work == pytest.approx(estimate.work / 2, rel=0.01)
    assert halved.flops == pytest.approx(estimate.flops)


@pytest.mark.slow
@pytest.mark.parametrize("recomputed", [False, True])
def test_training_step_behind_a_vae_takes_what_is_foretold(recomputed):
    """Less than two thirds where activations are recomputed."""
    vae = {"kind": "svd_vae", "channels": 4, "stride": 8, "scaling": 0.18215, "weights": "nobody/nothing"}
    sizes = {"width": 32, "points": [3, 2, 2, 1], "dim": 8, "sources": 2}
    config = decoder_run(40, codec=vae, aligner=sizes)
    train = replace(config.train, batch_size=1, micro_batch_size=1, gradient_checkpointing=recomputed)
    codec, aligner = build_codec(config.decoder.codec), SDAligner(**sizes)
    codec.put_in(small_network("svd_vae"))
    scene = DecoderScene.of(wonder3d_rig(40)[[0, 1, 5]], torch.full((3, 1, 40, 40), 1.3), radius=0.1)
    recompute(aligner, recomputed)

    def step() -> None:
        inputs = [x.clone() for x in (scene.depth, scene.pixels)]
        made = aligner.decode(codec, torch.randn(3, 1, 4, 5, 5), scene, (1, 2))[1:]
        (made - torch.zeros(2, 1, 3, 40, 40)).square().mean().backward()
        del inputs

    real = counted(step, [*aligner.parameters(), *codec.network(torch.device("cpu")).parameters()])
    estimate = estimate_decoder_training(replace(config, train=train))
    assert estimate.work == pytest.approx(real, rel=0.05)
    kept = estimate_decoder_training(replace(config, train=replace(train, gradient_checkpointing=False)))
    assert estimate.flops == pytest.approx(kept.flops * (4 / 3 if recomputed else 1))
    assert not recomputed or estimate.work < kept.work * 2 / 3


@pytest.mark.slow
def test_tuned_host_and_perceptual_loss_take_more():
    """A host that stays as it is has no gradients; one that is tuned has its own, and Adam's state of them."""
    codec = {"kind": "svd_vae", "channels": 4, "stride": 8, "scaling": 0.18215, "weights": "nobody/nothing"}
    alone, both, lpips = (
        estimate_decoder_training(decoder_run(32, codec=codec, aligner={}, **more))
        for more in ({}, {"tune": "both"}, {"perceptual": 1.0, "perceptual_backbone": "vgg16.pth"})
    )
    host = both.parts["weights"] - alone.parts["weights"]
    assert 2e8 < host < 3e8  # SVD's decoder in float32
    assert both.parts["optimiser state"] - alone.parts["optimiser state"] == 2 * host
    assert both.work - alone.work == pytest.approx(host, rel=0.1)
    assert alone.work < lpips.work < alone.work + host
