"""A table that is filled, and emptied, a step at a time."""

from __future__ import annotations

import pytest

from txgateway.errors import MethodNotAllowed, NoRoute
from txgateway.routing.table import RouteRule, RouteTable

RULES = [
    RouteRule("any", path="/"),
    RouteRule("exact", path="=/a"),
    RouteRule("prefix", path="/a"),
    RouteRule("template", path="/a/{id}/c"),
    RouteRule("other-template", path="/a/b/{id}"),
    RouteRule("host", hosts=("a.test", "*.b.test"), path="/a", methods=("GET",)),
    RouteRule("fields", path="/a", headers={"x-a": "1"}),
]
ASKED = [(host, path, method, headers)
         for host in (b"a.test", b"x.b.test", b"c.test")
         for path in (b"/", b"/a", b"/a/b", b"/a/b/c", b"/a/x/c", b"/z")
         for method in (b"GET", b"PUT")
         for headers in ({}, {b"x-a": b"1"})]  # fmt: skip


def answers(table: RouteTable[str]) -> list[object]:
    found: list[object] = []
    for question in ASKED:
        try:
            found.append(table.match(*question))
        except NoRoute:
            found.append(None)
        except MethodNotAllowed as refusal:
            found.append(refusal.allowed)
    return found


def entries() -> list[tuple[RouteRule, str]]:
    return [(rule, rule.name) for rule in RULES]


def test_filled_in_slices_it_is_as_made_at_once() -> None:
    table: RouteTable[str] = RouteTable()
    steps = sum(1 for _ in table.fill(entries()))
    assert answers(table) == answers(RouteTable(entries()))
    assert {answer[0] for answer in answers(table) if isinstance(answer, tuple)} == {rule.name for rule in RULES}
    assert steps >= 2 * len(RULES) - 1  # one for each rule, and one for each place


def test_entries_are_taken_as_steps_are() -> None:
    taken: list[str] = []

    def telling() -> object:
        for rule, value in entries():
            taken.append(value)
            yield rule, value

    filling = RouteTable[str]().fill(telling())  # type: ignore[arg-type]
    next(filling)
    next(filling)
    assert taken == ["any", "exact"]


def test_fault_is_told_while_it_is_filled() -> None:
    table: RouteTable[str] = RouteTable()
    with pytest.raises(ValueError, match="cannot be told apart"):
        list(table.fill([*entries(), (RouteRule("again", path="/"), "again")]))


def test_dropped_it_has_no_routes() -> None:
    table = RouteTable(entries())
    steps = sum(1 for _ in table.drop())
    assert answers(table) == [None] * len(ASKED)
    assert steps >= len(RULES) - 2  # what is at one place goes together


def test_dropping_lets_go_of_the_values_one_after_the_other() -> None:
    count = 100
    table = RouteTable([(RouteRule(f"r{n}", path=f"/{n}"), f"r{n}") for n in range(count)])
    left = [sum(answer(table, n) is not None for n in range(count)) for _ in table.drop()]
    assert left == list(range(count - 1, -1, -1))


def answer(table: RouteTable[str], number: int) -> str | None:
    try:
        return table.match(b"", b"/%d" % number, b"GET", {})[0]
    except NoRoute:
        return None
