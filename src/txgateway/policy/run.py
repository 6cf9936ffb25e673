"""Runs cases, each with a gateway of its own, until the first request that does not come out as expected."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from attrs import frozen
from twisted.logger import LogEvent

from txgateway.policy import scripts
from txgateway.policy.compare import Difference, Seen, differences
from txgateway.policy.document import Case, Step
from txgateway.policy.files import CaseFile
from txgateway.policy.surroundings import Gateways, at_home
from txgateway.policy.tables import RequestTable
from txgateway.policy.tokens import signed
from txgateway.testing.clock import BusyLoop
from txgateway.testing.doubles import logged_failures
from txgateway.testing.harness import GatewayHarness


@frozen
class CaseFailure:
    """The request that did not come out as expected.

    Attributes:
        place: of its step in the file.
        number: of its step in the case, from 1.
        request: its request line, without the version.
        turn, of: which of the step's requests it was, from 1.
    """

    place: str
    number: int
    request: str
    turn: int
    of: int
    differences: tuple[Difference, ...]
    seen: Seen


@frozen
class CaseResult:
    """What came of a case.

    Attributes:
        failure: None if it has passed.
        virtual_s: time that passed in it.
        real_s: time that it took.
    """

    name: str
    place: str
    failure: CaseFailure | None
    virtual_s: float
    real_s: float


@frozen
class FileResult:
    """What came of the cases of a file."""

    name: str
    cases: tuple[CaseResult, ...]

    @property
    def failed(self) -> int:
        """How many have not passed."""
        return sum(case.failure is not None for case in self.cases)


def run_file(file: CaseFile, cases: Iterable[Case]) -> FileResult:
    """Run cases of a file, one after the other."""
    with at_home(file.path.parent):
        gateways = Gateways(file.document.gateway, file.path.parent)
        return FileResult(file.name, tuple(_run_case(file, case, gateways) for case in cases))


def _run_case(file: CaseFile, case: Case, gateways: Gateways) -> CaseResult:
    began_s = time.perf_counter()
    gateway = gateways.new()
    scripts.put(file.document.scripts, gateway.backends)
    scripts.put(case.scripts, gateway.backends)
    failure = next(_failures(gateway, case), None)
    virtual_s = gateway.clock.seconds()
    with suppress(BusyLoop):  # which the failure tells of
        gateway.close()
    return CaseResult(case.name, case.place, failure, virtual_s, time.perf_counter() - began_s)


def _failures(gateway: GatewayHarness, case: Case) -> Iterator[CaseFailure]:
    for number, step in enumerate(case.steps, 1):
        request = step.table.request
        scripts.put(step.scripts, gateway.backends)
        try:
            gateway.advance(step.table.advance_s or 0.0)
            if request is not None:
                yield from _requests(gateway, step, number, request)
        except BusyLoop as exc:  # of a middleware of the user's
            line = "advance" if request is None else _line(request)
            found = Difference("time", "goes on", str(exc))
            yield CaseFailure(step.place, number, line, 1, 1, (found,), Seen(None, str(exc), 0.0, (), {}))


def _requests(gateway: GatewayHarness, step: Step, number: int, request: RequestTable) -> Iterator[CaseFailure]:
    expect, of = step.table.expect, step.table.repeat
    for turn in range(1, of + 1):
        seen = _made(gateway, request)
        found = () if expect is None else differences(expect, seen)
        if found:
            yield CaseFailure(step.place, number, _line(request), turn, of, found, seen)


def _line(request: RequestTable) -> str:
    return f"{request.method} {request.path}"


def _made(gateway: GatewayHarness, request: RequestTable) -> Seen:
    """Make a request, and let time pass until its end."""
    headers = list(request.headers)
    if request.token is not None:
        is_raw = isinstance(request.token, str)
        token = request.token if is_raw else signed(request.token, gateway.configuration.settings, gateway.epoch_s())  # type: ignore[arg-type]
        headers.append(("Authorization", f"Bearer {token}"))
    body = None if request.body is None else request.body.encode("utf-8")
    before = {name: len(backend.received) for name, backend in gateway.backends.items()}
    began_s, answer, trouble = gateway.clock.seconds(), None, ""
    with logged_failures() as events:
        length = None if body is None else len(body)
        call = gateway.start(request.method, request.path, headers, length=length, peer=request.client_ip)
        call.send(body or b"")
        try:
            answer = gateway.wait_for(call)
        except BusyLoop:
            raise
        except AssertionError as exc:
            trouble = "broken off" if call.client.transport.closed else str(exc)
    delay_s = gateway.clock.seconds() - began_s
    if answer is None and not call.client.transport.closed:
        call.leave()
    received = [
        (one.at_s, name, one) for name, backend in gateway.backends.items() for one in backend.received[before[name] :]
    ]
    received.sort(key=lambda entry: entry[0])
    told: Any = call.log or {}
    return Seen(answer, trouble, delay_s, [(name, one) for _, name, one in received], told, [*map(_fault, events)])


def _fault(event: LogEvent) -> str:
    failure: Any = event.get("log_failure")
    return str(event.get("log_format")) if failure is None else f"{failure.type.__name__}: {failure.value}"
