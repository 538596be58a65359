"""A studio without a browser: its server in this process, its programs replaced where a test says so."""

import asyncio
import importlib
import sys
import time

import pytest

from mvtrack.inference.studio import render_queue
from mvtrack.inference.studio.limits import StudioLimits
from mvtrack.inference.studio.program import Program
from mvtrack.inference.studio.uploads import READY, Uploads

testclient = pytest.importorskip("starlette.testclient", reason="the studio needs starlette: pip install -e '.[web]'")

importlib.import_module("anyio").open_file  # noqa: B018  in a thread of the server, pytest could not import its parts

# What stands in for `mvtrack reshoot`: says how far it is and writes what its --out names, or waits to be ended.
FAKE_RENDER = """
import pathlib, subprocess, sys, time
out = pathlib.Path(sys.argv[-1])
print("re-shooting, arc_left:  50%|x| 1/2 [00:01<00:01,  1.0s/step]", end="\\r", flush=True)
if "--seed" in sys.argv and sys.argv[sys.argv.index("--seed") + 1] == "13":
    sys.exit("mvtrack reshoot: there is no luck in this number")
if "--seed" in sys.argv:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    (out.parent / "child").write_text(str(child.pid))
    time.sleep(600)
out.mkdir()
(out / "video.mp4").write_bytes(b"moving")
(out / "cameras.json").write_text("{}")
print("a note", flush=True)
"""


async def start_fake(arguments, folder) -> Program:
    return Program(
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", FAKE_RENDER, *arguments, stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT, start_new_session=True,
        )
    )  # fmt: skip


@pytest.fixture
def studio(tmp_path, monkeypatch):
    """Make a client of a server on one folder. Nothing is measured, and renders are the fake program's."""
    from mvtrack.inference.studio.server import StudioServer

    monkeypatch.setattr(Uploads, "_measure", lambda *arguments: None)
    monkeypatch.setattr(render_queue.Program, "start", staticmethod(start_fake))
    clients = []

    def make(password=None, **limits):
        server = StudioServer(tmp_path / "studio", StudioLimits(**{"keep_free_gb": 0.0} | limits), password=password)
        client = testclient.TestClient(server.app, base_url="http://127.0.0.1:8080")
        client.__enter__()
        clients.append(client)
        client.server = server
        return client

    yield make
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def ready(video):
    """Upload the small video, and say of it what measuring would have said."""

    def make(client, name="in.mp4"):
        made = client.post("/api/uploads", params={"name": name}, content=video.read_bytes())
        assert made.status_code == 201, made.text
        upload = client.server.store.entries["uploads"][made.json()["id"]]
        upload.update(
            state=READY, frames=7, size=[90, 160], fps=12.0, notes=[], shown=list(range(7)), measured=[0, 3],
            grid=[90, 160], inverse_steps=8192,
        )  # fmt: skip
        return upload

    return make


@pytest.fixture
def wait_for():
    """Ask for a job until it has a state."""

    def wait(client, id, state, holds=lambda job: True):
        end = time.monotonic() + 60
        while True:
            job = client.get(f"/api/jobs/{id}").json()
            if job["state"] == state and holds(job):
                return job
            assert time.monotonic() < end, job
            assert job["state"] in ("waiting", "running", state), job
            time.sleep(0.05)

    return wait
