"""The process-wide settings, and the environment's defaults for routes and backends.

Every field is one variable of the published list, named in :func:`variable_name`. What the gateway does without a
setting is said by the defaults here and in :mod:`txgateway.config.groups`, and nowhere else.
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
    host: Host = "0.0.0.0"  # noqa: S104 - a gateway is there to be reached
    listen: Annotated[tuple[str, ...], PlainValidator(syntax.endpoints)] = ()
    workers: Annotated[int | str, PlainValidator(vocabulary.workers)] = 1
    redirect_port: Annotated[int | None, PlainValidator(optional(integer(0, 65535)))] = None
    # Limits
    max_connections: SomeCount = 10_000
    max_header_bytes: SomeBytes = 16 * 1024
    max_header_count: Annotated[int, PlainValidator(integer(1, 10_000))] = 100
    max_uri_bytes: SomeBytes = 8 * 1024
    header_timeout_s: SomeSeconds = 10.0
    keepalive_timeout_s: SomeSeconds = 75.0
    trusted_proxies: Networks = ()
    # TLS
    tls_cert_file: CertificateFile = None
    tls_key_file: PrivateKeyFile = None
    tls_cert_dir: Annotated[str | None, PlainValidator(optional(keys.certificate_directory))] = None
    tls_client_ca_file: CertificateFile = None
    tls_client_auth: Annotated[str, PlainValidator(choice("none", "optional", "required"))] = "none"
    tls_min_version: Annotated[str, PlainValidator(choice("1.2", "1.3"))] = "1.2"
    http2: Boolean = True
    # Admin listener and probes
    admin_host: Host = "127.0.0.1"
    admin_port: Port = 8001
    probe_prefix: Annotated[str, PlainValidator(vocabulary.probe_prefix)] = "/health"
    # Routing
    backend_target: Words = ()
    routes_file: Text = None
    routes: Annotated[str | None, PlainValidator(string)] = Field(default=None, repr=False)
    # JWT keys
    jwt_secret: Annotated[str | None, PlainValidator(keys.secret)] = Field(default=None, repr=False)
    jwt_public_key: Annotated[str | None, PlainValidator(keys.public_key)] = Field(default=None, repr=False)
    jwt_jwks_url: Annotated[str | None, PlainValidator(vocabulary.jwks_url)] = None
    jwt_jwks: Annotated[str | None, PlainValidator(keys.jwks)] = Field(default=None, repr=False)
    jwt_algorithms: Annotated[tuple[str, ...], PlainValidator(listed(choice(*ALGORITHMS)))] = ()
    jwt_issuer: Words = ()
    jwt_audience: Words = ()
    jwt_leeway_s: Seconds = 60.0
    jwt_jwks_refresh_s: SomeSeconds = 600.0
    jwt_jwks_cooldown_s: Seconds = 30.0
    jwt_cache_size: Count = 10_000
    jwt_public_paths: Annotated[tuple[str, ...], PlainValidator(listed(syntax.path_prefix))] = ()
    # Redis
    redis_url: Annotated[str | None, PlainValidator(optional(vocabulary.redis_url))] = Field(default=None, repr=False)
    redis_timeout_s: SomeSeconds = 0.05
    # Logs and tracing
    log_format: Annotated[str, PlainValidator(choice("json", "text"))] = "json"
    log_level: Annotated[str, PlainValidator(choice("DEBUG", "INFO", "WARN", "ERROR"))] = "INFO"
    access_log: Boolean = True
    server_timing: Annotated[str, PlainValidator(choice("off", "trusted", "all"))] = "off"
    # Stopping
    drain_delay_s: Seconds = 0.0
    drain_timeout_s: Seconds = 25.0
    # User middlewares
    middlewares: Annotated[tuple[str, ...], PlainValidator(listed(syntax.resource_name))] = ()
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
