"""`mvtrack web [FOLDER]`: a page to re-shoot videos in."""

import secrets
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from mvtrack.config.checked import Range, config
from mvtrack.config.command_line import Command, option, positional, run, section
from mvtrack.inference.studio.limits import StudioLimits


@config(kw_only=True)
class WebCommand(Command):
    """Serve a page on this machine: bring a video, see camera paths in 3D, render, compare, download. Uploads and
    results stay in FOLDER, also when the server ends."""

    folder: Path = positional("for uploads and results; default: outputs/studio", Path("outputs/studio"))
    port: Annotated[int, Range(0, 65535)] = option(8080, "of the page")
    listen: str = option("127.0.0.1", "address to listen on; others than this machine's own need a password")
    password: str | None = option(
        None, "who knows it may enter, and sees his own videos only; default: none on this machine, a new one otherwise"
    )
    models: tuple[str, ...] = option((), "folders of models that are offered beside the tiny one", metavar="FOLDER")
    limits: StudioLimits = section(StudioLimits, "what is taken")


def main(arguments: list[str] | None = None) -> int:
    """Parse and serve, until it is interrupted."""
    return run(WebCommand, _serve, arguments, "mvtrack web")


def _serve(options: WebCommand) -> None:
    if missing := [name for name in ("starlette", "uvicorn") if find_spec(name) is None]:
        raise ValueError(f"the page needs {' and '.join(missing)}: pip install -e '.[web]'")
    from mvtrack.inference.studio.server import StudioServer
    from mvtrack.inference.studio.sessions import is_loopback
    from mvtrack.inference.studio.shots import Studio
    from mvtrack.inference.studio.store import only_server
    from mvtrack.models.reshoot_model import read_config

    token = None if options.password or is_loopback(options.listen) else secrets.token_urlsafe(18)
    models = {Path(model).name: str(Path(model).resolve()) for model in options.models}
    for model in models.values():
        read_config(model)
    studio = Studio(models)
    studio.prepare()
    with only_server(options.folder):
        _listen(options, StudioServer(options.folder, options.limits, studio, options.password or token), token)


def _listen(options: WebCommand, server, token: str | None) -> None:
    import uvicorn

    config = uvicorn.Config(
        server.app, host=options.listen, port=options.port, log_level="warning", lifespan="on", server_header=False,
        h11_max_incomplete_event_size=1 << 16, timeout_keep_alive=30, timeout_graceful_shutdown=3,
    )  # fmt: skip
    socket = config.bind_socket()
    socket.listen(config.backlog)  # before the address is said: who comes at once waits instead of being refused
    host, port = socket.getsockname()[:2]
    query = f"/?token={token}" if token else ""
    sys.stdout.write(f"http://{f'[{host}]' if ':' in host else host}:{port}{query} (Ctrl+C ends it)\n")
    sys.stdout.flush()
    uvicorn.Server(config).run(sockets=[socket])


if __name__ == "__main__":
    sys.exit(main())
