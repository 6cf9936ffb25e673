"""What active checks make of a target: the rules by which results in a row become a state."""

from __future__ import annotations

from enum import Enum


class Health(Enum):
    """What active checks say of a target; ``unknown`` until they have said anything, and then it is used."""

    UNKNOWN = "unknown"
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class HealthState:
    """The health of one target.

    It changes after results in a row, so that a single lost packet takes no target away; but the first success of a
    target that has never been healthy is enough, so that nobody waits at start.

    Args:
        rise: successes in a row that make an unhealthy target healthy again, at least 1.
        fall: failures in a row that make a target unhealthy, at least 1.
        health: what others have found so far.

    Attributes:
        health: as of the last result.
    """

    __slots__ = ("_fall", "_has_been_healthy", "_in_a_row", "_rise", "_was_well", "health")

    def __init__(self, rise: int, fall: int, health: Health = Health.UNKNOWN) -> None:
        self.health = health
        self._rise = rise
        self._fall = fall
        self._has_been_healthy = health is not Health.UNKNOWN
        self._was_well = False
        self._in_a_row = 0

    def observe(self, is_well: bool) -> Health:
        """A check has ended; returns the health from now on."""
        self._in_a_row = self._in_a_row + 1 if is_well is self._was_well else 1
        self._was_well = is_well
        if not is_well:
            if self._in_a_row >= self._fall:
                self.health = Health.UNHEALTHY
        elif self._in_a_row >= self._rise or not self._has_been_healthy:
            self._has_been_healthy = True
            self.health = Health.HEALTHY
        return self.health
