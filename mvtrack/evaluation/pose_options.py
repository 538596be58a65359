"""The options that say where poses come from and how paths are compared, for every benchmark's command."""

import argparse
from pathlib import Path

from mvtrack.evaluation.estimators.colmap_poses import ColmapPoses
from mvtrack.evaluation.estimators.depth_anything_poses import DepthAnythingPoses
from mvtrack.evaluation.estimators.pose_files import PoseFiles
from mvtrack.evaluation.estimators.true_poses import TruePoses
from mvtrack.evaluation.interface import Estimator
from mvtrack.evaluation.unused_options import refuse_idle
from mvtrack.inference.camera_estimation.depth_anything import DepthAnythingConfig

POSES = ("colmap", "depth_anything_3", "files", "truth")


def add_pose_arguments(parser: argparse.ArgumentParser) -> None:
    """--poses and what it needs."""
    group = parser.add_argument_group("poses of the videos, for camera accuracy")
    group.add_argument(
        "--poses", choices=POSES, default="colmap",
        help="colmap: structure from motion, no weights; depth_anything_3: learned, needs --da3-python; files: of any "
        "program, needs --pose-files; truth: of copies, warps by true depth and the truth, as the benchmark knows them",
    )  # fmt: skip
    group.add_argument("--pose-files", type=Path, metavar="FOLDER", help="holds <row>/<case>.<any pose format>")
    default = DepthAnythingConfig()
    group.add_argument("--da3-model", default=default.model, help=f"hub id or folder; default {default.model}")
    group.add_argument("--da3-ray-pose", action="store_true", help="poses from its ray head, not its camera head")


def pose_estimator(options: argparse.Namespace, da3_python: Path | None, num_frames: int) -> Estimator:
    """What --poses names. da3_python: of Depth Anything 3's environment. num_frames: of the benchmark's clips. Raises
    ValueError where an option is missing, or given for nothing."""
    refuse_idle(options, add_pose_arguments, ("pose_files",), options.poses == "files", "--poses files")
    with_network, names = options.poses == "depth_anything_3", ("da3_model", "da3_ray_pose")
    refuse_idle(options, add_pose_arguments, names, with_network, "--poses depth_anything_3")
    if options.poses == "files":
        if options.pose_files is None:
            raise ValueError("--poses files needs --pose-files FOLDER, which holds <row>/<case>.<any pose format>")
        return PoseFiles.of(options.pose_files, num_frames)
    if options.poses == "depth_anything_3":
        config = DepthAnythingConfig(da3_python, options.da3_model, options.da3_ray_pose)
        learned = DepthAnythingPoses(config, options.non_commercial)
        if lacking := learned.missing():
            raise ValueError(f"--poses depth_anything_3 cannot run: missing {lacking}")
        return learned
    return TruePoses() if options.poses == "truth" else ColmapPoses()
