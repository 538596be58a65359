"""The page in a real browser, from a dropped file to a downloaded result."""

import json
import re
import shlex
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest

from mvtrack.inference.studio.store import Store
from mvtrack.video.writer import VideoWriter

pytest.importorskip("uvicorn", reason="the studio needs uvicorn: pip install -e '.[web]'")
pytestmark = pytest.mark.slow
WAIT_MS = 240_000


@pytest.fixture
def source(tmp_path):
    """9 frames of a picture that slides, in a file whose name is markup."""
    rows, columns = np.mgrid[:96, :160]
    path = tmp_path / "<img src=x onerror=alert(1)>.mp4"
    with VideoWriter(path, 12) as writer:
        for t in range(9):
            waves = [np.sin((columns + 3 * t) / a + rows / b) for a, b in ((9, 17), (13, 11), (23, 7))]
            writer.append((127 + 100 * np.stack(waves, -1)).astype(np.uint8))
    return path


@pytest.fixture
def serve(tmp_path):
    """Start the command on one folder; returns its process and address."""
    started = []

    def start(*arguments):
        command = [sys.executable, "-m", "mvtrack", "web", str(tmp_path / "studio"), "--port", "0", *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(process)
        return process, process.stdout.readline().split()[0]

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def opened(browser, url, troubles, width=1400):
    page = browser.new_context(locale="en-US", viewport={"width": width, "height": 900}).new_page()
    page.set_default_timeout(WAIT_MS)
    page.on("console", lambda message: troubles.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("dialog", lambda dialog: troubles.append("a script ran"))
    page.on("request", lambda request: None if request.url.startswith((url, "blob:")) else troubles.append(request.url))
    page.goto(url)
    return page


def until(holds, seconds=120.0):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.2)


def test_from_a_file_to_a_result_that_equals_the_command(browser, serve, source, tmp_path):
    troubles: list[str] = []
    server, url = serve()
    page = opened(browser, url, troubles)
    page.set_input_files("#file", source)
    page.locator("body[data-preview=moving]").wait_for()
    page.locator("#measuring").wait_for(state="hidden")
    before = page.inner_text("#number")
    until(lambda: page.inner_text("#number") != before)  # it plays

    page.fill("#path", "arc_left 8deg; doly_in 1")
    assert page.locator("#wrong mark").inner_text() == "doly_in"
    page.fill("#path", "arc_left 8deg ease")
    page.locator("#wrong").wait_for(state="hidden")
    until(lambda: "'arc_left 8deg ease'" in page.inner_text("#command"))
    page.click("#play")
    drag_keyframe(page, 3, -40, 30)
    until(lambda: "path.json" in page.inner_text("#command"))

    page.click("#render")
    page.get_by_role("button", name="Cancel").click()
    page.locator("#jobs li[data-state=cancelled]").wait_for()
    page.click("#render")
    page.locator("#jobs li[data-state=done]").wait_for()
    page.get_by_role("button", name="Show").click()
    page.click("#play")
    until(lambda: page.evaluate("document.getElementById('resultVideo').currentTime") > 0.2)
    with page.expect_download() as download:
        page.get_by_text("Download everything").click()
    download.value.save_as(tmp_path / "all.zip")
    command = page.inner_text("#resultCommand")
    equals_command(tmp_path, command)
    page.screenshot(path=tmp_path / "result.png")
    assert page.evaluate("document.documentElement.scrollWidth") <= 1400

    server.send_signal(signal.SIGKILL)
    server.wait()
    narrow = opened(browser, serve()[1], troubles, width=420)
    narrow.get_by_role("button", name="Show").click()
    until(lambda: narrow.evaluate("document.getElementById('resultVideo').currentTime") > 0.2)
    assert narrow.evaluate("document.documentElement.scrollWidth") <= 420
    assert [text for text in troubles if "server does not answer" not in text and "ERR_CONNECTION" not in text] == []
    assert {job.status["state"] for job in Store(tmp_path / "studio").of("jobs", None)} == {"done", "cancelled"}


def drag_keyframe(page, number: int, dx: float, dy: float) -> None:
    box = page.get_by_role("button", name=f"keyframe {number}:").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    for part in np.linspace(0, 1, 6):
        page.mouse.move(x + part * dx, y + part * dy)
    page.mouse.up()


def equals_command(tmp_path, command: str) -> None:
    """Video and cameras of the archive, byte for byte, after typing what the page showed with another --out."""
    arguments = shlex.split(re.sub(r"--out \S+", f"--out {tmp_path / 'typed'}", command))
    assert arguments[:2] == ["mvtrack", "reshoot"]
    subprocess.run([sys.executable, "-m", *arguments], check=True, capture_output=True, cwd=tmp_path)
    with zipfile.ZipFile(tmp_path / "all.zip") as made:
        for name in ("video.mp4", "cameras.json"):
            assert made.read(name) == (tmp_path / "typed" / name).read_bytes(), name
        assert json.loads(made.read("run.json"))["command"] == "reshoot"


def test_an_example_is_rendered_once_and_exported_in_3d(browser, serve):
    troubles: list[str] = []
    _, url = serve("--password", "right horse")
    page = opened(browser, url, troubles)
    page.fill("#password", "right horse")
    page.get_by_role("button", name="Enter").click()
    page.get_by_role("button", name="scene 1").wait_for()
    page.set_input_files("#file", {"name": "list.mp4", "mimeType": "video/mp4", "buffer": b"#EXTM3U\n" * 100})
    page.locator("#trouble", has_text="this is no video").wait_for()
    assert all("422" in text for text in troubles)
    troubles.clear()
    page.get_by_role("button", name="scene 1").click()
    page.locator("body[data-preview=moving]").wait_for()
    page.select_option("#resolution", "model")
    page.click("#render")
    page.locator("#jobs li[data-state=done]").wait_for()
    page.get_by_role("button", name="Show").click()
    page.get_by_role("button", name="Make a 3D page").click()
    page.get_by_role("link", name="Download", exact=True).wait_for()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download", exact=True).click()
    assert "<canvas" in download.value.path().read_text()
    assert troubles == []


def test_files_that_are_made_to_fill_the_machine_end_their_own_process(serve, tmp_path):
    import httpx

    _, url = serve()
    bombs = {"bomb.gif": gif_of(65_535), "noise.mp4": b"\0\0\0\x18ftypmp42" + bytes(range(256)) * 4000}
    with httpx.Client(base_url=url, timeout=60) as client:
        for name, content in bombs.items():
            upload = client.post("/api/uploads", params={"name": name}, content=content).json()
            until(lambda id=upload["id"]: client.get(f"/api/uploads/{id}").json()["state"] == "refused")
            assert client.get(f"/api/uploads/{upload['id']}").json()["reason"]
        assert client.get("/api/state").status_code == 200


def gif_of(side: int) -> bytes:
    """Two frames of so many pixels a side, in a few bytes."""
    size = side.to_bytes(2, "little")
    frame = b"\x2c" + bytes(4) + size + size + b"\x00\x02\x02\x4c\x01\x00"
    return b"GIF89a" + size + size + b"\xf0\x00\x00\x00\x00\x00\xff\xff\xff" + 2 * frame + b"\x3b"
