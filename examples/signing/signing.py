"""Signs what goes to the backend, so that a backend knows by itself that a request has passed the gateway."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, Field, SecretStr, field_validator

from gateway_signature import REQUEST_ID, SIGNATURE, TIMESTAMP, sign
from txgateway.middleware import Context, GatewayRequest, Inner, Middleware, OwnHeaders

MIN_SECRET_BYTES = 32


class Signing(Middleware):
    """Sets ``X-Signature`` and ``X-Signature-Timestamp``; a client's own are dropped.

    Signed are the method, path and query, the time, the request id, and the headers called so in the settings.

    Not signed:

    - the body: it streams, and is on its way before its end is known. Whoever needs that has the client sign it, or sends a
      ``Content-Digest`` and names it in ``headers``; TLS to the backend protects the rest;
    - what is decided behind this place: the path of ``strip_prefix`` and ``rewrite`` (signed is the client's), ``Host``,
      ``request_headers`` of the route, and what proxies add. A header that ``Connection`` names does not arrive, so the
      backend refuses a request where that one is signed;
    - which of several attempts it is: they all carry the time of the first.

    Position: on a route, the innermost, so that it signs what the others have set.
    Refuses: nothing.
    On cancel: nothing to free.
    """

    class Settings(BaseModel, frozen=True, extra="forbid"):
        """The secret comes from ``GATEWAY_MIDDLEWARE_SIGNING_SECRET_FILE``, or the same without ``_FILE``."""

        secret: SecretStr
        headers: tuple[str, ...] = Field(default=(), max_length=32)

        @field_validator("secret")
        @classmethod
        def is_long(cls, secret: SecretStr) -> SecretStr:
            """As many bytes as the hash has."""
            if len(secret.get_secret_value().encode("utf-8")) < MIN_SECRET_BYTES:
                raise ValueError(f"expected at least {MIN_SECRET_BYTES} bytes")
            return secret

        @field_validator("headers")
        @classmethod
        def may_be_signed(cls, names: tuple[str, ...]) -> tuple[str, ...]:
            """Names of headers that the backend gets as they are here."""
            unfit = {"host", "connection", SIGNATURE.lower(), TIMESTAMP.lower(), REQUEST_ID.lower()}
            for name in names:
                if not name.isascii() or not name.replace("-", "").isalnum() or name.lower() in unfit:
                    raise ValueError(f"{name!r} cannot be signed")
            return names

    settings: Settings
    position: ClassVar[str] = "route"

    def __init__(self, inner: Inner, settings: Settings, context: Context) -> None:
        super().__init__(inner, settings, context)
        self._own = OwnHeaders([SIGNATURE, TIMESTAMP])
        self._secret = settings.secret.get_secret_value().encode("utf-8")
        self._epoch_s = context.epoch_s

    def render(self, request: GatewayRequest) -> Any:
        timestamp = int(self._epoch_s())
        target = request.upstream_target or request.uri
        headers = [(name, value) for _, name, value in request.headers]
        signature = sign(
            self._secret, request.method, target, timestamp, request.request_id, headers, self.settings.headers
        )
        self._own.replace(request, (_field(SIGNATURE, signature), _field(TIMESTAMP, str(timestamp))))
        return self.inner.render(request)


def _field(name: str, value: str) -> tuple[bytes, bytes, bytes]:
    return name.lower().encode("ascii"), name.encode("ascii"), value.encode("ascii")
