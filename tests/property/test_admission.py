"""Who may come and with what, against readings that take no short cut."""

from __future__ import annotations

from email.message import Message
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.unit.support import Inner, stub_request

from txgateway.errors import ContentTypeNotAllowed, IpDenied, MethodNotAllowed
from txgateway.middleware.admission import AddressList, Admission, MediaTypes, Network

# Few addresses, close to each other, so that they meet.
v4 = st.builds(lambda high, low: IPv4Address(0xC0000200 + (high << 24) + low), st.integers(0, 1), st.integers(0, 255))
v6 = st.builds(lambda low: IPv6Address(0x20010DB8 << 96 | low), st.integers(0, 2**17))
mapped = v4.map(lambda address: IPv6Address(0xFFFF << 32 | int(address)))
addresses = st.one_of(v4, v6, mapped)


@st.composite
def networks(draw: st.DrawFn) -> Network:
    address = draw(addresses)
    length = draw(st.one_of(st.just(address.max_prefixlen), st.integers(0, address.max_prefixlen)))
    if isinstance(address, IPv4Address):
        return IPv4Network((address, length), strict=False)
    return IPv6Network((address, length), strict=False)


lists = st.lists(networks(), max_size=4)


def belongs(address: IPv4Address | IPv6Address, network: Network) -> bool:
    """By the numbers, an IPv4-mapped one as IPv4 on either side."""
    plain = getattr(address, "ipv4_mapped", None) or address
    first, last = network[0], network[-1]
    if isinstance(first, IPv6Address) and first.ipv4_mapped and isinstance(last, IPv6Address) and last.ipv4_mapped:
        first, last = first.ipv4_mapped, last.ipv4_mapped
    return plain.version == first.version and int(first) <= int(plain) <= int(last)


@given(lists, lists, st.lists(addresses, min_size=1, max_size=4))
@settings(deadline=None, max_examples=500)
def test_verdict_is_that_of_the_numbers(
    allow: list[Network], deny: list[Network], clients: list[IPv4Address | IPv6Address]
) -> None:
    verdicts = AddressList(allow, deny)
    for client in clients * 2:  # once looked up, once remembered
        is_denied = any(belongs(client, network) for network in deny)
        is_listed = any(belongs(client, network) for network in allow)
        assert verdicts.admits(str(client)) is (not is_denied and (not allow or is_listed))


@given(lists, lists, st.one_of(st.none(), st.text(max_size=20)))
def test_what_is_no_address_is_in_no_network(allow: list[Network], deny: list[Network], text: str | None) -> None:
    try:
        ip_address((text or "").partition("%")[0])
    except ValueError:
        assert AddressList(allow, deny).admits(text) is (not allow)
    else:
        assume(False)


# --- media types ----------------------------------------------------------------------------------------------------

WORDS = ["application", "json", "image", "png", "text", "x+json"]
types = st.lists(st.builds("{}/{}".format, st.sampled_from(WORDS), st.sampled_from([*WORDS, "*"])), max_size=3)


@given(types, st.sampled_from(WORDS), st.sampled_from(WORDS), st.data())
@settings(deadline=None, max_examples=300)
def test_media_type_is_that_of_the_field_whatever_its_parameters(
    allowed: list[str], main: str, sub: str, data: st.DataObject
) -> None:
    spelled = "".join(data.draw(st.sampled_from([c.lower(), c.upper()])) for c in f"{main}/{sub}")
    value = spelled + data.draw(
        st.sampled_from(["", ";", " ; a=b", ";charset=utf-8", '; a="text/png"', "\t;x=image/png"])
    )
    message = Message()
    message["Content-Type"] = value
    assert message.get_content_type() == f"{main}/{sub}"
    expected = f"{main}/{sub}" in allowed or f"{main}/*" in allowed
    assert MediaTypes(allowed).admits(value.encode()) is expected


@given(types, st.binary(max_size=20))
def test_malformed_media_type_is_not_taken(allowed: list[str], value: bytes) -> None:
    name = value.partition(b";")[0].rstrip(b" \t").lower()
    if MediaTypes(allowed).admits(value):
        assert name.decode() in allowed or name.partition(b"/")[0].decode() + "/*" in allowed


# --- the decorator --------------------------------------------------------------------------------------------------


@given(
    lists,
    lists,
    st.lists(st.sampled_from(["GET", "POST", "HEAD", "PUT"]), max_size=3),
    types,
    st.sampled_from([b"GET", b"HEAD", b"POST", b"PUT", b"get"]),
    addresses,
    st.sampled_from([None, b"application/json", b"image/png; x"]),
    st.sampled_from([-2, -1, 0, 1]),
)
@settings(deadline=None, max_examples=300)
def test_request_passes_exactly_if_all_lists_take_it(
    allow: list[Network],
    deny: list[Network],
    methods: list[str],
    allowed_types: list[str],
    method: bytes,
    client: IPv4Address | IPv6Address,
    content_type: bytes | None,
    length: int,
) -> None:
    fields = {b"Host": b"a"} if content_type is None else {b"Content-Type": content_type}
    request = stub_request(method, fields=fields, length=length)
    request.client_ip = str(client)
    inner = Inner()
    admission = Admission(
        inner,
        0,
        "drop",
        rejects_encoded_slash=False,
        allow_ips=allow,
        deny_ips=deny,
        allowed_methods=methods,
        allowed_content_types=allowed_types,
    )
    expected: type[Exception] | None = None
    if length not in {-1, 0} and allowed_types and not MediaTypes(allowed_types).admits(content_type):
        expected = ContentTypeNotAllowed
    if methods and method.decode() not in methods and not (method == b"HEAD" and "GET" in methods):
        expected = MethodNotAllowed
    if not AddressList(allow, deny).admits(str(client)):
        expected = IpDenied
    if expected is None:
        admission.render(request)
    else:
        with pytest.raises(expected):
            admission.render(request)
    assert inner.requests == ([] if expected else [request])
