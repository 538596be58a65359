"""Memory and time of a training step of an aligning decoder on one rank."""

from functools import lru_cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from mvtrack.config.decoder import DecoderConfig, DecoderDataConfig, DecoderRunConfig
from mvtrack.config.training import TrainConfig
from mvtrack.data.clip import padded_length
from mvtrack.inference.memory.aligned import AlignerSize, fake_latents, fake_pair, fake_scene, frozen
from mvtrack.inference.memory.codec import codec_cost, weights_of
from mvtrack.inference.memory.memory_tracker import allocate_fake, fake_tensors
from mvtrack.inference.pipeline import shipped_model
from mvtrack.metrics.perceptual import Lpips
from mvtrack.models.decoder.hosted import recompute
from mvtrack.models.networks import empty_network
from mvtrack.models.reshoot_model import read_config
from mvtrack.training.decoder_run import codec_config_of, new_aligner
from mvtrack.training.memory import TrainingEstimate, state_bytes
from mvtrack.training.optimizer import freeze

_RENDERS = {True: 6, False: 16}  # views of a layout, by whether its pictures need an orthographic scale


def estimate_decoder_training(config: DecoderRunConfig, world_size: int = 1, on_cpu: bool = False) -> TrainingEstimate:
    """What a step takes on each of so many ranks. on_cpu: see `MemoryCounter`.

    Raises ValueError where the codec is Wan's and DiffSynth, which has its network, is not installed.
    """
    train, settings, data = config.train, config.decoder, config.data
    codec = codec_config_of(config)
    key = TrainConfig(precision=train.precision, gradient_checkpointing=train.gradient_checkpointing)  # all that counts
    work, flops, total, trained = _followed(settings, data, config.optim.trainable, key, on_cpu)
    encoding = codec_cost(codec, data.size, data.num_frames, on_cpu=on_cpu)
    parts, host, update = state_bytes(config, (total, trained, 0), world_size)
    parts["the codec"] = encoding.weights
    if settings.latents == "restored":
        model = read_config(settings.model or shipped_model())
        parts["the model"] = 4 * sum(p.numel() for p in empty_network(model).parameters())
    steps = max(1, train.batch_size // (train.micro_batch_size * world_size))
    micro = train.micro_batch_size
    flops *= 4 if train.gradient_checkpointing else 3  # backward takes twice what forward does
    return TrainingEstimate(parts, max(micro * work, encoding.encode), update, host, flops * micro * steps)


@lru_cache(maxsize=16)
def _followed(
    settings: DecoderConfig, data: DecoderDataConfig, trainable: tuple[str, ...], train: TrainConfig, on_cpu: bool
) -> tuple[int, float, int, int]:
    """Bytes of forward and backward on one clip, FLOP of the former, parameters, and those that are trained."""
    config, precision = DecoderRunConfig(decoder=settings, data=data), train.precision
    codec = codec_config_of(config)
    with torch.device("meta"):
        aligner = new_aligner(config)
    with fake_tensors(on_cpu) as counter:
        made, module = fake_pair(codec, AlignerSize(frozen(aligner.settings)))
        if settings.tune != "aligner":
            copy, _ = fake_pair(codec, AlignerSize(frozen(aligner.settings)))  # tensors without storage have no copies
            module.adopt(copy.network(torch.device("cpu")).decoder)
        recompute(module, train.gradient_checkpointing)
        freeze(module, trainable)
        if settings.tune == "decoder":
            module.levels.requires_grad_(False)
        if precision == "bf16":
            names = {name for name, p in module.named_parameters() if p.requires_grad}
            allocate_fake(module, torch.bfloat16, keep="")
            for name, parameter in module.named_parameters():
                parameter.requires_grad_(name in names)
        lpips = None
        if settings.perceptual:
            lpips = allocate_fake(_empty_lpips(), torch.float32, keep="").requires_grad_(False)
        views, frames = views_of(data), padded_length(data.frames)
        scene, latents = fake_scene(views, frames, data.size), fake_latents(codec, views, frames, data.size)
        counter.ignore([*module.parameters(), *weights_of(made), *(lpips.parameters() if lpips else ())])
        counted = FlopCounterMode(display=False)
        with counter, torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast_bf16"):
            inputs = [x.clone() for x in (scene.depth, scene.pixels, latents)]
            with counted:
                pictures = module.decode(made, latents, scene, tuple(range(1, views)))[1:].float()
                loss = (pictures - torch.empty(pictures.shape)).square().mean()
                if lpips:
                    loss = loss + lpips(pictures.flatten(0, 1), torch.empty(pictures.flatten(0, 1).shape)).mean()
        with counter:
            loss.backward()
        del inputs
        sizes = [(p.numel(), p.requires_grad) for p in module.parameters()]
    total, trained = sum(n for n, _ in sizes), sum(n for n, is_trained in sizes if is_trained)
    return counter.peak, counted.get_total_flops(), total, trained


def _empty_lpips() -> Lpips:
    with torch.device("meta"):
        return Lpips("vgg")


def views_of(data: DecoderDataConfig) -> int:
    """How many are decoded together."""
    if data.views is not None:
        return len(data.views)
    return {"moving": 2, "wonder3d": 6, "syncdreamer": 16, "renders": _RENDERS[data.ortho_scale is not None]}[data.kind]
