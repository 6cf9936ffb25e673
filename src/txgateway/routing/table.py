"""The compiled route table: from host, path, method and headers to the most specific route.

One tree of path segments per host, so that a match costs the length of the path and not the number of routes. What
a route leads to is opaque here; rules are values, checked and compiled when the table is made.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Generic, TypeVar

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
_NOTHING: Final[dict[bytes, Any]] = {}


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


class RouteTable(Generic[T]):
    """An immutable table of routes.

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

    def __init__(self, entries: Iterable[tuple[RouteRule, T]]) -> None:
        self._anywhere: _Tree[T] = _Tree()
        self._hosts: dict[bytes, _Tree[T]] = {}
        self._wildcards: dict[bytes, _Tree[T]] = {}
        places: dict[tuple[_Tree[T], _Path], dict[object, _Entry[T]]] = {}
        shared_names: dict[tuple[str, ...], tuple[str, ...]] = {}
        for rule, value in entries:
            try:
                path, names = _parse_path(rule.path)
                entry = _Entry(rule, shared_names.setdefault(names, names), value)
                trees = [self._tree_for_rule(host) for host in rule.hosts] if rule.hosts else [self._anywhere]
            except ValueError as exc:
                raise ValueError(f"route {rule.name!r}: {exc}") from exc
            for tree in dict.fromkeys(trees):
                other = places.setdefault((tree, path), {}).setdefault((entry.methods, entry.headers), entry)
                if other is not entry:
                    names_of_both = f"{other.rule_name!r} and {rule.name!r}"
                    raise ValueError(
                        f"routes {names_of_both} cannot be told apart: same host, path, methods and headers"
                    )
        shared_segments: dict[bytes, bytes] = {}
        for (tree, path), alike in places.items():
            tree.add(path, tuple(sorted(alike.values(), key=_Entry.rank)), shared_segments)

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
        segments = path.strip(b"/").split(b"/") if path != b"/" else []
        for tree in self._trees_for_request(host):
            for alike, values in tree.find(segments):
                for entry in alike:
                    if (not entry.methods or method in entry.methods) and (
                        not entry.headers or entry.has_headers(headers)
                    ):
                        return entry.value, entry.name_values(values) if values else _NO_PARAMETERS
        raise self._refusal(host, segments, headers)

    def _refusal(
        self, host: bytes, segments: list[bytes], headers: Mapping[bytes, bytes]
    ) -> NoRoute | MethodNotAllowed:
        allowed: set[bytes] = set()
        for tree in self._trees_for_request(host):
            for alike, _ in tree.find(segments):
                for entry in alike:
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


class _Entry(Generic[T]):
    """One route at its place in a tree."""

    __slots__ = ("headers", "methods", "names", "rule_name", "value")

    def __init__(self, rule: RouteRule, names: tuple[str, ...], value: T) -> None:
        self.rule_name = rule.name
        self.value = value
        self.names = names
        methods = frozenset(_method(method) for method in rule.methods)
        self.methods = (methods | {b"HEAD"} if b"GET" in methods else methods) or _ANY_METHOD
        self.headers = tuple(sorted(_header(name, value) for name, value in rule.headers.items()))
        if len(dict(self.headers)) < len(self.headers):
            raise ValueError("a header is named twice")

    def has_headers(self, headers: Mapping[bytes, bytes]) -> bool:
        return all(headers.get(name) == value for name, value in self.headers)

    def name_values(self, values: tuple[bytes, ...]) -> dict[str, bytes]:
        return dict(zip(self.names, values, strict=True))

    def rank(self) -> tuple[bool, int, int]:
        """Sorts the more specific first."""
        return (not self.methods, -len(self.headers), len(self.methods))


class _Node(Generic[T]):
    """A place in a tree: what may follow it, and the routes that end here, best first."""

    __slots__ = ("below", "literal", "placeholder", "whole")

    def __init__(self) -> None:
        self.literal: dict[bytes, _Node[T]] = _NOTHING
        self.placeholder: _Node[T] | None = None
        #: Routes for exactly this path.
        self.whole: tuple[_Entry[T], ...] = ()
        #: Routes for this path and all below it.
        self.below: tuple[_Entry[T], ...] = ()


class _Tree(Generic[T]):
    """The routes of one host; templates apart, so that they cost nothing where there are none."""

    __slots__ = ("_literals", "_templates")

    def __init__(self) -> None:
        self._literals: _Node[T] = _Node()
        self._templates: _Node[T] | None = None

    def add(self, path: _Path, alike: tuple[_Entry[T], ...], shared: dict[bytes, bytes]) -> None:
        """Add all routes of one path, best first; ``shared`` holds segments that other paths have too."""
        node = self._literals
        if None in path.segments:
            self._templates = self._templates or _Node()
            node = self._templates
        for segment in path.segments:
            if segment is None:
                node.placeholder = node.placeholder or _Node()
                node = node.placeholder
            else:
                node.literal = node.literal or {}
                node = node.literal.setdefault(shared.setdefault(segment, segment), _Node())
        if path.is_whole:
            node.whole = alike
        else:
            node.below = alike

    def find(self, segments: list[bytes]) -> Iterator[tuple[tuple[_Entry[T], ...], tuple[bytes, ...]]]:
        """The routes of all places that match a path, best first, each with the segments of its placeholders."""
        node = self._literals
        prefixes: list[tuple[_Entry[T], ...]] = []
        for segment in segments:
            if node.below:
                prefixes.append(node.below)
            following = node.literal.get(segment)
            if following is None:
                break
            node = following
        else:
            if node.whole:
                yield node.whole, ()
            if node.below:
                yield node.below, ()
        if self._templates is not None:
            yield from _find_templates(self._templates, segments)
        for alike in reversed(prefixes):
            yield alike, ()


def _find_templates(root: _Node[T], segments: list[bytes]) -> Iterator[tuple[tuple[_Entry[T], ...], tuple[bytes, ...]]]:
    depth_wanted = len(segments)
    stack: list[tuple[_Node[T], int, tuple[bytes, ...]]] = [(root, 0, ())]
    while stack:
        node, depth, values = stack.pop()
        if depth == depth_wanted:
            if node.whole:
                yield node.whole, values
            continue
        segment = segments[depth]
        if node.placeholder is not None:
            stack.append((node.placeholder, depth + 1, (*values, segment)))
        following = node.literal.get(segment)
        if following is not None:  # pushed last, so looked at first: a literal is more specific
            stack.append((following, depth + 1, values))


@frozen
class _Path:
    """A rule's path: canonical segments, None where a placeholder stands."""

    segments: tuple[bytes | None, ...]
    is_whole: bool


def _parse_path(path: str) -> tuple[_Path, tuple[str, ...]]:
    """A rule's path, and the names of its placeholders.

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
    return _Path(tuple(segments), is_exact or bool(names)), tuple(names)


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
