"""Videos that users bring: taken in a stream, known by their first bytes, and measured in processes of their own."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from mvtrack.inference.studio.limits import StudioLimits
from mvtrack.inference.studio.program import Program
from mvtrack.inference.studio.render_queue import refuse_full_disk
from mvtrack.inference.studio.store import Entry, Store, label

PROBE_S = 120  # until a file has told what it is
MEASURE_S = 1800
_AT_ONCE = 1  # measurements at a time
MEASURING, READY, REFUSED = "measuring", "ready", "refused"
# A file is opened by what is in it, and some formats are lists of other files, which decoders would open (HLS, DASH,
# concat): only containers that hold their pictures are taken. (offset, bytes): suffix
_SIGNATURES: list[tuple[int, bytes, str]] = [
    (4, b"ftyp", ".mp4"), (4, b"moov", ".mov"), (4, b"mdat", ".mov"), (4, b"wide", ".mov"), (4, b"free", ".mov"),
    (4, b"skip", ".mov"), (0, b"\x1a\x45\xdf\xa3", ".mkv"), (8, b"AVI ", ".avi"), (0, b"GIF8", ".gif"),
    (0, b"\x00\x00\x01\xba", ".mpg"), (0, b"\x00\x00\x01\xb3", ".mpg"), (0, b"FLV", ".flv"),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", ".wmv"), (0, b"OggS", ".ogv"),
    (0, b"\x06\x0e\x2b\x34\x02\x05\x01\x01", ".mxf"),
]  # fmt: skip
_HEAD = 400
_TS_PACKETS = {188: 0, 192: 4}  # transport streams: length of a packet, where in it the sync byte stands


class TooLargeError(ValueError):
    """An upload beyond the limit."""


def suffix_of(head: bytes) -> str | None:
    """By the first bytes of a file; None for what is not taken."""
    for at, signature, suffix in _SIGNATURES:
        if head[at : at + len(signature)] == signature:
            return suffix
    for length, at in _TS_PACKETS.items():
        if len(head) > at + length and head[at] == head[at + length] == 0x47:
            return ".ts"
    return None


class _Timer:
    """Stops a program that is silent for too long."""

    def __init__(self, program: Program, seconds: float) -> None:
        self._program, self.over = program, False
        self._set(seconds)

    def _set(self, seconds: float) -> None:
        self._handle = asyncio.get_running_loop().call_later(seconds, self._stop)

    def _stop(self) -> None:
        self.over = True
        self._program.stop()

    def restart(self, seconds: float) -> None:
        self.cancel()
        self._set(seconds)

    def cancel(self) -> None:
        self._handle.cancel()


class Uploads:
    """What was brought, and the processes that measure it."""

    def __init__(self, store: Store, limits: StudioLimits) -> None:
        self.store, self.limits = store, limits
        self._tasks: dict[tuple[str, ...], asyncio.Task] = {}  # by upload and what is measured
        self._slots = asyncio.Semaphore(_AT_ONCE)

    def start(self) -> None:
        """Go on with what the last server had not finished."""
        for upload in self.store.of("uploads", None):
            if upload.status.get("state") not in (READY, REFUSED):
                self._measure(upload)
            if upload.status.get("cameras") == "measuring":
                self._measure(upload, "cameras")

    async def close(self) -> None:
        for task in [*self._tasks.values()]:
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    def refuse(self, owner: str, size: int) -> None:
        """Raises TooLargeError for a size beyond the limit, ValueError where there is no room."""
        if size > self.limits.upload_bytes:
            raise TooLargeError(f"the file has {size / 1e6:.0f} MB, up to {self.limits.max_upload_mb} MB are taken")
        if len(self.store.of("uploads", owner)) >= self.limits.max_uploads_each:
            raise ValueError(f"{self.limits.max_uploads_each} videos are kept for you: remove one first")
        refuse_full_disk(self.store, self.limits, size)

    async def take(self, owner: str, name: str, pieces: AsyncIterator[bytes]) -> Entry:
        """Write what comes to a folder of its own, never all of it in memory. Raises what `refuse` raises, and
        ValueError for what is no video by its first bytes."""
        self.refuse(owner, 0)
        folder = self.store.new_folder("uploads")
        try:
            file = await self._write(owner, folder, pieces)
            upload = self.store.add("uploads", folder, owner, name=label(name), file=file)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        upload.update(state=MEASURING, measured=[])
        self._measure(upload)
        return upload

    async def copy(self, owner: str, name: str, video: Path) -> Entry:
        """A video of this machine as an upload."""

        async def pieces() -> AsyncIterator[bytes]:
            with video.open("rb") as file:
                while piece := file.read(1 << 20):
                    yield piece

        return await self.take(owner, name, pieces())

    async def _write(self, owner: str, folder: Path, pieces: AsyncIterator[bytes]) -> str:
        head, size, partial = b"", 0, folder / "partial"
        with partial.open("wb") as file:
            async for piece in pieces:
                size += len(piece)
                if size > self.limits.upload_bytes:
                    self.refuse(owner, size)
                refuse_full_disk(self.store, self.limits)
                head += piece[: max(0, _HEAD - len(head))]
                if len(head) >= _HEAD and suffix_of(head) is None:
                    break
                file.write(piece)
        suffix = suffix_of(head)
        if suffix is None:
            raise ValueError("this is no video: mp4, mov, mkv, webm, avi, gif, mpeg, ts, flv, wmv, ogv and mxf are")
        partial.rename(folder / f"video{suffix}")
        return f"video{suffix}"

    def remove(self, upload: Entry) -> None:
        """With everything that was measured of it."""
        for (id, *_), task in self._tasks.items():
            if id == upload.id:
                task.cancel()
        self.store.remove("uploads", upload)

    def measure_cameras(self, upload: Entry) -> None:
        """The source's own motion, for `--source-cameras auto`, when its turn comes."""
        if upload.status.get("cameras") != "measured" and (upload.id, "cameras") not in self._tasks:
            upload.update(cameras="measuring", camera_notes=[])
            self._measure(upload, "cameras")

    def _measure(self, upload: Entry, *what: str) -> None:
        task = asyncio.get_running_loop().create_task(self._run(upload, what))
        self._tasks[(upload.id, *what)] = task
        task.add_done_callback(lambda _: self._tasks.pop((upload.id, *what), None))

    async def _run(self, upload: Entry, what: tuple[str, ...]) -> None:
        heard = _heard_of_cameras if what else _heard
        arguments = ["mvtrack.inference.studio.measure", str(upload.folder), str(video_of(upload))]
        async with self._slots:
            program = await Program.start([*arguments, json.dumps(asdict(self.limits)), *what], upload.folder)
            late = _Timer(program, MEASURE_S if what else PROBE_S)
            reason = ""
            try:
                async for line in program.lines():
                    reason = self._note(upload, line, heard) or line
                    late.restart(MEASURE_S)
                await program.wait()
            finally:
                late.cancel()
                await program.close()
        if late.over:
            reason = "it takes too long to read"
        if not what and upload.status.get("state") != READY:
            upload.update(state=REFUSED, reason=reason or "it cannot be read")
        if what and upload.status.get("cameras") == "measuring":
            upload.update(cameras="failed", camera_notes=[reason])

    @staticmethod
    def _note(upload: Entry, line: str, heard: Callable[[Entry, dict], None]) -> str:
        with suppress(ValueError):
            found = json.loads(line)
            if isinstance(found, dict):
                heard(upload, found)
                return found.get("error", "")
        return ""


def _heard(upload: Entry, found: dict) -> None:
    if "measured" in found:  # on disk with the end: the frames' files tell
        upload.status["measured"] = sorted({*upload.status.get("measured", []), found["measured"]})
    elif "source" in found:
        upload.update(state=READY)
    elif "error" not in found:
        upload.update(measured=[], **found)


def _heard_of_cameras(upload: Entry, found: dict) -> None:
    if "cameras" in found:
        upload.update(cameras="measured" if found["cameras"] else "failed", camera_notes=found["notes"])


def video_of(upload: Entry) -> Path:
    """The file as it was brought."""
    return upload.folder / upload.info["file"]
