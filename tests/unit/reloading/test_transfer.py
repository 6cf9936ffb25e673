"""A configuration comes out of its frames as it went in, however they are cut; and nothing else passes for one."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from struct import pack
from typing import Any

import pytest
from tests.helpers import own

from txgateway.config import Configuration, ConfigurationError, Problem, load
from txgateway.config.groups import Table
from txgateway.reloading import transfer
from txgateway.reloading.transfer import (
    MAX_FRAME_BYTES,
    ROUTES_PER_FRAME,
    Received,
    TransferError,
    configuration_frames,
    problem_frames,
    split_frames,
)

TOP = Path(__file__).parents[3]
SECRET = "0123456789abcdef0123456789abcdef"
DOCUMENTS: list[dict[str, Any]] = [
    {"routes": [{"name": "r", "path": "/", "response": {"status": 204}}]},
    {"routes": [{"name": "r", "path": "/", "redirect": {"to": "https://a.test/", "status": 308}}]},
    {
        "backends": {
            "one": {"targets": ["http://a.test:1", {"url": "http://10.0.0.1:2", "weight": 3}], "pool": {"max_age": "9s"}},
            "two": {"targets": ["unix:/run/x.sock", "h2c://b.test"], "breaker": {"enabled": False}},
        },
        "routes": [
            {
                "name": "a",
                "hosts": ["a.test", "*.b.test"],
                "path": "/a/{id}",
                "methods": ["GET", "PUT"],
                "headers": {"X-A": "1"},
                "backend": "one",
                "rate_limit": {"rate": ["5/s", "100/m"], "key": ["ip", "header:X-A"]},
                "cors": {"allow_origins": ["https://app.test"]},
                "allow_ips": ["10.0.0.0/8", "::1"],
                "request_headers": {"set": {"X-B": "2"}, "remove": ["X-C"]},
                "retry": {"max_attempts": 2},
            },
            {
                "name": "b",
                "path": "=/b",
                "backends": [{"name": "one", "weight": 1}, {"name": "two", "weight": 9}],
                "timeout": {"total": "1s", "idle": "2s"},
                "bulkhead": {"max_concurrent": 3},
                "upgrades": ["websocket"],
            },
            {"name": "c", "path": "/c", "resource": "twisted.web.static:File"},
        ],
    },
    {
        "backends": {"b": {"targets": ["http://10.0.0.1"]}},
        "routes": [{"name": f"r{n}", "path": f"/{n}", "backend": "b", "retry": {"max_attempts": n % 2 + 1}} for n in range(50)],
    },
]  # fmt: skip
OWN_MIDDLEWARES = {
    "routes": [{"name": "r", "path": "/", "response": {"status": 204}, "middlewares": ["t"]}],
    "middlewares": {"t": {"use": "tests.helpers.own:Tenancy", "position": "route", "settings": {"claim": "team"}}},
}
ENVIRONMENTS: list[dict[str, str]] = [
    *({"GATEWAY_ROUTES": json.dumps(document)} for document in DOCUMENTS),
    {"GATEWAY_ROUTES_FILE": str(TOP / "examples" / "routes.toml")},
    {"GATEWAY_ROUTES": json.dumps(OWN_MIDDLEWARES)},
    {"GATEWAY_BACKEND_TARGET": "demo", "GATEWAY_JWT_SECRET": SECRET, "GATEWAY_RATE_LIMIT": "5/s"},
    {
        "GATEWAY_BACKEND_TARGET": "http://a.test",
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector.test:4318",
        "GATEWAY_MIDDLEWARES": "tests.helpers.own:Stamp,tests.helpers.own:Tenancy",
        "GATEWAY_MIDDLEWARE_TENANCY_KEY": "hunter2",
        "GATEWAY_TRUSTED_PROXIES": "10.0.0.0/8,::1",
        "GATEWAY_CORS_ALLOW_ORIGINS": "*",
    },
]
VARIED, FIFTY = ENVIRONMENTS[2:4]


def wire_of(configuration: Configuration) -> bytes:
    return b"".join(configuration_frames(configuration))


def taken(pieces: list[bytes]) -> Received:
    received, buffer = Received(), bytearray()
    for piece in pieces:
        buffer += piece
        for frame in split_frames(buffer):
            received.take(frame)
    assert not buffer
    return received


@pytest.mark.parametrize("environ", ENVIRONMENTS)
def test_what_comes_out_is_what_was_loaded(environ: dict[str, str]) -> None:
    loaded = load(environ)
    received = taken([wire_of(loaded)])
    assert received.problems == ()
    came = received.configuration()
    assert came == loaded
    assert came.parts() == loaded.parts()
    assert came.effective() == loaded.effective()
    assert list(came.backends) == list(loaded.backends)
    assert came.settings.model_fields_set == loaded.settings.model_fields_set


def tables_of(configuration: Configuration) -> Iterator[Table]:
    for route in configuration.routes:
        yield from (getattr(route, name) for name in ("timeout", "retry", "bulkhead", "cors", "sanitize", "rate_limit"))


def test_equal_groups_are_one_object_at_the_other_end_and_others_are_not() -> None:
    came = taken([wire_of(load(FIFTY))]).configuration()
    by_value: dict[Table, set[int]] = {}
    for table in tables_of(came):
        by_value.setdefault(table, set()).add(id(table))
    assert all(len(ids) == 1 for ids in by_value.values())
    assert len({id(route.retry) for route in came.routes}) == 2


def test_groups_that_were_given_differently_stay_apart_though_they_are_equal() -> None:
    document = {
        "routes": [
            {"name": "a", "path": "/a", "response": {"status": 204}, "retry": {"max_attempts": 3}},
            {"name": "b", "path": "/b", "response": {"status": 204}},
        ]
    }
    loaded = load({"GATEWAY_ROUTES": json.dumps(document)})
    _, came = taken([wire_of(loaded)]).configuration().parts()
    _, was = loaded.parts()
    given = [[entry.table.model_fields_set, entry.table.retry.model_fields_set] for entry in came.routes]
    assert given == [[entry.table.model_fields_set, entry.table.retry.model_fields_set] for entry in was.routes]
    assert given[0] != given[1]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 1000, 65536])
def test_frames_may_come_in_pieces_of_any_size(size: int) -> None:
    loaded = load(VARIED)
    wire = wire_of(loaded)
    came = taken([wire[at : at + size] for at in range(0, len(wire), size)]).configuration()
    assert came == loaded


def test_a_frame_has_few_routes_however_many_there_are() -> None:
    frames = list(configuration_frames(load(FIFTY)))
    assert len(frames) == 1 + -(-50 // ROUTES_PER_FRAME)
    received, counts = Received(), []
    for frame in frames:
        (payload,) = split_frames(bytearray(frame))
        before = len(received._routes)
        received.take(payload)
        counts.append(len(received._routes) - before)
    assert max(counts) == ROUTES_PER_FRAME


def test_what_is_cut_short_is_no_configuration() -> None:
    loaded = load(FIFTY)
    wire = wire_of(loaded)
    for cut in range(0, len(wire), 97):
        received, buffer = Received(), bytearray(wire[:cut])
        for frame in split_frames(buffer):
            received.take(frame)
        with pytest.raises(TransferError):
            received.configuration()
    with pytest.raises(TransferError, match="nothing came"):
        Received().configuration()


def test_routes_that_are_missing_are_noticed() -> None:
    frames = list(configuration_frames(load(FIFTY)))
    with pytest.raises(TransferError, match="missing"):
        taken(frames[:-1]).configuration()


def test_incomplete_frames_stay_in_the_buffer() -> None:
    buffer = bytearray(pack(">I", 3) + b"abc" + pack(">I", 2) + b"d")
    assert list(split_frames(buffer)) == [b"abc"]
    assert buffer == pack(">I", 2) + b"d"
    assert list(split_frames(buffer)) == []
    buffer += b"e"
    assert list(split_frames(buffer)) == [b"de"]
    assert list(split_frames(bytearray(b"\0\0\0"))) == []


def test_frame_of_the_greatest_length_is_waited_for_and_a_longer_one_is_not() -> None:
    assert list(split_frames(bytearray(pack(">I", MAX_FRAME_BYTES)))) == []
    with pytest.raises(TransferError, match="too long"):
        list(split_frames(bytearray(pack(">I", MAX_FRAME_BYTES + 1))))


def test_problems_come_as_they_are() -> None:
    problems = (Problem("a", "'x'", "is wrong"), Problem("b", None, "is missing"))
    assert taken([b"".join(problem_frames(problems))]).problems == problems


@pytest.mark.parametrize("variable", ["GATEWAY_PORT", "GATEWAY_ROUTES"])
def test_real_problems_can_be_told(variable: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load({"GATEWAY_BACKEND_TARGET": "demo", variable: "x"})
    problems = tuple(caught.value.problems)
    assert list(map(str, taken([b"".join(problem_frames(problems))]).problems)) == list(map(str, problems))


def test_values_that_cannot_be_hashed_are_sent_each_time() -> None:
    class Unhashable(Table):
        value: Mapping[str, str]

    writer, reader = transfer._Writer(), transfer._Reader()
    table = Unhashable(value={"a": "b"})
    first, second = reader.load(writer.dump([1])), writer.dump((1, 2))
    assert (first, reader.load(second)) == ([1], (1, 2))
    assert writer._persistent_id(table) is None


def test_middleware_that_stands_elsewhere_by_now_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load(ENVIRONMENTS[-1])
    came = taken([wire_of(loaded)])
    monkeypatch.setattr(own.Tenancy, "position", "edge")  # as an older module in this process may have it
    with pytest.raises(ConfigurationError, match="its module has changed, and it stands on the route now"):
        came.configuration()


def test_settings_that_this_process_does_not_take_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    came = taken([wire_of(load(ENVIRONMENTS[-1]))])
    monkeypatch.setattr(own.Tenancy, "Settings", own.Needy.Settings)
    with pytest.raises(ConfigurationError, match="there is no such variable"):
        came.configuration()
