from __future__ import annotations

import pytest

from txgateway.config import ConfigurationError, TracingSettings, load
from txgateway.config.tracing import read_tracing
from txgateway.config.values import shown
from txgateway.telemetry.sampling import SAMPLERS

ON = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"}


def settings(**variables: str) -> TracingSettings:
    found, problems = read_tracing({**ON, **variables})
    assert not problems
    assert found is not None
    return found


def test_an_endpoint_turns_it_on_with_the_specifications_defaults() -> None:
    assert settings() == TracingSettings(
        endpoint="http://collector:4318/v1/traces",
        headers={},
        timeout_s=10.0,
        compression="none",
        service_name="txgateway",
        resource={},
        sampler="parentbased_always_on",
        ratio=1.0,
        propagators=("tracecontext", "baggage"),
        max_queue=2048,
        max_batch=512,
        delay_s=5.0,
    )


@pytest.mark.parametrize(
    ("variables", "endpoint"),
    [
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"}, "http://c:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "https://c/otlp"}, "https://c/otlp/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318/v1/traces"}, "http://c:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c:4318"}, "http://c:4318/"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://a/x?y=z", **ON}, "http://a/x?y=z"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": " ", **ON}, "http://collector:4318/v1/traces"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://[::1]:4318"}, "http://[::1]:4318/v1/traces"),
    ],
)
def test_endpoint(variables: dict[str, str], endpoint: str) -> None:
    found, problems = read_tracing(variables)
    assert not problems
    assert found is not None
    assert found.endpoint == endpoint


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_SERVICE_NAME": "x", "OTEL_TRACES_SAMPLER": "nonsense"},
        {**ON, "OTEL_SDK_DISABLED": "true", "OTEL_TRACES_SAMPLER": "nonsense"},
        {**ON, "OTEL_SDK_DISABLED": "TRUE"},
        {**ON, "OTEL_TRACES_EXPORTER": "none"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "nonsense", "OTEL_SDK_DISABLED": "true"},
    ],
)
def test_off(variables: dict[str, str]) -> None:
    assert read_tracing(variables) == (None, [])


def test_every_variable_has_its_effect() -> None:
    found = settings(
        OTEL_SERVICE_NAME="edge",
        OTEL_RESOURCE_ATTRIBUTES="deployment.environment=prod, service.name=other,note=a%20b%2Cc,",
        OTEL_TRACES_SAMPLER="ParentBased_TraceIdRatio",
        OTEL_TRACES_SAMPLER_ARG="0.25",
        OTEL_PROPAGATORS="b3multi, tracecontext,b3multi",
        OTEL_BSP_MAX_QUEUE_SIZE="100",
        OTEL_BSP_MAX_EXPORT_BATCH_SIZE="100",
        OTEL_BSP_SCHEDULE_DELAY="250",
        OTEL_EXPORTER_OTLP_HEADERS="Authorization=Bearer%20x,x-a=1",
        OTEL_EXPORTER_OTLP_TIMEOUT="2500",
        OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
        OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        OTEL_SDK_DISABLED="false",
        OTEL_TRACES_EXPORTER="otlp",
    )
    assert found.service_name == "edge"
    assert found.resource == {"deployment.environment": "prod", "note": "a b,c"}
    assert (found.sampler, found.ratio) == ("parentbased_traceidratio", 0.25)
    assert found.propagators == ("b3multi", "tracecontext")
    assert (found.max_queue, found.max_batch, found.delay_s) == (100, 100, 0.25)
    assert found.headers == {"Authorization": "Bearer x", "x-a": "1"}
    assert (found.timeout_s, found.compression) == (2.5, "gzip")
    assert "Bearer" not in repr(found)


def test_a_service_name_of_the_resource_counts_if_there_is_no_other() -> None:
    assert settings(OTEL_RESOURCE_ATTRIBUTES="service.name=other").service_name == "other"


def test_what_is_said_of_traces_goes_before_what_is_said_of_all_signals() -> None:
    found = settings(
        OTEL_EXPORTER_OTLP_HEADERS="a=1",
        OTEL_EXPORTER_OTLP_TRACES_HEADERS="b=2",
        OTEL_EXPORTER_OTLP_TIMEOUT="1000",
        OTEL_EXPORTER_OTLP_TRACES_TIMEOUT="2000",
        OTEL_EXPORTER_OTLP_TRACES_COMPRESSION="deflate",
        OTEL_EXPORTER_OTLP_COMPRESSION="gzip",
        OTEL_EXPORTER_OTLP_TRACES_PROTOCOL="http/protobuf",
        OTEL_EXPORTER_OTLP_PROTOCOL="grpc",
    )
    assert (found.headers, found.timeout_s, found.compression) == ({"b": "2"}, 2.0, "deflate")


def test_an_export_ends_with_the_earlier_of_two_timeouts() -> None:
    assert settings(OTEL_BSP_EXPORT_TIMEOUT="1500").timeout_s == 1.5


def test_a_queue_below_the_default_batch_takes_the_batch_down_with_it() -> None:
    assert settings(OTEL_BSP_MAX_QUEUE_SIZE="10").max_batch == 10


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318", "expected a URL like http://host:4318"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "ftp://collector", "expected a URL like http://host:4318"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://", "expected a URL like http://host:4318"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a:99999", "expected a URL like http://host:4318"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a b", "expected a URL like http://host:4318"),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://a?b=c", "expected a URL like http://host:4318, without a query"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "x", "expected a URL like http://host:4318"),
        ("OTEL_TRACES_SAMPLER", "sometimes", "expected " + ", ".join(SAMPLERS[:-1]) + " or " + SAMPLERS[-1]),
        ("OTEL_PROPAGATORS", "jaeger", "expected a list of tracecontext, baggage, b3, b3multi or none"),
        ("OTEL_PROPAGATORS", "tracecontext,,b3", "expected a list of tracecontext, baggage, b3, b3multi or none"),
        ("OTEL_PROPAGATORS", "none,b3", "expected none alone, or others without it"),
        ("OTEL_BSP_MAX_QUEUE_SIZE", "0", "expected an integer from 1 to 1048576"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "many", "expected an integer from 1 to 1048576"),
        ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4096", "expected at most OTEL_BSP_MAX_QUEUE_SIZE, which is 2048"),
        ("OTEL_BSP_SCHEDULE_DELAY", "5s", "expected an integer from 1 to 600000, in milliseconds"),
        ("OTEL_BSP_EXPORT_TIMEOUT", "-1", "expected an integer from 100 to 600000, in milliseconds"),
        # The Python exporter's own reading is seconds: ten of them would be ten milliseconds here.
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10", "expected an integer from 100 to 600000, in milliseconds"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "brotli", "expected none, gzip or deflate"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "expected http/protobuf"),
        ("OTEL_TRACES_EXPORTER", "zipkin", "expected otlp or none"),
        ("OTEL_SDK_DISABLED", "yes", "expected true or false"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a", "expected a list like name=value,name=value"),
        ("OTEL_RESOURCE_ATTRIBUTES", "a=%ff", "expected percent-encoded UTF-8 in a list like name=value"),
    ],
)  # fmt: skip
def test_what_is_not_accepted_is_a_problem_that_names_variable_and_value(name: str, value: str, message: str) -> None:
    found, (problem,) = read_tracing({**ON, name: value})
    assert found is None
    assert str(problem) == f"{name}: {shown(value)} is not accepted: {message}"


@pytest.mark.parametrize("value", ["nan", "-0.1", "1.1", "half", "inf"])
def test_a_ratio_is_judged_where_it_counts(value: str) -> None:
    found, (problem,) = read_tracing({**ON, "OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": value})
    assert found is None
    assert str(problem) == f"OTEL_TRACES_SAMPLER_ARG: {value!r} is not accepted: expected a number from 0 to 1"
    assert settings(OTEL_TRACES_SAMPLER_ARG=value).ratio == 1.0


@pytest.mark.parametrize("value", ["authorization", "a b=secret", "a=secret%0d%0aX: y"])
def test_headers_are_never_shown(value: str) -> None:
    _, (problem,) = read_tracing({**ON, "OTEL_EXPORTER_OTLP_HEADERS": value})
    assert problem.where == "OTEL_EXPORTER_OTLP_HEADERS"
    assert problem.value is None
    assert "secret" not in str(problem)


def test_all_problems_stop_the_start_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load({"GATEWAY_BACKEND_TARGET": "demo", **ON, "OTEL_TRACES_SAMPLER": "x", "OTEL_PROPAGATORS": "y"})
    assert [problem.where for problem in caught.value.problems] == ["OTEL_TRACES_SAMPLER", "OTEL_PROPAGATORS"]


def test_the_configuration_has_it() -> None:
    assert load({"GATEWAY_BACKEND_TARGET": "demo", **ON}).tracing == settings()
    assert load({"GATEWAY_BACKEND_TARGET": "demo"}).tracing is None


def test_the_effective_configuration_has_what_is_set_and_no_secret() -> None:
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://me:secret@c:4318",
        "OTEL_EXPORTER_OTLP_HEADERS": "a=secret",
        "OTEL_TRACES_SAMPLER": "always_on",
        "OTEL_SERVICE_NAME": "",
    }
    shown_settings = load({"GATEWAY_BACKEND_TARGET": "demo", **variables}).effective()["settings"]
    assert {name: entry for name, entry in shown_settings.items() if name.startswith("OTEL_")} == {
        "OTEL_EXPORTER_OTLP_ENDPOINT": {
            "value": "http://***@c:4318",
            "source": "env OTEL_EXPORTER_OTLP_ENDPOINT",
        },
        "OTEL_EXPORTER_OTLP_HEADERS": {"value": "***", "source": "env OTEL_EXPORTER_OTLP_HEADERS"},
        "OTEL_TRACES_SAMPLER": {"value": "always_on", "source": "env OTEL_TRACES_SAMPLER"},
    }
    without = load({"GATEWAY_BACKEND_TARGET": "demo", **variables, "OTEL_SDK_DISABLED": "true"}).effective()
    assert not [name for name in without["settings"] if name.startswith("OTEL_")]
