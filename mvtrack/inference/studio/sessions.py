"""Who asks: sessions as signed cookies, the password, and the checks that keep other sites' pages out."""

import hashlib
import hmac
import ipaddress
import re
import secrets
from pathlib import Path
from urllib.parse import urlsplit

COOKIE = "mvtrack_session"
MAX_AGE_S = 30 * 24 * 3600
_LOOPBACK = {"localhost", "127.0.0.1", "[::1]"}
_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:\d{1,5})?")


class Sessions:
    """Signs session ids by a secret that lies in the folder, so that they hold when the server starts again. With
    another password, older cookies are worth nothing."""

    def __init__(self, root: Path, password: str | None) -> None:
        self.password = password
        file = root / "secret"
        if not file.exists():
            file.touch(mode=0o600)
            file.write_text(secrets.token_hex(32))
        self._key = hashlib.sha256((file.read_text() + "\0" + (password or "")).encode()).digest()

    def new_cookie(self) -> str:
        """A new session."""
        id = secrets.token_hex(16)
        return f"{id}.{self._signature(id)}"

    def owner(self, cookie: str | None) -> str | None:
        """The digest under which a session's things are kept; None for a cookie that is not ours."""
        id, _, signature = (cookie or "").partition(".")
        if not id.isascii() or not hmac.compare_digest(signature.encode(), self._signature(id).encode()):
            return None
        return hashlib.sha256(id.encode()).hexdigest()[:16]

    def may_enter(self, password: str) -> bool:
        """Whether it is the password, in a time that does not tell how much of it is right."""
        known = self.password or ""
        return bool(known) and hmac.compare_digest(password.encode(), known.encode())

    def _signature(self, id: str) -> str:
        return hmac.new(self._key, id.encode(), "sha256").hexdigest()


def host_is_ours(host: str, has_password: bool) -> bool:
    """Whether a Host header may stand there. Without a password only this machine's own names: another site's name that
    was made to point here (DNS rebinding) is refused. With one, a page of that site has no cookie for it."""
    match = _HOST.fullmatch(host)
    return bool(match) and (has_password or match["name"].lower() in _LOOPBACK)


def origin_is_ours(origin: str | None, host: str) -> bool:
    """Whether a request that changes something comes from our own page; programs send no Origin."""
    return origin is None or urlsplit(origin).netloc == host


def is_loopback(address: str) -> bool:
    """Whether nobody else can reach a server that listens there."""
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False
