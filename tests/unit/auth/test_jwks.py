"""Keys from a URL, over real sockets to a real HTTP server, in virtual time."""

from __future__ import annotations

import gzip
import json
import socket
from contextlib import closing
from pathlib import Path

import pytest
import pytest_twisted
import trustme
from tests.unit.auth.issuer import Bench, issuing
from tests.unit.auth.tokens import SECRET, ec_key, jwk, jwks, rsa_key
from twisted.internet import ssl
from twisted.internet.posixbase import PosixReactorBase

from txgateway.auth.jwk import MAX_DOCUMENT_BYTES, MAX_KEYS
from txgateway.auth.jwks import DOWNLOAD_TIMEOUT_S, MAX_WAITERS
from txgateway.auth.keys import KeySet
from txgateway.errors import TokenUnknownKey

A, B = jwk(rsa_key(), kid="a"), jwk(rsa_key(1), kid="b")


def names(keys: KeySet | None) -> str:
    """Which of the keys a and b are in the set; "-" without one."""
    if keys is None:
        return "-"
    found = ""
    for kid in "ab":
        try:
            found += str(keys.find(kid, "RS256").kid)
        except TokenUnknownKey:
            continue
    return found


@pytest_twisted.ensureDeferred
async def test_keys_are_downloaded_at_the_start(reactor: PosixReactorBase) -> None:
    async with issuing(reactor) as bench:
        bench.issuer.document = jwks(A)
        assert bench.source.keys is None
        bench.source.start()
        assert not bench.is_tried()
        await bench.source.first_tried
        assert names(bench.source.keys) == "a"
        assert bench.changes == 1
        assert bench.events == []
        (request,) = bench.issuer.requests
        assert request.uri == b"/keys?secret=hidden"
        assert request.getHeader(b"accept-encoding") is None
        assert b"json" in request.getHeader(b"accept")


@pytest_twisted.ensureDeferred
async def test_keys_are_refreshed_and_a_removed_one_is_gone(reactor: PosixReactorBase) -> None:
    async with issuing(reactor, refresh_s=100.0) as bench:
        bench.issuer.document = jwks(A)
        await bench.start()
        bench.clock.advance(79.0)
        assert len(bench.issuer.requests) == 1
        await bench.pass_time(16.0)
        assert bench.changes == 1  # the same document
        for document, expected in ((jwks(A, B), "ab"), (jwks(B), "b"), (jwks(), "")):
            bench.issuer.document = document
            await bench.pass_time(95.0)
            assert names(bench.source.keys) == expected
        assert bench.changes == 4
        assert len(bench.issuer.requests) == 5


@pytest_twisted.ensureDeferred
async def test_unknown_key_is_looked_for_once_for_all_who_wait(reactor: PosixReactorBase) -> None:
    async with issuing(reactor, cooldown_s=30.0) as bench:
        bench.issuer.document = jwks(A)
        await bench.start()
        bench.issuer.document = jwks(A, B)
        bench.issuer.holds = True
        waiting = [bench.source.refetch() for _ in range(5)]
        await bench.turns_until(lambda: bool(bench.issuer.held))
        waiting.append(bench.source.refetch())
        bench.issuer.release()
        for waiter in waiting:
            assert waiter is not None
            await waiter
        assert names(bench.source.keys) == "ab"
        assert len(bench.issuer.requests) == 2


@pytest_twisted.ensureDeferred
async def test_next_look_waits_for_the_cooldown_whatever_the_last_one_brought(reactor: PosixReactorBase) -> None:
    async with issuing(reactor, cooldown_s=30.0) as bench:
        bench.issuer.document = jwks(A)
        await bench.start()
        for status in (200, 500, 200):
            bench.issuer.status = status
            await bench.over()
            assert bench.source.refetch() is None
            bench.clock.advance(0.1)
            assert bench.source.refetch() is None
            bench.clock.advance(30.0)
            if status == 500:  # the retry that a failure brings along is under way, and is shared
                await bench.over()
        assert len(bench.issuer.requests) == 5


@pytest_twisted.ensureDeferred
async def test_number_of_those_who_wait_is_bounded(reactor: PosixReactorBase) -> None:
    async with issuing(reactor) as bench:
        bench.issuer.holds = True
        bench.source.start()
        waiting = [bench.source.refetch() for _ in range(MAX_WAITERS)]
        assert bench.source.refetch() is None
        left = waiting.pop(10)
        assert left is not None
        left.addErrback(lambda _: None)
        left.cancel()
        last = bench.source.refetch()
        assert last is not None
        bench.issuer.document = jwks(A)
        await bench.turns_until(lambda: bool(bench.issuer.held))
        bench.issuer.release()
        await last
        assert all(waiter is not None and waiter.called for waiter in waiting)
        assert len(bench.issuer.requests) == 1


@pytest_twisted.ensureDeferred
async def test_waiter_that_cancels_another_harms_nobody(reactor: PosixReactorBase) -> None:
    async with issuing(reactor) as bench:
        bench.source.start()
        first, second, third = (bench.source.refetch() for _ in range(3))
        assert first is not None
        assert second is not None
        assert third is not None
        second.addErrback(lambda _: None)
        first.addCallback(lambda _: second.cancel())
        await third


@pytest_twisted.ensureDeferred
async def test_keys_stay_while_the_issuer_is_down_and_it_is_asked_again_soon(reactor: PosixReactorBase) -> None:
    async with issuing(reactor, refresh_s=600.0) as bench:
        bench.issuer.document = jwks(A)
        await bench.start()
        bench.issuer.status = 503
        await bench.pass_time(570.0)
        waits = []
        for _ in range(10):
            (timer,) = bench.clock.getDelayedCalls()
            waits.append(timer.getTime() - bench.clock.seconds())
            await bench.pass_time(waits[-1])
        assert names(bench.source.keys) == "a"
        assert all(0.5 * 2**n <= wait <= 2**n for n, wait in enumerate(waits[:6]))
        assert all(30 <= wait <= 60 for wait in waits[6:])
        bench.issuer.status, bench.issuer.document = 200, jwks(B)
        await bench.pass_time(60.0)
        assert names(bench.source.keys) == "b"
        (timer,) = bench.clock.getDelayedCalls()
        assert timer.getTime() - bench.clock.seconds() >= 0.8 * 600
        # One line a change, however often it failed.
        assert bench.messages == ["JWKS download failed", "JWKS download works again"]
        assert bench.events[0]["problem"] == "status 503"
        assert "hidden" not in repr(bench.events) + repr(bench.source)


@pytest_twisted.ensureDeferred
async def test_without_a_first_download_there_are_no_keys_and_the_first_try_is_over(reactor: PosixReactorBase) -> None:
    async with issuing(reactor) as bench:
        bench.issuer.status = 500
        await bench.start()
        assert bench.source.keys is None
        bench.issuer.status, bench.issuer.document = 200, jwks(A)
        await bench.pass_time(1.0)
        assert names(bench.source.keys) == "a"


@pytest_twisted.ensureDeferred
async def test_issuer_that_cannot_be_reached_is_logged_by_what_happened(reactor: PosixReactorBase) -> None:
    async with issuing(reactor) as bench:
        with closing(socket.socket()) as taken:
            taken.bind(("127.0.0.1", 0))  # and does not listen
            number = taken.getsockname()[1]
            other = Bench(reactor, bench.issuer, f"http://127.0.0.1:{number}/")
            await other.start()
        other.source.stop()
        assert bench.events[0]["problem"] == "ConnectionRefusedError"
        assert other.clock.getDelayedCalls() == []


TOO_MANY = jwks(*[{"kty": "oct", "k": "AA"}] * (MAX_KEYS + 1))


@pytest.mark.parametrize(
    ("status", "headers", "document"),
    [
        (404, {}, jwks(A)), (204, {}, b""), (201, {}, jwks(A)), (302, {b"location": b"/other"}, jwks(A)), (304, {}, b""),
        (200, {}, b""), (200, {}, b"<html>" + jwks(A)), (200, {}, b"[]"), (200, {}, b'{"error": 1}'), (200, {}, b"\xff\xfe"),
        (200, {}, jwks(A)[:-1]), (200, {}, jwks(A, A)), (200, {}, b'{"keys":[],"keys":[]}'), (200, {}, TOO_MANY),
        (200, {}, b'{"keys": [' + b"[" * 100_000), (200, {b"content-encoding": b"gzip"}, gzip.compress(jwks(A))),
        (200, {}, jwks(A) + b" " * MAX_DOCUMENT_BYTES),
    ],
)  # fmt: skip
@pytest_twisted.ensureDeferred
async def test_answer_that_is_no_key_set_changes_nothing(
    reactor: PosixReactorBase, status: int, headers: dict[bytes, bytes], document: bytes
) -> None:
    async with issuing(reactor) as bench:
        bench.issuer.document = jwks(B)
        await bench.start()
        bench.issuer.status, bench.issuer.headers, bench.issuer.document = status, headers, document
        await bench.over()
        assert names(bench.source.keys) == "b"
        assert bench.messages == ["JWKS download failed"]
        assert len(bench.issuer.requests) == 2  # no redirect was followed


@pytest_twisted.ensureDeferred
async def test_compressed_body_is_not_expanded(reactor: PosixReactorBase) -> None:
    async with issuing(reactor) as bench:
        bench.issuer.headers = {b"content-encoding": b"gzip"}
        bench.issuer.document = gzip.compress(b" " * 64 * 2**20)
        await bench.start()
        assert "strict JSON" in bench.events[0]["problem"]


@pytest.mark.parametrize(
    "begins", [(b" " * (MAX_DOCUMENT_BYTES + 1), 0), (b"{", MAX_DOCUMENT_BYTES + 1)], ids=["sent", "told"]
)
@pytest_twisted.ensureDeferred
async def test_huge_body_is_cut_off(reactor: PosixReactorBase, begins: tuple[bytes, int]) -> None:
    async with issuing(reactor) as bench:
        bench.issuer.begins = begins
        await bench.start()
        assert bench.events[0]["problem"] == "the document is too long"
        await bench.turns_until(lambda: bench.issuer.gone == 1)


@pytest.mark.parametrize("begins", [None, (b'{"keys"', 0), (b'{"keys"', 100)])
@pytest_twisted.ensureDeferred
async def test_slow_answer_ends_at_the_deadline(reactor: PosixReactorBase, begins: tuple[bytes, int] | None) -> None:
    async with issuing(reactor) as bench:
        bench.issuer.holds, bench.issuer.begins = True, begins
        bench.source.start()
        await bench.turns_until(lambda: bool(bench.issuer.held))
        bench.clock.advance(DOWNLOAD_TIMEOUT_S - 0.1)
        await bench.turns(20)  # a piece that comes wins no time
        assert not bench.is_tried()
        bench.clock.advance(0.1)
        assert bench.is_tried()
        assert bench.events[0]["problem"] == "not over after 5 s"
        await bench.turns_until(lambda: bench.issuer.gone == 1)


@pytest_twisted.ensureDeferred
async def test_keys_that_cannot_be_used_are_skipped_and_logged_once(reactor: PosixReactorBase) -> None:
    async with issuing(reactor, refresh_s=100.0) as bench:
        bench.issuer.document = jwks(
            A, B | {"use": "enc"}, {"kty": "AKP", "kid": "pq"}, jwk(SECRET.encode()), jwk(ec_key(), alg="ES512"), 1
        )
        await bench.start()
        await bench.pass_time(95.0)
        assert names(bench.source.keys) == "a"
        (event,) = bench.events
        assert (event["usable"], event["unusable"]) == (1, 5)
        assert json.loads(bench.issuer.document)["keys"][3]["k"] not in repr(event)


@pytest_twisted.ensureDeferred
async def test_secret_in_a_public_set_is_no_key(reactor: PosixReactorBase) -> None:
    async with issuing(reactor) as bench:
        bench.issuer.document = jwks(jwk(SECRET.encode(), kid="a"))
        await bench.start()
        assert bench.source.keys is not None
        assert len(bench.source.keys) == 0


@pytest_twisted.ensureDeferred
async def test_allowed_algorithms_are_those_of_the_configuration(reactor: PosixReactorBase) -> None:
    async with issuing(reactor, allowed=("RS256",)) as bench:
        bench.issuer.document = jwks(A)
        await bench.start()
        assert bench.source.keys is not None
        assert bench.source.keys.find("a", "RS256").algorithms == {"RS256"}


@pytest_twisted.ensureDeferred
async def test_stop_ends_a_download_and_lets_go_of_all_who_wait(reactor: PosixReactorBase) -> None:
    async with issuing(reactor) as bench:
        bench.issuer.holds = True
        bench.source.start()
        waiter = bench.source.refetch()
        assert waiter is not None
        await bench.turns_until(lambda: bool(bench.issuer.held))
        bench.source.stop()
        assert waiter.called
        assert bench.is_tried()
        assert bench.source.refetch() is None
        assert bench.clock.getDelayedCalls() == []
        assert bench.events == []
        await bench.turns_until(lambda: bench.issuer.gone == 1)


@pytest_twisted.ensureDeferred
async def test_certificate_is_verified_by_what_the_platform_trusts(
    reactor: PosixReactorBase, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    for trusted, host in ((False, "localhost"), (True, "other.example"), (True, "localhost")):
        options = ssl.CertificateOptions()
        authority.issue_cert(host).configure_cert(options.getContext())
        if trusted:
            authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
            monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        async with issuing(reactor, tls=options) as bench:
            bench.issuer.document = jwks(A)
            await bench.start()
            is_good = trusted and host == "localhost"
            assert names(bench.source.keys) == ("a" if is_good else "-")
            assert len(bench.issuer.requests) == is_good
