"""`mvtrack attention video.mp4 --camera arc_left --query 120,80,30`: where a point looks in both views."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from mvtrack.config.errors import run_command
from mvtrack.inference.model_options import (
    LESS_MEMORY,
    add_caption_argument,
    add_guidance_arguments,
    add_memory_argument,
    add_placement_arguments,
    read_placement,
)
from mvtrack.inference.shot_options import add_shot_arguments, read_shot


def main(arguments: list[str] | None = None) -> int:
    """Parse, check, look; prints where the picture is."""
    shot = argparse.ArgumentParser(add_help=False)
    add_shot_arguments(shot, camera_required=False)
    parser = argparse.ArgumentParser(
        prog="mvtrack attention",
        description="Re-shoot a video and draw where a point of one view looks in both; or look into a result.",
        parents=[shot],
    )
    parser.add_argument(
        "video", type=Path, help="video file, GIF, image, folder of images; or a folder that `mvtrack reshoot` wrote"
    )
    parser.add_argument(
        "--query", required=True, metavar="x,y,t",
        help="pixels right and down in the view's own video (the source file, or the generated video), and its frame, "
        "from 0",
    )  # fmt: skip
    parser.add_argument("--view", choices=("reference", "generated"), default="generated", help="the query's view")
    parser.add_argument("--layer", type=int, help="counted from 0; default: the layer that the model is tapped at")
    parser.add_argument("--step", type=int, help="sampling step, counted from 0; default: the middle one")
    parser.add_argument("--noise-level", type=float, metavar="SIGMA", help="instead: the step of nearest noise level")
    parser.add_argument("--heads", metavar="0,1", help="counted from 0; default: the mean of all")
    parser.add_argument("--generated", type=Path, metavar="FILE", help="an existing generated video, same moments")
    parser.add_argument("--model", help="folder with model.safetensors; default: the result's, or the one that ships")
    parser.add_argument("--out", type=Path, help="folder for the picture; default outputs/attention_<video>_<path>")
    parser.add_argument("--steps", type=int, help="sampling steps; default: the result's, or the model's own, 8 for 1")
    parser.add_argument("--seed", type=int, help="default: the result's, or 0")
    add_caption_argument(parser, "the result's, or nothing")
    add_guidance_arguments(parser)
    add_placement_arguments(parser)
    add_memory_argument(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output folder")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    options = parser.parse_args(arguments)
    changed = [name for name, value in vars(shot.parse_args([])).items() if getattr(options, name) != value]
    return run_command(lambda: _attention(options, changed), parser.prog, options.debug, LESS_MEMORY)


def _attention(options: argparse.Namespace, changed: list[str]) -> None:
    from tqdm import tqdm

    from mvtrack.files.atomic_io import refuse_existing
    from mvtrack.inference.attention_map import AttentionQuery, follow_query, write_seen

    query, lens = AttentionQuery.parse(options.query, options.view), _lens(options)
    pair, source, model = _pair_and_model(options, query, changed)
    out = options.out or Path("outputs") / f"attention_{options.video.stem}_{pair.label}"
    refuse_existing(out, options.overwrite)
    steps = 0 if pair.generated else pair.sample.steps
    with tqdm(total=steps, desc=f"re-shooting, {pair.label}", unit="step", disable=steps == 0) as bar:
        seen = follow_query(model, pair, query, lens, bar.update)
    sys.stdout.write(f"{write_seen(out, seen, source)}\n")


def _lens(options: argparse.Namespace):
    from mvtrack.inference.attention_map import Lens

    try:
        heads = None if options.heads is None else tuple(int(text) for text in options.heads.split(","))
    except ValueError as error:
        raise ValueError(f"--heads must be numbers such as 0,2, got {options.heads!r}") from error
    return Lens(options.layer, options.step, options.noise_level, heads)


def _pair_and_model(options: argparse.Namespace, query, changed: list[str]):
    from mvtrack.inference.attention_pair import (
        is_result,
        model_of_result,
        noise_levels,
        pair_of_result,
        pair_of_shot,
    )
    from mvtrack.inference.pipeline import shipped_model
    from mvtrack.inference.sampler import SamplerOptions
    from mvtrack.models.reshoot_model import read_config

    result = is_result(options.video)
    if (result or options.generated) and (options.guidance is not None or options.negative is not None):
        raise ValueError("--guidance and --negative are for sampling, a video that exists is only seen: leave them out")
    if not result:
        if options.camera is None:
            raise ValueError(f"--camera is needed: the path along which {options.video} is re-shot")
        source = options.model or shipped_model()
        config = read_config(source)
        steps = noise_levels(config.sampling.steps) if options.steps is None else options.steps
        sample = SamplerOptions.of(config, steps, options.guidance, options.seed or 0)
        shot = read_shot(options, options.video, sample)
        shot = replace(shot, caption=options.caption, negative=options.negative)
        for note in shot.notes:
            sys.stderr.write(f"mvtrack attention: {note}\n")
        pair = pair_of_shot(options.video, shot, config, options.generated)
        return pair, source, _loaded(source, pair, query, options)
    if options.generated is not None:
        changed = [*changed, "generated"]
    if changed:
        names = ", ".join("--" + name.replace("_", "-") for name in changed)
        raise ValueError(f"{options.video} is a result, which has its own cameras and pictures: leave out {names}")
    pair = pair_of_result(options.video)
    chosen = {name: getattr(options, name) for name in ("steps", "seed") if getattr(options, name) is not None}
    pair = replace(pair, sample=replace(pair.sample, **chosen))
    if options.caption is not None:
        pair = replace(pair, caption=options.caption)
    source = options.model or model_of_result(options.video)
    return pair, source, _loaded(source, pair, query, options)


def _loaded(source, pair, query, options: argparse.Namespace):
    """The model, after attention and memory were found to do, and captions were encoded."""
    from mvtrack.inference.attention_map import query_window
    from mvtrack.inference.device import place, placed_config
    from mvtrack.inference.memory.check_memory import refuse_inference
    from mvtrack.inference.memory.encoders import encoders_of
    from mvtrack.inference.memory.inference import Work
    from mvtrack.inference.memory.kernel import kernel_of_video
    from mvtrack.inference.pipeline import first_frames, with_window
    from mvtrack.models.prompts import Captions, remember_prompts
    from mvtrack.models.reshoot_model import load_model, read_config

    placement = read_placement(options)
    config = with_window(placed_config(read_config(source), placement), pair.window)
    size, frames = pair.fits[0].model, min(len(pair.reference), config.num_frames)
    kernel = kernel_of_video(config, size, frames, placement)
    sys.stderr.write(f"mvtrack attention: attention kernel: {kernel}\n")
    captions = Captions(pair.caption, pair.negative, pair.guidance).texts
    if not options.ignore_memory:
        work = Work(encoders_of(config, captions), decodes=pair.generated is None)
        refuse_inference(config, size, frames, pair.sample, placement, work)
    pictures = first_frames([query_window(config, pair, query)], pair.reference, pair.fits[0])
    remember_prompts(config, captions, pictures, placement.encoder_device)
    return replace(place(load_model(source), placement), config=config)


if __name__ == "__main__":
    sys.exit(main())
