from __future__ import annotations

import os
import sys

import pytest

from txgateway.workers.assignment import VARIABLE, Assignment, take_assignment, worker_count
from txgateway.workers.spawning import worker_command


def test_assignment_is_taken_out_of_the_environment_and_not_handed_on() -> None:
    descriptors = [os.dup(2) for _ in range(4)]
    try:
        for descriptor in descriptors:
            os.set_inheritable(descriptor, True)
        assignment = Assignment(1, 3, descriptors[0], descriptors[1], tuple(descriptors[2:]))
        environ = {VARIABLE: assignment.text(), "A": "b"}
        assert take_assignment(environ) == assignment
        assert environ == {"A": "b"}
        assert not any(os.get_inheritable(descriptor) for descriptor in descriptors)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    assert take_assignment(environ) is None


@pytest.mark.parametrize("text", ["", "1", "{", "[]", "{}", '{"index":0}', '{"listeners":[]}', '{"listeners":1}'])
def test_variable_that_somebody_else_has_set_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="set by the gateway itself"):
        take_assignment({VARIABLE: text})


def test_number_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [worker_count(setting) for setting in (1, 7)] == [1, 7]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 3, 5})
    assert worker_count("auto") == 3


@pytest.mark.parametrize(
    ("arguments", "logfile", "expected"),
    [
        (["/bin/twistd", "-n", "--pidfile=", "gateway"], None, []),
        (["/bin/twistd", "-ny", "gateway"], "/log", ["--logfile=/log"]),
        (["/bin/twistd", "--reactor", "poll", "gateway"], None, ["--reactor=poll"]),
        (["/bin/twistd", "--reactor=asyncio", "gateway"], "/log", ["--reactor=asyncio", "--logfile=/log"]),
        (["/bin/twistd", "-r", "epoll", "-n", "gateway"], None, ["--reactor=epoll"]),
    ],
)
def test_command_of_a_worker(arguments: list[str], logfile: str | None, expected: list[str]) -> None:
    assert worker_command(arguments, logfile) == [
        sys.executable, "/bin/twistd", "-n", "--pidfile=", *expected, "gateway",
    ]  # fmt: skip


def test_command_is_the_same_wherever_the_process_goes() -> None:
    command = worker_command(["twistd", "gateway"], "log")
    assert command[1].startswith("/")
    assert command[4].startswith("--logfile=/")
