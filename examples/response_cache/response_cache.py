"""Answers from memory what a backend has said may be kept: a small shared cache (RFC 9111).

``cache_rules.py`` reads what the two sides say, ``cache_store.py`` keeps answers; here is what happens to a request.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Final

from pydantic import BaseModel, Field

from cache_rules import asked_age_s, directives, is_known_to, lifetime_s, may_be_shared, received_age_s, varying_names
from cache_store import Store, Stored
from txgateway.fields import Fields
from txgateway.headers import field_values
from txgateway.middleware import CLIENT_GONE, NOT_DONE_YET, Context, GatewayRequest, Inner, Middleware

_HIT, _MISS = (Fields([(b"x-cache", b"X-Cache", told)]) for told in (b"hit", b"miss"))
#: With these a request is not about the answer as it is kept.
_PASSING: Final = frozenset({b"range", b"if-range", b"if-match", b"if-unmodified-since"})
_SAFE: Final = frozenset({b"GET", b"HEAD", b"OPTIONS"})
#: What a 304 says again (RFC 9110 section 15.4.5).
_OF_304: Final = frozenset({b"cache-control", b"content-location", b"date", b"etag", b"expires", b"vary", b"via"})


class ResponseCache(Middleware):
    """Keeps answers to GET, and answers GET and HEAD with them as long as they are fresh.

    Kept is a whole 200 with ``s-maxage`` or ``max-age``, without ``Set-Cookie``, ``private``, ``no-store`` or ``no-cache``;
    of a request with a token (or ``Authorization``) only with ``s-maxage`` or ``public``, and only such an answer is given to
    one. ``Vary`` is honoured. The client may ask with ``If-None-Match``, ``no-cache``, ``no-store`` and ``max-age``. A request
    that may change something drops what is kept of its URL. ``X-Cache`` says ``hit`` or ``miss``.

    It does not: revalidate, serve stale answers, guess freshness, keep parts or trailers, let one of several requests ask for
    all. It knows nothing of client certificates: a backend that goes by them has to say ``private``. Each worker process and
    each route has one of its own, which a restart empties.

    Position: on a route, below what decides who may see the answer.
    Refuses: nothing.
    On cancel: what was collected of an answer is dropped.
    """

    class Settings(BaseModel, frozen=True, extra="forbid"):
        """What ``[middlewares.response_cache.settings]`` may say; bytes count fields and bodies."""

        max_entries: int = Field(default=1000, ge=1)
        max_bytes: int = Field(default=64 * 1024 * 1024, ge=1)
        max_entry_bytes: int = Field(default=1024 * 1024, ge=1)

    settings: Settings
    position: ClassVar[str] = "route"

    def __init__(self, inner: Inner, settings: Settings, context: Context) -> None:
        super().__init__(inner, settings, context)
        self.store = Store(settings.max_entries, settings.max_bytes)
        self.seconds = context.clock.seconds
        self._set_cache = context.log_field("cache")
        counted = context.metrics.counter("requests", "GET and HEAD by outcome.", ("outcome",))
        self._hits, self._misses = counted.labels("hit"), counted.labels("miss")

    def render(self, request: GatewayRequest) -> Any:
        key = (request.forwarded.scheme, request.host, request.upstream_target or request.uri)
        if request.method not in _SAFE:
            request.on_finish(lambda request: self._drop(key, request))
            return self.inner.render(request)
        if request.method == b"OPTIONS":
            return self.inner.render(request)
        asked = directives(request.headers)
        is_plain = request.length <= 0 and not request.upgrade and _PASSING.isdisjoint(request.fields)
        is_kept = is_plain and "no-store" not in asked
        if is_kept and "no-cache" not in asked:
            found = self.store.find(key, request.headers)
            if found is not None and self._may_be_given(found, request, asked_age_s(asked)):
                return self._give(found, request)
        self._misses.inc()
        self._set_cache(request, "miss")
        request.before_head(_tell_miss)
        if is_kept and request.method == b"GET":
            request.before_head(_Keeping(self, key, request).on_head)
        return self.inner.render(request)

    def _may_be_given(self, found: Stored, request: GatewayRequest, max_age_s: float) -> bool:
        age_s = self.seconds() - found.born_at
        return age_s < min(found.lifetime_s, max_age_s) and (found.is_shared or not is_personal(request))

    def _give(self, found: Stored, request: GatewayRequest) -> int:
        self._hits.inc()
        self._set_cache(request, "hit")
        request.before_head(_tell_hit)
        age = (b"age", b"Age", b"%d" % (self.seconds() - found.born_at))
        if is_known_to(found.headers, request.headers):
            request.answer(304, [*(header for header in found.headers if header[0] in _OF_304), age], b"")
        else:
            request.answer(200, [*(header for header in found.headers if header[0] != b"age"), age], found.body)
        return NOT_DONE_YET

    def _drop(self, key: Any, request: GatewayRequest) -> None:
        if request.status < 400 or request.reason == CLIENT_GONE:  # RFC 9111 section 4.4; or nobody knows
            self.store.drop(key)


def is_personal(request: GatewayRequest) -> bool:
    """Whether somebody has said who they are; a verified token may have been taken out already."""
    return b"authorization" in request.fields or bool(request.claims)


def _tell_hit(request: GatewayRequest) -> None:
    request.response_headers = _HIT.replaced_in(request.response_headers)


def _tell_miss(request: GatewayRequest) -> None:
    request.response_headers = _MISS.replaced_in(request.response_headers)


class _Keeping:
    """Watches the answer to one request, and keeps it if it may be kept and comes to its end."""

    def __init__(self, cache: ResponseCache, key: Any, request: GatewayRequest) -> None:
        self._cache = cache
        self._key = key
        self._asked = request.headers  # what is below may replace them
        self._asked_at = cache.seconds()
        self._is_personal = is_personal(request)
        self._pieces: list[bytes] = []
        self._room = cache.settings.max_entry_bytes
        self._stored: Callable[[bytes], Stored]

    def on_head(self, request: GatewayRequest) -> None:
        """Before the head of the answer."""
        headers = tuple(request.response_headers)
        said = directives(headers)
        names = varying_names(headers)
        lasts_s, age_s = lifetime_s(said), received_age_s(headers)
        is_shared = may_be_shared(said)
        self._room -= sum(len(name) + len(value) for _, name, value in headers)
        if (
            request.status != 200
            or lasts_s <= age_s
            or names is None
            or self._room < 0
            or (self._is_personal and not is_shared)
            or field_values(headers, b"set-cookie")
        ):
            return
        born_at = self._asked_at - age_s
        selecting = tuple((name, tuple(field_values(self._asked, name))) for name in names)
        self._stored = partial(
            Stored, headers, selecting=selecting, born_at=born_at, lifetime_s=lasts_s, is_shared=is_shared
        )
        request.on_body(self._on_body)
        request.on_finish(self._on_finish)

    def _on_body(self, request: GatewayRequest, data: bytes) -> None:
        self._room -= len(data)
        self._pieces.append(data)
        if self._room < 0:
            self._pieces.clear()

    def _on_finish(self, request: GatewayRequest) -> None:
        if request.is_whole and self._room >= 0:
            self._cache.store.keep(self._key, self._stored(b"".join(self._pieces)))
