"""``h2load`` of nghttp2, against one port: how long a number of requests took, over the protocol that was asked for."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence

import attrs

from bench.peers import program
from bench.processes import BenchError

_FINISHED = re.compile(r"^finished in ([0-9.]+)(us|ms|s|m), ", re.MULTILINE)
_REQUESTS = re.compile(r"^requests: .* ([0-9]+) succeeded, ([0-9]+) failed, ([0-9]+) errored", re.MULTILINE)
_STATUSES = re.compile(r"^status codes: ([0-9]+) 2xx", re.MULTILINE)
_BODIES = re.compile(r"^traffic: .* \(([0-9]+)\) data$", re.MULTILINE)
_PROTOCOL = re.compile(r"^Application protocol: (\S+)$", re.MULTILINE)
_UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0}
TIMEOUT_S = 600.0


@attrs.frozen
class Protocol:
    """What is spoken with a server."""

    name: str
    is_tls: bool
    is_http2: bool


HTTP1 = Protocol("HTTP/1.1", is_tls=False, is_http2=False)
HTTPS1 = Protocol("HTTP/1.1, TLS", is_tls=True, is_http2=False)
H2C = Protocol("HTTP/2", is_tls=False, is_http2=True)
H2 = Protocol("HTTP/2, TLS", is_tls=True, is_http2=True)


@attrs.frozen
class Done:
    """Requests that were all answered with 2xx, and how long they took together."""

    requests: int
    seconds: float
    body_bytes: int


def h2load(
    port: int,
    protocol: Protocol,
    *,
    clients: int,
    streams: int,
    requests: int,
    path: str = "/",
    headers: Sequence[tuple[str, str]] = (),
) -> Done:
    """Ask for a path so many times; ``streams`` at once on each connection, in a pipeline where it is HTTP/1.1.

    Raises:
        BenchError: a request failed, or another protocol was spoken.
    """
    argv = [program("h2load"), f"-c{clients}", f"-m{streams}", f"-n{requests}"]
    if not protocol.is_http2:
        argv.append("--h1")
    for name, value in headers:
        argv += ["-H", f"{name.lower()}: {value}"]
    argv.append(f"{'https' if protocol.is_tls else 'http'}://127.0.0.1:{port}{path}")
    try:
        run = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as exc:
        raise BenchError(f"h2load, {protocol.name}: not done after {TIMEOUT_S:.0f} s") from exc
    found = [pattern.search(run.stdout) for pattern in (_FINISHED, _REQUESTS, _STATUSES, _BODIES, _PROTOCOL)]
    finished, counts, statuses, bodies, spoken = found
    if not (finished and counts and statuses and bodies and spoken):
        raise BenchError(f"h2load, {protocol.name}: {run.stdout[-1000:]}{run.stderr[-1000:]}")
    if spoken[1] not in ({"h2", "h2c"} if protocol.is_http2 else {"http/1.1"}):
        raise BenchError(f"port {port} was to speak {protocol.name}, and spoke {spoken[1]}")
    if not int(counts[1]) == int(statuses[1]) == requests:
        raise BenchError(
            f"h2load, {protocol.name}: not all of {requests} requests succeeded: {counts[0]}; {statuses[0]}"
        )
    return Done(requests, float(finished[1]) * _UNITS_S[finished[2]], int(bodies[1]))
