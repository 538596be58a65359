"""The pinned test set: a versioned list of rendered cases and of pan-tilt-zoom cuts of real footage.

Version 2 is version 1 with one rendered case replaced, whose camera went below the ground.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from importlib import resources
from itertools import count
from pathlib import Path

import numpy as np
import torch

from mvtrack.config.tree import from_tree
from mvtrack.data.clip import Clip
from mvtrack.data.synthetic.pan_tilt_zoom import PanTiltZoom, fits, pan_tilt_zoom_clip
from mvtrack.data.synthetic.test_scenes import CaseSpec, case_specs, goes_underground, render_case
from mvtrack.metrics.tracking import tap_scores
from mvtrack.video.reader import open_video
from mvtrack.video.writer import from_bytes
from tracking_head import Tracks

VERSIONS = (1, 2)
WIDE_FOV_DEG = 65.0  # nominal: the footage's true field of view is unknown
_COMPONENTS = ("pan", "tilt", "zoom")


@dataclass(frozen=True)
class FootageSpec:
    """One cut: which frames of which file, and (pan deg, tilt deg, zoom) of the still reference and moving target."""

    video: str
    sha256: str
    first_frame: int
    reference: tuple[float, float, float]
    begin: tuple[float, float, float]
    end: tuple[float, float, float]
    component: str  # the one that moves most: pan, tilt or zoom
    size: tuple[int, int]
    num_frames: int = 17

    @property
    def key(self) -> str:
        return f"{Path(self.video).stem}-{self.first_frame}-{self.component}"


@dataclass(frozen=True)
class Manifest:
    version: int
    rendered: tuple[CaseSpec, ...]
    footage: tuple[FootageSpec, ...]


def load_manifest(version: int = VERSIONS[-1]) -> Manifest:
    """A manifest that ships with the project."""
    text = resources.files("mvtrack.evaluation").joinpath(f"manifest_v{version}.json").read_text()
    return from_tree(Manifest, json.loads(text), where=f"manifest_v{version}.json")


def load_tracking_cases() -> list[CaseSpec]:
    """The pinned cases of `eval/tracking.py`: rendered scenes in which points move far."""
    text = resources.files("mvtrack.evaluation").joinpath("tracking_v1.json").read_text()
    rows = json.loads(text)["rendered"]
    return [from_tree(CaseSpec, row, where=f"tracking_v1.json[{i}]") for i, row in enumerate(rows)]


def make_tracking_manifest(count: int = 32, max_still_delta: float = 0.25) -> str:
    """The text of a new tracking manifest: the first cases in which leaving points where they are scores too little.

    The choice looks at true tracks only: within TAP-Vid's thresholds of its place in the first frame stays less than
    `max_still_delta` of what is visible, in either view.
    """
    chosen: list[CaseSpec] = []
    for spec in case_specs(40 * count, first_seed=30_000, size=(64, 64), num_frames=17):
        if len(chosen) == count:
            break
        if still_delta(render_case(spec, num_points=64).clip.tracks, spec.size) <= max_still_delta:
            chosen.append(spec)
    rows = ",\n".join(json.dumps(asdict(spec)) for spec in chosen)
    return f'{{"version": 1,\n"rendered": [\n{rows}\n]}}'


def still_delta(tracks: Tracks, size: tuple[int, int]) -> float:
    """TAP-Vid's delta_avg, averaged over views, of points that stay where they are in the first frame."""
    asked = replace(tracks, valid=tracks.valid & tracks.visible[:, 0])
    still = replace(asked, xy=tracks.xy[:, :1].expand_as(tracks.xy))
    return tap_scores(still, asked, torch.zeros(asked.valid.shape), size).macro()["delta_avg"]


def make_manifest(videos: list[Path], clips_per_video: int) -> str:
    """The text of the newest manifest: 64 rendered cases and cuts of the given videos, from fixed seeds."""
    footage = [spec for path in videos for spec in _footage_specs(path, clips_per_video)]
    rendered, further_seeds = [], count(64)
    for spec in case_specs(64, first_seed=0, size=(64, 64), num_frames=17):
        while goes_underground(spec):
            spec = replace(spec, seed=next(further_seeds))
        rendered.append(spec)
    lists = {"rendered": rendered, "footage": footage}
    blocks = [
        f'"{name}": [\n' + ",\n".join(json.dumps(asdict(spec)) for spec in specs) + "\n]"
        for name, specs in lists.items()
    ]
    return f'{{"version": {VERSIONS[-1]},\n' + ",\n".join(blocks) + "}"


def _footage_specs(path: Path, count: int) -> list[FootageSpec]:
    info, sha = open_video(path), hashlib.sha256(path.read_bytes()).hexdigest()
    specs = []
    for i in range(count):
        rng = np.random.default_rng([1, i, int(sha[:8], 16)])
        component, size = _COMPONENTS[i % 3], ((64, 64), (64, 112))[i // 3 % 2]
        for _ in range(1000):
            spec = _draw(rng, path.name, sha, len(info), component, size)
            views = (spec.reference, spec.reference), (spec.begin, spec.end)
            if all(fits(PanTiltZoom.ramp(b, e, 2), WIDE_FOV_DEG, info.size, size) for b, e in views):
                break
        else:
            raise ValueError(f"no {component} cut of {size} fits into {path}")
        specs.append(spec)
    return specs


def _draw(
    rng: np.random.Generator, name: str, sha: str, num_frames: int, component: str, size: tuple[int, int]
) -> FootageSpec:
    """A view that turns by 20-45 % of its field of view (or zooms by 1.2-1.45), the rest only a little."""
    square = size[0] == size[1]
    zoom = rng.uniform(2.5, 3.4) if square else rng.uniform(1.6, 2.2)
    aim = rng.uniform(-1, 1, 2) * [10, 5]
    view_deg = WIDE_FOV_DEG / zoom
    amount = {"pan": 0.0, "tilt": 0.0, "zoom": 0.0}
    for which in _COMPONENTS:
        sign = rng.choice([-1.0, 1.0])
        strength = rng.uniform(0.2, 0.45) if which == component else rng.uniform(0, 0.05)
        amount[which] = sign * strength
    turn = amount["pan"] * view_deg, amount["tilt"] * view_deg * size[0] / size[1]
    ratio = float(np.exp(amount["zoom"] * 0.85))
    start = float(rng.choice([0.0, 0.5]))
    rounded = lambda *values: tuple(round(float(v), 4) for v in values)  # noqa: E731
    return FootageSpec(
        name,
        sha,
        int(rng.integers(0, num_frames - 17)),
        rounded(*aim, zoom),
        rounded(aim[0] + start * turn[0], aim[1] + start * turn[1], zoom * ratio**start),
        rounded(aim[0] + turn[0], aim[1] + turn[1], zoom * ratio),
        component,
        size,
    )


def footage_clip(spec: FootageSpec, folder: Path) -> Clip:
    """Cut a spec's two views out of its video. Raises ValueError when the file is another one."""
    path = folder / spec.video
    source = open_video(path)
    frames = source.read(spec.first_frame, spec.first_frame + spec.num_frames)
    reference = PanTiltZoom.ramp(spec.reference, spec.reference, spec.num_frames)
    target = PanTiltZoom.ramp(spec.begin, spec.end, spec.num_frames)
    return pan_tilt_zoom_clip(from_bytes(frames), reference, target, WIDE_FOV_DEG, spec.size, source.fps, spec.key)


def check_footage(manifest: Manifest, folder: Path) -> None:
    """Raise ValueError unless the folder holds the very videos that the manifest names."""
    for name, sha in {(spec.video, spec.sha256) for spec in manifest.footage}:
        path = folder / name
        if not path.is_file():
            raise ValueError(f"footage {path} is missing; the pinned set needs {name} (sha256 {sha[:12]}...)")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != sha:
            raise ValueError(
                f"footage {path} is another file: sha256 {found[:12]}..., the pinned set has {sha[:12]}..."
            )
