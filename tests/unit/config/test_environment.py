from __future__ import annotations

from pathlib import Path

import pytest

from txgateway.config import Configuration, ConfigurationError, load
from txgateway.config.settings import VARIABLES, Settings

DEMO = {"GATEWAY_BACKEND_TARGET": "demo"}


def problems_of(**environ: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(environ)
    return [str(problem) for problem in caught.value.problems]


def load_demo(**environ: str) -> Configuration:
    return load({**DEMO, **environ})


def problem_of(**environ: str) -> str:
    """The only problem of a configuration that routes to the demo."""
    (problem,) = problems_of(**{**DEMO, **environ})
    return problem


def test_published_defaults() -> None:
    settings = load_demo().settings
    assert (settings.port, settings.host, settings.listen, settings.workers) == (8000, "0.0.0.0", (), 1)
    assert (settings.max_connections, settings.max_header_bytes, settings.max_header_count) == (10_000, 16384, 100)
    assert (settings.max_uri_bytes, settings.header_timeout_s, settings.keepalive_timeout_s) == (8192, 10.0, 75.0)
    assert (settings.admin_host, settings.admin_port, settings.probe_prefix) == ("127.0.0.1", 8001, "/health")
    assert (settings.timeout.total_s, settings.timeout.connect_s, settings.timeout.idle_s) == (30.0, 3.0, 300.0)
    assert (settings.max_body_bytes, settings.body_timeout_s) == (10 * 2**20, 30.0)
    assert settings.retry.on == ("connect", "reset", "timeout", "502", "503", "504")
    assert (settings.drain_delay_s, settings.drain_timeout_s) == (0.0, 25.0)
    assert (settings.log_format, settings.log_level, settings.access_log) == ("json", "INFO", True)


def test_settings_are_frozen_and_never_read_the_process_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORT", "1")
    monkeypatch.setenv("GATEWAY_PORT", "1")
    settings = Settings()
    assert settings.port == 8000
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1


def test_variables_reach_their_settings() -> None:
    settings = load_demo(
        GATEWAY_PORT="0",
        GATEWAY_HEADER_TIMEOUT="250ms",
        GATEWAY_MAX_HEADER_BYTES="1KiB",
        GATEWAY_TRUSTED_PROXIES="10.0.0.0/8, ::1",
        GATEWAY_TIMEOUT_CONNECT="1",
        GATEWAY_POOL_IDLE_TIMEOUT="1m",
        LOG_LEVEL="WARN",
        GATEWAY_ACCESS_LOG="false",
        GATEWAY_PROBE_PREFIX="",
        PATH="/bin",
        OTEL_SERVICE_NAME="gateway",
    ).settings
    assert (settings.port, settings.header_timeout_s, settings.max_header_bytes) == (0, 0.25, 1024)
    assert [str(network) for network in settings.trusted_proxies] == ["10.0.0.0/8", "::1/128"]
    assert (settings.timeout.connect_s, settings.pool.idle_timeout_s) == (1.0, 60.0)
    assert (settings.log_level, settings.access_log, settings.probe_prefix) == ("WARN", False, "")


def test_backend_target_makes_the_default_route() -> None:
    configuration = load({"GATEWAY_BACKEND_TARGET": "http://a:1,http://b:2"})
    (route,) = configuration.routes
    assert (route.name, route.path, [backend.name for backend in route.backends]) == ("default", "/", ["default"])
    assert [target.label for target in configuration.backends["default"].targets] == ["a:1", "b:2"]
    assert configuration.warnings == ()


def test_bad_value_names_variable_value_and_what_is_accepted() -> None:
    assert problem_of(GATEWAY_PORT="abc") == (
        "GATEWAY_PORT: 'abc' is not accepted: expected an integer from 0 to 65535"
    )


def test_all_problems_are_told_at_once() -> None:
    found = problems_of(
        GATEWAY_PORT="abc",
        GATEWAY_PROT="1",
        LOG_LEVEL="loud",
        GATEWAY_RETRY_MAX_ATTEMPTS="0",
        GATEWAY_RETRY_BACKOFF="x",
        GATEWAY_MAX_BODY_BYTES="10MB",
        GATEWAY_BACKEND_TARGET="http://u:secret@a,ftp://b",
    )
    starts = [line.partition(":")[0] for line in found]
    assert sorted(starts) == [
        "GATEWAY_BACKEND_TARGET", "GATEWAY_BACKEND_TARGET", "GATEWAY_MAX_BODY_BYTES", "GATEWAY_PORT", "GATEWAY_PROT",
        "GATEWAY_RETRY_BACKOFF", "GATEWAY_RETRY_MAX_ATTEMPTS", "LOG_LEVEL",
    ]  # fmt: skip
    assert "secret" not in "".join(found)


def test_unknown_variable_is_refused_with_the_nearest_name_and_without_its_value() -> None:
    found = problem_of(GATEWAY_JWT_SECRETS="hunter2")
    assert found == "GATEWAY_JWT_SECRETS: there is no such variable; did you mean GATEWAY_JWT_SECRET?"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GATEWAY_PORT", "tcp://10.0.0.1:8000"),
        ("GATEWAY_ADMIN_PORT", "udp://10.0.0.1:8000"),
        ("GATEWAY_API_PORT", "tcp://10.0.0.1:8000"),
        ("GATEWAY_SERVICE_HOST", "10.0.0.1"),
        ("GATEWAY_SERVICE_PORT", "8000"),
        ("GATEWAY_SERVICE_PORT_HTTP", "8000"),
        ("GATEWAY_PORT_8000_TCP", "tcp://10.0.0.1:8000"),
        ("GATEWAY_PORT_8000_TCP_PROTO", "tcp"),
        ("GATEWAY_PORT_8000_TCP_PORT", "8000"),
        ("GATEWAY_PORT_8000_TCP_ADDR", "10.0.0.1"),
        ("GATEWAY_ADMIN_SERVICE_HOST", "10.0.0.1"),
    ],
)
def test_service_links_of_kubernetes_are_refused_with_the_cure(name: str, value: str) -> None:
    found = problem_of(**{name: value})
    assert found.startswith(f"{name}: {value!r}")
    assert "enableServiceLinks: false" in found


def test_value_from_a_file_loses_one_newline(tmp_path: Path) -> None:
    (tmp_path / "port").write_text("8123\n")
    assert load_demo(GATEWAY_PORT_FILE=str(tmp_path / "port")).settings.port == 8123
    (tmp_path / "port").write_text("8123\n\n")
    assert "GATEWAY_PORT_FILE: '8123\\n'" in problem_of(GATEWAY_PORT_FILE=str(tmp_path / "port"))


def test_value_and_file_together_are_refused(tmp_path: Path) -> None:
    (tmp_path / "port").write_text("8123")
    found = problem_of(GATEWAY_PORT_FILE=str(tmp_path / "port"), GATEWAY_PORT="1")
    assert found == "GATEWAY_PORT_FILE: contradicts GATEWAY_PORT: set only one of the two"


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot be read (No such file"), (b"", "is empty"), (b"\n", "is empty"), (b"\xff", "not UTF-8")],
)
def test_file_without_a_value_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "value"
    if content is not None:
        path.write_bytes(content)
    found = problem_of(GATEWAY_PORT_FILE=str(path))
    assert found.startswith("GATEWAY_PORT_FILE: ")
    assert message in found


def test_file_too_large_is_refused(tmp_path: Path) -> None:
    (tmp_path / "value").write_bytes(b"1" * (2**20 + 1))
    assert "longer than" in problem_of(GATEWAY_PORT_FILE=str(tmp_path / "value"))


def test_secret_in_place_of_its_path_is_not_shown() -> None:
    found = problems_of(**DEMO, GATEWAY_JWT_SECRET_FILE="hunter2-hunter2")
    assert "hunter2" not in "".join(found)


@pytest.mark.parametrize("name", ["GATEWAY_ROUTES_FILE_FILE", "GATEWAY_TLS_CERT_FILE_FILE", "LOG_LEVEL_FILE"])
def test_path_variable_takes_no_second_file(name: str) -> None:
    environ = {**DEMO, name: "/nowhere"}
    if name.startswith("GATEWAY_"):
        assert "there is no such variable" in problem_of(**environ)
    else:
        load(environ)


def test_empty_value_is_refused_unless_empty_means_off() -> None:
    may_be_empty = {
        "GATEWAY_LISTEN", "GATEWAY_REDIRECT_PORT", "GATEWAY_TRUSTED_PROXIES", "GATEWAY_TLS_CERT_FILE",
        "GATEWAY_TLS_KEY_FILE", "GATEWAY_TLS_CERT_DIR", "GATEWAY_TLS_CLIENT_CA_FILE", "GATEWAY_PROBE_PREFIX",
        "GATEWAY_JWT_ISSUER", "GATEWAY_JWT_AUDIENCE", "GATEWAY_JWT_ALGORITHMS", "GATEWAY_JWT_PUBLIC_PATHS",
        "GATEWAY_REDIS_URL", "GATEWAY_MIDDLEWARES", "GATEWAY_HEALTH_CHECK_PATH", "GATEWAY_JWT_REQUIRED_SCOPES",
        "GATEWAY_JWT_CLAIM_HEADERS", "GATEWAY_RATE_LIMIT", "GATEWAY_CORS_ALLOW_ORIGINS",
        "GATEWAY_CORS_EXPOSE_HEADERS", "GATEWAY_HSTS", "GATEWAY_CSP", "GATEWAY_FRAME_OPTIONS",
        "GATEWAY_REFERRER_POLICY", "GATEWAY_PERMISSIONS_POLICY", "GATEWAY_ALLOWED_METHODS",
        "GATEWAY_ALLOWED_CONTENT_TYPES", "GATEWAY_ALLOW_IPS", "GATEWAY_DENY_IPS",
    }  # fmt: skip
    assert may_be_empty <= set(VARIABLES)
    load({**DEMO, **dict.fromkeys(may_be_empty, "")})
    refused = {line.partition(":")[0] for line in problems_of(**dict.fromkeys(VARIABLES, "")) if "but empty" in line}
    assert refused == set(VARIABLES) - may_be_empty


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"GATEWAY_BACKEND_TARGET": "demo", "GATEWAY_ROUTES": "{}"},
        {"GATEWAY_BACKEND_TARGET": "demo", "GATEWAY_ROUTES_FILE": "/nowhere"},
        {"GATEWAY_ROUTES": "{}", "GATEWAY_ROUTES_FILE": "/nowhere"},
    ],
)
def test_routing_comes_from_exactly_one_source(environ: dict[str, str]) -> None:
    assert any("set exactly one of GATEWAY_BACKEND_TARGET" in line for line in problems_of(**environ))


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"GATEWAY_TLS_CLIENT_AUTH": "required"}, "GATEWAY_TLS_CLIENT_AUTH: needs GATEWAY_TLS_CLIENT_CA_FILE"),
        ({"GATEWAY_REDIRECT_PORT": "80"}, "GATEWAY_REDIRECT_PORT: there is no certificate"),
        ({"GATEWAY_TLS_MIN_VERSION": "1.3"}, "GATEWAY_TLS_MIN_VERSION: there is no TLS without a certificate"),
        ({"GATEWAY_PORT": "8001"}, "GATEWAY_PORT: '8001' is not accepted: GATEWAY_ADMIN_PORT is the same port"),
        ({"GATEWAY_ADMIN_PORT": "8000"}, "GATEWAY_ADMIN_PORT: '8000' is not accepted: GATEWAY_PORT is the same port"),
        ({"GATEWAY_RETRY_BACKOFF": "1s"}, "GATEWAY_RETRY_BACKOFF: it is longer than backoff_max"),
        (
            {"GATEWAY_CORS_ALLOW_ORIGINS": "*", "GATEWAY_CORS_ALLOW_CREDENTIALS": "true"},
            "GATEWAY_CORS_ALLOW_CREDENTIALS: it would open",
        ),
        ({"GATEWAY_JWT_SECRET": "x" * 31}, "GATEWAY_JWT_SECRET: the secret is shorter than its hash"),
        (
            {"GATEWAY_JWT_SECRET": "x" * 63, "GATEWAY_JWT_ALGORITHMS": "HS256,HS512"},
            "GATEWAY_JWT_SECRET: the secret is too short for HS512: it needs 64 bytes",
        ),
        (
            {"GATEWAY_JWT_SECRET": "x" * 64, "GATEWAY_JWT_ALGORITHMS": "RS256"},
            "GATEWAY_JWT_ALGORITHMS: 'RS256' is not accepted: a secret takes HS256",
        ),
        (
            {"GATEWAY_JWT_JWKS_URL": "https://idp/jwks", "GATEWAY_JWT_ALGORITHMS": "HS256"},
            "GATEWAY_JWT_ALGORITHMS: 'HS256' is not accepted",
        ),
        (
            {"GATEWAY_JWT_JWKS_URL": "https://idp/jwks", "GATEWAY_JWT_SECRET": "x" * 64},
            "GATEWAY_JWT_JWKS_URL: contradicts GATEWAY_JWT_SECRET",
        ),
        ({"GATEWAY_JWT_ALGORITHMS": "none"}, "GATEWAY_JWT_ALGORITHMS: 'none' is not accepted"),
        ({"GATEWAY_JWT_REQUIRED_SCOPES": "a"}, "GATEWAY_JWT_REQUIRED_SCOPES: there is no JWT key"),
    ],
)
def test_contradiction_between_variables_is_refused(environ: dict[str, str], expected: str) -> None:
    assert any(line.startswith(expected) for line in problems_of(**DEMO, **environ))


def test_same_port_on_different_addresses_is_no_contradiction() -> None:
    load_demo(GATEWAY_HOST="127.0.0.2", GATEWAY_PORT="8001")
    load_demo(GATEWAY_PORT="0", GATEWAY_ADMIN_PORT="0")


def test_header_of_the_proxy_protocol_needs_somebody_who_is_trusted() -> None:
    assert problems_of(**DEMO, GATEWAY_LISTEN="tcp:1 haproxy:tcp:2;plain haproxy:tcp6:3") == [
        f"GATEWAY_LISTEN: {listener!r} is not accepted: needs GATEWAY_TRUSTED_PROXIES: nobody else may say whose a "
        "connection is"
        for listener in ("haproxy:tcp:2;plain", "haproxy:tcp6:3")
    ]
    assert problem_of(GATEWAY_LISTEN="haproxy:tcp:1", GATEWAY_TRUSTED_PROXIES="x").startswith("GATEWAY_TRUSTED_PROXIES")
    assert problem_of(GATEWAY_LISTEN="haproxy:tcp:x").startswith("GATEWAY_LISTEN: 'haproxy:tcp:x' is not accepted: ")
    load_demo(GATEWAY_LISTEN="haproxy:tcp:1 tcp:2", GATEWAY_TRUSTED_PROXIES="10.0.0.0/8")
    load_demo(GATEWAY_LISTEN="tcp:1")


@pytest.mark.parametrize("name", ["GATEWAY_JWT_SECRET", "GATEWAY_JWT_PUBLIC_KEY", "GATEWAY_JWT_JWKS"])
def test_key_that_did_not_arrive_is_always_refused(name: str) -> None:
    assert problem_of(**{name: ""}) == f"{name}: it is set, but empty"


def test_secrets_are_in_no_problem_and_no_representation() -> None:
    text = "\n".join(
        problems_of(
            **DEMO,
            GATEWAY_JWT_SECRET="hunter2",
            GATEWAY_JWT_PUBLIC_KEY="-----BEGIN hunter2",
            GATEWAY_JWT_JWKS='{"hunter2"',
            GATEWAY_REDIS_URL="redis://:hunter2@host/x?password=hunter2",
            GATEWAY_JWT_JWKS_URL="https://user:hunter2@idp/",
        )
    )
    assert "hunter2" not in text
    assert "GATEWAY_REDIS_URL: 'redis://***@host/x?***'" in text
    assert "hunter2" not in repr(Settings(jwt_secret="hunter2" * 9, redis_url="redis://:hunter2@host"))
