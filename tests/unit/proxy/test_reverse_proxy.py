"""What the gateway answers itself as the last hop of a TRACE."""

from __future__ import annotations

from tests.unit.support import MemoryGateway

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
