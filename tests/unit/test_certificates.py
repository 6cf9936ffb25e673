from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme
from tests.helpers.tls import write_pair
from tests.unit.support import EPOCH_S
from twisted.internet.defer import Deferred, execute
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from zope.interface import implementer

from txgateway.certificates import LOOK_EVERY_S, MAX_AGE_S, ListenerCertificates
from txgateway.config import load
from txgateway.config.listener_tls import ListenerTlsError


@pytest.fixture
def events() -> Iterator[list[str]]:
    """The names of what is logged, with the certificate or the problem."""
    told: list[str] = []

    @implementer(ILogObserver)
    def observe(event: LogEvent) -> None:
        what = event["log_format"].partition(":")[0]
        told.append(f"{what}: {event.get('certificate') or event.get('problem') or ''}".removesuffix(": "))

    globalLogPublisher.addObserver(observe)
    yield told
    globalLogPublisher.removeObserver(observe)


class Looking:
    """Certificates in a directory that the test changes, in virtual time.

    Attributes:
        works: what waits for a thread, while :attr:`holds` is set.
    """

    def __init__(self, directory: Path, authority: trustme.CA) -> None:
        self.directory, self.authority = directory, authority
        self.put("a", "a.example")
        settings = load({"GATEWAY_BACKEND_TARGET": "demo", "GATEWAY_TLS_CERT_DIR": str(directory)}).settings
        self.clock = Clock()
        self.holds = False
        self.works: list[tuple[Deferred[Any], Callable[[], Any]]] = []
        self.certificates = ListenerCertificates(
            settings, self.clock, lambda: EPOCH_S + self.clock.seconds(), self._in_thread
        )
        self.certificates.load()
        self.certificates.start()

    def _in_thread(self, work: Callable[[], Any]) -> Deferred[Any]:
        if not self.holds:
            return execute(work)
        result: Deferred[Any] = Deferred()
        self.works.append((result, work))
        return result

    def put(self, name: str, *hosts: str, not_after: datetime | None = None) -> None:
        write_pair(self.directory, name, self.authority.issue_cert(*hosts, not_after=not_after))

    def look(self) -> None:
        self.clock.advance(LOOK_EVERY_S)

    @property
    def hosts(self) -> list[str]:
        return [host for pair in self.certificates.contexts.pairs for host in pair.host_names()]


@pytest.fixture
def looking(tmp_path: Path, authority: trustme.CA, events: list[str]) -> Looking:
    return Looking(tmp_path, authority)


def test_start_tells_each_certificate_with_its_end(tmp_path: Path, authority: trustme.CA, events: list[str]) -> None:
    soon = datetime.fromtimestamp(EPOCH_S, UTC)
    write_pair(tmp_path, "old", authority.issue_cert("old.example", not_after=soon))
    looking = Looking(tmp_path, authority)
    assert events == ["certificate loaded: a", "certificate has expired: old"]
    assert looking.certificates.expiries()["old"] == EPOCH_S


def test_certificate_that_is_not_valid_yet_is_told(tmp_path: Path, authority: trustme.CA, events: list[str]) -> None:
    looking = Looking(tmp_path, authority)
    settings = looking.certificates._settings
    begin = looking.certificates.contexts.pairs[0].certificate.not_valid_before_utc - timedelta(days=1)
    early = ListenerCertificates(settings, looking.clock, begin.timestamp, looking._in_thread)
    early.load()
    assert events == ["certificate loaded: a", "certificate is not valid yet: a"]


def test_start_with_files_that_are_gone_fails(looking: Looking) -> None:
    (looking.directory / "a.key").unlink()
    with pytest.raises(ListenerTlsError):
        looking.certificates.load()


def test_files_that_stay_are_not_loaded_again(looking: Looking, events: list[str]) -> None:
    contexts = looking.certificates.contexts
    for _ in range(10):
        looking.look()
    assert looking.certificates.contexts is contexts
    assert events == ["certificate loaded: a"]


def test_new_files_are_shown_from_the_next_look_on(looking: Looking, events: list[str]) -> None:
    looking.put("a", "new.example")
    looking.clock.advance(LOOK_EVERY_S - 0.1)
    assert looking.hosts == ["a.example"]
    looking.clock.advance(0.1)
    assert looking.hosts == ["new.example"]
    looking.put("b", "b.example")
    looking.look()
    assert looking.hosts == ["new.example", "b.example"]
    assert looking.certificates.expiries().keys() == {"a", "b"}
    assert events == ["certificate loaded: a", "certificate loaded: a", "certificate loaded: b"]


def test_bad_files_leave_the_old_ones_and_one_line(looking: Looking, events: list[str]) -> None:
    del events[:]
    contexts = looking.certificates.contexts
    good = (looking.directory / "a.crt").read_bytes()
    (looking.directory / "a.crt").write_bytes(b"half a fi")
    for _ in range(5):
        looking.look()
    assert looking.certificates.contexts is contexts
    (line,) = events
    assert line.startswith("certificates cannot be loaded, the old ones stay: GATEWAY_TLS_CERT_DIR: a.crt: ")
    (looking.directory / "a.key").unlink()  # another problem is another line
    (looking.directory / "a.crt").write_bytes(good)
    for _ in range(5):
        looking.look()
    assert len(events) == 2
    assert "a.crt: its key: the file cannot be read" in events[1]
    looking.put("a", "new.example")
    for _ in range(5):
        looking.look()
    assert looking.hosts == ["new.example"]
    assert events[2:] == ["certificates can be loaded again", "certificate loaded: a"]


def test_certificate_that_comes_before_its_key_waits_for_it(looking: Looking, events: list[str]) -> None:
    issued = looking.authority.issue_cert("new.example")
    (looking.directory / "a.crt").write_bytes(issued.cert_chain_pems[0].bytes())
    looking.look()
    assert looking.hosts == ["a.example"]
    (looking.directory / "a.key").write_bytes(issued.private_key_pem.bytes())
    looking.look()
    assert looking.hosts == ["new.example"]


def test_problem_that_goes_away_without_a_trace_is_noticed(looking: Looking, events: list[str]) -> None:
    """As when a network file system answers again: the files are what they were."""
    key = looking.directory / "a.key"
    key.rename(looking.directory / "away")
    looking.look()
    (looking.directory / "away").rename(key)
    looking.look()
    assert events[-1] == "certificates can be loaded again"


def test_look_that_breaks_down_is_told_and_the_next_one_comes(looking: Looking, events: list[str]) -> None:
    looking.holds = True
    looking.look()
    ((result, _),) = looking.works
    result.errback(ZeroDivisionError())
    assert events[-1] == "look for new certificates failed"
    looking.holds = False
    looking.put("a", "new.example")
    looking.look()
    assert looking.hosts == ["new.example"]


def test_look_that_is_asked_for_comes_at_once_and_the_others_go_on(looking: Looking) -> None:
    for host in ("b.example", "c.example"):
        looking.put("a", host)
        looking.certificates.look()
        looking.clock.advance(0)
        assert looking.hosts == [host]
    looking.put("a", "d.example")
    looking.look()
    assert looking.hosts == ["d.example"]


def test_looks_never_overlap(looking: Looking) -> None:
    looking.holds = True
    for _ in range(5):
        looking.look()
    assert len(looking.works) == 1


def test_stop_ends_the_looks(looking: Looking) -> None:
    looking.holds = True
    looking.put("a", "new.example")
    looking.look()
    looking.certificates.stop()
    ((result, work),) = looking.works
    result.callback(work())
    assert looking.hosts == ["a.example"]
    assert not looking.clock.getDelayedCalls()


def test_stop_between_looks(looking: Looking) -> None:
    looking.certificates.stop()
    assert not looking.clock.getDelayedCalls()


def test_contexts_are_made_anew_once_a_day(looking: Looking, events: list[str]) -> None:
    contexts = looking.certificates.contexts
    for _ in range(int(MAX_AGE_S / LOOK_EVERY_S) - 1):
        looking.look()
    assert looking.certificates.contexts is contexts
    looking.look()
    assert looking.certificates.contexts is not contexts
    assert events == ["certificate loaded: a"]


def test_default_pair_and_file_of_that_name_have_one_line(tmp_path: Path, authority: trustme.CA) -> None:
    soon = datetime.fromtimestamp(EPOCH_S + 5, UTC)
    write_pair(tmp_path, "default", authority.issue_cert("x.example", not_after=soon))
    (tmp_path / "main").mkdir()
    main = write_pair(tmp_path / "main", "m", authority.issue_cert("m.example"))
    settings = load({
        "GATEWAY_BACKEND_TARGET": "demo", "GATEWAY_TLS_CERT_DIR": str(tmp_path),
        "GATEWAY_TLS_CERT_FILE": main[0], "GATEWAY_TLS_KEY_FILE": main[1],
    }).settings  # fmt: skip
    certificates = ListenerCertificates(settings, Clock(), lambda: EPOCH_S, execute)
    certificates.load()
    assert certificates.expiries() == {"default": EPOCH_S + 5}
