"""An explanation for people: aligned lines under headings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from txgateway.columns import columns, setting_rows, value_text

_INDENT = "  "


def lines(told: Mapping[str, Any]) -> Iterator[str]:
    """The lines of what :func:`txgateway.explain.explain` has told."""
    yield from columns(_summary(told))
    if told["candidates"]:
        yield from ("", "[candidates]")
        yield from columns(_candidate(candidate) for candidate in told["candidates"])
    if told["candidates_left_out"]:
        yield f"and {told['candidates_left_out']} more, of other paths or hosts"
    yield from ("", "[edge]")
    yield from _steps(told["edge"])
    route = told["route"]
    if route is not None:
        yield from ("", f"[routes.{route['name']}]")
        yield from columns(setting_rows(route["settings"]))
        yield from _steps(told["decorators"])
    if told["end"] is not None:
        yield from _END[told["end"]["is"]](told["end"])


def _summary(told: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    request, outcome, route, end = told["request"], told["outcome"], told["route"], told["end"]
    yield "request", f"{request['method']} {request['url']} from {request['client_ip']}"
    for name, value in request["headers"]:
        yield "", f"{name}: {value}"
    if route is None:
        yield "route", "none"
    else:
        yield "route", f"{route['name']} ({route['where']})"
        for name, value in route["captures"].items():
            yield "", f"{{{name}}} is {value}"
    if outcome["is"] == "refused":
        yield "refused", f"{outcome['status']} {outcome['reason']} by {outcome['by']}: {outcome['detail']}"
        if outcome["why"] and not outcome["headers"]:  # which say the same
            yield "", outcome["why"]
        for name, value in outcome["headers"]:
            yield "", f"{name}: {value}"
    elif outcome["is"] == "answered":
        status = f", {end['status']}" if end is not None else ""
        yield "answered", f"by {outcome['by']}{status}"
    elif end["is"] == "resource":
        yield "answered", f"by {end['resource']}"
    else:
        first, *others = end["backends"]
        names = ", ".join(f"{backend['backend']} {_percent(backend['share'])}" for backend in end["backends"])
        yield "forwarded", f"to backends {names}" if others else f"to backend {first['backend']}"
        yield "as", f"{end['method']} {end['target']}"


def _candidate(candidate: Mapping[str, Any]) -> tuple[str, str, str]:
    captures = " ".join(f"{{{name}}}={value}" for name, value in candidate["captures"].items())
    verdict = "won" if candidate["won"] else f"lost by {', '.join(candidate['lost_by'])}"
    return candidate["route"], verdict, candidate["why"] or captures or candidate["path"]


def _steps(steps: list[Mapping[str, Any]]) -> Iterator[str]:
    for step in steps:
        yield f"{step['decorator']}: {step['outcome']}"
        yield from columns(((label, value_text(value)) for label, value in step["says"].items()), _INDENT)
        yield from columns(setting_rows(step["settings"]), _INDENT)


# --- ends ---------------------------------------------------------------------------------------------------------


def _answer(end: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", f"[answer of {end['by']}]", f"status {end['status']}")
    yield from (f"{name}: {value}" for name, value in end["headers"])


def _resource(end: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", f"[resource {end['resource']}]")
    yield from columns(setting_rows(end["settings"]))


def _backends(end: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", "[end]")
    yield from columns(setting_rows(end["settings"]))
    if end["upgrade"]:
        yield f"upgrade: {end['upgrade']}"
    yield from ("", "[retries]")
    yield from columns(_retries(end["retry"]))
    yield from columns(setting_rows(end["retry"]["settings"]), _INDENT)
    for backend in end["backends"]:
        yield from ("", f"[backends.{backend['backend']}]")
        yield f"{_percent(backend['share'])} of the route's requests; {backend['load_balancer']}"
        yield f"chosen: {backend['chosen'] or 'not known'}, {backend['why']}"
        yield from columns((_target(target) for target in backend["targets"]), _INDENT)
        yield from columns(setting_rows(backend["settings"]))


def _retries(retry: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    attempts = retry["attempts"]
    yield "attempts", "1: nothing is repeated" if attempts == 1 else f"up to {attempts}"
    if attempts > 1:
        when = ", if nothing was sent yet" if retry["only_if_nothing_was_sent"] else ""
        yield "repeated on", f"{value_text(retry['on'])}{when}"
        yield "waits up to", value_text(retry["waits_up_to"])
        yield "budget", retry["budget"]
        yield "body kept", f"up to {retry['body_kept']}"


def _target(target: Mapping[str, Any]) -> tuple[str, ...]:
    row: tuple[str, ...] = (
        target["target"] if target["target"] == target["address"] else f"{target['target']} at {target['address']}",
        target["scheme"],
        f"weight {target['weight']} ({_percent(target['share'])})",
    )
    if "health" in target:
        row += (target["health"], f"breaker {target['breaker']}", f"{target['in_flight']} in flight")
    return (*row, f"Host: {target['host']}")


def _percent(share: float) -> str:
    return f"{share:.0%}"


_END = {"answer": _answer, "resource": _resource, "backend": _backends}
