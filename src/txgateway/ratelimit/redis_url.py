"""Where Redis is, and who we are there: what a URL says, and the endpoint to connect to."""

from __future__ import annotations

from typing import Final
from urllib.parse import unquote, urlsplit

from attrs import field, frozen
from twisted.internet.endpoints import HostnameEndpoint, UNIXClientEndpoint, wrapClientTLS
from twisted.internet.interfaces import IReactorCore, IStreamClientEndpoint
from twisted.internet.ssl import optionsForClientTLS

__all__ = ["RedisAddress"]

_DEFAULT_PORT: Final = 6379


@frozen
class RedisAddress:
    """A server, a database and an account.

    Attributes:
        host: name or address; ``""`` for a Unix socket.
        port: of the host.
        path: of a Unix socket; ``""`` for a host.
        is_tls: the server's certificate is checked against the platform's authorities, and against ``host``.
        username: ``""`` for the default account.
        password: None for none.
        database: its number.
    """

    host: str = ""
    port: int = _DEFAULT_PORT
    path: str = ""
    is_tls: bool = False
    username: str = ""
    password: str | None = field(default=None, repr=False)
    database: int = 0

    @classmethod
    def parse(cls, url: str) -> RedisAddress:
        """Read ``redis://[user:password@]host[:port][/database]``, ``rediss://…`` or ``unix://[…@]/path[?db=N]``.

        User, password and path may be percent-encoded. A user without colon is a password.

        Raises:
            ValueError: it is none of these; the text does not repeat the URL, which may hold a password.
        """
        scheme, _, rest = url.partition("://")
        if scheme == "unix":
            account, path = ("", rest) if rest.startswith("/") else rest.split("@/", 1) if "@/" in rest else ("", "")
            path, _, query = ("/" + path.lstrip("/")).partition("?")
            database = query.removeprefix("db=") if query else "0"
            if path == "/" or not database.isdecimal():
                raise ValueError("expected unix://[user:password@]/path[?db=N]")
            username, password = _account(account)
            return cls(path=unquote(path), username=username, password=password, database=int(database))
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port or _DEFAULT_PORT
            database_number = int(parts.path.removeprefix("/") or "0")
        except ValueError:  # from None: the cause repeats the port or the path
            raise ValueError("expected a port and a database that are numbers") from None
        if scheme not in {"redis", "rediss"} or not host:
            raise ValueError("expected redis://host, rediss://host or unix:///path")
        username, password = _account(parts.netloc.rpartition("@")[0])
        return cls(host, port, "", scheme == "rediss", username, password, database_number)

    def __str__(self) -> str:
        """As a URL, without the account."""
        if self.path:
            return f"unix://{self.path}?db={self.database}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"redis{'s' * self.is_tls}://{host}:{self.port}/{self.database}"

    def endpoint(self, reactor: IReactorCore, timeout_s: float) -> IStreamClientEndpoint:
        """What connects to the server."""
        if self.path:
            return UNIXClientEndpoint(reactor, self.path, timeout_s)
        endpoint = HostnameEndpoint(reactor, self.host, self.port, timeout_s)
        return wrapClientTLS(optionsForClientTLS(self.host), endpoint) if self.is_tls else endpoint


def _account(text: str) -> tuple[str, str | None]:
    username, colon, password = text.partition(":")
    if not colon:
        username, password = "", username
    return unquote(username), unquote(password) or None
