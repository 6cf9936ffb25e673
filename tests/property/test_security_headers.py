"""Security headers on whatever a backend answers."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.support import Inner, StubChannel, stub_request

from txgateway.config.groups import SecurityHeaders as Settings
from txgateway.forwarded import Forwarded, ForwardedPolicy
from txgateway.middleware.security_headers import EdgeSecurityHeaders, SecurityFields, SecurityHeaders
from txgateway.transport.interfaces import HeaderList

#: Setting to field.
NAMES = {
    "csp": b"content-security-policy",
    "hsts": b"strict-transport-security",
    "frame_options": b"x-frame-options",
    "referrer_policy": b"referrer-policy",
    "permissions_policy": b"permissions-policy",
}
NOSNIFF = b"x-content-type-options"

chosen = st.builds(Settings, **{name: st.sampled_from(["", f"ours-{name}"]) for name in NAMES})


def header(name: bytes, spelling: int, value: bytes) -> tuple[bytes, bytes, bytes]:
    return name, (name, name.upper(), name.title())[spelling], value


backends = st.lists(
    st.builds(
        header,
        st.sampled_from([*NAMES.values(), NOSNIFF, b"x-a", b"set-cookie", b"content-security-policy-report-only"]),
        st.integers(0, 2),
        st.sampled_from([b"", b"1", b"theirs"]),
    ),
    max_size=8,
)


def wanted(settings: Settings, backend: HeaderList, *, is_secure: bool) -> dict[bytes, list[bytes]]:
    """Field to the values it must have, for all that the settings say something about."""
    result = {NOSNIFF: [b"nosniff"]}
    for setting, name in NAMES.items():
        value = getattr(settings, setting).encode()
        theirs = [value for lowered, _, value in backend if lowered == name]
        if not value or (setting == "csp" and theirs):
            result[name] = theirs
        elif setting == "hsts" and not is_secure:
            result[name] = []
        else:
            result[name] = [value]
    return result


@given(chosen, backends, st.booleans())
@settings(deadline=None, max_examples=500)
def test_each_field_is_there_once_and_the_others_are_kept_in_order(
    settings: Settings, backend: HeaderList, is_secure: bool
) -> None:
    fields = SecurityFields(settings)
    result = fields.added_to(list(backend), is_secure=is_secure)
    for name, values in wanted(settings, backend, is_secure=is_secure).items():
        assert [value for lowered, _, value in result if lowered == name] == values
    others = [field for field in backend if field[0] not in {*NAMES.values(), NOSNIFF}]
    assert [field for field in result if field[0] not in {*NAMES.values(), NOSNIFF}] == others
    assert all(lowered == name.lower() for lowered, name, _ in result)
    assert fields.added_to(list(result), is_secure=is_secure) == result


@given(chosen, chosen, backends, st.booleans(), st.sampled_from([None, b"http", b"https"]), st.booleans())
@settings(deadline=None, max_examples=300)
def test_route_and_edge_never_both_speak(
    edge: Settings, route: Settings, backend: HeaderList, is_tls: bool, said: bytes | None, is_routed: bool
) -> None:
    channel = StubChannel()
    channel.scheme = b"https" if is_tls else b"http"
    request = stub_request(channel=channel)
    if said is not None:
        request.forwarded = Forwarded("192.0.2.7", said, [])
    end = SecurityHeaders(Inner(), route) if is_routed else Inner()
    EdgeSecurityHeaders(end, edge, ForwardedPolicy(())).render(request)
    request.route_name = "r" if is_routed else None
    request.answer(200, list(backend), b"")
    is_secure = (said or channel.scheme) == b"https"
    expected = SecurityFields(route if is_routed else edge).added_to(list(backend), is_secure=is_secure)
    assert channel.events[0][3] == [(name, value) for _, name, value in expected]
