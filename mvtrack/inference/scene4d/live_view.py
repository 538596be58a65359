"""The page of `mvtrack view4d`, on viser: moments as points, cameras, tracks, and a slider for the time."""

import threading
import time

import numpy as np

from mvtrack.geometry.rotation import quaternion_from_matrix
from mvtrack.inference.scene4d.moments import VIEWS, Scene4D

_COLORS = {"source": (150, 150, 150), "result": (224, 112, 26)}
_FRUSTUM = 0.12  # of the subject's distance
_POINT = 1.3  # its size, in the distances of neighbours that face the camera


class LiveView:
    """Moments are sent as they become known. Raises ValueError where viser is not installed."""

    def __init__(self, scene: Scene4D, port: int = 8080) -> None:
        try:
            import viser
        except ImportError as error:
            raise ValueError("the page needs viser: pip install -e '.[page]'") from error
        self.scene, self.distance = scene, scene.result.subject_distance
        self.server = viser.ViserServer("127.0.0.1", port, label="mvtrack: 4D", verbose=False)
        self.server.scene.set_up_direction("-y")
        self.server.initial_camera.position = tuple(self.distance * np.array([0.8, -0.6, -0.9]))
        self.server.initial_camera.look_at = (0.0, 0.0, 0.9 * self.distance)
        self._clouds: list[dict] = []
        self._lock = threading.RLock()
        gui, last = self.server.gui, max(1, len(scene.numbers) - 1)
        self.time = gui.add_slider("moment", 0, last, 1, 0)
        self.playing = gui.add_checkbox("play", True)
        self.shown = {name: gui.add_checkbox(name, True) for name in VIEWS}
        self.known = gui.add_markdown("")
        self.frusta = [self._frustum(view, name) for view, name in enumerate(VIEWS)]
        for widget in (self.time, *self.shown.values()):
            widget.on_update(lambda _: self._show())

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.get_port()}"

    def run(self) -> None:
        """Send all moments, and play them until the process is interrupted."""
        threading.Thread(target=self.play, daemon=True).start()
        self.load()
        while True:
            time.sleep(3600)

    def load(self) -> None:
        """Compute and send every moment, then the tracks."""
        for moment in self.scene.moments():
            clouds = {}
            for name, surface in zip(VIEWS, moment.views, strict=True):
                points, colors = surface.points[surface.used].numpy(), surface.colors[surface.used].numpy()
                size = _POINT * self.distance / float(surface.camera.K[0, 0])
                clouds[name] = self.server.scene.add_point_cloud(
                    f"/{name}/{moment.number}", points.astype(np.float32), colors, point_size=size, visible=False
                )
            with self._lock:
                self._clouds.append(clouds)
            self.known.content = f"{len(self._clouds)} of {len(self.scene.numbers)} moments are here"
            self._show()
        tracks = self.scene.tracks()
        for number, line in enumerate([] if tracks is None else tracks.lines()):
            self.server.scene.add_spline_catmull_rom(f"/tracks/{number}", line, color=(255, 190, 25), line_width=2)

    def play(self) -> None:
        """Move the slider at the video's rate while `play` is on."""
        while True:
            time.sleep(1 / self.scene.fps)
            if self.playing.value and len(self._clouds) > 1:
                self.time.value = (self.time.value + 1) % len(self._clouds)

    def _show(self) -> None:
        with self._lock:
            now = min(int(self.time.value), len(self._clouds) - 1)
            for index, clouds in enumerate(self._clouds):
                for name, cloud in clouds.items():
                    wanted = index == now and self.shown[name].value
                    if cloud.visible != wanted:
                        cloud.visible = wanted
        for view, frustum in enumerate(self.frusta):
            pose = self.scene.camera.c2w[view, max(now, 0)].double()
            frustum.wxyz, frustum.position = quaternion_from_matrix(pose[:3, :3]).numpy(), pose[:3, 3].numpy()

    def _frustum(self, view: int, name: str):
        (height, width), K = self.scene.camera.size, self.scene.camera.K[view, 0]
        fov = 2 * float(np.arctan(height / 2 / float(K[1, 1])))
        return self.server.scene.add_camera_frustum(
            f"/{name} camera", fov, width / height, scale=_FRUSTUM * self.distance, color=_COLORS[name]
        )
