"""Networks over still views from released weights: Stable Diffusion 2.1, CAMEO, Hunyuan-DiT."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from mvtrack.config.backbones import CAMEO_RAYS, MVGENMASTER_RAYS, HunyuanConfig, UNetConfig
from mvtrack.config.diffusion import DiffusionConfig
from mvtrack.config.encoders import HUNYUAN_REPOSITORY, SD21_REPOSITORY, CodecConfig
from mvtrack.config.model import ModelConfig
from mvtrack.config.views import ViewsConfig
from mvtrack.correspondence.logit_head import LogitHead
from mvtrack.models.cat3d_unet import CAT3DUNet, condition_encoder
from mvtrack.models.condition_encoder import TokenConditionEncoder
from mvtrack.models.hunyuan_views import HunyuanViews
from mvtrack.models.pca_codec import build_codec
from mvtrack.models.reshoot_model import ReshootModel
from mvtrack.models.sd_vae import SD_SCALING, SDXL_SCALING
from mvtrack.models.view_attention import DiffusersBackbone
from mvtrack.models.weights.checkpoint import Checkpoint, open_checkpoint
from mvtrack.models.weights.hunyuan_naming import is_tencents, with_diffusers_names
from mvtrack.models.weights.inert_pickle import open_training_state
from mvtrack.models.weights.loading import Gaps, load_into
from mvtrack.models.weights.sources import parse_hub, pipeline_folder

_SIZE = (512, 512)  # of pictures
_TAPPED = {CAT3DUNet: 10, HunyuanViews: 32}  # the layers that CAMEO supervises
_PARTS = (("unet", "cat3d"), ("transformer", "hunyuan"))  # of pipelines, and what converts them
_WITHDRAWN = "stabilityai/stable-diffusion-2-1"
_KNOWN = (  # name, a parameter that those before it lack, and what to do
    ("MVGenMaster", "add_conv_in.conv_out.3.weight",
     "--views mvgenmaster"),
    ("CAMEO", "add_conv_in.conv1.0.weight", "--views cameo"),
    ("Stable Diffusion XL", "add_embedding.linear_1.weight", SD21_REPOSITORY),
    ("Stable Diffusion 2.1", "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight", "--views cat3d"),
    ("Hunyuan-DiT", "text_embedding_padding", "--views hunyuan"),
    ("Wan", "head.modulation", "leave --views out"),
    ("Wan", "condition_embedder.time_embedder.linear_1.weight", "leave --views out"),
)  # fmt: skip
_FILES = tuple(f"diffusion_pytorch_model{suffix}" for suffix in (".safetensors.index.json", ".safetensors", ".bin"))


def cat3d_from_sd21(folder: Path, config: UNetConfig | None = None, seed: int = 0) -> CAT3DUNet:
    """A downloaded pipeline of Stable Diffusion 2.1: without its text, with what CAT3D adds fresh.

    Raises ValueError for another network, and for one that predicts epsilon, as 2-1-base does.
    """
    _require_velocity(folder)
    config = config or UNetConfig()
    checkpoint = open_checkpoint(_weights_in(folder / "unet")).renamed(lambda name: f"unet.{name}")
    _require(checkpoint, "Stable Diffusion 2.1")
    text = [n for n in checkpoint.tensors if ".transformer_blocks." in n and (".attn2." in n or ".norm2." in n)]
    fresh = ("unet.*.attn1.norm_q.*", "unet.*.attn1.norm_k.*", "unet.class_embedding.*", "unet.add_conv_in.*")
    with torch.device("meta"):
        network = CAT3DUNet(config)
    return _filled(network, checkpoint.without(text), fresh, seed)


def cat3d_from_cameo(path: Path, config: UNetConfig | None = None) -> CAT3DUNet:
    """CAMEO's DeepSpeed file (`mp_rank_00_model_states.pt`), with its logit heads and its authors' rays.

    Nothing of the file is run. Raises ValueError for other weights, MVGenMaster's among them.
    """
    checkpoint = open_training_state(path)
    _require(checkpoint, "CAMEO")
    checkpoint = checkpoint.renamed(lambda name: name.replace("unet_logit_head.", "logit_heads.", 1))
    heads = {name.split(".")[1] for name in checkpoint.tensors if name.startswith("logit_heads.")}
    config = replace(config or UNetConfig(), rays=CAMEO_RAYS, logit_heads=tuple(sorted(map(int, heads))))
    with torch.device("meta"):
        network = CAT3DUNet(config)
    return _filled(network, checkpoint, (), 0)


def cat3d_from_mvgenmaster(path: Path, config: UNetConfig | None = None) -> CAT3DUNet:
    """A weights file of MVGenMaster's U-Net (661 tensors), with its authors' rays and its depth priors.

    Raises ValueError for other weights.
    """
    checkpoint = open_checkpoint(_weights_in(path) if path.is_dir() else path)
    _require(checkpoint, "MVGenMaster")
    checkpoint = checkpoint.renamed(lambda name: name if name.startswith("unet.") else f"unet.{name}")
    config = replace(config or UNetConfig(), rays=MVGENMASTER_RAYS, depth_priors=True)
    with torch.device("meta"):
        network = CAT3DUNet(config)
    return _filled(network, checkpoint, (), 0)


def hunyuan_from_released(source: Path, config: HunyuanConfig | None = None, seed: int = 0) -> HunyuanViews:
    """Hunyuan-DiT, of diffusers' pipeline folder or of a file with Tencent's own names; the condition encoder is fresh.

    config: None is version 1.2's, or 1.1's where the weights have a style. Raises ValueError for another network.
    """
    checkpoint = open_checkpoint(_weights_in(source / "transformer") if source.is_dir() else source)
    if is_tencents(checkpoint):
        checkpoint = with_diffusers_names(checkpoint)
    _require(checkpoint, "Hunyuan-DiT")
    has_style = "time_extra_emb.style_embedder.weight" in checkpoint.tensors
    with torch.device("meta"):
        network = HunyuanViews(config or HunyuanConfig(has_style=has_style))
    return _filled(network, checkpoint.renamed(lambda name: f"transformer.{name}"), ("condition_encoder.*",), seed)


def released_model(network: DiffusersBackbone, vae: str) -> ReshootModel:
    """A network over still views with its VAE and its schedule, as a model that can be saved, sampled and trained.

    vae: where its weights are: a file, folder or hub id.
    """
    config, heads = replace(network.config, logit_heads=()), network.config.logit_heads
    is_mvgenmaster = isinstance(network, CAT3DUNet) and config.depth_priors
    views = ViewsConfig(8, tuple(range(1, 8))) if is_mvgenmaster else ViewsConfig()
    common = {
        "dit": None, "logit_heads": heads, "views": views, "sizes": (_SIZE,), "num_frames": 1,
        "tap_layer": min(_TAPPED[type(network)], network.num_layers - 1),
    }  # fmt: skip
    codec = CodecConfig("sd_vae", config.channels, 8, weights=vae, scaling=SD_SCALING)
    if isinstance(network, CAT3DUNet):
        model = ModelConfig(cat3d=config, codec=codec, diffusion=DiffusionConfig(), **common)
    else:
        schedule = DiffusionConfig(beta_end=0.03 if config.has_style else 0.018)
        model = ModelConfig(hunyuan=config, codec=replace(codec, scaling=SDXL_SCALING), diffusion=schedule, **common)
    return ReshootModel(model, network, build_codec(model.codec))


def _filled(network: nn.Module, checkpoint: Checkpoint, fresh: tuple[str, ...], seed: int) -> nn.Module:
    """A network of meta tensors with a checkpoint's weights, and what is fresh as it starts."""
    new = fresh + (("logit_heads.*",) if len(network.logit_heads) and _lacks_heads(checkpoint) else ())
    matched = load_into(network, checkpoint, Gaps(new), checkpoint.common_dtype)
    values = _initial(network, seed)
    state = {name: values[name].to(checkpoint.common_dtype) for name in matched.new}
    network.load_state_dict(state, assign=True, strict=False)
    return network.eval()


def _lacks_heads(checkpoint: Checkpoint) -> bool:
    return not any(name.startswith("logit_heads.") for name in checkpoint.tensors)


def _initial(network: DiffusersBackbone, seed: int) -> dict[str, Tensor]:
    """First values of everything that released weights may lack."""
    config, own = network.config, network.state_dict()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if isinstance(network, CAT3DUNet):
            parts = {"unet.add_conv_in": condition_encoder(config)}
        else:
            parts = {"condition_encoder": TokenConditionEncoder(config.num_heads * config.head_dim)}
    parts |= {f"logit_heads.{i}": LogitHead(head.num_heads) for i, head in network.logit_heads.items()}
    values = {f"{name}.{key}": x for name, part in parts.items() for key, x in part.state_dict().items()}
    norms = {name for name in own if name.endswith((".norm_q.weight", ".norm_k.weight"))}
    zeros = {name for name in own if name.endswith((".norm_q.bias", ".norm_k.bias", "class_embedding.weight"))}
    values |= {name: torch.ones(own[name].shape) for name in norms}
    return values | {name: torch.zeros(own[name].shape) for name in zeros}


def released_folder(source: str, kind: str) -> Path:
    """The folder of a pipeline, downloaded where its hub id is given and the cache lacks it; a file stays a file.

    Raises ValueError for one that predicts epsilon by its name, and with the new id of the one that was withdrawn.
    """
    path = Path(source).expanduser()
    hub = None if path.exists() else parse_hub(source)
    if hub is None:
        if not path.exists():
            example = SD21_REPOSITORY if kind == "cat3d" else HUNYUAN_REPOSITORY
            raise ValueError(f"{path} does not exist: --views needs a hub id such as {example}, its folder, or a file")
        return path
    if kind in ("cameo", "mvgenmaster"):
        needed = "CAMEO's mp_rank_00_model_states.pt" if kind == "cameo" else "the U-Net's file of pretrained_model.zip"
        raise ValueError(f"{source} does not exist: --views {kind} needs {needed}")
    if hub.repo.endswith("-base"):
        raise ValueError(f"{hub.repo} predicts epsilon; CAT3D needs v: take {SD21_REPOSITORY}")
    if hub.repo == _WITHDRAWN:
        raise ValueError(f"{_WITHDRAWN} was withdrawn from the hub: take {SD21_REPOSITORY}, the same weights")
    part = "unet" if kind == "cat3d" else "transformer"
    return pipeline_folder(hub, (f"{part}/{_FILES[1]}", "scheduler/scheduler_config.json"))


def vae_beside(source: str, folder: Path, kind: str) -> str:
    """Where the VAE of released weights is: with them, by the same name, or where it is published."""
    if not Path(source).expanduser().exists():
        return source
    if (folder / "vae").is_dir():
        return str(folder.resolve())
    return HUNYUAN_REPOSITORY if kind == "hunyuan" else SD21_REPOSITORY


def _weights_in(folder: Path) -> Path:
    for name in _FILES:
        if (folder / name).is_file():
            return folder / name
    others = [(part, kind) for part, kind in _PARTS if part != folder.name and (folder.parent / part).is_dir()]
    for part, kind in others:
        raise ValueError(f"{folder.parent} is a pipeline with a {part}, not a {folder.name}: --views {kind}")
    raise ValueError(f"{folder} holds no {_FILES[1]}: give the folder of a downloaded pipeline of diffusers")


def _require_velocity(folder: Path) -> None:
    path = folder / "scheduler/scheduler_config.json"
    if not path.is_file():
        raise ValueError(f"{path} does not exist, which says what the network predicts: download the whole pipeline")
    kind = json.loads(path.read_text()).get("prediction_type", "epsilon")
    if kind != "v_prediction":
        raise ValueError(f"{folder} predicts {kind}, as stable-diffusion-2-1-base does; CAT3D needs {SD21_REPOSITORY}")


def _require(checkpoint: Checkpoint, expected: str) -> None:
    """Raise ValueError for weights that are recognised as another network's, with what converts those."""
    for name, marker, instead in _KNOWN:
        if any(key == marker or key.endswith("." + marker) for key in checkpoint.tensors):
            if name != expected:
                raise ValueError(f"{checkpoint.where} is {name}'s, {expected}'s was expected: {instead}")
            return
