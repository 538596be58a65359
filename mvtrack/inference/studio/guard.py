"""What every request passes before a route sees it: host, origin, session, and headers that keep scripts out."""

import asyncio
from collections.abc import Awaitable, Callable

from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mvtrack.inference.studio.sessions import COOKIE, MAX_AGE_S, Sessions, host_is_ours, origin_is_ours

HEADERS = {
    "content-security-policy": "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "style-src 'self'; script-src 'self'; object-src 'none'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}
_OPEN = ("/login", "/static/")  # without a session
_WRONG_S = 1.0  # that a wrong password takes
_MOST_WRONG = 4  # at a time


class Guard:
    """ASGI middleware. `scope["owner"]` is then whose things a request may see: None where there is no password, and
    all are everybody's; `scope["session"]` whose things it makes."""

    def __init__(self, app: ASGIApp, sessions: Sessions) -> None:
        self.app, self.sessions = app, sessions
        self._wrong = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        sending = _with_headers(send)
        if refused := self._refused(request):
            await refused(scope, receive, sending)
            return
        session, has_password = self.sessions.owner(request.cookies.get(COOKIE)), self.sessions.password is not None
        if has_password and session is None:
            if request.url.path == "/login" and request.method == "POST":
                await (await self._login(request))(scope, receive, sending)
            elif (token := request.query_params.get("token")) and request.url.path == "/":
                await (await self._enter(token))(scope, receive, sending)
            elif request.url.path.startswith(_OPEN):
                await self.app(scope, receive, sending)
            elif request.url.path == "/":
                await RedirectResponse("/login", 303)(scope, receive, sending)
            else:
                await _error("log in first", 401)(scope, receive, sending)
            return
        if session is None:
            cookie = self.sessions.new_cookie()
            session, sending = self.sessions.owner(cookie), _with_cookie(sending, cookie)
        scope["owner"], scope["session"] = session if has_password else None, session
        await self.app(scope, receive, sending)

    def _refused(self, request: HTTPConnection) -> Response | None:
        host = request.headers.get("host", "")
        if not host_is_ours(host, self.sessions.password is not None):
            return _error("this name is not of this server: open it by http://127.0.0.1", 421)
        if request.scope["method"] not in ("GET", "HEAD") and not origin_is_ours(request.headers.get("origin"), host):
            return _error("another site's page asks", 403)
        return None

    async def _login(self, request: Request) -> Response:
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > 1000:
                return _error("the password is too long", 413)
        return await self._enter(body.decode(errors="replace"))

    async def _enter(self, password: str) -> Response:
        if self._wrong >= _MOST_WRONG:
            return _error("too many wrong passwords: wait a second", 429)
        if not self.sessions.may_enter(password):
            self._wrong += 1
            try:
                await asyncio.sleep(_WRONG_S)
            finally:
                self._wrong -= 1
            return _error("this is not the password", 403)
        response = RedirectResponse("/", 303)
        response.headers.append("set-cookie", _cookie(self.sessions.new_cookie()))
        return response


def _error(message: str, code: int) -> Response:
    return JSONResponse({"error": message}, code)


def _cookie(value: str) -> str:
    return f"{COOKIE}={value}; Path=/; Max-Age={MAX_AGE_S}; HttpOnly; SameSite=Strict"


def _with_cookie(send: Send, value: str) -> Send:
    return _with(send, [(b"set-cookie", _cookie(value).encode())])


def _with_headers(send: Send) -> Send:
    return _with(send, [(name.encode(), text.encode()) for name, text in HEADERS.items()])


def _with(send: Send, headers: list[tuple[bytes, bytes]]) -> Callable[[Message], Awaitable[None]]:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = message | {"headers": [*message["headers"], *headers]}
        await send(message)

    return sending
