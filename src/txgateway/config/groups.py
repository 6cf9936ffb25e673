"""The groups of settings that belong together: ``retry``, ``pool``, ``cors`` and the others.

One declaration serves three ways in: the environment (``GATEWAY_RETRY_MAX_ATTEMPTS``), the routes document
(``retry.max_attempts``) and Python (``Retry(max_attempts=2)``). A field is named after its key in the document with
the unit added; a group that a document gives in part is completed from the environment's.
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

    model_config = ConfigDict(frozen=True, extra="forbid", alias_generator=_key_of, populate_by_name=True)

    def completed_from(self, base: Self) -> Self:
        """``base``, with what was given for this table put over it."""
        return base.model_copy(update={name: getattr(self, name) for name in self.model_fields_set})


class Timeout(Table):
    """A route's timeouts. ``total_s``: 0 for none. ``per_try_s``: 0 for none. ``idle_s``: without a byte either way.

    ``propagate``: targets are told how long the gateway will wait for them.
    """

    total_s: Seconds = 30.0
    per_try_s: Seconds = 0.0
    idle_s: SomeSeconds = 300.0
    propagate: Boolean = False


class ConnectTimeout(Table):
    """A backend's timeout: what a connection may take to be made, TLS included."""

    connect_s: SomeSeconds = 3.0


class Timeouts(ConnectTimeout, Timeout):
    """The environment's timeouts: those of routes, and that of backends."""


class Pool(Table):
    """A target's connections: how many, and how long a request waits for one and one for a request."""

    max_connections: SomeCount = 100
    max_pending: Count = 100
    pending_timeout_s: SomeSeconds = 1.0
    idle_timeout_s: SomeSeconds = 30.0
    max_age_s: SomeSeconds = 300.0


class HealthCheck(Table):
    """Active checks. ``path`` None: a TCP connect is enough. ``expect``: (lowest, highest) status codes."""

    path: Annotated[str | None, PlainValidator(optional(syntax.path_prefix))] = None
    interval_s: SomeSeconds = 10.0
    timeout_s: SomeSeconds = 2.0
    rise: SomeCount = 2
    fall: SomeCount = 3
    expect: Annotated[tuple[tuple[int, int], ...], PlainValidator(vocabulary.status_ranges)] = ((200, 399),)


class Breaker(Table):
    """A target's circuit breaker: opens on failures in a row, or on their share in a window."""

    enabled: Boolean = True
    failures: SomeCount = 5
    ratio: Fraction = 0.5
    min_requests: SomeCount = 20
    window_s: SomeSeconds = 10.0
    open_for_s: SomeSeconds = 30.0


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
    on: Annotated[tuple[str, ...], PlainValidator(listed(vocabulary.retry_condition))] = (
        "connect", "reset", "timeout", "502", "503", "504",
    )  # fmt: skip
    methods: Methods = ("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE")
    backoff_s: Seconds = 0.025
    backoff_max_s: Seconds = 0.25
    budget_percent: Percent = 20
    budget_min: Count = 3
    max_body_bytes: Bytes = Field(default=64 * 1024, alias="max_body")


class Bulkhead(Table):
    """How many requests of a route may be under way, how many may wait, and for how long."""

    max_concurrent: SomeCount = 1024
    max_queue: Count = 0
    queue_timeout_s: SomeSeconds = 1.0


class Jwt(Table):
    """What a route asks of a token and hands on of it. ``claim_headers``: pairs of claim and header."""

    required_scopes: Annotated[tuple[str, ...], PlainValidator(listed(vocabulary.scope))] = ()
    claim_headers: Annotated[tuple[tuple[str, str], ...], PlainValidator(vocabulary.claim_headers)] = ()
    forward_token: Boolean = True


class RateLimit(Table):
    """Rates that all apply; none means no limit. ``burst`` None: each rate's own count."""

    rate: Rates = ()
    burst: Annotated[int | None, PlainValidator(integer(1, 10**9))] = None
    key: Annotated[tuple[str, ...], PlainValidator(listed(vocabulary.bucket_key))] = ("ip",)
    on_store_error: Annotated[str, PlainValidator(choice("local", "open", "closed"))] = "local"


class Cors(Table):
    """Which other origins' pages may use a route; no origin means no CORS."""

    allow_origins: Annotated[tuple[str, ...], PlainValidator(listed(syntax.origin))] = ()
    allow_methods: Methods = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
    allow_headers: HeaderNames = ("Authorization", "Content-Type", "X-Request-ID")
    expose_headers: HeaderNames = ()
    allow_credentials: Boolean = False
    max_age_s: Seconds = 600.0


class Sanitize(Table):
    """What is done with spellings that backends read differently."""

    encoded_slash: Annotated[str, PlainValidator(choice("keep", "reject"))] = "keep"
    underscore_headers: Annotated[str, PlainValidator(choice("drop", "keep", "reject"))] = "drop"


class SecurityHeaders(Table):
    """Values of the response headers that tell browsers to be careful; an empty one is not sent."""

    hsts: HeaderValue = "max-age=31536000; includeSubDomains"
    csp: HeaderValue = "default-src 'none'; frame-ancestors 'none'"
    frame_options: HeaderValue = "DENY"
    referrer_policy: HeaderValue = "no-referrer"
    permissions_policy: HeaderValue = ""


class BackendKeys(Table):
    """The keys of a backend for which the environment has defaults, but for ``timeout.connect``."""

    load_balancer: Annotated[str, PlainValidator(vocabulary.load_balancer)] = "round_robin"
    panic_percent: Percent = 50
    slow_start_s: Seconds = 0.0
    dns_refresh_s: SomeSeconds = 30.0
    pool: Pool = Pool()
    health_check: HealthCheck = HealthCheck()
    breaker: Breaker = Breaker()


class RouteKeys(SecurityHeaders):
    """The keys of a route for which the environment has defaults, but for ``timeout``. 0 bytes: no limit."""

    max_body_bytes: Bytes = 10 * 2**20
    body_timeout_s: SomeSeconds = 30.0
    retry: Retry = Retry()
    bulkhead: Bulkhead = Bulkhead()
    jwt: Jwt = Jwt()
    rate_limit: RateLimit = RateLimit()
    cors: Cors = Cors()
    sanitize: Sanitize = Sanitize()
    allowed_methods: Methods = ()
    allowed_content_types: Annotated[tuple[str, ...], PlainValidator(listed(syntax.media_type))] = ()
    allow_ips: Networks = ()
    deny_ips: Networks = ()


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
