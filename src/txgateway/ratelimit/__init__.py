"""Rate limits: token buckets, and the two stores that keep them, memory and Redis.

Which requests share a bucket is decided above, in the middleware; here a bucket has a key of bytes.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import Deferred

from txgateway.ratelimit.bucket import Bucket, Decision, Limit

__all__ = ["Bucket", "Decision", "Limit", "Limiter", "Limiters"]


class Limiter(Protocol):
    """One limit, as it is written in one place, with all its buckets."""

    @property
    def limit(self) -> Limit:
        """What is enforced."""

    def take(self, key: bytes) -> Decision | Deferred[Decision]:
        """Take a token of the buckets of ``key``, if each of them has one; the Deferred never fails."""


class Limiters(Protocol):
    """Makes limiters over one store."""

    @property
    def degraded(self) -> bool:
        """Whether decisions are made without the store that is configured."""

    def limiter(self, place: str, limit: Limit, on_store_error: str) -> Limiter:
        """The limiter of a place; the same one, as long as anybody holds it, for the same arguments.

        Args:
            place: where the limit is written; two places never share a bucket.
            limit: what to enforce.
            on_store_error: ``local``, ``open`` or ``closed``: who decides when the store does not.
        """
