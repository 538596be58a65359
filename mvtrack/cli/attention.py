"""`mvtrack attention video.mp4 --camera arc_left --query 120,80,30`: where a point looks in both views."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Literal

from mvtrack.config.checked import NonNegativeInt, config
from mvtrack.config.command_line import changed_flags, option, positional, run, section
from mvtrack.config.placement import Placement
from mvtrack.inference.model_options import LESS_MEMORY, PLACEMENT, SAMPLING, ModelCommand, SamplingOptions
from mvtrack.inference.shot_options import ShotOptions, read_shot


def _heads(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(number) for number in text.split(","))
    except ValueError as error:
        raise ValueError(f"must be numbers such as 0,2, got {text!r}") from error


@config(kw_only=True)
class AttentionCommand(ModelCommand):
    """Re-shoot a video and draw where a point of one view looks in both; or look into a result.

    Of a result, what is left out of model, steps, seed and caption is what made it. A model that samples in one step
    is looked at over 8.
    """

    video: Path = positional("video file, GIF, image, folder of images; or a folder that `mvtrack reshoot` wrote")
    query: str = option(
        ...,
        "pixels right and down in the view's own video (the source file, or the generated one), and its frame, from 0",
        metavar="x,y,t",
    )
    view: Literal["reference", "generated"] = option("generated", "the query's view")
    layer: NonNegativeInt | None = option(None, "counted from 0; default: the layer that the model is tapped at")
    step: NonNegativeInt | None = option(None, "sampling step, counted from 0; default: the middle one")
    noise_level: float | None = option(None, "instead: the step of nearest noise level", metavar="SIGMA")
    heads: tuple[int, ...] | None = option(
        None, "counted from 0; default: the mean of all", metavar="0,1", parse=_heads
    )
    generated: Path | None = option(None, "an existing generated video, same moments", metavar="FILE")
    shot: ShotOptions = section(ShotOptions, "the shot")
    sampling: SamplingOptions = section(SamplingOptions, SAMPLING)
    placement: Placement = section(Placement, PLACEMENT, without=("gpus", "share"))


def main(arguments: list[str] | None = None) -> int:
    """Parse, check, look; prints where the picture is."""
    return run(AttentionCommand, _attention, arguments, "mvtrack attention", LESS_MEMORY)


def _attention(options: AttentionCommand) -> None:
    from tqdm import tqdm

    from mvtrack.files.atomic_io import refuse_existing
    from mvtrack.inference.attention_map import AttentionQuery, Lens, follow_query, write_seen

    query = AttentionQuery.parse(options.query, options.view)
    lens = Lens(options.layer, options.step, options.noise_level, options.heads)
    pair, source, model = _pair_and_model(options, query)
    out = options.out or Path("outputs") / f"attention_{options.video.stem}_{pair.label}"
    may_replace = (options.overwrite, options.video, options.generated)
    refuse_existing(out, *may_replace)
    steps = 0 if pair.generated else pair.sample.steps
    with tqdm(total=steps, desc=f"re-shooting, {pair.label}", unit="step", disable=steps == 0) as bar:
        seen = follow_query(model, pair, query, lens, bar.update)
    sys.stdout.write(f"{write_seen(out, seen, source, *may_replace)}\n")


def _pair_and_model(options: AttentionCommand, query):
    from mvtrack.inference.attention_pair import is_result, model_of_result, noise_levels, pair_of_result, pair_of_shot
    from mvtrack.inference.pipeline import shipped_model
    from mvtrack.models.reshoot_model import read_config

    result, sampling = is_result(options.video), options.sampling
    if (result or options.generated) and (guided := changed_flags(options, "guidance", "negative")):
        raise ValueError(f"{guided[0]} is for sampling, a video that exists is only seen: leave it out")
    if not result:
        source = options.model or shipped_model()
        model = read_config(source)
        steps = noise_levels(model.sampling.steps) if sampling.steps is None else sampling.steps
        shot = read_shot(options.shot, options.video, replace(sampling, steps=steps).of(model))
        shot = replace(shot, caption=sampling.caption, negative=sampling.negative)
        for note in shot.notes:
            sys.stderr.write(f"mvtrack attention: {note}\n")
        pair = pair_of_shot(options.video, shot, model, options.generated)
        return pair, source, _loaded(source, pair, query, options)
    if changed := changed_flags(options, "shot", "generated"):
        names = ", ".join(changed)
        raise ValueError(f"{options.video} is a result, which has its own cameras and pictures: leave out {names}")
    pair = pair_of_result(options.video)
    chosen = {name: getattr(sampling, name) for name in ("steps", "seed") if getattr(sampling, name) is not None}
    pair = replace(pair, sample=replace(pair.sample, **chosen))
    if sampling.caption is not None:
        pair = replace(pair, caption=sampling.caption)
    source = options.model or model_of_result(options.video)
    return pair, source, _loaded(source, pair, query, options)


def _loaded(source, pair, query, options: AttentionCommand):
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

    placement = options.placement
    model = with_window(placed_config(read_config(source), placement), pair.window)
    size, frames = pair.fits[0].model, min(len(pair.reference), model.num_frames)
    kernel = kernel_of_video(model, size, frames, placement)
    if options.verbose:
        sys.stderr.write(f"mvtrack attention: attention kernel: {kernel}\n")
    captions = Captions(pair.caption, pair.negative, pair.guidance).texts
    if not options.ignore_memory:
        work = Work(encoders_of(model, captions), decodes=pair.generated is None)
        refuse_inference(model, size, frames, pair.sample, placement, work)
    pictures = first_frames([query_window(model, pair, query)], pair.reference, pair.fits[0])
    remember_prompts(model, captions, pictures, placement.encoder_device)
    return replace(place(load_model(source), placement), config=model)


if __name__ == "__main__":
    sys.exit(main())
