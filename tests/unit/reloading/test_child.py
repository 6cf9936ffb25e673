"""The child as a process: frames on its standard output and nothing else, whatever the modules that it imports do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from txgateway.config import Problem, load
from txgateway.reloading.transfer import Received, TransferError, split_frames

TOP = Path(__file__).parents[3]
PATIENCE_S = 30.0
RESOURCE = "\nfrom twisted.web.resource import Resource\nsite = Resource()\n"


def run(directory: Path, environ: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    paths = os.pathsep.join((str(directory), str(TOP / "src")))
    return subprocess.run(
        [sys.executable, "-m", "txgateway.reloading.child"],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": paths, **environ},
        cwd=directory,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )


def read(output: bytes) -> Received:
    received, buffer = Received(), bytearray(output)
    for frame in split_frames(buffer):
        received.take(frame)
    assert not buffer
    return received


def mounted(directory: Path, source: str) -> dict[str, str]:
    """The variables of a route that ends at a resource of this module."""
    (directory / "ours.py").write_text(source)
    route = {"name": "r", "path": "/", "resource": "ours:site"}
    return {"GATEWAY_ROUTES": json.dumps({"routes": [route]})}


def test_configuration_is_that_of_its_environment(tmp_path: Path) -> None:
    environ = {"GATEWAY_BACKEND_TARGET": "http://10.0.0.1", "GATEWAY_RATE_LIMIT": "5/s"}
    ended = run(tmp_path, environ)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert read(ended.stdout).configuration() == load(environ)


def test_all_problems_are_told(tmp_path: Path) -> None:
    ended = run(tmp_path, {"GATEWAY_PORT": "x", "GATEWAY_HOST": "/"})
    received = read(ended.stdout)
    assert {problem.where for problem in received.problems} >= {"GATEWAY_PORT", "GATEWAY_HOST"}
    assert ended.returncode == 0
    with pytest.raises(TransferError):
        received.configuration()


@pytest.mark.parametrize(
    "noise",
    [
        "print('hello')",
        "import sys; sys.stdout.write('x' * 100_000)",
        "import os; os.write(1, b'raw')",
        "import atexit; atexit.register(print, 'bye')",
        "import subprocess; subprocess.run(['echo', 'from a child'])",
    ],
)
def test_what_modules_print_does_not_come_between(tmp_path: Path, noise: str) -> None:
    ended = run(tmp_path, mounted(tmp_path, noise + RESOURCE))
    assert ended.returncode == 0
    assert [route.name for route in read(ended.stdout).configuration().routes] == ["r"]


def test_what_modules_print_can_be_read(tmp_path: Path) -> None:
    assert run(tmp_path, mounted(tmp_path, "print('hello')" + RESOURCE)).stderr == b"hello\n"


def test_threads_of_modules_are_not_waited_for(tmp_path: Path) -> None:
    thread = "import threading\nthreading.Thread(target=threading.Event().wait).start()"
    assert read(run(tmp_path, mounted(tmp_path, thread + RESOURCE)).stdout).configuration().routes


@pytest.mark.parametrize("source", ["import no_such_module", "site = 1", "raise ValueError('no')", ""])
def test_module_that_cannot_be_mounted_is_a_problem(tmp_path: Path, source: str) -> None:
    ended = run(tmp_path, mounted(tmp_path, source))
    (problem,) = read(ended.stdout).problems
    assert isinstance(problem, Problem)
    assert problem.where == "routes[0].resource"


def test_module_that_ends_the_process_leaves_nothing(tmp_path: Path) -> None:
    ended = run(tmp_path, mounted(tmp_path, "raise SystemExit(3)"))
    assert (ended.returncode, ended.stdout) == (3, b"")
