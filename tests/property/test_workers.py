"""What holds for every split of a channel's bytes, and for every number of workers."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.unit.workers.statuses import activity, backend, route, status, target, totals

from txgateway.workers.channel import ChannelError, Frames, framed
from txgateway.workers.merging import dead_status, dead_totals, merged_status, merged_totals

_JSON = st.recursive(st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(), st.lists, max_leaves=5)
_MESSAGES = st.lists(st.fixed_dictionaries({"is": st.text(max_size=9), "value": _JSON}), max_size=6)


@given(_MESSAGES, st.lists(st.integers(0, 40), max_size=40))
def test_messages_come_as_they_were_sent_however_they_are_cut(messages: list[Any], sizes: list[int]) -> None:
    data = b"".join(map(framed, messages))
    frames, found = Frames(), []
    for size in sizes:
        found += frames.feed(data[:size])
        data = data[size:]
    assert found + frames.feed(data) == messages


@given(st.binary(max_size=300), st.integers(1, 300))
def test_whatever_comes_is_messages_or_an_error(data: bytes, size: int) -> None:
    frames = Frames(max_bytes=200)
    try:
        for at in range(0, len(data), size):
            for message in frames.feed(data[at : at + size]):
                assert isinstance(message["is"], str)
    except ChannelError:
        return
    assert len(frames._buffer) <= 4 + 200


_COUNT = st.integers(0, 1000)
_ROUTES = st.lists(st.builds(route, st.sampled_from("abcd"), _COUNT, _COUNT), max_size=4, unique_by=lambda r: r["name"])
_TARGETS = st.lists(
    st.builds(
        target, st.sampled_from("tuv"), health=st.sampled_from(["healthy", "unknown", "unhealthy"]),
        breaker=st.sampled_from(["closed", "half-open", "open"]), idle=_COUNT,
        outcomes=st.dictionaries(st.sampled_from(["ok", "error"]), _COUNT),
    ),
    max_size=3, unique_by=lambda t: t["target"],
)  # fmt: skip
_STATUSES = st.lists(
    st.builds(
        lambda routes, targets, refused: status(
            routes=routes, backends=[backend("b", *targets)], connections_refused=refused
        ),
        _ROUTES, _TARGETS, _COUNT,
    ),
    min_size=1, max_size=5,
)  # fmt: skip


def _requests(found: Any) -> dict[str, int]:
    return {row["name"]: row["activity"]["requests"] for row in found["routes"]}


@given(_STATUSES)
def test_nothing_is_counted_twice_or_lost(parts: list[dict[str, Any]]) -> None:
    merged = merged_status(parts)
    names = {row["name"] for part in parts for row in part["routes"]}
    assert _requests(merged) == {name: sum(_requests(part).get(name, 0) for part in parts) for name in names}
    rows = [row for part in parts for row in part["backends"][0]["targets"]]
    for row in merged["backends"][0]["targets"]:
        same = [other for other in rows if other["target"] == row["target"]]
        assert row["idle"] == sum(other["idle"] for other in same)
        assert sum(row["outcomes"].values()) == sum(sum(other["outcomes"].values()) for other in same)
        for name, order in (("health", "healthy unknown unhealthy"), ("breaker", "closed half-open open")):
            assert row[name] == max((other[name] for other in same), key=order.split().index)
    assert merged["connections_refused"] == sum(part["connections_refused"] for part in parts)


@given(_STATUSES, st.randoms())
def test_order_of_the_workers_changes_no_number(parts: list[dict[str, Any]], random: Any) -> None:
    shuffled = list(parts)
    random.shuffle(shuffled)
    one, other = merged_status(parts), merged_status(shuffled)

    def plain(found: dict[str, Any]) -> Any:
        targets = {row["target"]: {**row, "weight": 0} for row in found["backends"][0]["targets"]}
        return {row["name"]: row for row in found["routes"]}, targets, found["connections_refused"]

    assert plain(one) == plain(other)


@given(_STATUSES)
def test_death_changes_no_counter_of_a_route_that_is_still_there(parts: list[dict[str, Any]]) -> None:
    *gone, last = parts
    dead = None
    for part in gone:
        dead = dead_status(dead, part)
    found = merged_status([last], dead)
    whole = _requests(merged_status(parts))
    assert _requests(found) == {name: whole[name] for name in _requests(last)}
    assert found["connections_refused"] == sum(part["connections_refused"] for part in parts)
    assert [row["idle"] for row in found["backends"][0]["targets"]] == [
        row["idle"] for row in last["backends"][0]["targets"]
    ]


@given(st.lists(st.tuples(_COUNT, _COUNT, _COUNT), max_size=6), st.integers(0, 6))
def test_totals_only_grow_when_workers_die(samples: list[tuple[int, int, int]], count: int) -> None:
    parts = [totals(*sample) for sample in samples]
    dead = None
    for part in parts[:count]:
        dead = dead_totals(dead, part)
    found = merged_totals(parts[count:], dead, 2.0)
    errors = {name: sum(part[name] for part in parts) for name in ("requests", "client_errors", "server_errors")}
    assert {name: found[name] for name in errors} == errors
    assert found["buckets"] == [0] * 14 + [sum(part["requests"] for part in parts)]
    assert found["in_flight"] == sum(part["in_flight"] for part in parts[count:])
    assert set(found) == {*activity(), "at_s", "in_flight", "connections"}
