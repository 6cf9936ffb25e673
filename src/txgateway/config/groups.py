"""The groups of settings that belong together: ``retry``, ``pool``, ``cors`` and the others.

One declaration serves three ways in: the environment (``GATEWAY_RETRY_MAX_ATTEMPTS``), the routes document
(``retry.max_attempts``) and Python (``Retry(max_attempts=2)``). A field is named after its key in the document with
the unit added; a group that a document gives in part is completed from the environment's. The text below a field is what
the documentation says of the variable.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Self

import attrs
from pydantic import BaseModel, ConfigDict, Field, PlainValidator

from txgateway.config import syntax, vocabulary
from txgateway.config.keys import certificate_file, private_key_file
from txgateway.config.values import (
    Rate,
    boolean,
    choice,
    duration,
    fraction,
    integer,
    listed,
    optional,
    positive_duration,
    rate,
    size,
)

Boolean = Annotated[bool, PlainValidator(boolean)]
Seconds = Annotated[float, PlainValidator(duration)]
SomeSeconds = Annotated[float, PlainValidator(positive_duration)]
Fraction = Annotated[float, PlainValidator(fraction)]
Count = Annotated[int, PlainValidator(integer(0, 10_000_000))]
SomeCount = Annotated[int, PlainValidator(integer(1, 10_000_000))]
Percent = Annotated[int, PlainValidator(integer(0, 100))]
Bytes = Annotated[int, PlainValidator(size())]
Methods = Annotated[tuple[str, ...], PlainValidator(listed(syntax.method))]
HeaderNames = Annotated[tuple[str, ...], PlainValidator(listed(syntax.header_name))]
HeaderValue = Annotated[str, PlainValidator(syntax.header_value)]
Words = Annotated[tuple[str, ...], PlainValidator(listed(syntax.header_value))]
Rates = Annotated[tuple[Rate, ...], PlainValidator(listed(rate))]
Networks = Annotated[tuple[syntax.Network, ...], PlainValidator(listed(syntax.network))]
CertificateFile = Annotated[str | None, PlainValidator(optional(certificate_file))]
PrivateKeyFile = Annotated[str | None, PlainValidator(optional(private_key_file))]


def _key_of(name: str) -> str:
    return name.removesuffix("_s")


class Table(BaseModel):
    """A set of keys, frozen once read; a key it does not know is refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", alias_generator=_key_of, populate_by_name=True, use_attribute_docstrings=True
    )

    def completed_from(self, base: Self) -> Self:
        """``base``, with what was given for this table put over it."""
        return base.model_copy(update={name: getattr(self, name) for name in self.model_fields_set})


class Timeout(Table):
    """A route's timeouts. ``total_s`` and ``per_try_s``: 0 for none."""

    total_s: Seconds = 30.0
    """from the request's last byte to the response head, queueing and retries included; then 504 `DEADLINE_EXCEEDED`; 0
    for none"""
    per_try_s: Seconds = 0.0
    """for one attempt, connection included; 0 for none"""
    idle_s: SomeSeconds = 300.0
    """without a byte either way, in bodies and tunnels"""
    propagate: Boolean = False
    """tell targets in `X-Envoy-Expected-Rq-Timeout-Ms` how long the gateway will wait for them"""


class ConnectTimeout(Table):
    """A backend's timeout: what a connection may take to be made, TLS included."""

    connect_s: SomeSeconds = 3.0
    """to make a connection; then 504"""


class Timeouts(ConnectTimeout, Timeout):
    """The environment's timeouts: those of routes, and that of backends."""


class Pool(Table):
    """A target's connections: how many, and how long a request waits for one and one for a request."""

    max_connections: SomeCount = 100
    """connections per target"""
    max_pending: Count = 100
    """requests that may wait for one; more get 503"""
    pending_timeout_s: SomeSeconds = 1.0
    """how long one may wait; then 503"""
    idle_timeout_s: SomeSeconds = 30.0
    """how long an unused connection is kept"""
    max_age_s: SomeSeconds = 300.0
    """how old a connection may be when it is used again"""


class HealthCheck(Table):
    """Active checks. ``path`` None: a TCP connect is enough. ``expect``: (lowest, highest) status codes."""

    path: Annotated[str | None, PlainValidator(optional(syntax.path_prefix))] = None
    """asked for with `GET`; empty: a connection (with TLS: a handshake) is enough"""
    interval_s: SomeSeconds = 10.0
    """between two checks of a target"""
    timeout_s: SomeSeconds = 2.0
    """for one check, connection included"""
    rise: SomeCount = 2
    """successes in a row that make a sick target healthy; one is enough for a target that has never been healthy"""
    fall: SomeCount = 3
    """failures in a row that make a target sick"""
    expect: Annotated[tuple[tuple[int, int], ...], PlainValidator(vocabulary.status_ranges)] = ((200, 399),)
    """statuses, or ranges of them, that are a success"""


class Breaker(Table):
    """A target's circuit breaker: opens on failures in a row, or on their share in a window."""

    enabled: Boolean = True
    """whether targets have circuit breakers"""
    failures: SomeCount = 5
    """failures in a row that open one"""
    ratio: Fraction = 0.5
    """share of failures in the window that opens one, too"""
    min_requests: SomeCount = 20
    """requests in the window from which on the share counts"""
    window_s: SomeSeconds = 10.0
    """the time over which the share is taken"""
    open_for_s: SomeSeconds = 30.0
    """how long it is before one request may try the target again, and how long that may take before another one may;
    twice as long after each that fails, up to 300s"""


class BackendTls(Table):
    """How the gateway speaks TLS to a backend. ``server_name`` None: the target's host."""

    verify: Boolean = True
    ca_file: CertificateFile = None
    cert_file: CertificateFile = None
    key_file: PrivateKeyFile = None
    server_name: Annotated[str | None, PlainValidator(optional(syntax.host_name))] = None
    min_version: Annotated[str, PlainValidator(choice("1.2", "1.3"))] = "1.2"


class Retry(Table):
    """When a failed attempt is repeated. ``max_attempts`` includes the first. ``on``: words and status codes."""

    max_attempts: Annotated[int, PlainValidator(integer(1, 100))] = 3
    """the first one included; 1 for no retries"""
    on: Annotated[tuple[str, ...], PlainValidator(listed(vocabulary.retry_condition))] = (
        "connect", "reset", "timeout", "502", "503", "504",
    )  # fmt: skip
    """after what: `connect` (no connection, TLS included), `reset` (broken off, or not HTTP), `timeout`, a status,
    `5xx`, `refused_stream` (HTTP/2: the target has not looked at it; once is free), `grpc-unavailable` (a gRPC call
    answered with nothing but UNAVAILABLE; any method)"""
    methods: Methods = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE")
    """which requests; any method, if no byte of it was sent"""
    backoff_s: Seconds = 0.025
    """the wait before a retry is drawn from 0 to this, doubled at each further one"""
    backoff_max_s: Seconds = 0.25
    """the most that it is doubled to"""
    budget_percent: Percent = 20
    """retries are at most this share of the backend's requests in the last 10 seconds"""
    budget_min: Count = 3
    """and so many retries more, in each process"""
    max_body_bytes: Bytes = Field(default=64 * 1024, alias="max_body")
    """how much of a request body is kept for a retry; a longer one is not sent twice, and the log says so"""


class Bulkhead(Table):
    """How many requests of a route may be under way, how many may wait, and for how long."""

    max_concurrent: SomeCount = 1024
    """requests of a route under way at once, each until the last byte of its answer or tunnel; more get 503
    `BULKHEAD_FULL`"""
    max_queue: Count = 0
    """how many more may wait for their turn, first come, first served; their bodies are not read"""
    queue_timeout_s: SomeSeconds = 1.0
    """how long each may wait; then the same 503"""


class Jwt(Table):
    """What a route asks of a token and hands on of it. ``claim_headers``: pairs of claim and header."""

    required_scopes: Annotated[tuple[str, ...], PlainValidator(listed(vocabulary.scope))] = ()
    """the token's `scope` (or `scp`) must have all of these"""
    claim_headers: Annotated[tuple[tuple[str, str], ...], PlainValidator(vocabulary.claim_headers)] = ()
    """`sub=X-User-Id,email=X-Email`: claims that the backend gets as headers. What a client sends under these names
    is always dropped, also where no token is asked for"""
    forward_token: Boolean = True
    """whether the backend gets the token too"""


class RateLimit(Table):
    """Rates that all apply; none means no limit. ``burst`` None: each rate's own count."""

    rate: Rates = ()
    """how many requests: `100/s`, `1000/m`, `5000/h`; several all apply: `10/s,200/m`. More get 429 `RATE_LIMITED` with
    `Retry-After`"""
    burst: Annotated[int | None, PlainValidator(integer(1, 10**9))] = None
    """how many may come at once; empty: each rate's own count"""
    key: Annotated[tuple[str, ...], PlainValidator(listed(vocabulary.bucket_key))] = ("ip",)
    """who shares a bucket: `ip` (IPv6 by /64), `subject` (the token's `sub`), `header:NAME`, `route`, or several.
    Without subject or header: the address"""
    on_store_error: Annotated[str, PlainValidator(choice("local", "open", "closed"))] = "local"
    """while Redis does not answer: `local` counts in memory, `open` lets all through, `closed` refuses with 503"""


class Cors(Table):
    """Which other origins' pages may use a route; no origin means no CORS."""

    allow_origins: Annotated[tuple[str, ...], PlainValidator(listed(syntax.origin))] = ()
    """`https://app.example.com`, `https://*.example.com` (one label or more), `null`, `*`; empty: no CORS, and a
    backend's own passes"""
    allow_methods: Methods = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
    """methods that scripts of these origins may use"""
    allow_headers: HeaderNames = ("Authorization", "Content-Type", "X-Request-ID")
    """request headers that they may send; `*` for whatever is asked for"""
    expose_headers: HeaderNames = ()
    """response headers that they may read"""
    allow_credentials: Boolean = False
    """not together with `*`"""
    max_age_s: Seconds = 600.0
    """how long a browser may remember a preflight"""


class Sanitize(Table):
    """What is done with spellings that backends read differently."""

    encoded_slash: Annotated[str, PlainValidator(choice("keep", "reject"))] = "keep"
    """what becomes of `%2F` in a path"""
    underscore_headers: Annotated[str, PlainValidator(choice("drop", "keep", "reject"))] = "drop"
    """what becomes of header names with `_`"""


class SecurityHeaders(Table):
    """Values of the response headers that tell browsers to be careful; an empty one is not sent."""

    hsts: HeaderValue = "max-age=31536000; includeSubDomains"
    """`Strict-Transport-Security`; sent over TLS only, or when a trusted proxy says `https`"""
    csp: HeaderValue = "default-src 'none'; frame-ancestors 'none'"
    """`Content-Security-Policy`; not over a backend's own"""
    frame_options: HeaderValue = "DENY"
    """`X-Frame-Options`"""
    referrer_policy: HeaderValue = "no-referrer"
    """`Referrer-Policy`"""
    permissions_policy: HeaderValue = ""
    """`Permissions-Policy`"""


class BackendKeys(Table):
    """The keys of a backend for which the environment has defaults, but for ``timeout.connect``."""

    load_balancer: Annotated[str, PlainValidator(vocabulary.load_balancer)] = "round_robin"
    """which target gets a request; see below"""
    panic_percent: Percent = 50
    """with fewer healthy targets than this share, but at least one, all are used, but for open breakers; 0 for never"""
    slow_start_s: Seconds = 0.0
    """how long a target that came back takes to get its full share"""
    dns_refresh_s: SomeSeconds = 30.0
    """how often names of targets are resolved again"""
    pool: Pool = Pool()
    health_check: HealthCheck = HealthCheck()
    breaker: Breaker = Breaker()


class RouteKeys(SecurityHeaders):
    """The keys of a route for which the environment has defaults, but for ``timeout``. 0 bytes: no limit."""

    max_body_bytes: Bytes = 10 * 2**20
    """larger request bodies get 413; 0 for no limit"""
    body_timeout_s: SomeSeconds = 30.0
    """without progress in a request body; then 408"""
    retry: Retry = Retry()
    bulkhead: Bulkhead = Bulkhead()
    jwt: Jwt = Jwt()
    rate_limit: RateLimit = RateLimit()
    cors: Cors = Cors()
    sanitize: Sanitize = Sanitize()
    allowed_methods: Methods = ()
    """others get 405; `GET` allows `HEAD`"""
    allowed_content_types: Annotated[tuple[str, ...], PlainValidator(listed(syntax.media_type))] = ()
    """of requests with a body, such as `application/json,image/*`; others get 415"""
    allow_ips: Networks = ()
    """networks (CIDR) that clients must come from; others get 403 `IP_DENIED`"""
    deny_ips: Networks = ()
    """networks that they must not come from; stronger than `allow_ips`"""


@attrs.frozen
class Leaf:
    """A single setting in a table: its key with dots, the name of its field (which tells the unit), its value."""

    key: str
    name: str
    value: object


def leaves(table: Table, prefix: str = "", *, only_given: bool = False) -> Iterator[Leaf]:
    """All single settings of a table and the tables in it, or only those that were given and are no defaults."""
    for name, field in type(table).model_fields.items():
        if only_given and name not in table.model_fields_set:
            continue
        key, value = prefix + (field.alias or name), getattr(table, name)
        if isinstance(value, Table):
            yield from leaves(value, f"{key}.", only_given=only_given)
        else:
            yield Leaf(key, name, value)


def keys_of(kind: type[Table]) -> list[str]:
    """The keys of a table, as they are written."""
    return [field.alias or name for name, field in kind.model_fields.items()]
