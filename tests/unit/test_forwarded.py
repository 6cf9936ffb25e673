"""Whom the gateway believes, and what it tells the backend."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from txgateway.forwarded import FORWARDED_NAMES, MAX_HOPS, Forwarded, ForwardedPolicy

PROXY = "10.0.0.1"
POLICY = ForwardedPolicy([ip_network("10.0.0.0/8"), ip_network("fd00::/8")])


def resolve(
    peer_ip: str, *claims: tuple[str, str], scheme: bytes = b"http", host: bytes = b"gw.example", port: int = 8000
) -> Forwarded:
    headers = [(name.lower().encode(), name.encode(), value.encode()) for name, value in claims]
    return POLICY.resolve(peer_ip, headers, scheme=scheme, host=host, port=port)


def sent(forwarded: Forwarded) -> dict[str, str]:
    assert len({name for name, _, _ in forwarded.fields}) == len(forwarded.fields)
    assert all(lowered == name.lower() and lowered in FORWARDED_NAMES for lowered, name, _ in forwarded.fields)
    return {name.decode(): value.decode() for _, name, value in forwarded.fields}


@pytest.mark.parametrize(
    ("ip", "trusted"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("fd00::1", True),
        ("fd00::1%eth0", True),
        ("11.0.0.1", False),
        ("2001:db8::1", False),
        ("", False),
        ("unknown", False),
    ],
)
def test_addresses_in_the_networks_are_trusted(ip: str, trusted: bool) -> None:
    assert POLICY.is_trusted(ip) is trusted


CERTIFICATE = b'Hash=ab;Subject="CN=me"'


@pytest.mark.parametrize("peer_ip", ["192.0.2.7", PROXY, ""])
def test_certificate_of_the_connection_is_told(peer_ip: str) -> None:
    found = POLICY.resolve(peer_ip, [], scheme=b"https", host=b"", port=443, certificate=CERTIFICATE)
    assert sent(found)["X-Forwarded-Client-Cert"] == CERTIFICATE.decode()


def test_strangers_claim_of_a_certificate_is_dropped() -> None:
    claim = ("x-forwarded-client-cert", "Hash=ff")
    assert "X-Forwarded-Client-Cert" not in sent(resolve("192.0.2.7", claim))
    headers = [(b"x-forwarded-client-cert", b"x-forwarded-client-cert", b"Hash=ff")]
    found = POLICY.resolve("192.0.2.7", headers, scheme=b"https", host=b"", port=443, certificate=CERTIFICATE)
    assert sent(found)["X-Forwarded-Client-Cert"] == CERTIFICATE.decode()


def test_proxys_own_certificate_comes_behind_that_of_its_client() -> None:
    headers = [(b"x-forwarded-client-cert", b"X-Forwarded-Client-Cert", b"Hash=ff")]
    found = POLICY.resolve(PROXY, headers, scheme=b"https", host=b"", port=443, certificate=CERTIFICATE)
    assert [value for name, _, value in found.fields if name == b"x-forwarded-client-cert"] == [b"Hash=ff", CERTIFICATE]


def test_nobody_is_trusted_without_networks() -> None:
    assert not ForwardedPolicy([]).is_trusted("127.0.0.1")


def test_claims_of_an_untrusted_peer_are_replaced() -> None:
    claims = [(name, "9.9.9.9") for name in ("X-Forwarded-For", "X-Real-IP", "X-Forwarded-Host", "X-Forwarded-Prefix")]
    found = resolve("192.0.2.7", *claims, ("X-Forwarded-Proto", "https"), ("Forwarded", "for=9.9.9.9"))
    assert (found.client_ip, found.scheme) == ("192.0.2.7", b"http")
    assert sent(found) == {
        "X-Forwarded-For": "192.0.2.7",
        "X-Forwarded-Proto": "http",
        "X-Forwarded-Host": "gw.example",
        "X-Forwarded-Port": "8000",
        "X-Real-IP": "192.0.2.7",
        "Forwarded": "for=192.0.2.7;host=gw.example;proto=http",
    }


def test_ipv6_and_port_are_quoted_in_forwarded_only() -> None:
    found = sent(resolve("2001:db8::7", scheme=b"https", host=b"gw.example:8443", port=8443))
    assert found["X-Forwarded-For"] == "2001:db8::7"
    assert found["Forwarded"] == 'for="[2001:db8::7]";host="gw.example:8443";proto=https'


def test_quotes_in_a_host_are_escaped() -> None:
    assert sent(resolve("192.0.2.7", host=b'a";for=1\\'))["Forwarded"] == (
        'for=192.0.2.7;host="a\\";for=1\\\\";proto=http'
    )


def test_ipv4_mapped_peer_is_ipv4() -> None:
    found = resolve("::ffff:192.0.2.7")
    assert found.client_ip == "192.0.2.7"
    assert sent(found)["Forwarded"].startswith("for=192.0.2.7;")


def test_unix_socket_peer_is_unknown_and_not_believed() -> None:
    found = resolve("", ("X-Forwarded-For", "9.9.9.9"), host=b"")
    assert found.client_ip == ""
    assert sent(found) == {
        "X-Forwarded-For": "unknown",
        "X-Forwarded-Proto": "http",
        "X-Forwarded-Port": "8000",
        "Forwarded": "for=unknown;proto=http",
    }


@pytest.mark.parametrize(
    ("chain", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("9.9.9.9, 192.0.2.7", "192.0.2.7"),
        ("9.9.9.9, 192.0.2.7, 10.0.0.2,10.0.0.3", "192.0.2.7"),
        ("10.0.0.9, 10.0.0.2", "10.0.0.9"),
        ("192.0.2.7:4711", "192.0.2.7"),
        ("[2001:DB8::0:7]:4711", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("2001:db8::7", "2001:db8::7"),
        ("9.9.9.9, ::ffff:192.0.2.7, fd00::2", "192.0.2.7"),
        ("192.0.2.7,, ,10.0.0.2", "192.0.2.7"),
        ("9.9.9.9, unknown", PROXY),
        ("9.9.9.9, _hidden, 10.0.0.2", "10.0.0.2"),
        ("9.9.9.9, 1.2.3, 10.0.0.2", "10.0.0.2"),
        ("9.9.9.9, 010.0.0.1", PROXY),
        ("9.9.9.9, " + "1" * 60, PROXY),
        ("9.9.9.9, fe80::1%eth0", PROXY),
        ('9.9.9.9, ", 192.0.2.7', "192.0.2.7"),
        ("", PROXY),
    ],
)
def test_chain_is_read_from_the_right_to_the_first_untrusted_address(chain: str, client: str) -> None:
    assert resolve(PROXY, ("X-Forwarded-For", chain)).client_ip == client


def test_lines_of_the_chain_are_one_list_and_appended_to() -> None:
    found = resolve(PROXY, ("X-Forwarded-For", "9.9.9.9, 192.0.2.7"), ("x-forwarded-for", "10.0.0.2"))
    assert found.client_ip == "192.0.2.7"
    assert sent(found)["X-Forwarded-For"] == "9.9.9.9, 192.0.2.7, 10.0.0.2, 10.0.0.1"
    assert sent(found)["X-Real-IP"] == "192.0.2.7"


def test_chain_is_cut_at_the_bound() -> None:
    found = resolve(PROXY, ("X-Forwarded-For", "9.9.9.9, " + ", ".join(["10.0.0.2"] * MAX_HOPS)))
    assert found.client_ip == "10.0.0.2"
    assert len(sent(found)["X-Forwarded-For"].split(",")) == MAX_HOPS + 1
    assert len(sent(found)["Forwarded"].split(",")) == MAX_HOPS + 1


def test_chain_goes_before_forwarded_which_is_remade_from_it() -> None:
    found = resolve(
        PROXY,
        ("Forwarded", "for=9.9.9.9;proto=http"),
        ("X-Forwarded-For", "x, 2001:db8::7, 10.0.0.2"),
        ("X-Forwarded-Proto", "https"),
        ("X-Forwarded-Host", "www.example:444"),
    )
    assert (found.client_ip, found.scheme) == ("2001:db8::7", b"https")
    assert sent(found)["Forwarded"] == (
        'for=unknown, for="[2001:db8::7]";host="www.example:444";proto=https, for=10.0.0.2, '
        "for=10.0.0.1;host=gw.example;proto=http"
    )


def test_forwarded_is_read_without_a_chain_and_both_are_appended_to() -> None:
    line = 'for=9.9.9.9, For="[2001:db8::7]:99";Host="www.example:444";proto=HTTPS, for=10.0.0.2;by=_x'
    found = resolve(PROXY, ("Forwarded", line), ("X-Forwarded-Proto", "http"))
    assert (found.client_ip, found.scheme) == ("2001:db8::7", b"https")
    assert sent(found) == {
        "X-Forwarded-For": "9.9.9.9, 2001:db8::7, 10.0.0.2, 10.0.0.1",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "www.example:444",
        "X-Forwarded-Port": "444",
        "X-Real-IP": "2001:db8::7",
        "Forwarded": line + ", for=10.0.0.1;host=gw.example;proto=http",
    }


@pytest.mark.parametrize(
    "element", ['for="9.9.9.9', "for=9.9.9.9;for=9.9.9.8", "for=9.9.9.9;", "9.9.9.9", "for=9.9.9.9 x", "by=9.9.9.9"]
)
def test_malformed_forwarded_element_stops_the_walk(element: str) -> None:
    assert resolve(PROXY, ("Forwarded", f"for=9.9.9.8, {element}, for=10.0.0.2")).client_ip == "10.0.0.2"


def test_open_quote_of_a_client_swallows_nothing() -> None:
    found = resolve(PROXY, ("Forwarded", 'for="9.9.9.9, for=192.0.2.7;proto=https'))
    assert (found.client_ip, found.scheme) == ("192.0.2.7", b"https")
    assert sent(found)["Forwarded"] == (
        "for=unknown, for=192.0.2.7;proto=https, for=10.0.0.1;host=gw.example;proto=http"
    )


@pytest.mark.parametrize(
    ("claim", "scheme"),
    [
        ("https", b"https"),
        ("HTTPS", b"https"),
        ("wss", b"https"),
        ("ftp", b"http"),
        ("", b"http"),
        ("http, https, http", b"https"),
        ("https, http", b"https"),
    ],
)
def test_scheme_is_what_the_proxy_next_to_the_client_said(claim: str, scheme: bytes) -> None:
    chain = ("X-Forwarded-For", "9.9.9.9, 192.0.2.7, 10.0.0.2")
    assert resolve(PROXY, chain, ("X-Forwarded-Proto", claim)).scheme == scheme


@pytest.mark.parametrize(
    ("claims", "port"),
    [
        ([("X-Forwarded-Port", "444")], "444"),
        ([("X-Forwarded-Port", "65536"), ("X-Forwarded-Proto", "https")], "443"),
        ([("X-Forwarded-Port", "x")], "8000"),
        ([("X-Forwarded-Proto", "https"), ("X-Forwarded-Host", "www.example:445")], "445"),
        ([("X-Forwarded-Proto", "http"), ("X-Forwarded-Host", "[::1]")], "80"),
        ([], "8000"),
    ],
)
def test_port_is_the_claimed_one_or_that_of_the_claimed_scheme(claims: list[tuple[str, str]], port: str) -> None:
    assert sent(resolve(PROXY, ("X-Forwarded-For", "192.0.2.7"), *claims))["X-Forwarded-Port"] == port


def test_scheme_of_a_trusted_proxy_is_believed_without_a_chain() -> None:
    found = resolve(PROXY, ("X-Forwarded-Proto", "https"))
    assert (found.client_ip, found.scheme) == (PROXY, b"https")


def test_bad_claimed_host_is_ignored() -> None:
    found = resolve(PROXY, ("X-Forwarded-For", "192.0.2.7"), ("X-Forwarded-Host", "a/b"))
    assert sent(found)["X-Forwarded-Host"] == "gw.example"


def test_other_fields_of_a_trusted_proxy_are_passed_on() -> None:
    assert sent(resolve(PROXY, ("X-Forwarded-Prefix", "/p"), ("X-Other", "x")))["X-Forwarded-Prefix"] == "/p"
