"""The comparison: every proxy on the same work, in turns, several rounds.

Machines shared with others drift by more than the differences of interest, so each round gives every proxy its
turn, the order moves by one from round to round, and only figures of the same round are divided by each other.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

from bench.backends import fixed_body_backend, redis_server
from bench.load import Sample, load_of, measure
from bench.peers import GATEWAY_REDIS, PEERS, running
from bench.processes import BenchError

Rounds = list[dict[str, Sample]]


def compare(
    names: Sequence[str], *, rounds: int, seconds: int, shape: str, case: str, gateway_env: Mapping[str, str]
) -> Rounds:
    """One sample per proxy and round.

    Args:
        seconds: length of each measured run; one second of warm-up comes on top.
        shape: a key of :data:`bench.load.SHAPES`.
        case: ``bare``; ``log``: proxies that can write a JSON access log write one to a file; ``secured``: and check
            tokens, limit rates, add CORS and security headers.

    Raises:
        BenchError: a run could not be measured, did not log what it should, or a proxy cannot do what the case asks.
    """
    is_secured = case == "secured"
    for proxy_name in names:
        if is_secured and not PEERS[proxy_name].can_secure:
            raise BenchError(f"{proxy_name} cannot do what the case asks")
        if not is_secured and proxy_name == GATEWAY_REDIS:
            raise BenchError(f"{proxy_name} is for the case that has limits")
    results: Rounds = []
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        load = load_of(shape, directory)
        with fixed_body_backend(directory) as backend, redis_server(directory, GATEWAY_REDIS in names) as redis_port:
            for number in range(rounds):
                shift = number % len(names)
                samples: dict[str, Sample] = {}
                for proxy_name in [*names[shift:], *names[:shift]]:
                    can_log = PEERS[proxy_name].can_log or is_secured
                    log = directory / f"{proxy_name}.log" if case != "bare" and can_log else None
                    with running(
                        proxy_name,
                        backend.port,
                        directory,
                        log=log,
                        gateway_env=gateway_env,
                        is_secured=is_secured,
                        redis_port=redis_port,
                    ) as proxy:
                        sample = measure(proxy, backend, seconds=seconds, load=load)
                    if log is not None:
                        _check_log(log, proxy_name, sample.requests)
                    samples[proxy_name] = sample
                    click.echo(f"round {number + 1}/{rounds}  {proxy_name:<22}{sample.cpu_us:7.1f} µs", err=True)
                results.append({proxy_name: samples[proxy_name] for proxy_name in names})
    return results


def _check_log(log: Path, name: str, requests: int) -> None:
    # Counted after the proxy has ended: most of them write their log in batches.
    lines = 0
    if log.exists():
        with log.open("rb") as stream:
            lines = sum(1 for _ in stream)
    if lines < requests:
        raise BenchError(f"{name} logged {lines} lines for {requests} requests")
    log.unlink()
