"""Whether, when and how often a failed attempt is repeated."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

from txgateway.config.groups import Retry
from txgateway.errors import (
    UpstreamConnectFailed,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamReset,
    UpstreamSilent,
    UpstreamTimeout,
    UpstreamTlsError,
)
from txgateway.proxy.window import RollingCount

__all__ = ["BUDGET_WINDOW_S", "MAX_RETRY_AFTER_S", "RetryBudget", "RetryPolicy", "retry_after_s"]

#: Seconds that a budget looks back, or up to a tenth more.
BUDGET_WINDOW_S: Final = 10.0

#: Seconds; more is taken for this (RFC 9111 section 1.2.2 has the number, for times of the same form).
MAX_RETRY_AFTER_S: Final = 2.0**31

#: Words of ``on`` and the errors they mean. ``connect`` means one kind of timeout besides; the words that are not here
#: (``5xx``, ``grpc-unavailable``) mean answers.
_ERRORS: Final[dict[str, tuple[type[UpstreamError], ...]]] = {
    "connect": (UpstreamConnectFailed, UpstreamTlsError),
    "reset": (UpstreamReset, UpstreamProtocolError),
    "timeout": (UpstreamTimeout,),
    "refused_stream": (UpstreamRefused,),
}

#: RFC 9110 section 5.6.7: IMF-fixdate, rfc850-date, asctime-date. Names and ranges are left to the parser.
_HTTP_DATE: Final = re.compile(
    rb"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} [1-9]\d{3} \d\d:\d\d:\d\d GMT"
    rb"|[A-Z][a-z]{5,8}, \d\d-[A-Z][a-z]{2}-\d\d \d\d:\d\d:\d\d GMT"
    rb"|[A-Z][a-z]{2} [A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d [1-9]\d{3}"
)


class RetryBudget:
    """Keeps retries a small share of a backend's requests, so that they do not finish off one that is overloaded.

    Both are counted over :data:`BUDGET_WINDOW_S`. Routes of a backend share its budget, and each has a share and a
    minimum of its own; every retry counts for all of them. Times are clock seconds that do not go back.
    """

    __slots__ = ("_requests", "_retries")

    def __init__(self) -> None:
        self._requests = RollingCount(BUDGET_WINDOW_S)
        self._retries = RollingCount(BUDGET_WINDOW_S)

    def __repr__(self) -> str:
        return f"<RetryBudget requests {self._requests}, retries {self._retries}>"

    def request(self, now: float) -> None:
        """A request begins; attempts after its first do not count as requests."""
        self._requests.add(now)

    def take(self, now: float, percent: int, minimum: int) -> bool:
        """Take one retry, if there is one left.

        Args:
            now: clock seconds.
            percent: retries per hundred requests; a part of one counts for nothing.
            minimum: retries that there are besides, however few the requests.

        Returns:
            whether there was one.
        """
        share = self._requests.total(now) * percent
        if (self._retries.total(now) + 1 - minimum) * 100 > share:
            return False
        self._retries.add(now)
        return True


class RetryPolicy:
    """What a route says about repeating attempts, made ready for many requests.

    Attributes:
        max_attempts: of a request, the first included; with 1 nothing is repeated.
        percent: of the backend's requests that may be retries, for :meth:`RetryBudget.take`.
        minimum: retries that there may be besides.
        max_body_bytes: of a request that can be repeated.
        methods: that may be repeated after bytes of the request were sent.
        repeats_unavailable: a gRPC call may be repeated that was answered with UNAVAILABLE and nothing else.
    """

    __slots__ = (
        "_backoff_max_s", "_backoff_s", "_errors", "_has_connect", "_statuses", "max_attempts", "max_body_bytes",
        "methods", "minimum", "percent", "repeats_unavailable",
    )  # fmt: skip

    def __init__(self, settings: Retry) -> None:
        self.max_attempts = settings.max_attempts
        self.percent = settings.budget_percent
        self.minimum = settings.budget_min
        self.max_body_bytes = settings.max_body_bytes
        self.methods = frozenset(method.encode("ascii") for method in settings.methods)
        self._backoff_s = settings.backoff_s
        self._backoff_max_s = settings.backoff_max_s
        on = settings.on if settings.max_attempts > 1 else ()
        self._has_connect = "connect" in on
        self.repeats_unavailable = "grpc-unavailable" in on
        self._errors = tuple(error for word in on for error in _ERRORS.get(word, ()))
        statuses = {int(word) for word in on if word.isdigit()}
        self._statuses = frozenset(statuses.union(range(500, 600) if "5xx" in on else ()))

    def repeats_error(self, error: UpstreamError, method: bytes, was_sent: bool) -> bool:
        """Whether an attempt that failed without a response may be repeated.

        Args:
            error: what it failed of.
            method: of the request.
            was_sent: a byte of the request may have reached a target; if none did, any method is safe.
        """
        if was_sent and method not in self.methods and not isinstance(error, UpstreamRefused):
            return False
        return isinstance(error, self._errors) or (self._has_connect and _is_connect_timeout(error))

    def repeats_status(self, status: int, method: bytes) -> bool:
        """Whether a request that got a response of this status may be repeated."""
        return status in self._statuses and method in self.methods

    def backoff_s(self, retry: int, chance: Callable[[], float]) -> float:
        """Seconds to wait before a retry, drawn evenly from 0 to a limit that doubles each time ("full jitter").

        After M. Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.

        Args:
            retry: 1 for the first.
            chance: draws from 0.0 to below 1.0.
        """
        doubled = self._backoff_s * 2.0 ** min(retry - 1, 1000)
        return chance() * min(self._backoff_max_s, doubled)


def _is_connect_timeout(error: UpstreamError) -> bool:
    return isinstance(error, UpstreamTimeout) and not isinstance(error, UpstreamSilent)


def retry_after_s(value: bytes, epoch_s: float) -> float | None:
    """Seconds that a ``Retry-After`` asks to wait (RFC 9110 section 10.2.3).

    Args:
        value: of the field, without blanks around it: a number of seconds, or a date in any of the three forms.
        epoch_s: the wall clock's seconds since 1970.

    Returns:
        from 0.0, also for a date in the past, to :data:`MAX_RETRY_AFTER_S`; None if the value is neither.
    """
    if value.isdigit():
        seconds = float(value)  # takes any number of digits, unlike int, and no time over them
    elif _HTTP_DATE.fullmatch(value):
        # Only seconds have a blank behind them. They may be 60, in a leap second, which datetime does not know.
        text = value.replace(b":60 ", b":59 ").decode("ascii")
        try:
            date = parsedate_to_datetime(text)
        except ValueError:
            return None
        # An asctime-date has no zone and means UTC; email.utils reads years 00 to 68 as 2000 to 2068.
        seconds = date.replace(tzinfo=UTC).timestamp() - epoch_s
    else:
        return None
    return min(max(0.0, seconds), MAX_RETRY_AFTER_S)
