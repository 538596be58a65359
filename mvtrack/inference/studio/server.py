"""The studio's server: routes over uploads, paths and jobs. Everything that the page shows comes from here as JSON."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from importlib import resources
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mvtrack.config.checked import Count, check
from mvtrack.config.tree import from_tree
from mvtrack.geometry.presets import PRESETS, SPEEDS
from mvtrack.inference.studio.examples import EXAMPLES
from mvtrack.inference.studio.guard import Guard
from mvtrack.inference.studio.limits import StudioLimits
from mvtrack.inference.studio.program import Program
from mvtrack.inference.studio.render_queue import (
    DONE,
    QueueFullError,
    RenderQueue,
    command_of,
    refuse_full_disk,
    result_of,
)
from mvtrack.inference.studio.results import archive, box_of, files_of, tracks_of
from mvtrack.inference.studio.sessions import Sessions
from mvtrack.inference.studio.shots import PathWish, ProbedVideo, RenderWish, Studio, error_span
from mvtrack.inference.studio.store import Entry, Store, UnknownEntryError
from mvtrack.inference.studio.uploads import REFUSED, TooLargeError, Uploads, video_of

_JSON_BYTES = 1 << 18
_PAGE = resources.files("mvtrack.inference.studio").joinpath("page")
_TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_SHOWN = (".mp4",)  # files of a result that the page plays; others are only downloaded


class StudioServer:
    """One folder's uploads and jobs, and the routes to them. `app` is the ASGI application."""

    def __init__(
        self, root: Path, limits: StudioLimits, studio: Studio | None = None, password: str | None = None
    ) -> None:
        self.store, self.limits, self.studio = Store(root), limits, studio or Studio()
        self.uploads = Uploads(self.store, limits)
        self.queue = RenderQueue(self.store, limits)
        self._rendering = asyncio.Lock()  # of examples
        sessions = Sessions(self.store.root, password)
        upload, job = "/api/uploads/{id}", "/api/jobs/{id}"
        routes = [
            Route("/", self._page), Route("/login", self._page), Route("/static/{name}", self._static),
            Route("/api/state", self._state),
            Route("/api/uploads", self._upload, methods=["POST"]),
            Route("/api/examples/{name}", self._example, methods=["POST"]),
            Route(upload, self._upload_status), Route(upload, self._remove_upload, methods=["DELETE"]),
            Route(upload + "/frames/{number:int}", self._frame), Route(upload + "/source.mp4", self._source),
            Route(upload + "/cameras", self._measure_cameras, methods=["POST"]),
            Route(upload + "/preview", self._preview, methods=["POST"]),
            Route(upload + "/forecast", self._forecast, methods=["POST"]),
            Route(upload + "/render", self._render, methods=["POST"]),
            Route(job, self._job), Route(job, self._remove_job, methods=["DELETE"]),
            Route(job + "/cancel", self._cancel, methods=["POST"]),
            Route(job + "/export4d", self._export, methods=["POST"]),
            Route(job + "/log", self._log), Route(job + "/tracks", self._tracks),
            Route(job + "/all.zip", self._archive), Route(job + "/files/{name}", self._file),
        ]  # fmt: skip
        self.app = Starlette(
            routes=routes, lifespan=self._lifespan, middleware=[Middleware(Guard, sessions=sessions)],
            exception_handlers={
                ValueError: _bad_input, UnknownEntryError: _unknown, HTTPException: _http_error, OSError: _disk_error,
                ClientDisconnect: _gone,
            },
        )  # fmt: skip

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self.uploads.start()
        work = asyncio.create_task(self.queue.run())
        try:
            yield
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)
            await self.uploads.close()

    def _entry(self, request: Request, kind: str) -> Entry:
        return self.store.get(kind, request.path_params["id"], request.scope["owner"])

    async def _page(self, request: Request) -> Response:
        return _packaged("login.html" if request.url.path == "/login" else "index.html")

    async def _static(self, request: Request) -> Response:
        return _packaged(request.path_params["name"])

    async def _state(self, request: Request) -> Response:
        """Everything that the page lists."""
        owner = request.scope["owner"]
        return JSONResponse({
            "uploads": [_upload_shown(entry) for entry in self.store.of("uploads", owner)],
            "jobs": [self._job_shown(entry) for entry in self.store.of("jobs", owner)],
            "presets": {name: {"unit": p.unit, "amount": round(p.amount, 1)} for name, p in PRESETS.items()},
            "speeds": list(SPEEDS), "models": self.studio.offered(), "examples": list(EXAMPLES),
            "max_upload_mb": self.limits.max_upload_mb, "free_gb": round(self.store.free_bytes() / 1e9, 1),
        })  # fmt: skip

    async def _upload(self, request: Request) -> Response:
        session = request.scope["session"]
        stated = request.headers.get("content-length", "0")
        self.uploads.refuse(session, int(stated) if stated.isdigit() else 0)
        upload = await self.uploads.take(session, request.query_params.get("name", ""), request.stream())
        return JSONResponse(_upload_shown(upload), 201)

    async def _example(self, request: Request) -> Response:
        name = request.path_params["name"]
        if name not in EXAMPLES:
            raise HTTPException(404, f"examples are {', '.join(EXAMPLES)}")
        file = self.store.root / "examples" / f"{name}.mp4"
        async with self._rendering:
            if not file.exists():
                refuse_full_disk(self.store, self.limits)
                file.parent.mkdir(exist_ok=True)
                program = await Program.start(["mvtrack.inference.studio.examples", name, str(file)], file.parent)
                try:
                    said = [line async for line in program.lines()]
                    await program.wait()
                finally:
                    await program.close()
                if not file.exists():
                    raise ValueError(f"the example cannot be rendered: {said[-1:]}")
        upload = await self.uploads.copy(request.scope["session"], f"{name}.mp4", file)
        return JSONResponse(_upload_shown(upload), 201)

    async def _upload_status(self, request: Request) -> Response:
        return JSONResponse(_upload_shown(self._entry(request, "uploads")))

    async def _remove_upload(self, request: Request) -> Response:
        """Refused while a job reads it."""
        upload = self._entry(request, "uploads")
        reading = [job for job in self.store.entries["jobs"].values() if job.info.get("upload") == upload.id]
        if any(job.status.get("state") in ("waiting", "running") for job in reading):
            raise ValueError("a job that is not done reads this video: cancel it first")
        self.uploads.remove(upload)
        return Response(status_code=204)

    async def _frame(self, request: Request) -> Response:
        upload, number = self._entry(request, "uploads"), request.path_params["number"]
        if number not in upload.status.get("measured", []):
            raise HTTPException(404, "this frame is not measured")
        headers = {"cache-control": "private, max-age=86400, immutable"}
        return FileResponse(upload.folder / "frames" / f"{number}.bin", headers=headers)

    async def _source(self, request: Request) -> Response:
        return _sent(self._entry(request, "uploads").folder / "source.mp4")

    async def _measure_cameras(self, request: Request) -> Response:
        upload = self._entry(request, "uploads")
        self._footage(upload)
        self.uploads.measure_cameras(upload)
        return JSONResponse(_upload_shown(upload), 202)

    def _footage(self, upload: Entry) -> ProbedVideo:
        if upload.status.get("state") == REFUSED or "frames" not in upload.status:
            raise ValueError(f"this video is not ready: {upload.status.get('reason', 'it is being looked at')}")
        return ProbedVideo.of(video_of(upload), upload.status)

    async def _wishes(self, request: Request) -> tuple[Entry, ProbedVideo, PathWish, RenderWish]:
        upload, body = self._entry(request, "uploads"), await _json(request)
        request.state.count = body.get("count")
        check(Count | None, request.state.count, "count")
        footage = self._footage(upload)
        path = from_tree(PathWish, body.get("path"), "path")
        if path.measured and upload.status.get("cameras") != "measured":
            raise ValueError("the source's cameras are not measured: turn that off, or wait")
        return upload, footage, path, from_tree(RenderWish, body.get("render", {}), "render")

    async def _preview(self, request: Request) -> Response:
        """Cameras and the command line, or what is wrong with the path and where: half a path is no failed request."""
        upload, footage, path, wish = await self._wishes(request)
        try:
            made = await run_in_threadpool(
                self.studio.preview, footage, upload.status["shown"], path, wish, request.state.count
            )
        except ValueError as error:
            return JSONResponse({"error": str(error), "span": error_span(str(error), path.text or "")})
        arguments = await run_in_threadpool(self.studio.arguments, footage, path, wish, upload.folder)
        return JSONResponse(made | {"command": command_of(arguments)})

    async def _forecast(self, request: Request) -> Response:
        _, footage, _, wish = await self._wishes(request)
        ahead = await run_in_threadpool(self.studio.expect, footage, wish, self.limits.max_hours)
        return JSONResponse({"forecast": str(ahead)})

    async def _render(self, request: Request) -> Response:
        upload, footage, path, wish = await self._wishes(request)
        await run_in_threadpool(self.studio.preview, footage, [0], path, wish)
        ahead = await run_in_threadpool(self.studio.expect, footage, wish, self.limits.max_hours)

        def arguments(folder: Path) -> list[str]:
            return self.studio.arguments(footage, path, wish, folder, folder / "result")

        job = self.queue.add(
            request.scope["session"], "reshoot", arguments, upload=upload.id, name=upload.info["name"],
            label=path.text or "keyframes", forecast=str(ahead),
        )  # fmt: skip
        return JSONResponse(self._job_shown(job), 201)

    async def _export(self, request: Request) -> Response:
        """The result as one page that plays in 3D."""
        of = self._finished(request)
        result = result_of(of)
        job = self.queue.add(
            request.scope["session"], "export4d",
            lambda folder: ["export4d", str(result), "--format", "html", "--out", str(folder / "result.html")],
            of=of.id, upload=of.info.get("upload"), name=of.info["name"], label=f"{of.info['label']} in 3D",
        )  # fmt: skip
        return JSONResponse(self._job_shown(job), 201)

    def _finished(self, request: Request) -> Entry:
        job = self._entry(request, "jobs")
        if job.status.get("state") != DONE:
            raise ValueError("this job has no result")
        return job

    def _job_shown(self, job: Entry) -> dict[str, Any]:
        shown = {name: job.info.get(name) for name in ("kind", "upload", "of", "name", "label", "created", "forecast")}
        files = {name: path.stat().st_size for name, path in files_of(job).items()} if _done(job) else {}
        return shown | job.status | {
            "id": job.id, "command": command_of(job.info["arguments"]), "files": files, "ahead": self.queue.ahead(job)
        }  # fmt: skip

    async def _job(self, request: Request) -> Response:
        job = self._entry(request, "jobs")
        return JSONResponse(self._job_shown(job) | {"box": box_of(job) if _done(job) else None})

    async def _cancel(self, request: Request) -> Response:
        job = self._entry(request, "jobs")
        self.queue.cancel(job)
        return JSONResponse(self._job_shown(job))

    async def _remove_job(self, request: Request) -> Response:
        job = self._entry(request, "jobs")
        self.queue.cancel(job)
        self.store.remove("jobs", job)
        return Response(status_code=204)

    async def _log(self, request: Request) -> Response:
        log = self._entry(request, "jobs").folder / "log.txt"
        return Response(log.read_bytes() if log.exists() else b"", media_type="text/plain; charset=utf-8")

    async def _tracks(self, request: Request) -> Response:
        return JSONResponse(await run_in_threadpool(tracks_of, self._finished(request)))

    async def _archive(self, request: Request) -> Response:
        job = self._finished(request)
        headers = {"content-disposition": f'attachment; filename="mvtrack_{job.id}.zip"'}
        return StreamingResponse(archive(files_of(job)), media_type="application/zip", headers=headers)

    async def _file(self, request: Request) -> Response:
        file = files_of(self._finished(request)).get(request.path_params["name"])
        if file is None:
            raise HTTPException(404, "this result has no such file")
        return _sent(file, download=file.suffix not in _SHOWN or "download" in request.query_params)


def _done(job: Entry) -> bool:
    return job.status.get("state") == DONE


def _upload_shown(upload: Entry) -> dict[str, Any]:
    return upload.status | {"id": upload.id, "name": upload.info["name"], "created": upload.info["created"]}


async def _json(request: Request) -> dict:
    """A small body. Raises ValueError for anything but an object."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _JSON_BYTES:
            raise TooLargeError("the request is too large")
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ValueError("the request is not JSON") from error
    if not isinstance(value, dict):
        raise ValueError("the request must be an object")
    return value


def _sent(file: Path, download: bool = False) -> Response:
    if not file.exists():
        raise HTTPException(404, "it is not there yet")
    kind = "video/mp4" if file.suffix == ".mp4" else "application/octet-stream"
    return FileResponse(
        file, media_type=kind, filename=file.name, content_disposition_type="attachment" if download else "inline"
    )


def _packaged(name: str) -> Response:
    known = {entry.name: entry for entry in _PAGE.iterdir()}
    suffix = Path(name).suffix
    if name not in known or suffix not in _TYPES:
        raise HTTPException(404, "there is no such page")
    headers = {"cache-control": "no-cache"}
    return Response(known[name].read_bytes(), media_type=_TYPES[suffix], headers=headers)


async def _bad_input(request: Request, error: Exception) -> Response:
    code = 413 if isinstance(error, TooLargeError) else 429 if isinstance(error, QueueFullError) else 422
    headers = {"connection": "close"} if code == 413 else None  # what is still coming is not read
    return JSONResponse({"error": str(error)}, code, headers)


async def _unknown(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 404)


async def _http_error(request: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code)


async def _disk_error(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": f"the server's disk: {error.strerror or error}"}, 507)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=400)
