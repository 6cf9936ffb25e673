"""Names of protocols that TLS negotiates (RFC 7301)."""

from __future__ import annotations

from typing import Final

HTTP1: Final = b"http/1.1"
HTTP2: Final = b"h2"
