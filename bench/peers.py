"""The proxies that are compared: how each is started, with one core and the same backend.

The gateway is one of them. All are plain reverse proxies with keep-alive on both sides; what their configurations
say beyond that is in ``bench/configs``.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import attrs

from bench import users
from bench.processes import PROXY_CORE, BenchError, PinnedProcess, free_port, wait_until_ready

HERE = Path(__file__).parent
CONFIGS = HERE / "configs"
PROXIES = HERE / "proxies"

GATEWAY = "gateway"
#: The same with its limits in Redis.
GATEWAY_REDIS = "gateway-redis"
#: Settings of the caller's shell that would reach the gateway under test.
_GATEWAY_PREFIXES = ("GATEWAY_", "OTEL_", "LOG_")


@attrs.frozen
class KeyPair:
    """Files in PEM form."""

    certificate: Path
    key: Path


@attrs.frozen
class Setup:
    """What a proxy is to do.

    Attributes:
        port: where it listens, on 127.0.0.1.
        backend_port: its only backend, on 127.0.0.1.
        directory: for its files; removed after the run.
        log: file for a JSON access log; None for no log.
        gateway_env: settings of the gateway under test, over those of the benchmark.
        is_secured: checks tokens of :mod:`bench.users`, limits rates, adds CORS and security headers.
        redis_port: of a server on 127.0.0.1 for those who keep their limits in Redis.
        tls: what to show clients over TLS; None for plain TCP.
    """

    port: int
    backend_port: int
    directory: Path
    log: Path | None = None
    gateway_env: Mapping[str, str] = attrs.field(factory=dict)
    is_secured: bool = False
    redis_port: int = 0
    tls: KeyPair | None = None


@attrs.frozen
class Command:
    """A command line, its environment, and the file for its standard output if that is its access log."""

    argv: list[str]
    env: Mapping[str, str]
    output: Path | None = None


@attrs.frozen
class Peer:
    """A proxy by name, and what it can do when the setup asks for it: write a JSON access log, keep the policies."""

    name: str
    command: Callable[[Setup], Command]
    can_log: bool = False
    can_secure: bool = False


@attrs.frozen
class RunningProxy:
    """A proxy that listens."""

    name: str
    port: int
    process: PinnedProcess


def program(name: str) -> str:
    """Path of a program: beside this interpreter (wheels put them there), else on PATH.

    Raises:
        BenchError: it is in neither place.
    """
    path = shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    if path is None:
        raise BenchError(f"{name} is not installed; see bench/README.md")
    return path


def write_config(template: str, target: Path, **values: object) -> Path:
    """Fill the ``@NAME@`` places of a file in ``bench/configs`` and write the result to ``target``."""
    text = (CONFIGS / template).read_text("utf-8")
    for name, value in values.items():
        text = text.replace(f"@{name.upper()}@", str(value))
    target.write_text(text, "utf-8")
    return target


def _one_core_go(setup: Setup) -> dict[str, str]:
    home = {
        "HOME": str(setup.directory),
        "XDG_DATA_HOME": str(setup.directory),
        "XDG_CONFIG_HOME": str(setup.directory),
    }
    return {**os.environ, **home, "GOMAXPROCS": "1"}


def _gateway(setup: Setup) -> Command:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(_GATEWAY_PREFIXES)}
    settings = {
        "GATEWAY_HOST": "127.0.0.1",
        "GATEWAY_PORT": str(setup.port),
        "GATEWAY_ADMIN_PORT": "0",
        "GATEWAY_ACCESS_LOG": "true" if setup.log else "false",
    }
    if setup.is_secured:
        settings |= users.settings()
    if setup.tls:
        settings |= {
            "GATEWAY_TLS_CERT_FILE": str(setup.tls.certificate),
            "GATEWAY_TLS_KEY_FILE": str(setup.tls.key),
        }
    routing = ("GATEWAY_BACKEND_TARGET", "GATEWAY_ROUTES_FILE", "GATEWAY_ROUTES")
    if not any(name in setup.gateway_env for name in routing):  # exactly one of the three is accepted
        settings["GATEWAY_BACKEND_TARGET"] = f"http://127.0.0.1:{setup.backend_port}"
    argv = [program("twistd"), "-n", "--pidfile=", "gateway"]
    return Command(argv, {**inherited, **settings, **setup.gateway_env}, output=setup.log)


def _gateway_redis(setup: Setup) -> Command:
    redis = {"GATEWAY_REDIS_URL": f"redis://127.0.0.1:{setup.redis_port}/0"}
    return _gateway(attrs.evolve(setup, gateway_env={**setup.gateway_env, **redis}))


def _nginx(setup: Setup) -> Command:
    log = f"{setup.log} json buffer=64k flush=1s" if setup.log else "off"
    values = {"port": setup.port, "backend_port": setup.backend_port, "dir": setup.directory, "access_log": log}
    config = write_config("nginx-proxy.conf", setup.directory / "nginx-proxy.conf", **values)
    return Command([nginx_program(), "-p", str(setup.directory), "-c", str(config)], os.environ)


def _envoy(setup: Setup) -> Command:
    format_file = CONFIGS / ("envoy-secured-log.yaml" if setup.is_secured else "envoy-log.yaml")
    log = format_file.read_text("utf-8").strip().replace("@LOG@", str(setup.log)) if setup.log else "[]"
    values = {"port": setup.port, "backend_port": setup.backend_port, "access_log": log}
    values |= {"codec": "HTTP1", "transport_socket": ""}
    if setup.tls:
        socket = (CONFIGS / "envoy-tls.yaml").read_text("utf-8").strip()
        socket = socket.replace("@CERTIFICATE@", str(setup.tls.certificate)).replace("@KEY@", str(setup.tls.key))
        values |= {"codec": "AUTO", "transport_socket": socket}
    template = "envoy.yaml"
    if setup.is_secured:
        template = "envoy-secured.yaml"
        jwks = setup.directory / "jwks.json"
        jwks.write_text(users.users().jwks, "utf-8")
        values |= {"issuer": users.ISSUER, "audience": users.AUDIENCE, "origin": users.ORIGIN, "jwks": jwks}
    config = write_config(template, setup.directory / "envoy.yaml", **values)
    argv = [program("envoy"), "-c", str(config), "--concurrency", "1", "--disable-hot-restart", "-l", "error"]
    return Command(argv, os.environ)


def _traefik(setup: Setup) -> Command:
    template = "traefik-secured.yaml" if setup.is_secured else "traefik.yaml"
    values = {"backend_port": setup.backend_port, "origin": users.ORIGIN}
    config = write_config(template, setup.directory / "routing.yaml", **values)
    options = [
        f"--entryPoints.traffic.address=127.0.0.1:{setup.port}",
        "--entryPoints.traffic.transport.respondingTimeouts.readTimeout=0",  # its 60 s would cut a slow upload
        f"--providers.file.filename={config}",
        "--providers.file.watch=false",
        "--log.level=ERROR",
        "--global.checkNewVersion=false",
        "--global.sendAnonymousUsage=false",
    ]
    if setup.is_secured:
        options += [
            "--accessLog.format=json",
            f"--accessLog.filePath={setup.log}",
            "--accessLog.bufferingSize=1000",
            "--metrics.prometheus=true",
            "--metrics.prometheus.addRoutersLabels=true",
            f"--entryPoints.traefik.address=127.0.0.1:{free_port()}",
        ]
    return Command([program("traefik"), *options], _one_core_go(setup))


def _caddy(setup: Setup) -> Command:
    log = f"log {{\n\t\toutput file {setup.log}\n\t\tformat json\n\t}}" if setup.log else ""
    values = {"port": setup.port, "backend_port": setup.backend_port, "access_log": log}
    config = write_config("Caddyfile", setup.directory / "Caddyfile", **values)
    argv = [program("caddy"), "run", "--config", str(config), "--adapter", "caddyfile"]
    return Command(argv, _one_core_go(setup))


def _script(name: str) -> Callable[[Setup], Command]:
    def command(setup: Setup) -> Command:
        return Command([sys.executable, str(PROXIES / name), str(setup.port), str(setup.backend_port)], os.environ)

    return command


def nginx_program() -> str:
    """Path of nginx; distributions put it where only root's PATH looks."""
    return "/usr/sbin/nginx" if Path("/usr/sbin/nginx").exists() else program("nginx")


PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer(GATEWAY, _gateway, can_log=True, can_secure=True),
        Peer(GATEWAY_REDIS, _gateway_redis, can_log=True, can_secure=True),
        Peer("nginx", _nginx, can_log=True),
        Peer("envoy", _envoy, can_log=True, can_secure=True),
        Peer("traefik", _traefik, can_secure=True),
        Peer("caddy", _caddy, can_log=True),
        Peer("aiohttp", _script("aiohttp_proxy.py")),
        Peer("twisted-reverseproxy", _script("twisted_reverseproxy.py")),
        Peer("site-treq", _script("site_treq.py")),
        Peer("site-treq-tuned", _script("site_treq_tuned.py")),
    )
}


@contextmanager
def running(
    name: str,
    backend_port: int,
    directory: Path,
    *,
    log: Path | None = None,
    gateway_env: Mapping[str, str] | None = None,
    is_secured: bool = False,
    redis_port: int = 0,
) -> Iterator[RunningProxy]:
    """A proxy of :data:`PEERS`, listening on a free port of the proxy's core until the block is left.

    Raises:
        BenchError: it is not installed or does not start.
    """
    home = directory / name
    home.mkdir(exist_ok=True)
    setup = Setup(free_port(), backend_port, home, log, gateway_env or {}, is_secured, redis_port)
    with started(PEERS[name], setup) as proxy:
        yield proxy


@contextmanager
def started(peer: Peer, setup: Setup) -> Iterator[RunningProxy]:
    """A peer that listens on its port, on the proxy's core, until the block is left.

    Raises:
        BenchError: it is not installed or does not start.
    """
    command = peer.command(setup)
    output = command.output or setup.directory / "output"
    errors = setup.directory / "errors"
    with PinnedProcess(command.argv, core=PROXY_CORE, output=output, errors=errors, env=command.env) as process:
        headers = users.headers() if setup.is_secured else ()
        wait_until_ready(process, setup.port, headers, is_tls=setup.tls is not None)
        yield RunningProxy(peer.name, setup.port, process)
