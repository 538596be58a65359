"""Jobs from asking to downloading, through kills of the server."""

import asyncio
import errno
import io
import os
import time
import zipfile

import numpy as np
import pytest

from mvtrack.inference.studio import render_queue
from mvtrack.inference.studio.limits import StudioLimits
from mvtrack.inference.studio.measure import INVERSE_STEPS, _packed, coarse_first, shown_frames, within
from mvtrack.inference.studio.render_queue import CANCELLED, DONE, FAILED, RUNNING, WAITING
from mvtrack.inference.studio.results import archive
from mvtrack.inference.studio.store import Store, only_server
from mvtrack.inference.studio.uploads import Uploads
from mvtrack.video.reader import open_video

PATH = {"path": {"text": "arc_left 10deg"}}


def test_a_job_from_asking_to_downloading(studio, ready, wait_for):
    client = studio()
    upload = ready(client)
    job = client.post(f"/api/uploads/{upload.id}/render", json=PATH).json()
    done = wait_for(client, job["id"], DONE)
    assert done["progress"] == 1.0
    assert sorted(done["files"]) == ["cameras.json", "video.mp4"]
    assert client.get(f"/api/jobs/{job['id']}/log").text == "a note\n"
    packed = client.get(f"/api/jobs/{job['id']}/all.zip")
    with zipfile.ZipFile(io.BytesIO(packed.content)) as made:
        assert made.testzip() is None
        assert {name: made.read(name) for name in made.namelist()} == {"video.mp4": b"moving", "cameras.json": b"{}"}
    assert client.delete(f"/api/jobs/{job['id']}").status_code == 204
    assert client.get("/api/state").json()["jobs"] == []
    assert list((client.server.store.root / "jobs").iterdir()) == []


def test_a_job_that_fails_says_why(studio, ready, wait_for):
    client = studio()
    upload = ready(client)
    job = client.post(f"/api/uploads/{upload.id}/render", json=PATH | {"render": {"seed": 13}}).json()
    assert wait_for(client, job["id"], FAILED)["reason"] == "mvtrack reshoot: there is no luck in this number"


def test_a_log_that_cannot_be_written_ends_its_job_and_not_the_queue(studio, ready, wait_for, monkeypatch):
    client = studio()
    upload, follow = ready(client), render_queue._follow

    async def full(program, job):
        monkeypatch.setattr(render_queue, "_follow", follow)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(render_queue, "_follow", full)
    first, second = (client.post(f"/api/uploads/{upload.id}/render", json=PATH).json()["id"] for _ in range(2))
    assert "No space left" in wait_for(client, first, FAILED)["reason"]
    wait_for(client, second, DONE)


def test_cancelling_ends_a_job_and_what_it_started(studio, ready, wait_for):
    client = studio()
    upload = ready(client)
    first, second = (
        client.post(f"/api/uploads/{upload.id}/render", json=PATH | {"render": {"seed": seed}}).json()
        for seed in (5, 0)
    )
    running = wait_for(client, first["id"], RUNNING, lambda job: job["progress"] > 0)
    assert (running["progress"], running["doing"]) == (0.5, "re-shooting, arc_left: 1 of 2")
    assert client.get(f"/api/jobs/{second['id']}").json()["ahead"] == 1
    child = client.server.store.root / "jobs" / first["id"] / "child"
    until(lambda: child.exists() and child.read_text())
    assert "cancel it first" in client.delete(f"/api/uploads/{upload.id}").json()["error"]
    assert client.post(f"/api/jobs/{first['id']}/cancel").json()["state"] == CANCELLED
    wait_for(client, second["id"], DONE)
    until(lambda: ended(int(child.read_text())))
    assert client.get(f"/api/jobs/{first['id']}").json()["state"] == CANCELLED


def until(holds, seconds=30.0):
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


def ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().split()[2] == "Z"


def test_after_a_kill_finished_jobs_stay_and_the_others_start_again(studio, ready, wait_for):
    client = studio()
    upload = ready(client)
    store = client.server.store
    states = {"done": DONE, "cut off": RUNNING, "finished unsaid": RUNNING, "hopeless": RUNNING, "waits": WAITING}
    for name, state in states.items():
        folder = store.new_folder("jobs")
        arguments = ["reshoot", str(upload.folder / "video.mp4"), "--out", str(folder / "result")]
        job = store.add("jobs", folder, "someone", kind="reshoot", label=name, name="in.mp4", arguments=arguments)
        job.update(state=state, starts=5 if name == "hopeless" else 1, started=1.0, finished=2.0)
        if name in ("done", "finished unsaid"):
            (folder / "result").mkdir()
            (folder / "result/video.mp4").write_bytes(name.encode())
        (folder / ".result.0123").mkdir()  # what it was writing
    half = store.new_folder("uploads")
    (half / "partial").write_bytes(b"x")
    later = studio()
    jobs = {job["label"]: job for job in later.get("/api/state").json()["jobs"]}
    assert (jobs["done"]["state"], jobs["finished unsaid"]["state"], jobs["hopeless"]["state"]) == (DONE, DONE, FAILED)
    assert "ended 5 times" in jobs["hopeless"]["reason"]
    assert later.get(f"/api/jobs/{jobs['done']['id']}/files/video.mp4").content == b"done"
    for name in ("cut off", "waits"):
        wait_for(later, jobs[name]["id"], DONE)
    assert not half.exists()
    assert [entry.id for entry in later.server.store.of("uploads", None)] == [upload.id]


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match="holds other things"):
        Store(tmp_path)


def test_two_servers_do_not_share_a_folder(tmp_path):
    with only_server(tmp_path), pytest.raises(ValueError, match="another mvtrack web works"), only_server(tmp_path):
        pass
    with only_server(tmp_path):
        Store(tmp_path)


def test_a_disk_that_fills_up_is_said_and_nothing_half_stays(studio, ready, video, monkeypatch):
    client = studio()

    async def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Uploads, "_write", full)
    answer = client.post("/api/uploads", content=video.read_bytes())
    assert answer.status_code == 507
    assert "No space left" in answer.json()["error"]
    assert list((client.server.store.root / "uploads").iterdir()) == []


def test_cameras_are_measured_once_also_while_geometry_is(tmp_path, monkeypatch):
    store, runs = Store(tmp_path), []

    async def run(self, upload, what):
        runs.append(what)
        await asyncio.sleep(3600)

    async def ask() -> None:
        for _ in range(2):  # the second is the next server
            uploads = Uploads(store, StudioLimits())
            uploads.start()
            uploads.measure_cameras(upload)
            uploads.measure_cameras(upload)
            await asyncio.sleep(0)
            await uploads.close()

    monkeypatch.setattr(Uploads, "_run", run)
    upload = store.add("uploads", store.new_folder("uploads"), "someone", name="in.mp4", file="video.mp4")
    upload.update(state="measuring")
    asyncio.run(ask())
    assert runs == [(), ("cameras",)] * 2
    assert upload.status["cameras"] == "measuring"


def test_a_path_that_is_wrong_is_said_at_its_place(studio, ready):
    client = studio()
    upload = ready(client)
    text = "arc_left 10deg; dolly_im 3"
    answer = client.post(f"/api/uploads/{upload.id}/preview", json={"path": {"text": text}}).json()
    assert text[slice(*answer["span"])] == "dolly_im"
    assert "dolly_in" in answer["error"]


def test_geometry_is_read_back_as_it_was(video):
    import cv2
    import torch

    depth = torch.linspace(0.2, 30, 90 * 160).reshape(90, 160)
    packed = _packed(depth, open_video(video), 3)
    steps = np.frombuffer(packed[: 2 * 90 * 160], "<u2").reshape(90, 160)
    np.testing.assert_allclose(steps / INVERSE_STEPS, 1 / depth.numpy(), atol=0.5001 / INVERSE_STEPS)
    picture = cv2.imdecode(np.frombuffer(packed[2 * 90 * 160 :], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    shown = open_video(video).read(3, 4)[0].permute(1, 2, 0).numpy()
    assert np.abs(picture.astype(int) - shown).mean() < 3


def test_a_coarse_motion_is_measured_first():
    assert list(coarse_first(list(range(11)))) == [0, 4, 8, 1, 2, 3, 5, 6, 7, 9, 10]
    assert len(shown_frames(2000)) <= 240
    assert shown_frames(81) == list(range(81))
    assert within((720, 1280), (128, 256)) == (128, 228)
    assert within((90, 160), (128, 256)) == (90, 160)
    assert within((1080, 6000), (128, 256)) == (46, 256)


def test_an_archive_never_holds_a_file_whole(tmp_path):
    (tmp_path / "large").write_bytes(os.urandom(5 << 20))
    pieces = list(archive({"large": tmp_path / "large"}))
    assert max(map(len, pieces)) < 2 << 20
    with zipfile.ZipFile(io.BytesIO(b"".join(pieces))) as made:
        assert made.read("large") == (tmp_path / "large").read_bytes()
