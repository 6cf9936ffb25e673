"""The whole gateway in memory: whatever backends and clients do, every request ends, and nothing is left of any."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from txgateway.testing import Call, GatewayHarness
from txgateway.testing.backends import Reaction
from txgateway.testing.stories import Ask, Client
from txgateway.testing.strategies import asks, clients, moments, reactions

DOCUMENT = {
    "backends": {
        "a": {
            "targets": ["http://one.test:9000", "http://10.0.0.2:9000"],
            "pool": {"max_connections": 2},
            "breaker": {"failures": 3},
        }
    },
    "routes": [
        {
            "name": "a",
            "path": "/",
            "backend": "a",
            "retry": {"max_attempts": 3},
            "bulkhead": {"max_concurrent": 3, "max_queue": 2, "queue_timeout": "5s"},
            "timeout": {"total": "20s", "per_try": "4s"},
        }
    ],
}


def begin(gateway: GatewayHarness, ask: Ask) -> Call:
    length = None if ask.pieces is None else -1 if ask.is_chunked else len(ask.body)
    call = gateway.start(ask.method, ask.target, ask.fields, length=length)
    for piece in ask.pieces or ():
        call.send(piece)
    return call.end(ask.trailers)


def behave(gateway: GatewayHarness, call: Call, client: Client) -> None:
    if client.leaves_at_s is not None:
        gateway.clock.callLater(client.leaves_at_s, call.client.transport.reset)
    if client.stalls_at_s is not None:
        gateway.clock.callLater(client.stalls_at_s, call.stall)
        gateway.clock.callLater(client.stalls_at_s + 10.0, call.client.transport.take)


@given(
    st.lists(reactions(), min_size=1, max_size=5),
    st.lists(st.tuples(asks(), clients(), moments()), min_size=1, max_size=6),
)
def test_every_request_ends_once_and_leaves_nothing(
    script: list[Reaction], visits: list[tuple[Ask, Client, float]]
) -> None:
    with GatewayHarness(DOCUMENT) as gateway:
        gateway.backends["a"].script = script
        calls = []
        for ask, client, pause_s in visits:
            calls.append(begin(gateway, ask))
            behave(gateway, calls[-1], client)
            gateway.advance(pause_s)
        gateway.advance(400.0)
        gateway.send_clients_home()
        gateway.assert_quiet()
        assert all(call.request is not None and call.request.ended for call in calls)
        ids = Counter(line["request_id"] for line in gateway.log)
        assert ids == Counter({call.request.request_id: 1 for call in calls if call.request is not None})
        assert gateway.metric("gateway_requests_total") == len(calls)
