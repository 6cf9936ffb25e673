"""``python -m bench idle``: what an idle kept-alive connection costs each proxy in memory, and all of them in CPU."""

from __future__ import annotations

import resource
import socket
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import attrs
import click

from bench.backends import BODY, fixed_body_backend
from bench.options import gateway_env_option, json_option, proxies_option
from bench.peers import RunningProxy, running
from bench.processes import BenchError
from bench.report import print_table, write_json

#: Descriptors beyond the idle connections: backend pool, logs, libraries.
SPARE_DESCRIPTORS = 500
WARM_UP_REQUESTS = 200
#: CPU is watched for this long while nothing happens; short of every proxy's keep-alive timeout.
QUIET_S = 3.0
TIMEOUT_S = 20.0
MAX_ANSWER_BYTES = 64 * 1024
REQUEST = b"GET / HTTP/1.1\r\nHost: bench.example\r\n\r\n"


@attrs.frozen
class Idle:
    """Memory of one proxy without and with idle connections; ``cpu_share`` of one core while they are idle."""

    proxy: str
    connections: int
    rss_before_bytes: int
    rss_with_bytes: int
    cpu_share: float

    @property
    def per_connection_bytes(self) -> float:
        """Growth divided by connections."""
        return (self.rss_with_bytes - self.rss_before_bytes) / self.connections


@click.command()
@click.option("--connections", type=click.IntRange(1, 19_000), default=10_000, show_default=True)
@proxies_option(("gateway", "nginx", "envoy", "traefik", "caddy", "aiohttp"))
@gateway_env_option
@json_option
def idle(connections: int, proxies: tuple[str, ...], gateway_env: Mapping[str, str], json_path: Path | None) -> None:
    """Memory of idle keep-alive connections; each has served one request."""
    raise_descriptor_limit(connections + SPARE_DESCRIPTORS)
    env = {"GATEWAY_MAX_CONNECTIONS": str(connections + SPARE_DESCRIPTORS)} | dict(gateway_env)
    results = []
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        directory = Path(name)
        with fixed_body_backend(directory) as backend:
            for proxy_name in proxies:
                with running(proxy_name, backend.port, directory, gateway_env=env) as proxy:
                    results.append(measure(proxy, connections))
    print_table(
        ["proxy", "connections", "RSS before MiB", "RSS with MiB", "bytes/connection", "CPU while idle"],
        [
            [
                one.proxy,
                f"{one.connections:,}",
                f"{one.rss_before_bytes / 2**20:.1f}",
                f"{one.rss_with_bytes / 2**20:.1f}",
                f"{one.per_connection_bytes:,.0f}",
                f"{one.cpu_share:.1%}",
            ]
            for one in results
        ],
    )
    if json_path is not None:
        write_json(json_path, benchmark="idle", gateway_env=gateway_env, results=results)


def measure(proxy: RunningProxy, connections: int) -> Idle:
    """Open the connections one after the other, with one request each, and leave them open.

    Raises:
        BenchError: a connection was refused, answered wrongly, or closed while it was idle.
    """
    with ExitStack() as warm_up:
        connection = warm_up.enter_context(open_connection(proxy))
        for _ in range(WARM_UP_REQUESTS):
            get_on(connection, proxy)
    rss_before_bytes = proxy.process.rss_bytes()
    with ExitStack() as stack:
        opened = []
        for _ in range(connections):
            opened.append(stack.enter_context(open_connection(proxy)))
            get_on(opened[-1], proxy)
        rss_with_bytes = proxy.process.rss_bytes()
        cpu_before_s = proxy.process.cpu_s()
        time.sleep(QUIET_S)
        cpu_s = proxy.process.cpu_s() - cpu_before_s
        closed = sum(1 for connection in opened if is_closed(connection))
    if closed:
        raise BenchError(f"{proxy.name} closed {closed} of {connections} idle connections")
    click.echo(f"{proxy.name}: {connections} idle connections", err=True)
    return Idle(proxy.name, connections, rss_before_bytes, rss_with_bytes, cpu_s / QUIET_S)


def open_connection(proxy: RunningProxy) -> socket.socket:
    """A connection to the proxy.

    Raises:
        BenchError: refused, or not accepted in time.
    """
    try:
        return socket.create_connection(("127.0.0.1", proxy.port), timeout=TIMEOUT_S)
    except OSError as exc:
        raise BenchError(f"{proxy.name}: {exc!r}\n{proxy.process.output_tail()}") from exc


def get_on(connection: socket.socket, proxy: RunningProxy) -> None:
    """One GET on an open connection.

    Raises:
        BenchError: anything but the backend's answer.
    """
    try:
        connection.sendall(REQUEST)
        answer = b""
        while not answer.endswith(BODY):
            data = connection.recv(MAX_ANSWER_BYTES)
            answer += data
            if not data or len(answer) > MAX_ANSWER_BYTES:
                raise BenchError(f"{proxy.name} answered {answer[:200]!r}")
    except OSError as exc:
        raise BenchError(f"{proxy.name}: {exc!r}\n{proxy.process.output_tail()}") from exc


def is_closed(connection: socket.socket) -> bool:
    """Whether the peer has closed an idle connection."""
    connection.setblocking(False)
    try:
        connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def raise_descriptor_limit(needed: int) -> None:
    """Raise the soft limit to the hard one, for this process and those it starts.

    Raises:
        BenchError: the hard limit is below ``needed``.
    """
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise BenchError(f"{needed} descriptors are needed, the hard limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
