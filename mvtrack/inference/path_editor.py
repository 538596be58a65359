"""The interactive page of `mvtrack preview --interactive`: drag keyframes in 3D, see the warped frame, save the path.

Runs on viser. The picture goes through `shot_cameras`, as the render does.
"""

import math
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mvtrack.config.model import ModelConfig
from mvtrack.geometry.camera import Camera
from mvtrack.geometry.keyframe_path import warn_of_jumps
from mvtrack.geometry.keyframes import MAX_KEYS, MIN_KEYS, PathKeys
from mvtrack.geometry.rotation import matrix_from_quaternion, quaternion_from_matrix
from mvtrack.geometry.trajectory import CameraMotion
from mvtrack.inference.pipeline import Shot, shot_cameras
from mvtrack.inference.preview import Warper, depth_of
from mvtrack.video.reader import open_video
from mvtrack.video.resize import plan_fit, still_camera
from mvtrack.video.writer import to_bytes

_CURVE_POINTS = 60
_SOURCE, _KEY, _CURVE, _SUBJECT = (90, 90, 90), (224, 112, 26), (224, 112, 26), (26, 96, 192)


class PathPage:
    """State and widgets of one page. `shot.path` is what it starts from; `path()` what it shows now."""

    def __init__(
        self, video: Path, shot: Shot, config: ModelConfig, save_to: Path, depth: str | None = None, port: int = 8080
    ) -> None:
        try:
            import viser
        except ImportError as error:
            raise ValueError("the interactive page needs viser: pip install -e '.[page]'") from error
        self.shot, self.save_to, self._has_saved = shot, save_to, False
        self.footage = open_video(video, fps=shot.reading.fps, damaged=shot.reading.damaged)
        self.fit = plan_fit(self.footage.size, config, shot.fit, shot.size)
        known = depth_of(depth, self.footage, self._cameras(shot.path), shot.path.pivot_m)
        self.warper = Warper(self.footage, self.fit, known, shot.path.pivot_m)
        self.keys = PathKeys.of(shot.path, 5)
        self._lock = threading.RLock()
        self.server = viser.ViserServer("127.0.0.1", port, label="mvtrack: camera path", verbose=False)
        self.server.gui.configure_theme(control_width="large")
        self.server.scene.set_up_direction("-y")
        self.server.initial_camera.position = tuple(shot.path.pivot_m * np.array([0.8, -0.6, -0.9]))
        self.server.initial_camera.look_at = (0.0, 0.0, 0.6 * shot.path.pivot_m)
        self._add_widgets()
        self._draw_keys()
        self._refresh()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.get_port()}"

    def path(self) -> CameraMotion:
        """The path through the keyframes as they are."""
        with self._lock:
            return self.keys.path()

    def _cameras(self, path: CameraMotion) -> Camera:
        return shot_cameras(replace(self.shot, path=path), self.footage, self.fit)

    def _add_widgets(self) -> None:
        gui = self.server.gui
        self._frame = gui.add_slider("frame", 0, len(self.footage) - 1, 1, len(self.footage) - 1)
        self._picture = gui.add_image(np.zeros((8, 8, 3), np.uint8), label="the source, warped to this frame's camera")
        self._count = gui.add_slider("keyframes", MIN_KEYS, MAX_KEYS, 1, self.keys.count)
        self._warnings = gui.add_markdown("")
        self._reset, self._save = gui.add_button("start again"), gui.add_button("save path")
        self._said = gui.add_markdown("")
        self._frame.on_update(lambda _: self._refresh())
        self._count.on_update(lambda _: self._replace(self.keys.resampled(self._count.value)))
        self._reset.on_click(lambda _: self._replace(PathKeys.of(self.shot.path, self._count.value)))
        self._save.on_click(lambda _: self.save())

    def _replace(self, keys: PathKeys) -> None:
        with self._lock:
            self.keys = keys
            self._draw_keys()
            self._refresh()

    def _draw_keys(self) -> None:
        """The source's frustum, a handle with a frustum at every keyframe, and the subject."""
        scene, size = self.server.scene, 0.14 * self.shot.path.pivot_m
        scene.reset()
        camera = self._cameras(self.shot.path)[0, 0]
        fov = 2 * math.atan(camera.size[0] / 2 / float(camera.K[1, 1]))
        aspect = camera.size[1] / camera.size[0]
        first = _bytes(self.warper.source(0, 1)[0])
        scene.add_camera_frustum("/source", fov, aspect, scale=1.6 * size, color=_SOURCE, image=first)
        scene.add_icosphere(
            "/subject", 0.04 * self.shot.path.pivot_m, (26, 96, 192), position=(0, 0, self.keys.pivot_m)
        )
        for i, pose in enumerate(self.keys.poses):
            wxyz, position = quaternion_from_matrix(pose[:3, :3]).numpy(), pose[:3, 3].numpy()
            handle = scene.add_transform_controls(f"/keys/{i}", scale=1.3 * size, wxyz=wxyz, position=position)
            scene.add_camera_frustum(f"/keys/{i}/frustum", fov, aspect, scale=size, color=_KEY)
            handle.on_update(lambda event, i=i: self._dragged(i, event.target))

    def _dragged(self, index: int, handle) -> None:
        with self._lock:
            pose = torch.eye(4, dtype=torch.float64)
            pose[:3, :3] = matrix_from_quaternion(torch.tensor(np.array(handle.wxyz)).double())
            pose[:3, 3] = torch.tensor(np.array(handle.position))
            self.keys = self.keys.moved(index, pose)
            self._refresh()

    def _refresh(self) -> None:
        """Curve, picture and warnings for the keyframes as they are."""
        with self._lock:
            path, points = self.keys.path(), self.keys.curve(_CURVE_POINTS).numpy()
            segments = np.stack([points[:-1], points[1:]], 1)
            self.server.scene.add_line_segments("/curve", segments, _CURVE, thickness=0.008 * path.pivot_m)
            frame = int(self._frame.value)
            image = self.warper.source(frame, frame + 1)[0]
            self._picture.image = _bytes(self.warper.warp(image, frame, self._cameras(path)))
            warnings = warn_of_jumps(path.poses(len(self.footage)), path.pivot_m)
            self._warnings.content = "\n".join(f"- {w}" for w in warnings) or "the path is smooth"

    def save(self) -> None:
        """Write the keyframes as a pose file, relative to the source's first frame, over what was saved before."""
        from mvtrack.geometry.pose_files import CameraSequence, write_cameras

        with self._lock:
            keys = self.keys
            source = self.shot.source or still_camera(self.shot.fov_deg, self.footage.size, 1)
            K = source.K[:1].double().repeat(keys.count, 1, 1)
            K[:, :2, :2] *= keys.lens[:, None, None]
            camera = Camera(keys.poses, K, source.size, source.scale_known)
            sequence = CameraSequence(camera, tuple(map(str, range(keys.count))))
            try:
                self.save_to.parent.mkdir(parents=True, exist_ok=True)
                write_cameras(self.save_to, sequence, "json", overwrite=self._has_saved)
            except (ValueError, OSError) as error:
                self._said.content = f"not saved: {error}"
                return
            self._has_saved = True
            self._said.content = f"saved; now `--camera {self.save_to} --poses-relative-to source`"


def _bytes(frame: Float[Tensor, "3 H W"]) -> np.ndarray:
    return to_bytes(frame[None])[0]
