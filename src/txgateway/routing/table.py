"""The compiled route table: from host, path, method and headers to the most specific route.

A match costs the length of the path (and the number of different patterns of placeholders), not the number of routes.
What a route leads to is opaque here; rules are values, checked and compiled when the table is made.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Final, Generic, TypeVar

from attrs import Factory, frozen

from txgateway.errors import BadPath, MethodNotAllowed, NoRoute
from txgateway.headers import is_field_value, is_token, is_valid_host, normalize_host
from txgateway.routing.path import canonical_path

T = TypeVar("T")

_PLACEHOLDER: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")
_NEEDS_ESCAPE: Final = re.compile(rb"[^\x21-\x7e]")
_NO_PARAMETERS: Final[dict[str, bytes]] = {}
#: One empty value for all that have none: with many routes, memory that is not touched is time saved.
_ANY_METHOD: Final[frozenset[bytes]] = frozenset()
#: Stands for a placeholder; no canonical path has a brace.
_HOLE: Final = b"{}"


@frozen
class RouteRule:
    """What a request must look like to take a route; an empty field asks for nothing.

    Attributes:
        name: of the route, for error messages.
        hosts: ``api.example.com``, ``*.example.com`` (exactly one label more), IPv4 or ``[IPv6]``; case, port and a
            final dot are ignored.
        path: ``/a`` (that path and all below it), ``=/a`` (only that path) or ``/users/{id}/cv`` (only such paths;
            ``{id}`` is one segment). A trailing slash is ignored, in rules and requests alike: many backends do so.
        methods: ``GET`` allows HEAD too.
        headers: field names in any case, and the value each must have exactly.
    """

    name: str
    hosts: tuple[str, ...] = ()
    path: str = "/"
    methods: tuple[str, ...] = ()
    headers: Mapping[str, str] = Factory(dict)


@frozen
class Candidate(Generic[T]):
    """A route whose path a request has.

    Attributes:
        value: what it stands for.
        host: by what its host is the request's: ``exact``, ``wildcard``, ``any``, or ``other`` if it is not.
        lacks: what of the request is not as the rule says, of ``host``, ``methods`` and ``headers``.
        parameters: the segments that its placeholders stand for.
    """

    name: str
    value: T
    host: str
    lacks: tuple[str, ...]
    parameters: Mapping[str, bytes]


class RouteTable(Generic[T]):
    """A table of routes, which does not change once it is filled.

    The most specific route that matches wins, whatever the order: first by host (exact, wildcard, none), then by
    path (longest; of equally long ones the one that is literal where the other has a ``{}``, and ``=/a`` before
    ``/a``), then with methods before without, then the one with more headers, then with fewer methods. Two that are
    equal in all this, but not the same, are tried in the order given. A route that does not match leaves the request
    to the less specific ones.

    Args:
        entries: rules and what each stands for.

    Raises:
        ValueError: a rule is malformed, or two are indistinguishable; the message names the routes.
    """

    __slots__ = ("_anywhere", "_hosts", "_wildcards")

    def __init__(self, entries: Iterable[tuple[RouteRule, T]] = ()) -> None:
        self._anywhere: _Tree[T] = _Tree()
        self._hosts: dict[bytes, _Tree[T]] = {}
        self._wildcards: dict[bytes, _Tree[T]] = {}
        for _ in self.fill(entries):
            pass

    def fill(self, entries: Iterable[tuple[RouteRule, T]]) -> Iterator[None]:
        """Put the entries into a table that has none, some at each step; it is complete after the last."""
        places: dict[tuple[_Tree[T], tuple[bytes | None, ...]], dict[object, _Entry[T]]] = {}
        for rule, value in entries:
            yield
            try:
                path = _parse_path(rule.path)
                trees = [self._tree_for_rule(host) for host in rule.hosts] if rule.hosts else [self._anywhere]
                places_taken = [(tree, _Entry(rule, path, value)) for tree in dict.fromkeys(trees)]
            except ValueError as exc:
                raise ValueError(f"route {rule.name!r}: {exc}") from exc
            for tree, entry in places_taken:
                other = places.setdefault((tree, path.segments), {}).setdefault(entry.distinction(), entry)
                if other is not entry:
                    names_of_both = f"{other.rule_name!r} and {rule.name!r}"
                    raise ValueError(
                        f"routes {names_of_both} cannot be told apart: same host, path, methods and headers"
                    )
        while places:  # let go of one by one: all at once would take milliseconds
            yield
            (tree, segments), alike = places.popitem()
            tree.add(segments, sorted(alike.values(), key=_Entry.rank))

    def drop(self) -> Iterator[None]:
        """Forget all routes, some at each step: thousands at once are a long time."""
        for tree in (self._anywhere, *self._hosts.values(), *self._wildcards.values()):
            yield from tree.drop()

    def match(
        self, host: bytes, path: bytes, method: bytes, headers: Mapping[bytes, bytes]
    ) -> tuple[T, dict[str, bytes]]:
        """The value of the most specific matching route, and the segments that its placeholders stand for.

        Args:
            host: the ``Host`` value as received, ``b""`` without one.
            path: in canonical form (:func:`txgateway.routing.path.canonical_path`).
            headers: lowered name to value.

        Returns:
            The value, and the placeholders' segments in canonical form by name; that dictionary may be shared and
            must not be changed.

        Raises:
            NoRoute: no route matches host, path and headers.
            MethodNotAllowed: some do, but with other methods.
        """
        path = path.removesuffix(b"/")
        for tree in self._trees_for_request(host):
            for entry, values in tree.find(path):
                if (not entry.methods or method in entry.methods) and (not entry.headers or entry.has_headers(headers)):
                    return entry.value, dict(zip(entry.names, values, strict=True)) if values else _NO_PARAMETERS
        raise self._refusal(host, path, headers)

    def candidates(
        self, host: bytes, path: bytes, method: bytes, headers: Mapping[bytes, bytes]
    ) -> Iterator[Candidate[T]]:
        """All routes of a path: in the order of :meth:`match`, which takes the first that lacks nothing, then other hosts'.

        It takes time by the number of hosts: to explain a match, not to make one.
        """
        path = path.removesuffix(b"/")
        ours = list(self._trees_for_request(host))
        others = [tree for tree in (*self._hosts.values(), *self._wildcards.values()) if tree not in ours]
        for tree in (*ours, *others):
            kind = self._kind(tree, host) if tree in ours else "other"
            for entry, values in tree.find(path):
                is_so = {
                    "host": kind != "other",
                    "methods": not entry.methods or method in entry.methods,
                    "headers": entry.has_headers(headers),
                }
                lacks = tuple(what for what, is_there in is_so.items() if not is_there)
                yield Candidate(entry.rule_name, entry.value, kind, lacks, dict(zip(entry.names, values, strict=True)))

    def _kind(self, tree: _Tree[T], host: bytes) -> str:
        if tree is self._anywhere:
            return "any"
        return "exact" if self._hosts.get(normalize_host(host)) is tree else "wildcard"

    def _refusal(self, host: bytes, path: bytes, headers: Mapping[bytes, bytes]) -> NoRoute | MethodNotAllowed:
        allowed: set[bytes] = set()
        for tree in self._trees_for_request(host):
            for entry, _ in tree.find(path):
                if entry.has_headers(headers):
                    allowed |= entry.methods
        if not allowed:
            return NoRoute()
        return MethodNotAllowed(tuple(sorted(method.decode("ascii") for method in allowed)))

    def _trees_for_request(self, host: bytes) -> Iterable[_Tree[T]]:
        if not self._hosts and not self._wildcards:
            return (self._anywhere,)
        host = normalize_host(host)
        label, _, parent = host.partition(b".")
        candidates = (self._hosts.get(host), self._wildcards.get(parent) if label else None, self._anywhere)
        return [tree for tree in candidates if tree is not None]

    def _tree_for_rule(self, host: str) -> _Tree[T]:
        is_wildcard = host.startswith("*.")
        name = host[2:] if is_wildcard else host
        if not name.isascii() or "*" in name or not is_valid_host(name.encode("ascii")):
            raise ValueError(f"host {host!r} is neither a host name, an address nor '*.' and a host name")
        trees = self._wildcards if is_wildcard else self._hosts
        return trees.setdefault(normalize_host(name.encode("ascii")), _Tree())


@frozen
class _Path:
    """A rule's path: canonical segments, None where a placeholder stands, and the placeholders' names."""

    segments: tuple[bytes | None, ...]
    names: tuple[str, ...]
    is_whole: bool


class _Entry(Generic[T]):
    """One route at its place in a tree, and the next one there."""

    __slots__ = ("headers", "is_whole", "methods", "names", "next", "rule_name", "value")

    def __init__(self, rule: RouteRule, path: _Path, value: T) -> None:
        self.rule_name = rule.name
        self.value = value
        self.names = path.names
        self.is_whole = path.is_whole
        methods = frozenset(_method(method) for method in rule.methods)
        self.methods = (methods | {b"HEAD"} if b"GET" in methods else methods) or _ANY_METHOD
        self.headers = tuple(sorted(_header(name, value) for name, value in rule.headers.items()))
        if len(dict(self.headers)) < len(self.headers):
            raise ValueError("a header is named twice")
        self.next: _Entry[T] | None = None

    def has_headers(self, headers: Mapping[bytes, bytes]) -> bool:
        return all(headers.get(name) == value for name, value in self.headers)

    def distinction(self) -> object:
        """What two entries at one place must differ in."""
        return self.is_whole, self.methods, self.headers

    def rank(self) -> tuple[bool, bool, int, int]:
        """Sorts the more specific first."""
        return (not self.is_whole, not self.methods, -len(self.headers), len(self.methods))


class _Tree(Generic[T]):
    """The routes of one host, by path in one dictionary, which is asked for a path and then for what it lies below.

    A tree of nodes would do the same work, and touch several times as many objects: with thousands of routes each is
    a cache miss, which is most of what a match costs then.
    """

    __slots__ = ("_depth", "_literals", "_shapes")

    def __init__(self) -> None:
        self._literals: dict[bytes, _Entry[T]] = {}
        #: Segments of the deepest literal: no prefix of a path with more is looked up.
        self._depth = 0
        #: Templates by number of segments; of those the more specific shapes first.
        self._shapes: dict[int, list[_Shape[T]]] = {}

    def add(self, segments: tuple[bytes | None, ...], entries: list[_Entry[T]]) -> None:
        """Add all routes of one path, best first."""
        for entry, following in pairwise(entries):
            entry.next = following
        key = b"".join(b"/" + (_HOLE if segment is None else segment) for segment in segments)
        holes = tuple(index for index, segment in enumerate(segments, 1) if segment is None)
        if not holes:
            self._literals[key] = entries[0]
            self._depth = max(self._depth, len(segments))
            return
        shapes = self._shapes.setdefault(len(segments), [])
        shape = next((shape for shape in shapes if shape.holes == holes), None)
        if shape is None:
            shape = _Shape(holes)
            shapes.append(shape)
            # Where two differ first, the literal is the more specific: its next hole comes later.
            shapes.sort(key=lambda shape: (*shape.holes, len(segments) + 1), reverse=True)
        shape.entries[key] = entries[0]

    def drop(self) -> Iterator[None]:
        """Forget them, some at each step."""
        for entries in (self._literals, *(shape.entries for shapes in self._shapes.values() for shape in shapes)):
            while entries:
                entries.popitem()
                yield

    def find(self, path: bytes) -> Iterator[tuple[_Entry[T], tuple[bytes, ...]]]:
        """The routes for a path without final slash, best first, each with the segments of its placeholders."""
        literals = self._literals
        entry = literals.get(path)
        while entry is not None:
            yield entry, ()
            entry = entry.next
        if self._shapes:
            yield from self._find_templates(path)
        if path.count(b"/") > self._depth:
            path = b"/".join(path.split(b"/", self._depth + 2)[: self._depth + 2])
        while path:
            path = path[: path.rindex(b"/")]
            entry = literals.get(path)
            while entry is not None:
                if not entry.is_whole:
                    yield entry, ()
                entry = entry.next

    def _find_templates(self, path: bytes) -> Iterator[tuple[_Entry[T], tuple[bytes, ...]]]:
        segments = path.split(b"/")
        for shape in self._shapes.get(len(segments) - 1, ()):
            parts = segments.copy()
            for index in shape.holes:
                parts[index] = _HOLE
            entry = shape.entries.get(b"/".join(parts))
            while entry is not None:
                yield entry, tuple([segments[index] for index in shape.holes])
                entry = entry.next


class _Shape(Generic[T]):
    """Templates of one length with their placeholders at the same places (counted from 1), by path with ``_HOLE``s."""

    __slots__ = ("entries", "holes")

    def __init__(self, holes: tuple[int, ...]) -> None:
        self.holes = holes
        self.entries: dict[bytes, _Entry[T]] = {}


def _parse_path(path: str) -> _Path:
    """A rule's path, parsed.

    Raises:
        ValueError: not a path, or one that no request can have.
    """
    is_exact = path.startswith("=")
    text = path[1:] if is_exact else path
    if not text.startswith("/"):
        raise ValueError(f"path {path!r} does not begin with '/' or '=/'")
    if set(text) & set(";?#"):
        raise ValueError(f"path {path!r} holds ';', '?' or '#', which are no part of a path that is matched")
    names: list[str] = []
    segments: list[bytes | None] = []
    for part in text.split("/"):
        placeholder = _PLACEHOLDER.fullmatch(part)
        if placeholder is not None:
            names.append(placeholder[1])
            segments.append(None)
        elif "{" in part or "}" in part:
            raise ValueError(f"path {path!r}: a placeholder is a whole segment, like '/{{name}}/'")
        else:
            segments += _parse_literal(part, path)
    if names and is_exact:
        raise ValueError(f"path {path!r} has placeholders and matches whole paths anyway: leave out the '='")
    if len(set(names)) < len(names):
        raise ValueError(f"path {path!r} names a placeholder twice")
    return _Path(tuple(segments), tuple(names), is_exact or bool(names))


def _parse_literal(part: str, path: str) -> list[bytes]:
    escaped = _NEEDS_ESCAPE.sub(lambda found: b"%%%02X" % found[0][0], part.encode("utf-8"))
    try:
        canonical = canonical_path(b"/" + escaped)
    except BadPath as exc:
        raise ValueError(f"path {path!r} is one that no request may have: {exc}") from exc
    return [segment for segment in canonical.split(b"/") if segment]


def _method(method: str) -> bytes:
    wire = method.encode("utf-8")
    if not is_token(wire):
        raise ValueError(f"{method!r} is not a method")
    return wire


def _header(name: str, value: str) -> tuple[bytes, bytes]:
    wire_name, wire_value = name.lower().encode("utf-8"), value.encode("utf-8")
    if not is_token(wire_name):
        raise ValueError(f"{name!r} is not a header name")
    if not is_field_value(wire_value):
        raise ValueError(f"header {name!r}: {value!r} cannot be a field value")
    return wire_name, wire_value
