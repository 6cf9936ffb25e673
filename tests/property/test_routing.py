"""Paths against backends that read them in different ways, and the route table against a naive matcher."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from txgateway.errors import BadPath, MethodNotAllowed, NoRoute
from txgateway.routing.path import canonical_path
from txgateway.routing.table import RouteRule, RouteTable

# --- paths ------------------------------------------------------------------------------------------------------

PIECES = [
    *(bytes((code,)) for code in b"/;.a:|{\\\xe9\n "),
    *b"%2e %2E %2f %2F %3b %3B %61 %3A %7c %25 %252e %252f %5c %00 %C3%A9 %c0%ae %ff % %2 .. // ;x /../ ..;".split(
        b" "
    ),
]
paths = st.lists(st.sampled_from(PIECES), max_size=10).map(lambda pieces: b"/" + b"".join(pieces))


CANONICAL = re.compile(
    rb"/(?:(?:[A-Za-z0-9._~!$&'()*+,=:@-]|%[0-9A-F]{2})+/)*(?:[A-Za-z0-9._~!$&'()*+,=:@-]|%[0-9A-F]{2})*"
)


def without_parameters(segments: list[bytes]) -> list[bytes]:
    return [kept for segment in segments if (kept := segment.split(b";")[0])]


def decode_then_split(path: bytes) -> list[bytes]:
    """As WSGI servers and what stands on them do."""
    return without_parameters(unquote_to_bytes(path).split(b"/"))


def split_then_decode(path: bytes) -> list[bytes]:
    """As servlet containers do: cut parameters, then decode, and only then look for slashes and parameters again."""
    decoded = [unquote_to_bytes(segment.split(b";")[0]) for segment in path.split(b"/")]
    return without_parameters(b"/".join(decoded).split(b"/"))


@example(b"/api;%2Fpublic/secret")
@example(b"/a%3B%2Fb")
@given(paths)
@settings(deadline=None, max_examples=500)
def test_backends_that_read_a_path_differently_agree_on_accepted_ones(path: bytes) -> None:
    try:
        canonical = canonical_path(path)
    except BadPath:
        assume(False)
    expected = [unquote_to_bytes(segment) for segment in canonical.split(b"/") if segment]
    assert decode_then_split(path) == expected
    assert split_then_decode(path) == expected
    assert not {b".", b".."} & set(expected)


@given(paths)
@settings(deadline=None, max_examples=300)
def test_canonical_path_is_stable_and_has_one_form(path: bytes) -> None:
    try:
        canonical = canonical_path(path)
    except BadPath:
        assume(False)
    assert canonical_path(canonical) == canonical
    assert CANONICAL.fullmatch(canonical)


PLAIN = frozenset(b"abcxyzABCXYZ0189-._~!$&'()*+,=:@|{}[]<>^`\"")
segments = st.text(st.characters(codec="utf-8", exclude_characters="/;\\\0\r\n"), min_size=1, max_size=4).map(
    str.encode
)


@st.composite
def spellings(draw: st.DrawFn, path: list[bytes]) -> bytes:
    """One of the ways to write the same path: characters escaped at will, slashes doubled, parameters added."""
    spelled = b""
    for segment in path:
        spelled += b"/" + draw(st.sampled_from([b"", b"/", b"%2f", b";x/"]))
        for code in segment:
            escaped = draw(st.sampled_from([b"%%%02x", b"%%%02X"])) % code
            spelled += bytes((code,)) if code in PLAIN and draw(st.booleans()) else escaped
        spelled += draw(st.sampled_from([b"", b";", b";v=1", b"%3Bv"]))
    return spelled


@given(st.data(), st.lists(segments, min_size=1, max_size=3))
@settings(deadline=None, max_examples=300)
def test_all_spellings_of_a_path_become_one(data: st.DataObject, path: list[bytes]) -> None:
    assume(not {b".", b".."} & set(path))
    assert canonical_path(data.draw(spellings(path))) == canonical_path(data.draw(spellings(path)))


# --- the table --------------------------------------------------------------------------------------------------

SEGMENTS = ["a", "b", "c"]
HOSTS = ["a.com", "x.a.com", "y.x.a.com", "b.com"]
METHODS = ["GET", "POST", "HEAD", "PUT"]
HEADERS = st.dictionaries(st.sampled_from(["x-a", "x-b"]), st.sampled_from(["1", "2"]), max_size=2)

literal_paths = st.lists(st.sampled_from(SEGMENTS), max_size=3)
template_paths = st.lists(st.sampled_from([*SEGMENTS, "{}"]), min_size=1, max_size=4)


@st.composite
def rule_paths(draw: st.DrawFn) -> str:
    kind = draw(st.sampled_from(["/", "=/", "{}"]))
    if kind != "{}":
        return kind + "/".join(draw(literal_paths))
    return "/" + "/".join(
        f"{{p{index}}}" if segment == "{}" else segment for index, segment in enumerate(draw(template_paths))
    )


@st.composite
def rules(draw: st.DrawFn) -> RouteRule:
    return RouteRule(
        name="",
        hosts=tuple(draw(st.lists(st.sampled_from([*HOSTS, "*.a.com", "*.x.a.com"]), max_size=2, unique=True))),
        path=draw(rule_paths()),
        methods=tuple(draw(st.lists(st.sampled_from(METHODS), max_size=2, unique=True))),
        headers=draw(HEADERS),
    )


requests = st.tuples(
    st.sampled_from([*HOSTS, "", "X.A.com:80"]),
    st.lists(st.sampled_from([*SEGMENTS, "d"]), max_size=5),
    st.sampled_from([*METHODS, "DELETE"]),
    HEADERS,
)


def host_score(rule: RouteRule, host: str) -> int | None:
    """3 exact, 2 wildcard, 1 none."""
    host = host.partition(":")[0].lower()
    if not rule.hosts:
        return 1
    if host in rule.hosts:
        return 3
    label, _, parent = host.partition(".")
    return 2 if label and f"*.{parent}" in rule.hosts else None


def path_score(rule: RouteRule, path: list[str]) -> tuple[int, list[bool], bool] | None:
    """Segments matched; which of them literally; whether exact."""
    is_exact = rule.path.startswith("=")
    wanted = [segment for segment in rule.path.lstrip("=").split("/") if segment]
    is_whole = is_exact or "{" in rule.path
    if len(wanted) > len(path) or (is_whole and len(wanted) != len(path)):
        return None
    literal = [not segment.startswith("{") for segment in wanted]
    if any(is_literal and segment != got for is_literal, segment, got in zip(literal, wanted, path, strict=False)):
        return None
    return len(wanted), literal, is_exact


def methods_of(rule: RouteRule) -> set[str]:
    return {*rule.methods, "HEAD"} if "GET" in rule.methods else set(rule.methods)


def reference_match(
    rules: list[RouteRule], host: str, path: list[str], method: str, headers: dict[str, str]
) -> RouteRule | list[str] | None:
    """The rule that wins, or the methods allowed, or None: by looking at every rule."""
    best: list[tuple[tuple[int, int, list[bool], bool, bool, int, int], RouteRule]] = []
    allowed: set[str] = set()
    for rule in rules:
        of_host, of_path = host_score(rule, host), path_score(rule, path)
        if of_host is None or of_path is None or any(headers.get(name) != rule.headers[name] for name in rule.headers):
            continue
        methods = methods_of(rule)
        if methods and method not in methods:
            allowed |= methods
            continue
        best.append(((of_host, *of_path, bool(methods), len(rule.headers), -len(methods)), rule))
    if best:
        return max(best, key=lambda scored: scored[0])[1]
    return sorted(allowed) or None


def outcome(
    table: RouteTable[RouteRule], host: str, path: list[str], method: str, headers: dict[str, str]
) -> tuple[RouteRule | list[str] | None, dict[str, bytes]]:
    wire_path = b"/" + "/".join(path).encode()
    wire_headers = {name.encode(): value.encode() for name, value in headers.items()}
    try:
        return table.match(host.encode(), wire_path, method.encode(), wire_headers)
    except NoRoute:
        return None, {}
    except MethodNotAllowed as refusal:
        return list(refusal.allowed), {}


@given(st.lists(rules(), max_size=8), st.lists(requests, min_size=1, max_size=8))
@settings(deadline=None, max_examples=300)
def test_table_agrees_with_a_naive_matcher(
    rules: list[RouteRule], asked: list[tuple[str, list[str], str, dict[str, str]]]
) -> None:
    try:
        table = RouteTable((rule, rule) for rule in rules)
    except ValueError:
        assume(False)
    for host, path, method, headers in asked:
        expected = reference_match(rules, host, path, method, headers)
        found, values = outcome(table, host, path, method, headers)
        assert found == expected
        if isinstance(found, RouteRule):
            assert found is expected
            for segment, got in zip(found.path.split("/")[1:], path, strict=False):
                assert not segment.startswith("{") or values[segment[1:-1]] == got.encode()


three = st.tuples(*[st.sampled_from(["a", "{}"])] * 3)


@given(
    st.lists(three, min_size=2, max_size=8, unique=True), st.lists(st.sampled_from(["a", "b"]), min_size=3, max_size=3)
)
@settings(deadline=None, max_examples=300)
def test_templates_alone_agree_with_a_naive_matcher(templates: list[tuple[str, ...]], path: list[str]) -> None:
    rules = [
        RouteRule(name=str(number), path="/" + "/".join(f"{{p{at}}}" if part == "{}" else part for at, part in parts))
        for number, parts in enumerate([list(enumerate(template)) for template in templates])
        if "{}" in templates[number]
    ]
    table = RouteTable((rule, rule) for rule in rules)
    assert outcome(table, "", path, "GET", {})[0] is reference_match(rules, "", path, "GET", {})


@given(st.lists(rules(), max_size=8), st.lists(requests, min_size=1, max_size=8))
@settings(deadline=None, max_examples=100)
def test_table_filled_in_slices_is_as_one_made_at_once_and_empty_when_dropped(
    rules: list[RouteRule], asked: list[tuple[str, list[str], str, dict[str, str]]]
) -> None:
    try:
        at_once = RouteTable((rule, rule) for rule in rules)
    except ValueError:
        assume(False)
    table: RouteTable[RouteRule] = RouteTable()
    steps = sum(1 for _ in table.fill((rule, rule) for rule in rules))
    assert steps >= len(rules)
    for question in asked:
        found = outcome(table, *question)
        assert found == outcome(at_once, *question)
        assert not isinstance(found[0], RouteRule) or any(found[0] is rule for rule in rules)
    for _ in table.drop():
        pass
    assert all(outcome(table, *question) == (None, {}) for question in asked)
