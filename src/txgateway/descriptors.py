"""How many files the process may have open: as many as the system lets it."""

from __future__ import annotations

import resource
from typing import Final

from twisted.logger import Logger

_log = Logger(__name__)

#: Descriptors beside two per connection: listeners, logs, idle connections to targets.
SPARE: Final = 256


def raise_limit(max_connections: int, *, is_told: bool) -> None:
    """Raise the soft limit to the hard one, and warn if that is too low for so many connections of clients."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    needed = 2 * max_connections + SPARE
    if is_told and hard != resource.RLIM_INFINITY and hard < needed:
        _log.warn(
            "descriptor limit: {limit} open files are too few for GATEWAY_MAX_CONNECTIONS; {needed} are needed. Raise it "
            "with LimitNOFILE= or ulimit -Hn, or lower the setting",
            limit=hard,
            needed=needed,
        )
