"""What a supervisor tells a worker when it starts it: one environment variable, and descriptors."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

import attrs
import orjson

#: The variable. It is no setting: nobody but the supervisor sets it, and a worker takes it out at once.
VARIABLE = "TXGATEWAY_WORKER"


@attrs.frozen
class Assignment:
    """A worker's part.

    Attributes:
        index: its place, from 0.
        workers: how many places there are.
        channel: descriptor of a socket to the supervisor.
        shared: descriptor of memory that all workers have, which they also lock before they write to their common log.
        listeners: descriptors of listening sockets, in the order of the settings, the one for redirects last.
    """

    index: int
    workers: int
    channel: int
    shared: int
    listeners: tuple[int, ...]

    def text(self) -> str:
        """As the variable has it."""
        return orjson.dumps(attrs.asdict(self)).decode()


def take_assignment(environ: MutableMapping[str, str]) -> Assignment | None:
    """The assignment of this process, taken out of its environment; None for a gateway of its own.

    Raises:
        ValueError: the variable was set by somebody else.
    """
    text = environ.pop(VARIABLE, None)
    if text is None:
        return None
    try:
        found = orjson.loads(text)
        assignment = Assignment(**{**found, "listeners": tuple(found["listeners"])})
    except (TypeError, KeyError, ValueError) as exc:
        raise ValueError(f"{VARIABLE} is set by the gateway itself, for its workers") from exc
    for descriptor in (assignment.channel, assignment.shared, *assignment.listeners):
        os.set_inheritable(descriptor, False)
    return assignment


def worker_count(setting: int | str) -> int:
    """The number of processes that ``GATEWAY_WORKERS`` means; ``auto`` is one for each CPU that may be used."""
    return len(os.sched_getaffinity(0)) if setting == "auto" else int(setting)
