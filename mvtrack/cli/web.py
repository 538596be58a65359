"""`mvtrack web [FOLDER]`: a page to re-shoot videos in."""

import secrets
import sys
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
    try:
        import uvicorn
    except ImportError as error:
        raise ValueError("the page needs a web server: pip install '.[web]'") from error
    from mvtrack.inference.studio.server import StudioServer
    from mvtrack.inference.studio.sessions import is_loopback
    from mvtrack.inference.studio.shots import Studio
    from mvtrack.models.reshoot_model import read_config

    token = None if options.password or is_loopback(options.listen) else secrets.token_urlsafe(18)
    models = {Path(model).name: str(Path(model).resolve()) for model in options.models}
    for model in models.values():
        read_config(model)
    studio = Studio(models)
    studio.prepare()
    server = StudioServer(options.folder, options.limits, studio, options.password or token)
    config = uvicorn.Config(
        server.app, host=options.listen, port=options.port, log_level="warning", lifespan="on", server_header=False,
        h11_max_incomplete_event_size=1 << 16, timeout_keep_alive=30, timeout_graceful_shutdown=3,
    )  # fmt: skip
    socket = config.bind_socket()
    host, port = socket.getsockname()[:2]
    query = f"/?token={token}" if token else ""
    sys.stdout.write(f"http://{f'[{host}]' if ':' in host else host}:{port}{query} (Ctrl+C ends it)\n")
    sys.stdout.flush()
    uvicorn.Server(config).run(sockets=[socket])


if __name__ == "__main__":
    sys.exit(main())
