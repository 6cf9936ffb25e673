"""What a user's middleware is given to work with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from attrs import frozen
from twisted.logger import Logger

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorTime

#: Adds a value to a request's line in the access log: ``set(request, value)``.
SetField: TypeAlias = Callable[[Any, object], None]


class Metrics(Protocol):
    """Makes metrics whose names begin with ``gateway_middleware_NAME_``.

    Each is made once in a process: who asks again, on another route or after a reload, gets the same.
    """

    def counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Any:
        """With ``inc(amount=1)``; of several label values each has its own: ``labels(*values).inc()``."""

    def gauge(self, name: str, text: str, labels: Sequence[str] = ()) -> Any:
        """The same, with ``set(value)``, ``inc(amount=1)`` and ``dec(amount=1)``."""

    def histogram(self, name: str, text: str, labels: Sequence[str] = ()) -> Any:
        """The same, with ``observe(seconds)``."""


@frozen(kw_only=True)
class Context:
    """The collaborators of one middleware at one place.

    Attributes:
        name: what the configuration calls it.
        route: name of the route that it stands on; None at the edge.
        clock: of the reactor: ``seconds()`` never goes back, and ``callLater`` is there.
        epoch_s: wall clock, in seconds.
        random: for everything that is drawn.
        log: with a namespace of its own.
        metrics: makes counters, gauges and histograms; keep what it makes.
        log_field: takes the name of a field of the access log and returns what sets it, ``set(request, value)``;
            to be called when the middleware is made. Raises ValueError for a name that a line has already.
    """

    name: str
    route: str | None
    clock: IReactorTime
    epoch_s: Callable[[], float]
    random: Random
    log: Logger
    metrics: Metrics
    log_field: Callable[[str], SetField]
