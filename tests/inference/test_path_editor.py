import socket
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mvtrack.config.command_line import parse
from mvtrack.config.run import load_config
from mvtrack.geometry.path_language import parse_path
from mvtrack.geometry.rotation import matrix_from_quaternion, quaternion_from_matrix
from mvtrack.inference.path_editor import PathPage
from mvtrack.inference.pipeline import Shot, shot_cameras
from mvtrack.inference.sampler import SamplerOptions
from mvtrack.inference.shot_options import ShotOptions, read_shot
from mvtrack.video.resize import plan_fit

pytest.importorskip("viser", reason="the interactive page needs viser: pip install -e '.[page]'")
pytestmark = pytest.mark.filterwarnings("ignore")  # viser's and its server's own


T = 7


@pytest.fixture
def page(video, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = load_config("configs/tiny_wide.yaml").model
    page = PathPage(video, Shot(parse_path("orbit_right 25")), config, tmp_path / "out/path.json", port=port)
    yield page
    page.server.stop()


def test_a_saved_path_renders_with_the_cameras_that_the_page_showed(page, video):
    """Drag a keyframe, save, read the file back as `--camera`: the same cameras."""
    pose = parse_path("tilt_up 7; truck_right 0.4").poses(2)[1]
    handle = SimpleNamespace(wxyz=quaternion_from_matrix(pose[:3, :3]).numpy(), position=pose[:3, 3].numpy())
    before = page._picture.image.copy()
    page._frame.value = T // 2
    page._dragged(2, handle)  # what the page calls when a handle was moved
    torch.testing.assert_close(page.keys.poses[2], pose)
    assert not np.array_equal(page._picture.image, before)
    page.save()
    arguments = ["--camera", str(page.save_to), "--poses-relative-to", "source"]
    shot = read_shot(parse(ShotOptions, arguments, "test"), video, SamplerOptions(1))
    fit = plan_fit(page.footage.size, load_config("configs/tiny_wide.yaml").model)
    shown = shot_cameras(Shot(page.path()), page.footage, fit)
    rendered = shot_cameras(shot, page.footage, fit)
    torch.testing.assert_close(rendered.c2w, shown.c2w)
    torch.testing.assert_close(rendered.K, shown.K)


def test_saving_again_replaces_what_the_page_saved_and_nothing_else(page):
    page.save()
    first = page.save_to.read_text()
    page._replace(page.keys.resampled(9))
    page.save()
    assert page.save_to.read_text() != first
    assert page._said.content.startswith("saved; now")
    page._has_saved = False  # as if another had written the file
    page.save()
    assert "exists already" in page._said.content
    assert "saved; now" not in page._said.content


def test_depth_is_learned_from_single_frames_unless_something_else_is_asked_for(page):
    assert page.warper.depth.geometry.name == "learned from single frames"


@pytest.mark.slow
def test_in_a_browser(page, browser):
    """The page opens, shows its controls and the 3D view, a keyframe can be dragged, and a click saves the path."""
    view = browser.new_context(locale="en-US", viewport={"width": 900, "height": 600}).new_page()
    view.set_default_timeout(120_000)
    view.goto(page.url)
    view.get_by_text("save path").wait_for()
    view.locator("canvas").first.wait_for()
    assert "the path is smooth" in view.inner_text("body") or "degrees" in view.inner_text("body")
    _drag_a_keyframe(page, view)
    view.get_by_text("save path").click()
    view.get_by_text("saved; now").wait_for()
    assert page.save_to.exists()


def _drag_a_keyframe(page, view) -> None:
    """Take the first keyframe's arrow along its x axis where the browser's camera shows it, and pull."""
    [client] = page.server.get_clients().values()
    camera, size = client.camera, 1.3 * 0.14 * page.shot.path.pivot_m  # of the handle, as drawn
    box = view.locator("canvas").first.bounding_box()

    def pixel(point) -> tuple[float, float]:
        x, y, z = matrix_from_quaternion(torch.tensor(camera.wxyz)).numpy().T @ (np.array(point) - camera.position)
        focal = box["height"] / 2 / np.tan(camera.fov / 2)
        return box["x"] + box["width"] / 2 + focal * x / z, box["y"] + box["height"] / 2 + focal * y / z

    origin = page.keys.poses[0, :3, 3].clone()
    start, end = pixel((0.7 * size, 0, 0)), pixel((1.6 * size, 0, 0))
    view.mouse.move(*start)
    view.wait_for_timeout(1500)
    view.mouse.down()
    for step in np.linspace(0, 1, 6):
        view.mouse.move(*(np.array(start) + step * (np.array(end) - start)))
        view.wait_for_timeout(400)
    view.mouse.up()
    view.wait_for_timeout(1500)
    moved = page.keys.poses[0, :3, 3] - origin
    assert moved[0] > 0.3 * size
    assert moved[1:].abs().max() < 1e-3
