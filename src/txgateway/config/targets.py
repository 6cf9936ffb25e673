"""A backend's targets: what a target URL says, taken apart once."""

from __future__ import annotations

from typing import Final

import attrs

from txgateway.config.syntax import split_url
from txgateway.config.values import string

#: The word that stands for the built-in demo backend.
DEMO: Final = "demo"
#: What fits a socket address on Linux (unix(7): 108 bytes, the last a NUL).
MAX_UNIX_PATH_BYTES: Final = 107

_DEFAULT_PORTS: Final = {"http": 80, "https": 443, "h2c": 80}


@attrs.frozen
class Target:
    """One address of a backend.

    Attributes:
        url: as configured, without a final slash.
        scheme: ``http``, ``https``, ``h2c`` or ``unix`` (plain HTTP/1.1 over a socket file).
        host: name or address, IPv6 without brackets; empty for ``unix``.
        port: 1 to 65535; 0 for ``unix`` and the demo.
        path: of the socket file; empty for the others.
        weight: its share of requests, relative to the backend's other targets; at least 1.
        label: ``host:port`` or ``unix:/path``: its name in metrics and logs.
        is_demo: the built-in demo backend, wherever that listens.
    """

    url: str
    scheme: str
    host: str
    port: int
    path: str = ""
    weight: int = 1
    label: str = ""
    is_demo: bool = False


def target(value: object) -> Target:
    """A target of weight 1 from ``http://host:port``, ``https://…``, ``h2c://…``, ``unix:/path`` or ``demo``.

    Raises:
        ValueError: it is none of these, or has a path, a query or a user.
    """
    text = string(value)
    if text == DEMO:
        return Target(url=DEMO, scheme="http", host=DEMO, port=0, label=DEMO, is_demo=True)
    if text.startswith("unix:"):
        return _unix_target(text)
    parts = split_url(text, tuple(_DEFAULT_PORTS))
    if "@" in parts.netloc:
        raise ValueError("expected a URL without user and password")
    if parts.path not in {"", "/"} or parts.query or parts.fragment or text[-1] in "?#":
        raise ValueError("expected a URL without path, query and fragment, like http://host:port")
    host = (parts.hostname or "").removesuffix(".")
    port = parts.port or _DEFAULT_PORTS[parts.scheme]
    label = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return Target(url=text.removesuffix("/"), scheme=parts.scheme, host=host, port=port, label=label)


def _unix_target(text: str) -> Target:
    path = text.removeprefix("unix:")
    is_bounded = len(path.encode("utf-8", "surrogateescape")) <= MAX_UNIX_PATH_BYTES
    if not path.startswith("/") or path.startswith("//") or not path.isprintable() or not is_bounded:
        raise ValueError(f"expected unix: and an absolute path of at most {MAX_UNIX_PATH_BYTES} bytes")
    return Target(url=text, scheme="unix", host="", port=0, path=path, label=text)
