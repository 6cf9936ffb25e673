"""``python -m bench http2``: requests and large bodies over HTTP/2 and TLS, and what streams that stand still cost."""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import attrs
import click

from bench.backends import BODY, SERVERS, Backend, fixed_body_backend, script_backend
from bench.certificates import key_pair
from bench.h2load import H2, H2C, HTTP1, HTTPS1, Done, Protocol, h2load
from bench.load import SHAPES
from bench.options import gateway_env_option, json_option, size_option_of
from bench.peers import GATEWAY, PEERS, Command, KeyPair, Peer, RunningProxy, Setup, started
from bench.processes import BenchError, free_port, get
from bench.report import Range, print_table, write_json
from bench.stalled import stalled_streams

#: What HTTP/1.1 over TLS may cost, as a multiple of HTTP/1.1 without it, on connections that are open already.
MAX_TLS_RATIO = 1.8
#: What a download over HTTP/2 has to reach, as a share of one over HTTP/1.1, both without TLS.
MIN_DOWNLOAD_RATIO = 0.4
CLIENTS, STREAMS = 8, 10
#: As many connections as in the comparison of the proxies.
HTTP1_CLIENTS = 32
#: Fewer requests than these say nothing about how many a second there will be.
TRIAL_REQUESTS = 800
#: What is freed a moment later than it could have been is no matter.
SETTLE_S = 1.0
MIB = 2**20
SITE = "site-http2"

_T = TypeVar("_T")


def _site(setup: Setup) -> Command:
    if setup.tls is None:
        raise BenchError(f"{SITE} is for TLS")
    script = SERVERS / "site_http2.py"
    argv = [sys.executable, str(script), str(setup.port), str(setup.tls.certificate), str(setup.tls.key)]
    return Command(argv, os.environ)


#: Those that can speak HTTP/2 over TLS with clients.
SPEAKERS: dict[str, Peer] = {GATEWAY: PEERS[GATEWAY], SITE: Peer(SITE, _site), "envoy": PEERS["envoy"]}


@attrs.frozen
class Sample:
    """One turn: CPU microseconds of the server per request, requests a second, and MB of bodies a second."""

    cpu_us: float
    requests_per_s: float
    mb_per_s: float


Rounds = list[dict[str, Sample]]


@attrs.frozen
class Stalled:
    """Memory of the gateway without and with streams that stand still."""

    streams: int
    size_bytes: int
    received_bytes: int
    rss_before_bytes: int
    rss_with_bytes: int
    peak_bytes: int


@attrs.frozen
class TwoPorts:
    """A gateway that listens with and without TLS."""

    proxy: RunningProxy
    tls_port: int

    def port(self, protocol: Protocol) -> int:
        """Where a protocol is spoken."""
        return self.tls_port if protocol.is_tls else self.proxy.port


def _servers(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in value.split(",")))
    for name in names:
        if name not in SPEAKERS:
            raise click.BadParameter(f"{name!r} is none of {', '.join(SPEAKERS)}")
    return names


@click.command()
@click.option("--rounds", type=click.IntRange(1, 100), default=3, show_default=True, help="Turns of each.")
@click.option("--seconds", type=click.IntRange(1, 600), default=4, show_default=True, help="Length of a turn.")
@click.option("--shape", type=click.Choice(["small", "token"]), default="small", show_default=True, help="The request.")
@click.option(
    "--servers", default=",".join(SPEAKERS), show_default=True, callback=_servers,
    help="Comma separated; the others are compared with the first.",
)  # fmt: skip
@size_option_of("64MiB")
@click.option("--downloads", type=click.IntRange(1, 1000), default=5, show_default=True, help="Bodies in a turn.")
@click.option("--streams", type=click.IntRange(1, 1000), default=100, show_default=True, help="That stand still.")
@gateway_env_option
@json_option
def http2(
    rounds: int,
    seconds: int,
    shape: str,
    servers: tuple[str, ...],
    size_bytes: int,
    downloads: int,
    streams: int,
    gateway_env: Mapping[str, str],
    json_path: Path | None,
) -> None:
    """CPU per request over HTTP/2, what TLS adds, large downloads, stalled streams; exit 1 if a bar is missed."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        pair = key_pair(directory)
        with fixed_body_backend(directory) as backend:
            compared = compare(servers, backend, pair, directory, rounds, seconds, shape, gateway_env)
            with gateway_on_two_ports(backend.port, pair, directory, gateway_env) as gateway:
                kept_alive = keep_alive(gateway, backend, rounds, seconds, shape)
        with script_backend("bodies_backend.py", directory) as bodies:
            with gateway_on_two_ports(bodies.port, pair, directory, gateway_env) as gateway:
                downloaded = download(gateway, rounds, downloads, size_bytes)
            with gateway_on_two_ports(bodies.port, pair, directory, gateway_env) as gateway:
                stalled = stall(gateway, streams, size_bytes)
    missed = [
        *print_requests(f"HTTP/2 over TLS, {CLIENTS} connections, {STREAMS} streams each", compared, "server", None),
        *print_requests(f"{HTTP1_CLIENTS} kept-alive connections", kept_alive, "protocol", (HTTPS1, MAX_TLS_RATIO)),
        *print_downloads(downloaded, size_bytes),
    ]
    print_stalled(stalled)
    if json_path is not None:
        results = {"requests": compared, "kept_alive": kept_alive, "downloads": downloaded, "stalled": stalled}
        write_json(json_path, benchmark="http2", shape=shape, gateway_env=gateway_env, missed=missed, **results)
    if missed:
        raise BenchError("; ".join(missed))


# --- measuring -----------------------------------------------------------------------------------------------------------


@contextmanager
def gateway_on_two_ports(
    backend_port: int, pair: KeyPair, directory: Path, gateway_env: Mapping[str, str]
) -> Iterator[TwoPorts]:
    """A new gateway, the same for all protocols, so that nothing but the protocol differs."""
    plain, tls = free_port(), free_port()
    listening = {
        "GATEWAY_LISTEN": f"tcp:{tls}:interface=127.0.0.1 tcp:{plain}:interface=127.0.0.1;plain",
        "GATEWAY_TLS_CERT_FILE": str(pair.certificate),
        "GATEWAY_TLS_KEY_FILE": str(pair.key),
    }
    home = directory / "two-ports"
    home.mkdir(exist_ok=True)
    setup = Setup(plain, backend_port, home, gateway_env=listening | dict(gateway_env))
    with started(PEERS[GATEWAY], setup) as proxy:
        yield TwoPorts(proxy, tls)


def compare(
    names: Sequence[str],
    backend: Backend,
    pair: KeyPair,
    directory: Path,
    rounds: int,
    seconds: int,
    shape: str,
    gateway_env: Mapping[str, str],
) -> Rounds:
    """One turn of each server in each round, every turn with a new process; the order moves on."""
    results: Rounds = []
    for number in range(rounds):
        samples: dict[str, Sample] = {}
        for name in moved(names, number):
            home = directory / name
            home.mkdir(exist_ok=True)
            setup = Setup(free_port(), backend.port, home, gateway_env=gateway_env, tls=pair)
            with started(SPEAKERS[name], setup) as proxy:
                if (body := get(proxy.port, is_tls=True)) != BODY:
                    raise BenchError(f"{name} does not answer with the backend's body, but with {body[:200]!r}")
                reached = None if name == SITE else backend
                samples[name] = turn(proxy, proxy.port, H2, seconds, shape, reached)
            click.echo(f"round {number + 1}: {name} {samples[name].cpu_us:.1f} µs", err=True)
        results.append({name: samples[name] for name in names})
    return results


def keep_alive(gateway: TwoPorts, backend: Backend, rounds: int, seconds: int, shape: str) -> Rounds:
    """HTTP/1.1 with and without TLS, in turns."""
    results: Rounds = []
    for number in range(rounds):
        samples = {}
        for protocol in moved((HTTP1, HTTPS1), number):
            port = gateway.port(protocol)
            samples[protocol.name] = turn(gateway.proxy, port, protocol, seconds, shape, backend)
        results.append({protocol.name: samples[protocol.name] for protocol in (HTTP1, HTTPS1)})
        click.echo(f"round {number + 1}: HTTP/1.1 with and without TLS", err=True)
    return results


def download(gateway: TwoPorts, rounds: int, downloads: int, size_bytes: int) -> Rounds:
    """Large bodies, one after the other on one connection, over each protocol in turns."""
    protocols = (HTTP1, H2C, HTTPS1, H2)
    results: Rounds = []
    for number in range(rounds):
        samples = {}
        for protocol in moved(protocols, number):
            ask = _asking(gateway.port(protocol), protocol, clients=1, streams=1, path=f"/{size_bytes}")
            ask(1)
            samples[protocol.name] = sample(gateway.proxy, ask, downloads, size_bytes)
        results.append({protocol.name: samples[protocol.name] for protocol in protocols})
        click.echo(f"round {number + 1}: downloads", err=True)
    return results


def stall(gateway: TwoPorts, streams: int, size_bytes: int) -> Stalled:
    """As many downloads on one connection over HTTP/2 and TLS, none of which is granted more than the first window."""
    process, port = gateway.proxy.process, gateway.port(H2)
    h2load(port, H2, clients=1, streams=10, requests=20, path=f"/{MIB}")  # warm: code loaded, connections open
    time.sleep(SETTLE_S)
    process.reset_peak()
    rss_before_bytes = process.rss_bytes()
    with stalled_streams(port, streams, f"/{size_bytes}") as received_bytes:
        return Stalled(
            streams, size_bytes, received_bytes, rss_before_bytes, process.rss_bytes(), process.peak_rss_bytes()
        )


def turn(
    proxy: RunningProxy, port: int, protocol: Protocol, seconds: int, shape: str, backend: Backend | None
) -> Sample:
    """As many requests as take about ``seconds``, after a second's worth of them.

    Raises:
        BenchError: one failed, or the answers did not come from the backend, if one is given.
    """
    clients, streams = (CLIENTS, STREAMS) if protocol.is_http2 else (HTTP1_CLIENTS, 1)
    ask = _asking(port, protocol, clients=clients, streams=streams, path="/", headers=SHAPES[shape])
    ask(TRIAL_REQUESTS)
    trial = ask(TRIAL_REQUESTS)
    per_s = trial.requests / trial.seconds
    warm = ask(max(TRIAL_REQUESTS, int(per_s)))
    requests = max(TRIAL_REQUESTS, int(warm.requests / warm.seconds * seconds))
    before = backend.requests() if backend else 0
    result = sample(proxy, ask, requests, len(BODY))
    reached = backend.requests() - before - 1 if backend else requests  # the second question
    if reached < requests:
        raise BenchError(f"{proxy.name}: {requests} answers, but the backend saw only {reached}")
    return result


def sample(proxy: RunningProxy, ask: Callable[[int], Done], requests: int, size_bytes: int) -> Sample:
    """What so many requests, with bodies of this size, cost the server.

    Raises:
        BenchError: the bodies were not as long as that.
    """
    cpu_before_s = proxy.process.cpu_s()
    done = ask(requests)
    cpu_s = proxy.process.cpu_s() - cpu_before_s
    if done.body_bytes != requests * size_bytes:
        raise BenchError(f"{proxy.name}: {done.body_bytes:,} bytes instead of {requests:,} times {size_bytes:,}")
    return Sample(
        cpu_us=cpu_s / requests * 1e6,
        requests_per_s=requests / done.seconds,
        mb_per_s=done.body_bytes / done.seconds / 1e6,
    )


def _asking(
    port: int,
    protocol: Protocol,
    *,
    clients: int,
    streams: int,
    path: str,
    headers: Sequence[tuple[str, str]] = (),
) -> Callable[[int], Done]:
    def ask(requests: int) -> Done:
        return h2load(
            port, protocol, clients=clients, streams=streams, requests=requests, path=path, headers=headers
        )  # fmt: skip

    return ask


def moved(values: Sequence[_T], by: int) -> list[_T]:
    """The values in the order of a round."""
    shift = by % len(values)
    return [*values[shift:], *values[:shift]]


# --- reporting -----------------------------------------------------------------------------------------------------------


def print_requests(title: str, rounds: Rounds, what: str, bar: tuple[Protocol, float] | None) -> list[str]:
    """A row for each; returns what missed the bar."""
    first, *_ = rounds[0]
    rows, missed = [], []
    for name in rounds[0]:
        cpu_us = Range.of(samples[name].cpu_us for samples in rounds)
        per_s = statistics.median(samples[name].requests_per_s for samples in rounds)
        # The first server against each other one; each protocol against the first.
        ratio = Range.of(
            samples[first].cpu_us / samples[name].cpu_us
            if bar is None
            else samples[name].cpu_us / samples[first].cpu_us
            for samples in rounds
        )
        most = bar[1] if bar is not None and bar[0].name == name else None
        rows.append([name, cpu_us.text(1), f"{per_s:,.0f}", ratio.text(2), f"at most {most}" if most else ""])
        if most and ratio.median > most:
            missed.append(f"{name} costs {ratio.median:.2f} times {first}")
    ratio_head = f"CPU of {first} ÷ its CPU" if bar is None else f"its CPU ÷ CPU of {first}"
    click.echo(f"\n{title}\n")
    print_table([what, "CPU µs/request", "requests/s", ratio_head, "bar"], rows)
    return missed


def print_downloads(rounds: Rounds, size_bytes: int) -> list[str]:
    """A row for each protocol; returns what missed the bar."""
    first = HTTP1.name
    rows, missed = [], []
    for name in rounds[0]:
        mb_per_s = Range.of(samples[name].mb_per_s for samples in rounds)
        cpu_s = Range.of(samples[name].cpu_us / size_bytes * 2**30 / 1e6 for samples in rounds)
        ratio = Range.of(samples[name].mb_per_s / samples[first].mb_per_s for samples in rounds)
        is_barred = name == H2C.name
        bar = f"at least {MIN_DOWNLOAD_RATIO}" if is_barred else ""
        rows.append([name, mb_per_s.text(0), cpu_s.text(2), ratio.text(2), bar])
        if is_barred and ratio.median < MIN_DOWNLOAD_RATIO:
            missed.append(f"downloads over {name} reach {ratio.median:.2f} of those over {first}")
    click.echo(f"\ndownloads of {size_bytes / MIB:,.0f} MiB\n")
    print_table(["protocol", "MB/s", "CPU s/GiB", f"its MB/s ÷ MB/s of {first}", "bar"], rows)
    return missed


def print_stalled(one: Stalled) -> None:
    """One row."""
    click.echo(f"\nstreams of {one.size_bytes / MIB:,.0f} MiB that stand still, on one connection over TLS\n")
    growth_bytes = one.rss_with_bytes - one.rss_before_bytes
    print_table(
        ["streams", "received MiB", "RSS before MiB", "RSS with MiB", "growth MiB", "peak growth MiB", "KiB/stream"],
        [
            [
                f"{one.streams:,}",
                f"{one.received_bytes / MIB:.1f}",
                f"{one.rss_before_bytes / MIB:.1f}",
                f"{one.rss_with_bytes / MIB:.1f}",
                f"{growth_bytes / MIB:.1f}",
                f"{max(0, one.peak_bytes - one.rss_before_bytes) / MIB:.1f}",
                f"{growth_bytes / one.streams / 1024:.1f}",
            ]
        ],
    )
