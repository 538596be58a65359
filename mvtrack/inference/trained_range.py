"""What a model was not trained for: said, not refused."""

import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.config.model import ModelConfig
from mvtrack.geometry.camera import Camera, relative_pose

_TOLERANCE_DEG = 0.5


def range_notes(config: ModelConfig, cameras: Camera, subject_distance: float) -> list[str]:
    """Notes on paths and picture sizes beyond the training's. cameras: (2, T), the reference's, then the target's.

    subject_distance: of the point that angles are seen from, in the cameras' unit.
    """
    notes, (height, width) = [], cameras.size
    angle = float(view_angles(cameras, subject_distance).max())
    if config.max_angle_deg is not None and angle > config.max_angle_deg + _TOLERANCE_DEG:
        notes.append(
            f"the path turns by {angle:.0f} degrees, the model was trained to {config.max_angle_deg:g}: beyond that "
            "expect less of the scene to be kept"
        )
    if (height, width) not in config.sizes:
        sizes = ", ".join(f"{h}x{w}" for h, w in config.sizes)
        notes.append(f"the model's picture is {height}x{width}, it was trained at {sizes}")
    return notes


def view_angles(cameras: Camera, subject_distance: float) -> Float[Tensor, "T"]:
    """Degrees by which the target's view differs from the reference's: its way about the subject, or its own turn where
    that is larger. The subject lies straight ahead of the reference."""
    reference, target = cameras.c2w.double()
    turn = relative_pose(reference, target)[:, :3, :3]
    cosine = ((turn.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2).clamp(-1, 1)
    subject = reference[:, :3, 3] + subject_distance * reference[:, :3, 2]
    to_cameras = reference[:, :3, 3] - subject, target[:, :3, 3] - subject
    about = torch.cosine_similarity(*to_cameras, dim=-1).clamp(-1, 1)
    return torch.rad2deg(torch.maximum(cosine.acos(), about.acos()))
