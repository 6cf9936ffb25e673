"""Random ids that nobody can guess, of requests and of traces."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Final

_IDS_AT_ONCE: Final = 256
#: What no trace or span id may be, and what only one in 10^18 has anywhere.
_ZEROS: Final = "0" * 16


def random_ids(size: int, random_bytes: Callable[[int], bytes] = os.urandom) -> Callable[[], str]:
    """A maker of ids of so many bytes, as hexadecimal digits; no 8 bytes of one are all zero.

    Args:
        random_bytes: a source fit for secrets; asked for a few hundred ids at a time, which makes one cost little.
    """
    digits = 2 * size
    ids: Iterator[str] = iter(())

    def new_id() -> str:
        nonlocal ids
        while True:
            for new in ids:
                return new
            drawn = random_bytes(size * _IDS_AT_ONCE).hex()
            chosen = (drawn[start : start + digits] for start in range(0, len(drawn), digits))
            ids = iter([new for new in chosen if _ZEROS not in new])

    return new_id
