"""The process-wide settings, and the environment's defaults for routes and backends.

Every field is one variable of the published list, named in :func:`variable_name`. What the gateway does without a
setting is said by the defaults here and in :mod:`txgateway.config.groups`, and nowhere else; so is what a setting means,
in the text below it, from which the documentation is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

from pydantic import Field, PlainValidator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from txgateway.auth.keys import ALGORITHMS
from txgateway.config import keys, syntax, vocabulary
from txgateway.config.groups import (
    BackendKeys,
    Boolean,
    CertificateFile,
    Count,
    Leaf,
    Networks,
    PrivateKeyFile,
    RouteKeys,
    Seconds,
    SomeCount,
    SomeSeconds,
    Timeouts,
    Words,
    leaves,
)
from txgateway.config.values import choice, integer, listed, optional, size, string

Port = Annotated[int, PlainValidator(integer(0, 65535))]
SomeBytes = Annotated[int, PlainValidator(size(1, 2**24))]
Host = Annotated[str, PlainValidator(syntax.host_name)]
Text = Annotated[str | None, PlainValidator(optional(string))]


class Settings(RouteKeys, BackendKeys, BaseSettings):
    """All settings that variables give, frozen. Empty tuples, None and ``""`` mean off.

    Reading the environment is :mod:`txgateway.config.environment`'s business: files, empty strings and unknown names
    have rules of their own here, so this class takes what it is given and never looks at the process's variables.
    """

    model_config = SettingsConfigDict(frozen=True, extra="forbid", validate_default=False)

    # Listener
    port: Port = 8000
    """port for clients; 0 takes a free one, which the log names"""
    host: Host = "0.0.0.0"  # noqa: S104 - a gateway is there to be reached
    """address for clients"""
    listen: Annotated[tuple[str, ...], PlainValidator(syntax.endpoints)] = ()
    r"""Twisted endpoint strings, separated by spaces, instead of host and port: `tcp6:8000 unix:/run/gateway.sock`.
    `tcp6:` without an interface takes IPv4 clients too; the colons of an IPv6 address are written `\:`"""
    workers: Annotated[int | str, PlainValidator(vocabulary.workers)] = 1
    """processes that serve clients; `auto`: one for each CPU that may be used. See [Workers](#workers)"""
    redirect_port: Annotated[int | None, PlainValidator(optional(integer(0, 65535)))] = None
    """a plain port on `GATEWAY_HOST` that answers every request with 308 to the same target of the same host over
    `https`, on the port that speaks TLS"""
    # Limits
    max_connections: SomeCount = 10_000
    """further ones are accepted and closed at once, and counted; of each worker"""
    max_header_bytes: SomeBytes = 16 * 1024
    """larger request heads get 431"""
    max_header_count: Annotated[int, PlainValidator(integer(1, 10_000))] = 100
    """more fields get 431"""
    max_uri_bytes: SomeBytes = 8 * 1024
    """longer request targets get 414"""
    header_timeout_s: SomeSeconds = 10.0
    """from a request's first byte to the end of its head; then 408"""
    keepalive_timeout_s: SomeSeconds = 75.0
    """connections without a request are closed, silently"""
    trusted_proxies: Networks = ()
    """networks (CIDR) whose `Forwarded`, `X-Forwarded-*` and `X-Request-ID` are believed; from all others they are
    replaced"""
    # TLS
    tls_cert_file: CertificateFile = None
    """PEM file of the certificate, then of those that lead to its authority"""
    tls_key_file: PrivateKeyFile = None
    """PEM file of its key, not encrypted"""
    tls_cert_dir: Annotated[str | None, PlainValidator(optional(keys.certificate_directory))] = None
    """pairs of a certificate and its key in PEM form, instead or as well; at most 1,000"""
    tls_client_ca_file: CertificateFile = None
    """PEM file of the authorities that issue certificates of clients"""
    tls_client_auth: Annotated[str, PlainValidator(choice("none", "optional", "required"))] = "none"
    """`optional` asks clients for a certificate, `required` takes none without; one that is shown has to be good either
    way"""
    tls_min_version: Annotated[str, PlainValidator(choice("1.2", "1.3"))] = "1.2"
    """the oldest version that clients may speak"""
    http2: Boolean = True
    """offer HTTP/2 to clients: by ALPN over TLS, by prior knowledge (h2c) without"""
    # Admin listener and probes
    admin_host: Host = "127.0.0.1"
    """address of the admin port"""
    admin_port: Port = 8001
    """port of the admin listener; 0 turns it off"""
    probe_prefix: Annotated[str, PlainValidator(vocabulary.probe_prefix)] = "/health"
    """`/health/live` and `/health/ready` on the clients' port; empty turns them off"""
    # Routing
    backend_target: Words = ()
    """a URL, several separated by commas, or `demo`; makes a route `default` with path `/` and a backend `default`"""
    routes_file: Text = None
    """the path of a routes document: TOML, or JSON if it ends in `.json`"""
    routes: Annotated[str | None, PlainValidator(string)] = Field(default=None, repr=False)
    """a routes document as JSON"""
    # JWT keys
    jwt_secret: Annotated[str | None, PlainValidator(keys.secret)] = Field(default=None, repr=False)
    """for HS256, HS384, HS512; at least as long as the hash (32, 48, 64 bytes)"""
    jwt_public_key: Annotated[str | None, PlainValidator(keys.public_key)] = Field(default=None, repr=False)
    """RSA of 2048 bits or more, P-256, P-384, P-521, Ed25519, Ed448"""
    jwt_jwks_url: Annotated[str | None, PlainValidator(vocabulary.jwks_url)] = None
    """where a JWKS document is downloaded: at start, every `…_REFRESH`, and for a token whose key is unknown. While
    the issuer is down the last keys stay; while there never were any, 503 `JWKS_UNAVAILABLE`"""
    jwt_jwks: Annotated[str | None, PlainValidator(keys.jwks)] = Field(default=None, repr=False)
    """the keys themselves, where nothing is to be downloaded"""
    jwt_algorithms: Annotated[tuple[str, ...], PlainValidator(listed(choice(*ALGORITHMS)))] = ()
    """the only ones, such as `RS256,ES256`; empty allows all that the kind of key has. It is never the token that
    decides"""
    jwt_issuer: Words = ()
    """`iss` must be one of these; empty: not checked"""
    jwt_audience: Words = ()
    """`aud` must hold one of these; empty: not checked, and `txgateway check` warns"""
    jwt_leeway_s: Seconds = 60.0
    """how far clocks may be apart"""
    jwt_jwks_refresh_s: SomeSeconds = 600.0
    """the longest time between two downloads; a key that the issuer removes stops working within it"""
    jwt_jwks_cooldown_s: Seconds = 30.0
    """the shortest time between two looks for unknown keys"""
    jwt_cache_size: Count = 10_000
    """tokens whose signature is not verified again until they expire; 0 for none"""
    jwt_public_paths: Annotated[tuple[str, ...], PlainValidator(listed(syntax.path_prefix))] = ()
    """paths, with all below them, that need no token on any route"""
    # Redis
    redis_url: Annotated[str | None, PlainValidator(optional(vocabulary.redis_url))] = Field(default=None, repr=False)
    """where gateways share their rate limits (`rediss` is TLS, verified); empty keeps them in each process's memory"""
    redis_timeout_s: SomeSeconds = 0.05
    """for one decision"""
    # Logs and tracing
    log_format: Annotated[str, PlainValidator(choice("json", "text"))] = "json"
    """`text` has the same fields, for people"""
    log_level: Annotated[str, PlainValidator(choice("DEBUG", "INFO", "WARN", "ERROR"))] = "INFO"
    """what is left out; the access log is not subject to it"""
    access_log: Boolean = True
    """one line per answer, on standard output"""
    server_timing: Annotated[str, PlainValidator(choice("off", "trusted", "all"))] = "off"
    """`all`, or `trusted` for trusted proxies only: measure where the time of each request went, and tell in
    `Server-Timing`"""
    # Stopping
    drain_delay_s: Seconds = 0.0
    """how long requests are still accepted after the signal, for load balancers to notice"""
    drain_timeout_s: Seconds = 25.0
    """how long what is under way may take after that"""
    # User middlewares
    middlewares: Annotated[tuple[str, ...], PlainValidator(listed(vocabulary.middleware))] = ()
    """your own middlewares, outermost first, by name or as `package.module:Class`: those of the edge for all requests,
    those of routes for routes without a list of their own"""
    # Defaults of routes and backends, with those of RouteKeys and BackendKeys
    timeout: Timeouts = Timeouts()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - the signature is pydantic-settings'
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


#: The default of every setting.
DEFAULTS: Final = Settings()

#: The keys of routing sources: exactly one is needed.
ROUTING_SOURCES: Final = ("backend_target", "routes_file", "routes")
#: The keys of JWT key sources: at most one is allowed.
JWT_KEY_SOURCES: Final = ("jwt_secret", "jwt_public_key", "jwt_jwks_url", "jwt_jwks")

_SPECIAL_NAMES: Final = {"log_format": "LOG_FORMAT", "log_level": "LOG_LEVEL", "rate_limit.rate": "GATEWAY_RATE_LIMIT"}


def variable_name(key: str) -> str:
    """The variable of a setting: ``GATEWAY_RETRY_MAX_ATTEMPTS`` for ``retry.max_attempts``."""
    return _SPECIAL_NAMES.get(key) or "GATEWAY_" + key.replace(".", "_").upper()


#: Every variable, with the setting it gives and that setting's default.
VARIABLES: Final[Mapping[str, Leaf]] = {variable_name(leaf.key): leaf for leaf in leaves(DEFAULTS)}


def may_be_empty(leaf: Leaf) -> bool:
    """Whether a variable may be set to the empty string: its default is nothing, or empty means off.

    A secret or a routing source that failed to arrive must never look like one that nobody wanted.
    """
    if leaf.key in {*ROUTING_SOURCES, *JWT_KEY_SOURCES, "rate_limit.burst"}:
        return False
    is_off_when_empty = leaf.key in {"hsts", "csp", "frame_options", "referrer_policy", "probe_prefix"}
    return is_off_when_empty or leaf.value in (None, (), "")
