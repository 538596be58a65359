"""The teacher of few-step distillation: read, compared with the student, frozen; what it costs a step."""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mvtrack.config.compatibility import same_codec, same_parameters
from mvtrack.config.model import ModelConfig, RayConfig
from mvtrack.config.run import RunConfig
from mvtrack.models.encoders import codec_id
from mvtrack.models.flops import forward_flops
from mvtrack.models.networks import empty_network
from mvtrack.models.pca_codec import VideoCodec
from mvtrack.models.reshoot_model import load_model, read_config
from mvtrack.models.sequence_parallel import share_tokens
from mvtrack.models.text_encoder import NEGATIVE_PROMPT, embed_captions
from mvtrack.models.weights.lora import merge_all
from mvtrack.training import distributed
from mvtrack.training.losses.distillation import Teacher

_RAYS_IN = ".camera_proj."  # zero in a converted release, which then takes rays of any scale


def teacher_source(config: RunConfig) -> str:
    """Folder, file or hub id."""
    return config.loss.distillation_options.teacher or str(config.train.init_from)


def teacher_guidance(config: RunConfig) -> float:
    """By which the teacher is sampled. Reads its config only.

    Raises ValueError for a teacher that cannot teach this student, or that is guided by text which the run cannot
    encode.
    """
    source = teacher_source(config)
    teacher = read_config(source)
    _check(teacher, config.model, source)
    given = config.loss.distillation_options.guidance
    guidance = teacher.sampling.guidance if given is None else given
    if guidance != 1 and config.model.text is None:
        raise ValueError(
            f"the teacher {source} is guided by {guidance:g}, which needs features of the negative caption: name the "
            "encoder in model.text, or set loss.distillation_options.guidance: 1"
        )
    return guidance


def negative_features(config: RunConfig, device: torch.device) -> Float[Tensor, "L t"] | None:
    """What guidance steers away from, by an encoder that is gone when this returns; kept between runs. None where the
    teacher is not guided."""
    if teacher_guidance(config) == 1:
        return None
    return embed_captions([NEGATIVE_PROMPT], config.model.text, device=device)[0]


def open_teacher(config: RunConfig, codec: VideoCodec, device: torch.device) -> Teacher:
    """In the precision of the run's weights, whole on every rank. codec: the student's.

    Raises ValueError for a teacher of another architecture or latent space.
    """
    guidance, source = teacher_guidance(config), teacher_source(config)
    model = load_model(source)
    if codec.config.kind == "pca" and codec_id(model.codec) != codec_id(codec):  # others are named by their config
        raise ValueError(
            f"the teacher {source} has other latents than the student, whose codec is another: start the student from "
            "it (train.init_from)"
        )
    network = model.dit
    hears_rays = any(p.any() for name, p in network.named_parameters() if _RAYS_IN in name)
    if hears_rays and model.config.rays.scale != config.model.rays.scale:
        raise ValueError(f"the teacher {source} takes other rays: set model.rays.scale: {model.config.rays.scale}")
    if config.loss.distillation_options.teacher is None:
        merge_all(network, config.train.init_lora)
    network.tracking_head, network.feature_projector, network.logit_heads = None, None, nn.ModuleDict()
    network.to(device, torch.bfloat16 if config.train.precision == "bf16" else torch.float32)
    network.attention = config.train.attention
    share_tokens(network, distributed.sequence_group(config.train.sequence_parallel))
    if config.train.compile:
        network.compile_blocks()
    return Teacher(network.eval().requires_grad_(False), guidance, negative_features(config, device))


def teacher_bytes(config: RunConfig) -> int:
    """Of its weights on every rank; its pass takes less than the student's, and comes before it."""
    plain = replace(config.model, tracking=None, logit_heads=(), feature_projector=None)
    count = sum(parameter.numel() for parameter in empty_network(plain).parameters())
    return (2 if config.train.precision == "bf16" else 4) * count


def teacher_flops(config: RunConfig, tokens: int, text_tokens: int, grid: tuple[int, int]) -> float:
    """Of its passes for one sample; guided ones count twice, also where only its file says whether they are."""
    options, dit = config.loss.distillation_options, config.model.dit
    assert dit is not None
    passes = options.teacher_steps // options.steps * (1 if not dit.text_dim or options.guidance == 1 else 2)
    return passes * forward_flops(dit, tokens, text_tokens, grid=grid)


def _check(teacher: ModelConfig, student: ModelConfig, source: str) -> None:
    """Raise ValueError where the two could not mean the same by latents, noise levels, predictions and cameras."""
    if teacher.dit is None or teacher.views is not None or not same_parameters(teacher, student):
        raise ValueError(f"the teacher {source} has another architecture than model: it must be the student's")
    if not same_codec(teacher.codec, student.codec):
        raise ValueError(f"the teacher {source} has other latents: set model.codec to its {teacher.codec}")
    ours, theirs = student.flow, teacher.flow
    if (ours.shift, ours.prediction) != (theirs.shift, theirs.prediction):
        raise ValueError(
            f"the teacher {source} predicts otherwise: set model.flow.shift: {theirs.shift:g} and prediction: "
            f"{theirs.prediction}, got {ours.shift:g} and {ours.prediction}"
        )
    if _ray_shapes(teacher) != _ray_shapes(student):
        raise ValueError(f"the teacher {source} takes other rays: set model.rays to its {teacher.rays}")
    native = replace(teacher.native_camera, origin=student.native_camera.origin)  # of sampling and of training differ
    if native != student.native_camera:
        raise ValueError(f"the teacher {source} takes other cameras: set model.native_camera to its {native}")


def _ray_shapes(config: ModelConfig) -> RayConfig:
    return replace(config.rays, scale="none", drop=0.0, proj_init="zero")
