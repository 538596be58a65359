"""`python benchmarks/studio.py [--minutes 10] [--sessions 20] [--kills 10]`: how `mvtrack web` holds.

1. From a dropped file of 81 frames of 1280x720 to its first motion in 3D: every fourth frame's geometry and the path's
   cameras are there.
2. Answers of the page (its list, a preview) while a render runs.
3. Sessions that upload, render and download for some minutes, while the server is killed (SIGKILL) and started again:
   every job that was accepted is still known, every result that was ever finished is the same to the byte; the server's
   memory and its slowest answer.
"""

import argparse
import hashlib
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
from bench import report
from reshoot_720p import moving_window

from mvtrack.video.writer import write_video

FRAMES, SIZE, FPS, PASSWORD = 81, (720, 1280), 24.0, "benchmark"
PATH = {"path": {"text": "arc_left 10deg"}}
QUICK = PATH | {"render": {"resolution": "model"}}
PAUSE_S = 0.5


class Server:
    """The command, on one port, that can be killed and started again. answers: seconds of every one, and to what."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.folder, self.answers, self.clients, self.peak_mib = folder, [], [], 0.0
        self.start()

    def start(self) -> None:
        limits = ["--max-waiting", "40", "--max-waiting-each", "2", "--password", PASSWORD]
        command = [sys.executable, "-m", "mvtrack", "web", str(self.folder), "--port", str(self.port), *limits]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self.process.stdout.readline()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def client(self) -> httpx.Client:
        client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=60)
        self.clients.append(client)
        self.asked(client, "POST", "/login", content=PASSWORD)
        return client

    def close(self) -> None:
        self.kill()
        for client in self.clients:
            client.close()

    def asked(self, client: httpx.Client, method: str, path: str, **content) -> httpx.Response:
        """An answer, and how long it took; asked again while the server is down."""
        while True:
            began = time.perf_counter()
            try:
                answer = client.request(method, path, **content)
            except httpx.TransportError:
                time.sleep(PAUSE_S)
                continue
            self.answers.append((time.perf_counter() - began, f"{method} {path}"))
            return answer

    def weigh(self) -> None:
        """Remember the most resident memory of the server itself."""
        try:
            status = Path(f"/proc/{self.process.pid}/status").read_text()
        except OSError:
            return
        [kib] = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")] or [0]
        self.peak_mib = max(self.peak_mib, kib / 1024)


def wait(holds: Callable[[], bool], pause: float = 0.05) -> float:
    began = time.perf_counter()
    while not holds():
        time.sleep(pause)
    return time.perf_counter() - began


def first_motion(server: Server, clip: Path) -> tuple[dict[str, float], httpx.Client, str]:
    client, began = server.client(), time.perf_counter()
    id = server.asked(client, "POST", "/api/uploads?name=clip.mp4", content=clip.read_bytes()).json()["id"]
    url, figures = f"/api/uploads/{id}", {}
    for name, share in (("drop to first motion, s", 0.25), ("drop to all of it, s", 1.0)):
        wait(lambda share=share: enough(server.asked(client, "GET", url).json(), share))
        if share < 1:
            server.asked(client, "POST", url + "/preview", json=PATH).raise_for_status()
        figures[name] = time.perf_counter() - began
    return figures, client, id


def enough(upload: dict, share: float) -> bool:
    if upload["state"] == "refused":
        raise RuntimeError(upload["reason"])
    return bool(upload.get("shown")) and len(upload["measured"]) >= share * len(upload["shown"])


def answers_beside_a_render(server: Server, client: httpx.Client, id: str, seconds: float) -> dict[str, float]:
    url = f"/api/uploads/{id}"
    wait(lambda: server.asked(client, "GET", url).json()["state"] == "ready")
    job = server.asked(client, "POST", url + "/render", json=PATH).json()["id"]
    wait(lambda: server.asked(client, "GET", f"/api/jobs/{job}").json()["state"] == "running")
    server.answers, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        server.asked(client, "GET", "/api/state")
        server.asked(client, "POST", url + "/preview", json=PATH)
        time.sleep(0.1)
    server.asked(client, "POST", f"/api/jobs/{job}/cancel")
    slowest = np.quantile([seconds for seconds, _ in server.answers], [0.5, 0.95])
    return {"answer beside a render, median, s": slowest[0], "answer beside a render, 95 %, s": slowest[1]}


class Session(threading.Thread):
    """Uploads, renders and looks, again and again. jobs: accepted. results: digests of videos that were finished."""

    def __init__(self, server: Server, clip: bytes, end: float) -> None:
        super().__init__(daemon=True)
        self.server, self.clip, self.end = server, clip, end
        self.jobs: set[str] = set()
        self.results: dict[str, str] = {}
        self.problems: list[str] = []

    def run(self) -> None:
        self.client, upload = self.server.client(), None
        while time.monotonic() < self.end:
            if upload is None:
                made = self._ask("POST", "/api/uploads?name=clip.mp4", content=self.clip)
                upload = made.json()["id"] if made.status_code == 201 else None
            elif self._ask("GET", f"/api/uploads/{upload}").json().get("frames"):
                made = self._ask("POST", f"/api/uploads/{upload}/render", json=QUICK)
                if made.status_code == 201:
                    self.jobs.add(made.json()["id"])
                elif made.status_code != 429:
                    self.problems.append(made.text)
            self.look()
            time.sleep(1.0)

    def look(self) -> None:
        """Finished results are what they were."""
        for job in self._ask("GET", "/api/state").json()["jobs"]:
            if job["state"] == "failed":
                self.problems.append(job["reason"])
            if job["state"] == "done":
                video = self._ask("GET", f"/api/jobs/{job['id']}/files/video.mp4").content
                digest = hashlib.sha256(video).hexdigest()
                if self.results.setdefault(job["id"], digest) != digest:
                    self.problems.append(f"{job['id']} changed")

    def lost(self) -> int:
        """Accepted jobs that nobody knows, and finished ones that are no more."""
        known = {job["id"]: job["state"] for job in self._ask("GET", "/api/state").json()["jobs"]}
        return len(self.jobs - set(known)) + sum(known.get(job) != "done" for job in self.results)

    def _ask(self, method: str, path: str, **content) -> httpx.Response:
        return self.server.asked(self.client, method, path, **content)


def load(server: Server, clip: Path, sessions: int, minutes: float, kills: int) -> dict[str, float]:
    server.answers, end = [], time.monotonic() + 60 * minutes
    users = [Session(server, clip.read_bytes(), end) for _ in range(sessions)]
    for user in users:
        user.start()
    at = [end - 60 * minutes * (1 - (i + 1) / (kills + 1)) for i in range(kills)]
    while time.monotonic() < end:
        server.weigh()
        if at and time.monotonic() > at[0]:
            at.pop(0)
            server.kill()
            server.start()
        time.sleep(0.2)
    for user in users:
        user.join()
        user.look()
    for problem in sorted({problem for user in users for problem in user.problems}):
        sys.stdout.write(f"problem: {problem}\n")
    return {
        "jobs accepted": float(sum(len(user.jobs) for user in users)),
        "jobs finished": float(sum(len(user.results) for user in users)),
        "lost": float(sum(user.lost() for user in users)),
        "problems": float(sum(len(user.problems) for user in users)),
        "slowest answer, s": slowest(server, "render", False),
        "slowest answer to render, s": slowest(server, "render", True),
        "server's memory, MiB": server.peak_mib,
    }  # fmt: skip


def slowest(server: Server, word: str, holds: bool) -> float:
    """Seconds of the slowest answer to what does or does not end in a word: one to `render` waits for an estimate."""
    return max((seconds for seconds, what in server.answers if what.endswith(word) == holds), default=0.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--small", action="store_true", help="seconds instead of minutes: does it run?")
    options = parser.parse_args()
    if options.small:
        options.minutes, options.sessions, options.kills = 0.6, 2, 1
    with tempfile.TemporaryDirectory() as folder:
        large, small = Path(folder, "large.mp4"), Path(folder, "small.mp4")
        size = (72, 128) if options.small else SIZE
        write_video(large, moving_window(9 if options.small else FRAMES, size), FPS)
        write_video(small, moving_window(9, (96, 160)), FPS)
        server = Server(Path(folder, "studio"))
        try:
            figures, client, id = first_motion(server, large)
            figures |= answers_beside_a_render(server, client, id, 3 if options.small else 30)
            figures |= load(server, small, options.sessions, options.minutes, options.kills)
        finally:
            server.close()
    targets = {
        "drop to first motion, s": ("<=", 20), "answer beside a render, 95 %, s": ("<=", 0.2), "lost": ("<=", 0),
        "problems": ("<=", 0), "slowest answer, s": ("<=", 2), "server's memory, MiB": ("<=", 1024),
    }  # fmt: skip
    return report(figures, {} if options.small else targets)


if __name__ == "__main__":
    sys.exit(main())
