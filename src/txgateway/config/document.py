"""The routes document: from TOML or JSON to tables whose keys are known and whose values are well formed.

What a route inherits, and whether it makes sense among the others, is :mod:`txgateway.config.routes`' and
:mod:`txgateway.config.checks`' business.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

import attrs
import orjson
from pydantic import Field, PlainValidator, model_validator

from txgateway.config import syntax, vocabulary
from txgateway.config.groups import (
    BackendKeys,
    BackendTls,
    Boolean,
    ConnectTimeout,
    HeaderNames,
    HeaderValue,
    Methods,
    RouteKeys,
    Table,
    Timeout,
)
from txgateway.config.keys import read_bounded
from txgateway.config.problems import Location, Problem, read_table, suggestion, value_shown
from txgateway.config.targets import DEMO, Target, target
from txgateway.config.user_code import POSITIONS
from txgateway.config.values import choice, integer, listed, optional

#: The largest document that is read.
MAX_DOCUMENT_BYTES: Final = 64 * 2**20
MAX_WEIGHT: Final = 65535
#: The keys of which a route has exactly one.
ENDS: Final = ("backend", "backends", "redirect", "response", "resource")

_BARE_KEY_CHARACTERS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")

HeaderTable = Annotated[Mapping[str, str], PlainValidator(syntax.header_table)]
Name = Annotated[str, PlainValidator(syntax.name)]
K = TypeVar("K", bound=Table)


class TargetTable(Table):
    """A target with its weight; a bare URL weighs 1."""

    url: Annotated[Target, PlainValidator(target)]
    weight: Annotated[int, PlainValidator(integer(1, MAX_WEIGHT))] = 1

    @model_validator(mode="before")
    @classmethod
    def _of_url(cls, raw: object) -> object:
        return {"url": raw} if isinstance(raw, str) else raw


class WeightedBackend(Table):
    """A backend and its share of a route's requests, relative to the others'."""

    name: Name
    weight: Annotated[int, PlainValidator(integer(0, MAX_WEIGHT))] = 1


class Redirect(Table):
    """Where a route sends its clients."""

    to: Annotated[str, PlainValidator(vocabulary.redirect_target)]
    status: Annotated[int, PlainValidator(vocabulary.redirect_status)] = 308


class FixedResponse(Table):
    """What a route answers itself, in UTF-8."""

    status: Annotated[int, PlainValidator(integer(200, 599))] = 200
    body: Annotated[str, PlainValidator(vocabulary.fixed_body)] = ""
    content_type: HeaderValue = "text/plain; charset=utf-8"


class RequestHeaders(Table):
    """Changes to the header of a message: what is set (replacing what is there), and what is removed."""

    set: HeaderTable = Field(default_factory=dict)
    remove: HeaderNames = ()


class ResponseHeaders(RequestHeaders):
    """The same, for responses."""


class BackendTable(BackendKeys):
    """A backend as the document has it."""

    targets: tuple[TargetTable, ...] = ()
    tls: BackendTls = BackendTls()
    timeout: ConnectTimeout = ConnectTimeout()


class RouteTable(RouteKeys):
    """A route as the document has it."""

    name: Name = ""
    hosts: Annotated[tuple[str, ...], PlainValidator(listed(syntax.host_pattern))] = ()
    path: Annotated[str, PlainValidator(syntax.route_path)] = ""
    methods: Methods = ()
    headers: Annotated[Mapping[str, str], PlainValidator(syntax.match_headers)] = Field(default_factory=dict)
    backend: Name | None = None
    backends: tuple[WeightedBackend, ...] = ()
    redirect: Redirect | None = None
    response: FixedResponse | None = None
    resource: Annotated[str | None, PlainValidator(syntax.resource_name)] = None
    strip_prefix: Boolean = False
    rewrite: Annotated[str | None, PlainValidator(optional(syntax.rewrite_path))] = None
    preserve_host: Boolean = False
    upgrades: Annotated[tuple[str, ...], PlainValidator(listed(syntax.token))] = ()
    auth: Annotated[Literal["jwt", "none"] | None, PlainValidator(choice("jwt", "none"))] = None
    timeout: Timeout = Timeout()
    request_headers: RequestHeaders = RequestHeaders()
    response_headers: ResponseHeaders = ResponseHeaders()
    middlewares: Annotated[tuple[str, ...], PlainValidator(listed(vocabulary.middleware))] = ()


class MiddlewareTable(Table):
    """A user's middleware as the document has it; its settings are for its own class to judge."""

    use: Annotated[str, PlainValidator(vocabulary.middleware)] = ""
    position: Annotated[str | None, PlainValidator(choice(*POSITIONS))] = None
    settings: Mapping[str, Any] = Field(default_factory=dict)


@attrs.frozen
class Place:
    """Where a table of the document is, for problems and for the effective configuration.

    Attributes:
        path: ``routes[2]`` or ``backends.resumes``.
        variable: that stands for the whole document, if there is no document.
    """

    path: str
    variable: str | None = None

    def of(self, key: str) -> str:
        """What the user knows a key of this table by; an empty key is the table itself."""
        return self.variable or (f"{self.path}.{key}" if key else self.path)

    def source(self, key: str) -> str:
        """Where a value under a key of this table comes from."""
        if self.variable:
            return f"{'file' if self.variable.endswith('_FILE') else 'env'} {self.variable}"
        return f"document {self.path}.{key}"

    def located(self, location: Location) -> str:
        """:meth:`of`, for a place deeper down."""
        if self.variable:
            return self.variable
        return self.path + "".join(f"[{part}]" if isinstance(part, int) else f".{_key(part)}" for part in location)


@attrs.frozen
class BackendEntry:
    """A backend of the document. ``failed``: keys whose values were refused and are left out of ``table``."""

    name: str
    place: Place
    table: BackendTable
    failed: frozenset[str]


@attrs.frozen
class MiddlewareEntry:
    """A user's middleware of the document, as :class:`BackendEntry`."""

    name: str
    place: Place
    table: MiddlewareTable
    failed: frozenset[str]


@attrs.frozen
class RouteEntry:
    """A route of the document, as :class:`BackendEntry`."""

    place: Place
    table: RouteTable
    failed: frozenset[str]


@attrs.frozen
class Document:
    """What a routes document says, as far as it is well formed, and what is wrong with the rest."""

    backends: tuple[BackendEntry, ...] = ()
    routes: tuple[RouteEntry, ...] = ()
    problems: tuple[Problem, ...] = ()
    middlewares: tuple[MiddlewareEntry, ...] = ()


def document_of_targets(urls: tuple[str, ...], variable: str) -> Document:
    """The document that a list of target URLs stands for: one route, one backend, both ``default``."""
    route: dict[str, Any] = {"name": "default", "path": "/", "backend": "default"}
    if urls == (DEMO,):
        route["upgrades"] = ["websocket"]  # part of what the demo shows
    return _read({"backends": {"default": {"targets": list(urls)}}, "routes": [route]}, variable)


def document_of_file(path: str, variable: str) -> Document:
    """The document in a file: JSON if its name ends in ``.json``, else TOML."""
    try:
        content = read_bounded(path, MAX_DOCUMENT_BYTES)
    except ValueError as exc:
        return Document(problems=(Problem(variable, value_shown("", path), str(exc)),))
    return document_of_json(content, variable) if path.endswith(".json") else _document_of_toml(content, variable)


def document_of_json(content: bytes, variable: str) -> Document:
    """The document in a JSON text."""
    try:
        raw = orjson.loads(content)
    except orjson.JSONDecodeError as exc:
        return Document(problems=(Problem(variable, None, f"the document is not JSON: {exc}"),))
    return _read_root(raw, variable)


def _document_of_toml(content: bytes, variable: str) -> Document:
    try:
        raw = tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        return Document(problems=(Problem(variable, None, f"the document is not TOML: {exc}"),))
    except RecursionError:
        return Document(problems=(Problem(variable, None, "the document is not accepted: nested too deeply"),))
    return _read_root(raw, variable)


def _read_root(raw: object, variable: str) -> Document:
    if not isinstance(raw, dict):
        return Document(problems=(Problem(variable, None, "expected a document with routes and backends"),))
    return _read(raw, None)


def _read(raw: Mapping[str, Any], variable: str | None) -> Document:
    known = ("backends", "middlewares", "routes")
    problems = [
        Problem(_key(key), None, f"there is no such key{suggestion(key, known)}") for key in raw if key not in known
    ]
    backends = [
        BackendEntry(*entry) for entry in _read_tables(raw, "backends", BackendTable, syntax.name, variable, problems)
    ]
    middlewares = [
        MiddlewareEntry(*entry)
        for entry in _read_tables(raw, "middlewares", MiddlewareTable, vocabulary.middleware_name, variable, problems)
    ]
    routes: list[RouteEntry] = []
    raw_routes = raw.get("routes", [])
    if not isinstance(raw_routes, list) or not raw_routes:
        problems.append(Problem("routes", None, "expected a list of at least one route"))
        raw_routes = []
    for index, raw_route in enumerate(raw_routes):
        place = Place(f"routes[{index}]", variable)
        route, wrong, failed = _read_entry(RouteTable, raw_route, place)
        problems += wrong
        routes.append(RouteEntry(place, route, failed))
    return Document(tuple(backends), tuple(routes), tuple(problems), tuple(middlewares))


def _read_tables(
    raw: Mapping[str, Any],
    kinds: str,
    kind: type[K],
    name_parser: Callable[[object], str],
    variable: str | None,
    problems: list[Problem],
) -> Iterator[tuple[str, Place, K, frozenset[str]]]:
    """The tables of one kind, each with its name and place and what is wrong with it; problems are added."""
    tables = raw.get(kinds, {})
    if not isinstance(tables, dict):
        problems.append(Problem(kinds, None, f"expected a table of {kinds} by name"))
        return
    for name, inner in tables.items():
        place = Place(f"{kinds}.{_key(name)}", variable)
        try:
            name_parser(name)
        except ValueError as exc:
            problems.append(Problem(place.of(""), None, f"the name is not accepted: {exc}"))
        table, wrong, failed = _read_entry(kind, inner, place)
        problems += wrong
        yield name, place, table, failed


def _read_entry(kind: type[K], raw: object, place: Place) -> tuple[K, list[Problem], frozenset[str]]:
    if not isinstance(raw, dict):
        problem = Problem(place.of(""), None, "expected a table")
        return kind(), [problem], frozenset(kind.model_fields)
    return read_table(kind, raw, place.located)


def _key(key: str) -> str:
    """A key as TOML writes it: quoted, unless it is bare."""
    return key if key and not set(key) - _BARE_KEY_CHARACTERS else orjson.dumps(key).decode("utf-8")
