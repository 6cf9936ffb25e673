"""OpenTelemetry's own variables, as far as the gateway's traces go by them.

Names, defaults and units are those of the OpenTelemetry specification ("Environment Variable Specification" and
"OTLP Exporter Configuration"): an empty value is as good as none, durations are whole milliseconds. Unlike there, a value
that is not accepted is a problem and no warning.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final, Generic, TypeVar
from urllib.parse import unquote, urlsplit

import attrs

from txgateway.config.problems import MASK, Problem
from txgateway.config.values import integer, one_of, shown, without_user
from txgateway.headers import is_field_value, is_token
from txgateway.telemetry.propagation import PROPAGATORS
from txgateway.telemetry.sampling import SAMPLERS

T = TypeVar("T")

_PATH: Final = "/v1/traces"
#: Below this, milliseconds were taken for seconds, as OpenTelemetry's Python exporter takes them.
_MIN_TIMEOUT_MS: Final = 100
_MAX_TIMEOUT_MS: Final = 600_000
_MAX_QUEUE: Final = 2**20


@attrs.frozen
class TracingSettings:
    """Where traces go, and which.

    Attributes:
        endpoint: URL that spans are posted to.
        headers: sent with them; may be secrets.
        timeout_s: for the export of a batch, its repetitions included.
        compression: ``none``, ``gzip`` or ``deflate``.
        service_name: ``service.name`` of the resource.
        resource: its other attributes.
        sampler: a name of ``txgateway.telemetry.sampling.SAMPLERS``.
        ratio: for those that have one.
        propagators: names of ``txgateway.telemetry.propagation.PROPAGATORS``.
        max_queue: spans that wait to be exported.
        max_batch: spans in one export.
        delay_s: between two exports.
        variables: those that have said so, as they are set; secrets masked.
    """

    endpoint: str
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    timeout_s: float = 10.0
    compression: str = "none"
    service_name: str = "txgateway"
    resource: Mapping[str, str] = attrs.field(factory=dict)
    sampler: str = "parentbased_always_on"
    ratio: float = 1.0
    propagators: tuple[str, ...] = ("tracecontext", "baggage")
    max_queue: int = 2048
    max_batch: int = 512
    delay_s: float = 5.0
    variables: Mapping[str, str] = attrs.field(factory=dict, eq=False)


def _choice(*accepted: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in accepted:
            raise ValueError(f"expected {one_of(accepted)}")
        return text.lower()

    return parse


def _boolean(text: str) -> bool:
    return _choice("true", "false")(text) == "true"


def _milliseconds(lowest: int) -> Callable[[str], int]:
    parse_number = integer(lowest, _MAX_TIMEOUT_MS)

    def parse(text: str) -> int:
        try:
            return parse_number(text)
        except ValueError as exc:
            raise ValueError(f"{exc}, in milliseconds") from exc

    return parse


def _ratio(text: str) -> float:
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1.0
    if not 0 <= ratio <= 1:
        raise ValueError("expected a number from 0 to 1")
    return ratio


def _url(text: str) -> str:
    """``http`` or ``https``, to a host."""
    try:
        parts = urlsplit(text)
        is_url = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:  # no port, or brackets around what is no address
        is_url = False
    if not is_url or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("expected a URL like http://host:4318")
    return text if parts.path else parts._replace(path="/").geturl()


def _base_url(text: str) -> str:
    """The same, with the path of traces put behind it; a query would end up in the middle."""
    parts = urlsplit(_url(text))
    if parts.query or parts.fragment:
        raise ValueError("expected a URL like http://host:4318, without a query")
    return parts._replace(path=parts.path.rstrip("/") + _PATH).geturl()


def _pairs(text: str) -> dict[str, str]:
    """``key=value`` pairs, separated by commas, percent-encoded (W3C Baggage, without properties)."""
    pairs: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        if not part.strip():
            continue
        if not equals or not name.strip():
            raise ValueError("expected a list like name=value,name=value")
        try:
            pairs[unquote(name.strip(), errors="strict")] = unquote(value.strip(), errors="strict")
        except UnicodeDecodeError:
            raise ValueError("expected percent-encoded UTF-8 in a list like name=value") from None
    return pairs


def _headers(text: str) -> dict[str, str]:
    headers = _pairs(text)
    for name, value in headers.items():
        if not is_token(name.encode()) or not is_field_value(value.encode()):
            raise ValueError("expected header fields like name=value,name=value")
    return headers


def _propagators(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip().lower() for name in text.split(",")))
    if not set(names) <= set(PROPAGATORS):
        raise ValueError(f"expected a list of {one_of(PROPAGATORS)}")
    if "none" in names and len(names) > 1:
        raise ValueError("expected none alone, or others without it")
    return names


@attrs.frozen
class Variable(Generic[T]):
    """A variable that counts.

    Attributes:
        names: of which the first that is set counts; the last one is for all signals, if there are several.
        parse: makes a value of a text, or raises ``ValueError`` with what is accepted.
        default: if none is set.
        meaning: for the documents.
        is_secret: its value is shown to nobody.
    """

    names: tuple[str, ...]
    parse: Callable[[str], T]
    default: T
    meaning: str
    is_secret: bool = False


def _otlp(name: str) -> tuple[str, str]:
    """The names of a variable of the exporter."""
    return f"OTEL_EXPORTER_OTLP_TRACES_{name}", f"OTEL_EXPORTER_OTLP_{name}"


TRACES_ENDPOINT, ENDPOINT = _otlp("ENDPOINT")

_ENDPOINT: Final = Variable(
    (ENDPOINT,),
    _base_url,
    "",
    "`http://collector:4318` turns tracing on; spans go to `/v1/traces` there, as protobuf over HTTP",
)
_TRACES_ENDPOINT: Final = Variable((TRACES_ENDPOINT,), _url, "", "or the whole URL, which goes before the other")
_HEADERS: Final = Variable[Mapping[str, str]](
    _otlp("HEADERS"), _headers, {}, "sent with spans, percent-encoded; never shown", is_secret=True
)
_TIMEOUT: Final = Variable(
    _otlp("TIMEOUT"),
    _milliseconds(_MIN_TIMEOUT_MS),
    10_000,
    "for one export with its repetitions; OpenTelemetry's Python SDK would take seconds",
)
_COMPRESSION: Final = Variable(_otlp("COMPRESSION"), _choice("none", "gzip", "deflate"), "none", "of an export")
_SERVICE_NAME: Final = Variable(("OTEL_SERVICE_NAME",), str, "txgateway", "`service.name` of all spans")
_ATTRIBUTES: Final = Variable[Mapping[str, str]](
    ("OTEL_RESOURCE_ATTRIBUTES",), _pairs, {}, "what else is true of all spans, percent-encoded"
)
_SAMPLER: Final = Variable(
    ("OTEL_TRACES_SAMPLER",), _choice(*SAMPLERS), "parentbased_always_on", "which requests are sampled; see below"
)
_RATIO: Final = Variable(("OTEL_TRACES_SAMPLER_ARG",), _ratio, 1.0, "the share that `traceidratio` samples")
_PROPAGATORS: Final = Variable[tuple[str, ...]](
    ("OTEL_PROPAGATORS",), _propagators, ("tracecontext", "baggage"), "whose headers are read and written"
)
_QUEUE: Final = Variable(
    ("OTEL_BSP_MAX_QUEUE_SIZE",), integer(1, _MAX_QUEUE), 2048, "spans that wait; more are dropped and counted"
)
_BATCH: Final = Variable(("OTEL_BSP_MAX_EXPORT_BATCH_SIZE",), integer(1, _MAX_QUEUE), 512, "spans in one export")
_DELAY: Final = Variable(("OTEL_BSP_SCHEDULE_DELAY",), _milliseconds(1), 5000, "between two exports")
_EXPORT_TIMEOUT: Final = Variable(
    ("OTEL_BSP_EXPORT_TIMEOUT",),
    _milliseconds(_MIN_TIMEOUT_MS),
    30_000,
    "for one export, too: the shorter one counts",
)
_PROTOCOL: Final = Variable(_otlp("PROTOCOL"), _choice("http/protobuf"), "http/protobuf", "nothing else: no gRPC")
_EXPORTER: Final = Variable(("OTEL_TRACES_EXPORTER",), _choice("otlp", "none"), "otlp", "`none` turns tracing off")
_DISABLED: Final = Variable(("OTEL_SDK_DISABLED",), _boolean, default=False, meaning="`true` turns tracing off")

#: All of them, in the order of the documents.
VARIABLES: Final[tuple[Variable[Any], ...]] = (
    _ENDPOINT, _TRACES_ENDPOINT, _HEADERS, _TIMEOUT, _COMPRESSION, _SERVICE_NAME, _ATTRIBUTES, _SAMPLER, _RATIO,
    _PROPAGATORS, _QUEUE, _BATCH, _DELAY, _EXPORT_TIMEOUT, _PROTOCOL, _EXPORTER, _DISABLED,
)  # fmt: skip


def read_tracing(environ: Mapping[str, str]) -> tuple[TracingSettings | None, list[Problem]]:
    """The settings, and all that is wrong with the variables.

    Returns:
        None for the settings if no endpoint is set, tracing is switched off, or something is wrong; what has no
        effect is not judged.
    """
    reader = _Reader(environ)
    is_disabled = reader.read(_DISABLED)
    endpoint = reader.read(_TRACES_ENDPOINT) or reader.read(_ENDPOINT)
    if is_disabled or not endpoint:
        # An endpoint that is no URL is a problem all the same, unless it is switched off.
        return None, [] if is_disabled else reader.problems
    if reader.read(_EXPORTER) == "none":
        return None, []
    reader.read(_PROTOCOL)
    sampler = reader.read(_SAMPLER)
    ratio = reader.read(_RATIO) if sampler.endswith("ratio") else _RATIO.default
    attributes = reader.read(_ATTRIBUTES)
    timeout_ms = min(reader.read(_TIMEOUT), reader.read(_EXPORT_TIMEOUT))
    service_name = reader.read(_SERVICE_NAME)
    if not reader.is_set(_SERVICE_NAME):
        service_name = attributes.get("service.name", service_name)
    settings = TracingSettings(
        endpoint=endpoint,
        headers=reader.read(_HEADERS),
        timeout_s=timeout_ms / 1000,
        compression=reader.read(_COMPRESSION),
        service_name=service_name,
        resource={name: value for name, value in attributes.items() if name != "service.name"},
        sampler=sampler,
        ratio=ratio,
        propagators=reader.read(_PROPAGATORS),
        max_queue=reader.read(_QUEUE),
        max_batch=reader.read(_BATCH),
        delay_s=reader.read(_DELAY) / 1000,
        variables=reader.given,
    )
    if settings.max_batch > settings.max_queue:
        if reader.is_set(_BATCH):
            name = _BATCH.names[0]
            message = f"expected at most {_QUEUE.names[0]}, which is {settings.max_queue}"
            reader.problems.append(Problem(name, shown(environ[name]), message))
        settings = attrs.evolve(settings, max_batch=settings.max_queue)
    return (None if reader.problems else settings), reader.problems


class _Reader:
    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[Problem] = []
        self.given: dict[str, str] = {}

    def _name(self, variable: Variable[Any]) -> str | None:
        return next((name for name in variable.names if self._environ.get(name, "").strip()), None)

    def is_set(self, variable: Variable[Any]) -> bool:
        """Whether there is a value; an empty one is none."""
        return self._name(variable) is not None

    def read(self, variable: Variable[T]) -> T:
        """The value."""
        name = self._name(variable)
        if name is None:
            return variable.default
        text = self._environ[name].strip()
        self.given[name] = MASK if variable.is_secret else without_user(text)
        try:
            return variable.parse(text)
        except ValueError as exc:
            self.problems.append(Problem(name, None if variable.is_secret else shown(text), str(exc)))
            return variable.default
