"""The live page's state: what it shows at a time, without a browser."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mvtrack.geometry.camera import Camera
from mvtrack.inference.scene4d.moments import Moment, Surface, Tracks3D
from mvtrack.video.resize import still_camera

H, W = 5, 7


def surface(camera: Camera, value: int) -> Surface:
    yes = torch.ones(H, W, dtype=torch.bool)
    return Surface(torch.full((H, W, 3), value, dtype=torch.uint8), torch.full((H, W), 2.0), yes, yes, camera)


@pytest.fixture
def view(unchecked):
    pytest.importorskip("viser")
    from mvtrack.inference.scene4d.live_view import LiveView

    still = still_camera(50.0, (H, W), 3)
    moved = still.c2w.clone()
    moved[:, 0, 3] = torch.tensor([0.0, 0.5, 1.0])
    camera = Camera(torch.stack([still.c2w, moved]), torch.stack([still.K] * 2), (H, W))
    moments = [Moment(n, (surface(camera[0, n], 10 * n), surface(camera[1, n], 99))) for n in range(3)]
    lines = Tracks3D(("a",), np.zeros((3, 1, 3)), np.ones((2, 3, 1), bool))
    scene = SimpleNamespace(
        result=SimpleNamespace(subject_distance=4.0), numbers=[0, 1, 2], fps=12.0, camera=camera,
        moments=lambda: iter(moments), tracks=lambda: lines,
    )  # fmt: skip
    page = LiveView(scene, port=0)
    yield page
    page.server.stop()


def test_one_moment_is_shown_at_a_time_with_its_cameras(view):
    view.load()
    view.time.value = 2
    view._show()
    visible = [{name: cloud.visible for name, cloud in clouds.items()} for clouds in view._clouds]
    assert visible == [dict.fromkeys(("source", "result"), n == 2) for n in range(3)]
    np.testing.assert_allclose(view.frusta[1].position, [1, 0, 0])
    np.testing.assert_allclose(view.frusta[0].position, [0, 0, 0])
    assert view.known.content == "3 of 3 moments are here"


def test_unticked_views_are_hidden(view):
    view.load()
    view.shown["source"].value = False
    view._show()
    assert [clouds["source"].visible for clouds in view._clouds] == [False] * 3
    assert view._clouds[0]["result"].visible
