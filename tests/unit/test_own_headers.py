"""Headers that are the gateway's own: no client sets them, or has them taken away."""

from __future__ import annotations

import pytest
from tests.unit.support import Body, stub_request

from txgateway.middleware import OwnHeaders

OWN = OwnHeaders(["X-User-Id"])
FIELDS = ((b"x-user-id", b"X-User-Id", b"alice"),)


@pytest.mark.parametrize("name", [b"X-User-Id", b"x-USER-id", b"X_User_Id", b"X.User.Id", b"x-user_id", b"X~User!Id"])
def test_clients_own_copy_goes_however_it_is_spelled(name: bytes) -> None:
    request = stub_request(fields={b"Host": b"a", name: b"bob"})
    OWN.replace(request, FIELDS)
    assert request.headers == ((b"host", b"Host", b"a"), *FIELDS)
    assert request.fields == {b"host": b"a", b"x-user-id": b"alice"}


def test_trace_shows_nothing_of_it() -> None:
    request = stub_request(method=b"TRACE")
    OWN.replace(request, FIELDS)
    assert b"x-user-id" in request.removed_names


def test_without_fields_it_only_goes() -> None:
    request = stub_request(fields={b"Host": b"a", b"X-User-Id": b"bob"})
    OWN.replace(request)
    assert request.fields == {b"host": b"a"}


def test_what_connection_names_goes_before_ours_comes() -> None:
    request = stub_request(fields={b"Connection": b"x_user_id, X-User-Id, X-B, close", b"X-B": b"1", b"X-C": b"2"})
    OWN.replace(request, FIELDS)
    assert request.fields == {b"x-c": b"2", b"x-user-id": b"alice"}


def test_other_connection_stays() -> None:
    request = stub_request(fields={b"Connection": b"X-B", b"X-B": b"1"})
    before = request.headers
    OWN.replace(request, FIELDS)
    assert request.headers == (*before, *FIELDS)


def test_trailers_say_it_neither() -> None:
    request = stub_request(method=b"POST", length=-2)
    OWN.replace(request, FIELDS)
    body = Body()
    request.want_body(body)
    request.receive_body_end([(b"x.user.id", b"X.User.Id", b"bob"), (b"x-sum", b"X-Sum", b"1")])
    assert body.trailers == [(b"X-Sum", b"1")]


def test_shared_fields_are_replaced_and_not_changed() -> None:
    request = stub_request()
    shared = request.fields
    OWN.replace(request, FIELDS)
    assert b"x-user-id" not in shared
