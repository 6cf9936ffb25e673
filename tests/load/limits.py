"""What the gateway keeps within limits: the cost of a backend that is away, retries, and a route that is too slow."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import click
from bench.report import print_table
from tests.integration.client import Client, Response
from tests.integration.harness import Gateway, routes
from tests.load.client import Load, run
from tests.load.gateways import attempts_of, bound_log, gateway
from tests.load.report import Report, between, bound_rate, lost_of, print_parts, quantile
from tests.load.targets import running, steady_port

#: dead: sequential requests, what each may cost, and how long the breaker may take to open.
SEQUENTIAL = 1000
DEAD_P99_MS = 1.0
OPEN_WITHIN_S = 10.0
REFUSALS = ("BREAKER_OPEN", "NO_HEALTHY_TARGET")
#: budget: requests per second, seconds, and what the target may see of them.
BUDGET_RATE = 300.0
BUDGET_S = 8.0
BUDGET_SHARE = 1.2
BUDGET_MIN = 3
#: bulkhead: seconds of each phase, how slow the slow route is, its permits, and what the other may notice.
PHASE_S = 6.0
RAMP_S = 1.0
SLOW = "sleep/2"
PERMITS = 20
NOTICED_FACTOR = 2.0
NOTICED_MS = 5.0


# --- dead --------------------------------------------------------------------------------------------------------


def dead(directory: Path, env: Mapping[str, str]) -> Report:
    """One target, and nobody at its port."""
    report = Report("dead")
    settings = {"GATEWAY_BACKEND_TARGET": f"http://127.0.0.1:{steady_port()}"}
    with gateway(directory, settings, env, waits=False) as front, front.client() as client:
        opened_after = _wait_until_refused(client)
        seen = "never" if opened_after is None else opened_after
        report.bound(f"refuses at once within {OPEN_WITHIN_S:.0f} s", opened_after is not None, seen)
        if opened_after is not None:
            _refusals(report, client)
    bound_log(report, front)
    return report


def _wait_until_refused(client: Client) -> str | None:
    seen: Counter[str] = Counter()
    began_at = time.monotonic()
    while (took_s := time.monotonic() - began_at) < OPEN_WITHIN_S:
        response, _ = _ask(client)
        if _reason(response) in REFUSALS:
            return f"after {took_s:.2f} s and {dict(seen)}"
        seen[_reason(response)] += 1
    click.echo(f"answers: {dict(seen)}")
    return None


def _refusals(report: Report, client: Client) -> None:
    costs_ms: dict[str, list[float]] = {}
    without_field = 0
    for _ in range(SEQUENTIAL):
        response, cost_ms = _ask(client)
        costs_ms.setdefault(_reason(response), []).append(cost_ms)
        without_field += _reason(response) == "BREAKER_OPEN" and response.header("Retry-After") is None
    print_table(
        ["answer", "requests", "p50 ms", "p99 ms", "max ms"],
        [
            [reason, f"{len(some):,}", *(f"{quantile(some, share):.3f}" for share in (0.5, 0.99, 1.0))]
            for reason, some in costs_ms.items()
        ],
    )
    report.requests = SEQUENTIAL
    every = [cost for some in costs_ms.values() for cost in some]
    report.bound("every answer is a refusal", set(costs_ms) <= set(REFUSALS), ", ".join(costs_ms))
    report.bound(
        f"p99 of a refusal at most {DEAD_P99_MS} ms",
        quantile(every, 0.99) <= DEAD_P99_MS,
        f"{quantile(every, 0.99):.3f} ms; median {quantile(every, 0.5):.3f} ms",
    )
    report.bound("Retry-After in each BREAKER_OPEN", not without_field, f"missing in {without_field:,}")


def _ask(client: Client) -> tuple[Response, float]:
    """The answer to one request, and the milliseconds until it was read and taken apart."""
    began_at = time.perf_counter()
    client.send(b"GET /n HTTP/1.1\r\nHost: load.test\r\n\r\n")
    response = client.read_response()
    return response, (time.perf_counter() - began_at) * 1000


def _reason(response: Response) -> str:
    if response.header("Content-Type") != "application/problem+json":
        return f"{response.status}"
    return str(response.json()["reason"])


# --- budget ------------------------------------------------------------------------------------------------------


def budget(directory: Path, env: Mapping[str, str]) -> Report:
    """One target that answers 503 to everything, and no breaker: how much more than the requests it gets to see."""
    with running("a") as (target,):
        target.tell("503")
        settings = {"GATEWAY_BACKEND_TARGET": target.url, "GATEWAY_BREAKER_ENABLED": "false"}
        with gateway(directory, settings, env) as front:
            load = run(_load_for(front.port, BUDGET_RATE, BUDGET_S))
        attempts = target.tell("counts")["requests"]
    report = Report("budget", len(load.sent))
    print_parts([between("all", load, load.began_at, load.ended_at)], "a", attempts_of(front))
    click.echo("answers: " + _counted(Counter(sent.outcome for sent in load.sent)))
    requests = len(load.sent)
    most = BUDGET_SHARE * requests + BUDGET_MIN
    seen = f"{attempts:,} for {requests:,} requests: × {attempts / requests:.3f}"
    report.bound(f"attempts at most {BUDGET_SHARE} × requests + {BUDGET_MIN} = {most:,.0f}", attempts <= most, seen)
    report.bound("there are retries at all", attempts > requests, f"{attempts - requests:,}")
    bound_rate(report, load, BUDGET_RATE)
    bound_log(report, front)
    return report


async def _load_for(port: int, rate: float, seconds: float) -> Load:
    async with Load(port, "/n", rate) as load:
        await load.until(load.began_at + seconds)
    return load


# --- bulkhead ----------------------------------------------------------------------------------------------------


def bulkhead(rate: float, directory: Path, env: Mapping[str, str]) -> Report:
    """One route is flooded whose target takes seconds; what the other route's clients notice."""
    with running("fs") as (fast, slow):
        slow.tell(SLOW)
        document = {
            "backends": {"fast": {"targets": [fast.url]}, "slow": {"targets": [slow.url]}},
            "routes": [
                {"name": "fast", "path": "/fast", "backend": "fast"},
                {
                    "name": "slow",
                    "path": "/slow",
                    "backend": "slow",
                    "bulkhead": {"max_concurrent": PERMITS},
                    "timeout": {"per_try": "0"},
                },
            ],
        }
        with gateway(directory, routes(document), env) as front:
            measured, flood = run(_flooded(front, rate))
        at_once = slow.tell("counts")["at_once"]
    report = Report("bulkhead", len(measured.sent), lost_of(measured))
    ramped_at = measured.began_at + RAMP_S
    before = between("alone", measured, ramped_at, ramped_at + PHASE_S)
    during = between("flood", measured, flood.began_at, flood.ended_at)
    print_parts([before, during], "f", attempts_of(front))
    answers = Counter(sent.outcome for sent in flood.sent)
    click.echo(f"the flood's answers, {len(flood.sent):,} requests: {_counted(answers)}")
    report.bound_lost()
    before_ms, during_ms = before.latency_ms(0.99), during.latency_ms(0.99)
    bar_ms = max(NOTICED_FACTOR * before_ms, before_ms + NOTICED_MS)
    report.bound(f"p99 of the other route below {bar_ms:.2f} ms", during_ms < bar_ms, f"{during_ms:.2f} ms")
    report.bound(f"{PERMITS} at once at the slow target, no more", at_once == PERMITS, f"{at_once}")
    wanted = {"ok", "503 BULKHEAD_FULL"}
    report.bound("the flood is answered or refused, both", set(answers) == wanted, ", ".join(answers))
    bound_rate(report, measured, rate)
    bound_log(report, front)
    return report


async def _flooded(front: Gateway, rate: float) -> tuple[Load, Load]:
    async with Load(front.port, "/fast", rate) as measured:
        await measured.until(measured.began_at + RAMP_S + PHASE_S)
        async with Load(front.port, "/slow", rate) as flood:
            await measured.until(flood.began_at + PHASE_S)
    return measured, flood


def _counted(answers: Counter[str]) -> str:
    return ", ".join(f"{count:,} × {outcome}" for outcome, count in answers.most_common())
