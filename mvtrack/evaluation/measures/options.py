"""What the metrics of a run are given: weights, other environments, protocol choices that the paper leaves open."""

import argparse
import os
from dataclasses import field
from pathlib import Path
from typing import get_args

from mvtrack.config.checked import config
from mvtrack.evaluation.measures.camera import CAMERA_ORIGINS, CameraOrigin, camera_origin
from mvtrack.evaluation.measures.dynamic_masks import MASK_KINDS, MaskKind
from mvtrack.evaluation.measures.pair_features import FEATURE_KINDS
from mvtrack.evaluation.measures.pair_networks import NETWORK_KINDS
from mvtrack.evaluation.methods.model import ModelMethod
from mvtrack.metrics.camera_accuracy import SCALE_RULES, ScaleRule
from mvtrack.metrics.perceptual import LPIPS_NETS, LpipsNet
from mvtrack.metrics.warp_consistency import PAIRINGS, Pairing

GEOMETRIES = ("true_depth", "estimated_depth", "depth_files", *NETWORK_KINDS)
_ENVIRONMENTS = {
    "vbench": "official VBench (subject, background, aesthetic, imaging, flickering, smoothness)",
    "met3r": "MEt3R",
    "mast3r": "MASt3R, for --geometry mast3r",
    "vggt": "VGGT, for --geometry vggt",
    "da3": "Depth Anything 3, for --poses or --geometry depth_anything_3",
}


@config
class MeasureOptions:
    """weights: folder of weight files by their published names. pythons: interpreters of other environments, by
    `_ENVIRONMENTS`. geometry, features: each of one with each of the other is a `warp_consistency`. geometry_model: a
    hub id or path for the network among the geometries. models: see `Correspondence`. pose_scale, camera_origin: see
    `CameraMeasure`."""

    weights: Path | None = None
    lpips_net: LpipsNet = "alex"
    pythons: dict[str, Path] = field(default_factory=dict)
    geometry: tuple[str, ...] = ("true_depth",)
    geometry_model: str = ""
    features: tuple[str, ...] = ("colours",)
    pairing: Pairing = "same_time"
    masks: MaskKind = "reference"
    generated_masks: Path | None = None
    depth_files: Path | None = None
    non_commercial: bool = False
    models: dict[str, ModelMethod | None] = field(default_factory=dict)
    pose_scale: ScaleRule = "self_max"
    camera_origin: CameraOrigin = "own"

    def __post_init__(self) -> None:
        for name, values, known in (
            ("--geometry", self.geometry, GEOMETRIES),
            ("--features", self.features, FEATURE_KINDS),
            ("--lpips-net", (self.lpips_net,), get_args(LpipsNet)),
        ):
            for value in values:
                if value not in known:
                    raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")
        if self.geometry_model and len(set(self.geometry) & set(NETWORK_KINDS)) != 1:
            raise ValueError("--geometry-model is for one network: name exactly one in --geometry")
        if (self.masks == "generated") != (self.generated_masks is not None):
            raise ValueError("--dynamic-mask generated and the masks' folder, --generated-masks, belong together")
        for option, folder in (
            ("--weights-dir", self.weights),
            ("--generated-masks", self.generated_masks),
            ("--depth-files", self.depth_files),
        ):
            if folder is not None and not folder.is_dir():
                raise ValueError(f"{option} {folder} is no folder")
        if self.depth_files is not None and "depth_files" not in self.geometry:
            raise ValueError("--depth-files has no effect, it is for --geometry depth_files: give both, or neither")
        for name, python in self.pythons.items():
            if not python.is_file():
                raise ValueError(f"--{name}-python {python} does not exist: name the environment's interpreter")


def add_measure_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the metrics; those of other environments and of the weights may be set in the environment instead."""
    group = parser.add_argument_group("metrics: weights, other environments, choices (docs/evaluation.md)")
    group.add_argument("--weights-dir", type=Path, help="folder of weight files; default: $MVTRACK_WEIGHTS")
    group.add_argument("--non-commercial", action="store_true", help="run what may not be used commercially, too")
    group.add_argument("--lpips-net", choices=LPIPS_NETS, default="alex")
    for name, what in _ENVIRONMENTS.items():
        group.add_argument(
            f"--{name}-python", type=Path, help=f"interpreter that has {what}; default: ${_variable(name)}"
        )
    group.add_argument("--geometry", default="true_depth", help=f"comma-separated: {', '.join(GEOMETRIES)}")
    group.add_argument("--geometry-model", default="", help="hub id or path for its network, not the published one")
    group.add_argument("--features", default="colours", help=f"comma-separated: {', '.join(FEATURE_KINDS)}")
    group.add_argument("--pose-scale", choices=SCALE_RULES, default="self_max", help="what settles a path's unit")
    group.add_argument(
        "--camera-origin", choices=CAMERA_ORIGINS,
        help="first frame that cameras are relative to: the generated video's own, or the reference's, seen together "
        "with it; default: the benchmark's (iPhone: reference, else own)",
    )  # fmt: skip
    group.add_argument("--pairs", choices=PAIRINGS, default="same_time", help="frames that consistency compares")
    group.add_argument("--dynamic-mask", choices=MASK_KINDS, default="reference", help="whose pixels the masks are of")
    group.add_argument("--generated-masks", type=Path, help="folder of <row>/<case>.npz with mask (T, H, W)")
    group.add_argument("--depth-files", type=Path, help="folder of {reference,<row>}/<case>.npz with depth (T, H, W)")


def measure_options(
    options: argparse.Namespace, models: dict[str, ModelMethod | None] | None = None, benchmark: str = ""
) -> MeasureOptions:
    """From the command line and, where it is silent, the environment and what suits the benchmark of that name."""
    pythons = {name: _path(getattr(options, f"{name}_python"), _variable(name)) for name in _ENVIRONMENTS}
    return MeasureOptions(
        weights=_path(options.weights_dir, "MVTRACK_WEIGHTS"),
        lpips_net=options.lpips_net,
        pythons={name: path for name, path in pythons.items() if path is not None},
        geometry=_names(options.geometry),
        geometry_model=options.geometry_model,
        features=_names(options.features),
        pairing=options.pairs,
        masks=options.dynamic_mask,
        generated_masks=options.generated_masks,
        depth_files=options.depth_files,
        non_commercial=options.non_commercial,
        models=models or {},
        pose_scale=options.pose_scale,
        camera_origin=options.camera_origin or camera_origin(benchmark),
    )


def environment_options() -> MeasureOptions:
    """What holds without a command line: the environment's variables and the defaults."""
    parser = argparse.ArgumentParser()
    add_measure_arguments(parser)
    return measure_options(parser.parse_args([]))


def _variable(environment: str) -> str:
    return f"MVTRACK_{environment.upper()}_PYTHON"


def _path(given: Path | None, variable: str) -> Path | None:
    value = os.environ.get(variable)
    return given or (Path(value) if value else None)


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
