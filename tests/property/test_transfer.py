"""Any configuration that can be loaded comes out of its frames as it went in, however the bytes are cut."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from txgateway.config import load
from txgateway.reloading.transfer import Received, TransferError, configuration_frames, split_frames
from txgateway.testing.strategies import splits

GROUPS: dict[str, st.SearchStrategy[Any]] = {
    "retry": st.fixed_dictionaries(
        {}, optional={"max_attempts": st.integers(1, 4), "budget_percent": st.integers(0, 3)}
    ),
    "timeout": st.fixed_dictionaries({}, optional={"total": st.sampled_from(["0", "1s", "30s"])}),
    "bulkhead": st.fixed_dictionaries({}, optional={"max_concurrent": st.integers(1, 3)}),
    "rate_limit": st.fixed_dictionaries({"rate": st.sampled_from(["5/s", "7/m"])}),
    "cors": st.fixed_dictionaries({"allow_origins": st.sampled_from([["https://a.test"], ["*"]])}),
    "allowed_methods": st.sampled_from([["GET"], ["GET", "PUT"]]),
    "deny_ips": st.sampled_from([["10.0.0.0/8"], ["::1", "192.0.2.1"]]),
    "strip_prefix": st.booleans(),
}
routes = st.lists(st.fixed_dictionaries({}, optional=GROUPS), min_size=1, max_size=30)
backends = st.fixed_dictionaries(
    {"targets": st.sampled_from([["http://a.test:1"], ["http://10.0.0.1", "http://10.0.0.2"], ["unix:/x"]])},
    optional={"panic_percent": st.integers(0, 100), "slow_start": st.sampled_from(["0", "3s"])},
)


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A routes document without mistakes."""
    made = [{"name": f"r{n}", "path": f"/{n}", "backend": "b", **route} for n, route in enumerate(draw(routes))]
    return {"backends": {"b": draw(backends)}, "routes": made}


def fed(pieces: list[bytes]) -> Received:
    received, buffer = Received(), bytearray()
    for piece in pieces:
        buffer += piece
        for frame in split_frames(buffer):
            received.take(frame)
    return received


@given(documents(), st.data())
def test_configuration_survives_the_way(document: dict[str, Any], data: st.DataObject) -> None:
    loaded = load({"GATEWAY_ROUTES": json.dumps(document)})
    wire = b"".join(configuration_frames(loaded))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=8)))
    came = fed([wire[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]).configuration()
    assert came == loaded
    assert came.parts() == loaded.parts()
    assert [hash(route.retry) for route in came.routes] == [hash(route.retry) for route in loaded.routes]


@given(documents(), st.data())
def test_beginning_of_a_configuration_is_none(document: dict[str, Any], data: st.DataObject) -> None:
    wire = b"".join(configuration_frames(load({"GATEWAY_ROUTES": json.dumps(document)})))
    received = fed([wire[: data.draw(st.integers(0, len(wire) - 1))]])
    try:
        received.configuration()
    except TransferError:
        return
    raise AssertionError("taken for a whole one")


@given(st.lists(st.binary(max_size=20), max_size=5), st.data())
def test_frames_come_out_whole_and_in_order(payloads: list[bytes], data: st.DataObject) -> None:
    wire = b"".join(len(payload).to_bytes(4, "big") + payload for payload in payloads)
    buffer = bytearray()
    came: list[bytes] = []
    for piece in data.draw(splits(wire)):
        buffer += piece
        came += split_frames(buffer)
    assert came == payloads
    assert not buffer
