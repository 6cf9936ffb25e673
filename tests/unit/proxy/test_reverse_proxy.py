"""What the gateway answers itself as the last hop of a TRACE."""

from __future__ import annotations

from itertools import pairwise

from tests.unit.support import MemoryGateway, message

ROUTES = {
    "backends": {"b": {"targets": ["http://target"]}},
    "routes": [
        {
            "name": "traced", "path": "/", "backend": "b", "methods": ["GET", "TRACE"],
            "request_headers": {"set": {"X-Backend-Key": "hidden"}},
        }
    ],
}  # fmt: skip


def test_trace_shows_the_clients_own_fields_and_nothing_secret() -> None:
    gateway = MemoryGateway(document=ROUTES)
    fields = (b"Max-Forwards: 0", b"X-Own: shown", b"Cookie: hidden", b"Authorization: hidden")
    response = gateway.get(b"/", *fields, method=b"TRACE").response(b"TRACE")
    assert response.status == 200
    assert b"X-Own: shown\r\n" in response.body
    assert b"hidden" not in response.body
    assert gateway.dialer.targets == []


def split(*weights: int) -> MemoryGateway:
    names = [f"b{number}" for number in range(len(weights))]
    return MemoryGateway(
        document={
            "backends": {name: {"targets": [f"http://{name}"]} for name in names},
            "routes": [
                {
                    "name": "r",
                    "path": "/",
                    "backends": [{"name": name, "weight": weight} for name, weight in zip(names, weights, strict=True)],
                }
            ],
        }
    )


def backends_of(gateway: MemoryGateway, count: int) -> list[str]:
    client = gateway.connect()
    for _ in range(count):
        client.send(message(b"/"))
        name = next(name for name, backend in gateway.backends.items() if backend.targets[0].in_flight)
        gateway.dialers[f"{name}:80"].target.answer()
        assert client.response().status == 200
        assert (gateway.log[-1].backend_name, gateway.log[-1].target_label) == (name, f"{name}:80")
    return [request.backend_name for request in gateway.log]


def test_canary_gets_exactly_its_share_spread_out() -> None:
    found = backends_of(split(95, 5), 100)
    canaries = [at for at, name in enumerate(found) if name == "b1"]
    assert len(canaries) == 5
    assert {later - earlier for earlier, later in pairwise(canaries)} == {20}


def test_backend_without_weight_gets_nothing() -> None:
    assert set(backends_of(split(0, 2, 1), 9)) == {"b1", "b2"}
    assert backends_of(split(1, 0), 3) == ["b0"] * 3


def test_single_backend_is_not_chosen_each_time() -> None:
    gateway = split(5)
    assert backends_of(gateway, 2) == ["b0"] * 2


def test_trace_at_a_split_route_is_answered_too() -> None:
    gateway = split(1, 1)
    assert gateway.get(b"/", b"Max-Forwards: 0", method=b"OPTIONS").response(b"OPTIONS").status == 204
