"""One measured run: ``wrk`` against a running proxy, and the proxy's CPU time while it lasted.

The figure that counts is CPU time per completed request. A run in which anything but a good answer of the backend
was seen is an error, not a result.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import attrs

from bench import users
from bench.backends import BODY, Backend
from bench.peers import CONFIGS, RunningProxy, program
from bench.processes import BenchError, get

CONNECTIONS = 32
WARM_UP_S = 1
_RESULT = "RESULT "

#: 640 bytes, the length of a common RS256 token; not a valid one, nobody here looks into it.
_TOKEN = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9." + "eyJzdWIiOiIxMjM0" * 16 + "." + "c2lnbmF0dXJlLW9mLXRoaXMt" * 15
TOKEN_BYTES = 640

_TOKEN_SHAPE = (
    ("Authorization", "Bearer " + _TOKEN[:TOKEN_BYTES].ljust(TOKEN_BYTES, "x")),
    ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
    ("Accept", "application/json, text/plain, */*"),
    ("Accept-Language", "en-US,en;q=0.5"),
    ("Accept-Encoding", "gzip, deflate, br"),
    ("Referer", "https://app.example.com/resumes/list?page=2"),
    ("Origin", "https://app.example.com"),
    ("Cookie", "session=0f8fad5bd9cb469fa16570867728950e; theme=dark"),
    ("Cache-Control", "no-cache"),
    ("X-Requested-With", "XMLHttpRequest"),
    ("X-Client-Version", "4.17.2"),
)
#: Request headers of each shape, beside the ``Host`` that wrk adds.
SHAPES: dict[str, tuple[tuple[str, str], ...]] = {
    "small": (),
    "token": _TOKEN_SHAPE,
    "varied": _TOKEN_SHAPE,
    "users": _TOKEN_SHAPE[1:],
}
#: What wrk runs for a shape, where it does more than send the same request again: ``varied`` has one more header, of
#: 55 bytes, which is another one in each request of a connection; ``users`` has the token of another user in each.
STEADY = CONFIGS / "result.lua"
SCRIPTS: dict[str, Path] = {"varied": CONFIGS / "varied.lua", "users": CONFIGS / "users.lua"}


@attrs.frozen
class Load:
    """What wrk sends.

    Attributes:
        headers: of every request.
        script: that wrk runs; the plain one sends the same request again and again.
        first: headers of one request that is good to send beforehand.
        env: variables that the script asks for.
    """

    headers: tuple[tuple[str, str], ...] = ()
    script: Path = STEADY
    first: tuple[tuple[str, str], ...] = ()
    env: Mapping[str, str] = attrs.field(factory=dict)


def load_of(shape: str, directory: Path) -> Load:
    """The load of one of :data:`SHAPES`; writes what its script reads to ``directory``."""
    script = SCRIPTS.get(shape, STEADY)
    if shape != "users":
        return Load(SHAPES[shape], script)
    tokens = directory / "tokens"
    tokens.write_text("\n".join(users.users().tokens), "ascii")
    return Load(SHAPES[shape], script, users.headers(), {"BENCH_TOKENS": str(tokens)})


@attrs.frozen
class Sample:
    """What one run of one proxy gave.

    Attributes:
        requests: completed in the run.
        cpu_us: CPU microseconds of the proxy per request.
        requests_per_s: throughput at 32 connections.
        p50_ms: median latency.
        p99_ms: 99th percentile of latency.
    """

    requests: int
    cpu_us: float
    requests_per_s: float
    p50_ms: float
    p99_ms: float


@attrs.frozen
class _Wrk:
    requests: int
    duration_s: float
    p50_us: float
    p99_us: float
    failed_statuses: int
    failed_sockets: int


def measure(
    proxy: RunningProxy,
    backend: Backend,
    *,
    seconds: int,
    load: Load,
) -> Sample:
    """Check one answer, warm up, then load the proxy for ``seconds``.

    Raises:
        BenchError: a wrong or failed answer, or answers that did not come from the backend.
    """
    if (body := get(proxy.port, headers=load.first)) != BODY:
        raise BenchError(f"{proxy.name} does not pass on the backend's body, but {body[:200]!r}")
    _wrk(proxy.port, WARM_UP_S, load)
    backend_before = backend.requests()
    cpu_before_s = proxy.process.cpu_s()
    result = _wrk(proxy.port, seconds, load)
    cpu_s = proxy.process.cpu_s() - cpu_before_s
    reached_backend = backend.requests() - backend_before - 1  # the second question
    if result.failed_statuses or result.failed_sockets or not result.requests:
        raise BenchError(
            f"{proxy.name}: of {result.requests} answers {result.failed_statuses} had an error status, and "
            f"{result.failed_sockets} connections failed; nothing is reported\n{proxy.process.output_tail()}"
        )
    if reached_backend < result.requests:
        raise BenchError(f"{proxy.name}: {result.requests} answers, but the backend saw only {reached_backend}")
    return Sample(
        requests=result.requests,
        cpu_us=cpu_s / result.requests * 1e6,
        requests_per_s=result.requests / result.duration_s,
        p50_ms=result.p50_us / 1000,
        p99_ms=result.p99_us / 1000,
    )


def _wrk(port: int, seconds: int, load: Load) -> _Wrk:
    argv = [program("wrk"), "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "-s", str(load.script)]
    for name, value in load.headers:
        argv += ["-H", f"{name}: {value}"]
    argv.append(f"http://127.0.0.1:{port}/")
    env = {**os.environ, "BENCH_CONFIGS": str(CONFIGS), **load.env}
    output = subprocess.run(argv, capture_output=True, text=True, timeout=seconds + 30, check=False, env=env)
    for line in output.stdout.splitlines():
        if line.startswith(_RESULT):
            return _Wrk(**json.loads(line.removeprefix(_RESULT)))
    raise BenchError(f"wrk failed: {output.stdout}{output.stderr}")
