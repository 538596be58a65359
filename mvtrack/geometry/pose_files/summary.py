"""Cameras and formats in words, for the terminal."""

import torch

from mvtrack.geometry.camera import path_extent, relative_pose
from mvtrack.geometry.pose_files.diagnosis import Finding
from mvtrack.geometry.pose_files.parse import show
from mvtrack.geometry.pose_files.registry import FORMATS
from mvtrack.geometry.pose_files.sequence import CameraSequence
from mvtrack.geometry.pose_files.source import HOLDABLE


def describe(sequence: CameraSequence) -> str:
    """What a sequence holds, one thing a line."""
    camera, (height, width) = sequence.camera, sequence.camera.size
    first, last = camera.K[0], relative_pose(camera.c2w[0], camera.c2w[-1])
    fov = torch.rad2deg(2 * torch.atan(width / 2 / first[0, 0])).item()
    changes = "" if bool((first == camera.K).all()) else ", changing over time"
    turned = torch.rad2deg(torch.acos(((last[:3, :3].trace() - 1) / 2).clamp(-1, 1))).item()
    names = f"{show(sequence.names[0])[1:-1]} … {show(sequence.names[-1])[1:-1]}"
    lines = {
        "format": sequence.convention,
        "frames": f"{sequence.num_frames}, {names}",
        "times": "none" if sequence.timestamps_s is None else _span(sequence.timestamps_s),
        "picture": f"{width}x{height} (width x height)",
        "lens": f"fx {first[0, 0]:.6g}, fy {first[1, 1]:.6g}, cx {first[0, 2]:.6g}, cy {first[1, 2]:.6g} px "
        f"({fov:.2f} degrees wide){changes}",
        "distortion": "none" if sequence.distortion is None else _coefficients(sequence.distortion.coefficients),
        "unit": "metres" if camera.scale_known else "unknown: lengths are in the file's own unit",
        "path": f"reaches {path_extent(camera.c2w).item():.6g} from its start",
        "last frame": f"turned by {turned:.2f} degrees from the first, at {_numbers(last[:3, 3])} in its axes "
        "(right, down, forward)",
    }
    return "\n".join(f"{topic:<11} {text}" for topic, text in lines.items())


def _numbers(values: torch.Tensor) -> str:
    return "(" + ", ".join(f"{v:.4g}" for v in values.tolist()) + ")"


def _span(times_s: torch.Tensor) -> str:
    return f"{times_s[0].item():.6g} s to {times_s[-1].item():.6g} s"


def _coefficients(values: torch.Tensor) -> str:
    row = values.reshape(-1, 5)[0]
    changes = "" if (values == row).all() else ", changing over time"
    return f"k1, k2, p1, p2, k3 = {_numbers(row)}{changes}"


def list_findings(findings: list[Finding]) -> str:
    """One finding a line, aligned."""
    return "\n".join(f"{found.level:<4}  {found.topic:<10}  {found.text}" for found in findings)


def list_formats() -> str:
    """All formats: what their numbers mean, what a file holds, and the options that reading takes."""
    blocks = []
    for found in FORMATS.values():
        blocks.append(
            f"{found.name}: {found.title}\n"
            f"  axes {found.axes}, direction {found.direction}, unit {found.unit}; "
            f"holds poses, {', '.join(what for what in HOLDABLE if what in found.holds)}\n"
            f"  options: {', '.join('--' + name.replace('_', '-') for name in found.options)}"
        )
    return "\n".join(blocks)
