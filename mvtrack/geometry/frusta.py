"""A picture of camera paths: both views' frusta in space, from the side and from above."""

from pathlib import Path

import numpy as np

from mvtrack.geometry.camera import Camera

_SHOWN = 7  # frusta drawn of each path
_COLOURS = ("#606060", "#e0701a")
_NAMES = ("source", "new path")


def draw_frusta(path: Path, cameras: Camera, subject_distance: float) -> None:
    """Write a PNG of cameras (2, T): three views, the subject as a cross, first and last frustum emphasised."""
    from matplotlib.figure import Figure

    relative = cameras.relative_to(cameras.c2w[:1, :1])
    figure = Figure(figsize=(12, 4.2), dpi=110)
    # plotted axes: x right, z ahead, -y up
    views = (("from above", (0, 2)), ("from the side", (2, 1)), ("from behind", (0, 1)))
    labels = {0: "right", 1: "up", 2: "ahead"}
    for k, (title, axes) in enumerate(views):
        plot = figure.add_subplot(1, 3, k + 1)
        plot.set_title(title, fontsize=10)
        for v, (colour, name) in enumerate(zip(_COLOURS, _NAMES, strict=True)):
            _draw_path(plot, relative[v], axes, colour, name, 0.18 * subject_distance)
        subject = np.array([0.0, 0.0, subject_distance])
        plot.plot(*subject[list(axes)], "x", color="#1a60c0", markersize=8, label="subject")
        plot.set_xlabel(labels[axes[0]], fontsize=8)
        plot.set_ylabel(labels[axes[1]], fontsize=8)
        plot.set_aspect("equal", adjustable="datalim")
        plot.grid(alpha=0.25)
        plot.tick_params(labelsize=7)
    figure.axes[0].legend(fontsize=8, loc="best")
    figure.tight_layout()
    figure.savefig(path)


def _draw_path(plot, camera: Camera, axes: tuple[int, int], colour: str, name: str, size: float) -> None:
    flip = np.array([1.0, -1.0, 1.0])
    c2w = camera.c2w.double().numpy()
    centre = c2w[:, :3, 3] * flip
    plot.plot(*centre[:, list(axes)].T, color=colour, linewidth=1.6, label=name)
    height, width = camera.size
    for i in sorted(set(np.linspace(0, len(c2w) - 1, _SHOWN).round().astype(int))):
        K = camera.K[i].double().numpy()
        corners = np.array([[0, 0], [width, 0], [width, height], [0, height]])
        rays = np.stack([(corners[:, 0] - K[0, 2]) / K[0, 0], (corners[:, 1] - K[1, 2]) / K[1, 1], np.ones(4)], -1)
        ends = (c2w[i, :3, 3] + size * rays @ c2w[i, :3, :3].T) * flip
        strong = i in (0, len(c2w) - 1)
        style = {"color": colour, "linewidth": 1.3 if strong else 0.6, "alpha": 0.95 if strong else 0.45}
        for a, b in zip(ends, np.roll(ends, -1, 0), strict=True):
            plot.plot(*np.stack([a, b])[:, list(axes)].T, **style)
            plot.plot(*np.stack([centre[i], a])[:, list(axes)].T, **style)
