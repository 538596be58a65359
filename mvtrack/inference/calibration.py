"""How a model's output changes with its input from step to step: what its step cache (models/step_cache.py) goes by."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mvtrack.data.synthetic.test_scenes import CaseSpec, render_case
from mvtrack.files.tensor_file import open_tensors, write_tensors
from mvtrack.inference.sampler import SamplerOptions, generate
from mvtrack.models.conditioning import Window
from mvtrack.models.reshoot_model import FORMAT, WEIGHTS_FILE, ReshootModel, model_file, with_config
from mvtrack.models.step_cache import Pass, StepCache, evaluate

THRESHOLDS = (0.05, 0.1, 0.2, 0.4)
_PATHS = ("arc_left", "translate_up", "zoom_in", "pan_right")
_FIRST_SEED = 30_000  # scenes that nothing else uses
_DEGREES = (1, 2, 3, 4)


@dataclass(frozen=True)
class Calibration:
    """fit: polynomial from the input's relative change to the output's, highest power first. error: of the output's
    change it foretells, mean absolute, on scenes that it was not fitted to. changed: that change's own mean. shares: of
    forward passes that are left, by threshold."""

    fit: tuple[float, ...]
    error: float
    changed: float
    shares: dict[float, float]


def observed_scene(model: ReshootModel, number: int, sample: SamplerOptions) -> list[Pass]:
    """All passes of one rendered scene, each branch in turn. Raises ValueError for a model that has no step cache."""
    if model.config.dit is None or model.config.views is not None:
        raise ValueError("the step cache is for WanDiT as it re-shoots videos: this model makes views of still scenes")
    config = model.config
    spec = CaseSpec(
        _FIRST_SEED + number, _PATHS[number % len(_PATHS)], 15.0, start=0.0, size=config.sizes[0],
        num_frames=config.num_frames,
    )  # fmt: skip
    clip = render_case(spec).clip
    model.dit.step_cache = cache = StepCache(0.0, sample.steps, record=True)
    try:
        generate(model, clip.video[0], Window(clip.camera, clip.scene_depth), replace(sample, seed=number))
    finally:
        model.dit.step_cache = None
    return cache.passes


def calibrated(scenes: list[list[Pass]]) -> Calibration:
    """The polynomial whose degree foretells scenes best that it was not fitted to. Raises ValueError for one scene."""
    if len(scenes) < 2:
        raise ValueError("calibration takes two scenes or more: one of them always checks the others")
    passes = sum(map(len, scenes)) - max(map(len, scenes))  # that a polynomial is fitted to
    errors = {degree: _held_out_error(scenes, degree) for degree in _DEGREES if degree == 1 or 2 * degree <= passes}
    best = min(errors, key=errors.__getitem__)
    fit = _fitted(scenes, best)
    changed = float(np.mean([one.output for one in _joined(scenes)]))
    shares = {threshold: _share(scenes, fit, threshold) for threshold in THRESHOLDS}
    return Calibration(fit, errors[best], changed, shares)


def write_calibrated(source: Path | str, fit: tuple[float, ...], out: Path) -> Path:
    """The model's file again, with the fit in its config; weights stay as they are stored. Raises ValueError where a
    model lies there already."""
    path = model_file(source)
    if (out / WEIGHTS_FILE).exists():
        raise ValueError(f"{out / WEIGHTS_FILE} is there already: choose another folder, or remove it")
    with open_tensors(path, FORMAT, "model") as file:
        state, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
    return write_tensors(out / WEIGHTS_FILE, state, with_config(metadata, cache_fit=fit))


def _joined(scenes: Iterable[list[Pass]]) -> list[Pass]:
    return [one for scene in scenes for one in scene]


def _fitted(scenes: Iterable[list[Pass]], degree: int) -> tuple[float, ...]:
    passes = np.array(_joined(scenes))
    return tuple(float(x) for x in np.polyfit(passes[:, 0], passes[:, 1], degree))


def _held_out_error(scenes: list[list[Pass]], degree: int) -> float:
    errors = []
    for left_out, scene in enumerate(scenes):
        fit = _fitted(scenes[:left_out] + scenes[left_out + 1 :], degree)
        errors += [abs(evaluate(fit, one.input) - one.output) for one in scene]
    return float(np.mean(errors))


def _share(scenes: list[list[Pass]], fit: tuple[float, ...], threshold: float) -> float:
    """Of passes whose blocks would run: the changes are those of steps that all ran, so this is an estimate."""
    ran = asked = 0
    for scene in scenes:
        change = 0.0
        for one in scene:
            change += max(evaluate(fit, one.input), 0.0)
            asked += 1
            if change >= threshold:
                ran, change = ran + 1, 0.0
    return ran / asked
