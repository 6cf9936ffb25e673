from __future__ import annotations

import pytest

from txgateway.config.groups import Retry
from txgateway.errors import (
    UpstreamConnectFailed,
    UpstreamError,
    UpstreamNameUnknown,
    UpstreamProtocolError,
    UpstreamReset,
    UpstreamSilent,
    UpstreamTimeout,
    UpstreamTlsError,
)
from txgateway.proxy.retry import MAX_RETRY_AFTER_S, RetryBudget, RetryPolicy, retry_after_s

ERRORS = (
    UpstreamConnectFailed(),
    UpstreamNameUnknown(),
    UpstreamTlsError(),
    UpstreamTimeout(),
    UpstreamSilent(),
    UpstreamReset(),
    UpstreamProtocolError(),
)
CONNECT = {"UpstreamConnectFailed", "UpstreamNameUnknown", "UpstreamTlsError", "UpstreamTimeout"}
TIMEOUT = {"UpstreamTimeout", "UpstreamSilent"}
RESET = {"UpstreamReset", "UpstreamProtocolError"}


def policy(**settings: object) -> RetryPolicy:
    return RetryPolicy(Retry.model_validate(settings))


# --- the policy ---------------------------------------------------------------------------------------------------


def test_policy_takes_its_numbers_from_the_settings() -> None:
    made = policy(max_attempts=4, budget_percent=7, budget_min=2, max_body="8KiB", methods="GET,PATCH")
    assert (made.max_attempts, made.percent, made.minimum, made.max_body_bytes) == (4, 7, 2, 8192)
    assert made.methods == {b"GET", b"PATCH"}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("connect", CONNECT),
        ("timeout", TIMEOUT),
        ("reset", RESET),
        ("connect,timeout", CONNECT | TIMEOUT),
        ("reset,503,connect", RESET | CONNECT),
        ("5xx,502,504", set()),
        ("refused_stream,grpc-unavailable", set()),
        ("", set()),
    ],
)
def test_words_say_which_errors_are_repeated(words: str, expected: set[str]) -> None:
    made = policy(on=words)
    assert {type(error).__name__ for error in ERRORS if made.repeats_error(error, b"GET", True)} == expected
    assert {type(error).__name__ for error in ERRORS if made.repeats_error(error, b"POST", False)} == expected
    assert not made.repeats_error(UpstreamError(), b"GET", True)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("502,503", {502, 503}),
        ([429, "200"], {200, 429}),
        ("5xx", set(range(500, 600))),
        ("5xx,502,408", {408, *range(500, 600)}),
        ("connect,timeout,reset,refused_stream,grpc-unavailable", set()),
        ("", set()),
    ],
)
def test_words_say_which_statuses_are_repeated(words: object, expected: set[int]) -> None:
    made = policy(on=words)
    assert {status for status in range(100, 700) if made.repeats_status(status, b"GET")} == expected


def test_defaults_are_those_of_the_settings() -> None:
    made = RetryPolicy(Retry())
    assert all(made.repeats_error(error, b"PUT", True) for error in ERRORS)
    assert {status for status in range(100, 700) if made.repeats_status(status, b"PUT")} == {502, 503, 504}


def test_other_methods_are_repeated_only_if_nothing_was_sent() -> None:
    made = policy(on="connect,reset,503", methods="GET")
    error = UpstreamReset()
    assert [made.repeats_error(error, method, True) for method in (b"GET", b"POST", b"get")] == [True, False, False]
    assert [made.repeats_error(error, method, False) for method in (b"GET", b"POST", b"M-X")] == [True, True, True]
    assert [made.repeats_status(503, method) for method in (b"GET", b"POST")] == [True, False]


def test_with_one_attempt_nothing_is_repeated() -> None:
    made = policy(max_attempts=1, on="connect,timeout,reset,5xx,429")
    assert made.max_attempts == 1
    assert not any(made.repeats_error(error, b"GET", sent) for error in ERRORS for sent in (False, True))
    assert not any(made.repeats_status(status, b"GET") for status in range(100, 700))


def test_pauses_double_up_to_the_longest() -> None:
    made = policy(backoff="25ms", backoff_max="250ms")
    assert [made.backoff_s(retry, lambda: 1.0) for retry in (1, 2, 3, 4, 5, 99)] == [
        0.025, 0.05, 0.1, 0.2, 0.25, 0.25,
    ]  # fmt: skip
    assert [made.backoff_s(retry, lambda: 0.5) for retry in (1, 3, 5)] == [0.0125, 0.05, 0.125]
    assert made.backoff_s(3, lambda: 0.0) == 0.0


@pytest.mark.parametrize("retry", [1, 1000, 1024, 10**6, 10**30])
def test_pause_of_a_late_retry_is_the_longest_and_no_overflow(retry: int) -> None:
    assert policy(backoff="1h", backoff_max="1h").backoff_s(retry, lambda: 1.0) == 3600.0
    assert policy(backoff=0, backoff_max="1h").backoff_s(retry, lambda: 1.0) == 0.0
    assert policy(backoff="1h", backoff_max=0).backoff_s(retry, lambda: 1.0) == 0.0


# --- the budget ---------------------------------------------------------------------------------------------------


def taken(budget: RetryBudget, now: float, percent: int, minimum: int) -> int:
    """Retries that can be had at once."""
    return sum(budget.take(now, percent, minimum) for _ in range(100))


@pytest.mark.parametrize(
    ("requests", "percent", "minimum", "expected"),
    [
        (0, 20, 3, 3),
        (0, 20, 0, 0),
        (1, 20, 0, 0),
        (4, 20, 0, 0),
        (5, 20, 0, 1),
        (9, 20, 0, 1),
        (100, 20, 3, 23),
        (104, 20, 3, 23),
        (105, 20, 3, 24),
        (1000, 0, 0, 0),
        (1000, 0, 2, 2),
        (7, 100, 1, 8),
        (100, 29, 0, 29),
    ],
)
def test_budget_is_a_share_of_the_requests_and_a_minimum(
    requests: int, percent: int, minimum: int, expected: int
) -> None:
    budget = RetryBudget()
    for _ in range(requests):
        budget.request(100.0)
    assert taken(budget, 100.0, percent, minimum) == expected
    assert not budget.take(100.0, percent, minimum)


def test_refused_retry_takes_nothing() -> None:
    budget = RetryBudget()
    assert [budget.take(100.0, 0, 0) for _ in range(10)] == [False] * 10
    assert taken(budget, 100.0, 0, 2) == 2
    assert repr(budget) == "<RetryBudget requests <RollingCount 0 + 0>, retries <RollingCount 0 + 2>>"


def test_budget_is_for_about_ten_seconds() -> None:
    budget = RetryBudget()
    for _ in range(10):
        budget.request(100.0)
    assert taken(budget, 105.0, 20, 1) == 3
    assert taken(budget, 110.9, 20, 1) == 0
    assert taken(budget, 111.0, 20, 1) == 0  # the requests are gone, the retries are not
    assert taken(budget, 115.9, 20, 1) == 0
    assert taken(budget, 116.0, 20, 1) == 1


def test_routes_share_a_budget_and_keep_their_own_share() -> None:
    budget = RetryBudget()
    for _ in range(20):
        budget.request(100.0)
    assert taken(budget, 100.0, 50, 0) == 10
    assert taken(budget, 100.0, 20, 3) == 0
    assert taken(budget, 100.0, 50, 2) == 2


# --- Retry-After --------------------------------------------------------------------------------------------------

EXAMPLE_S = 784111777.0  # Sun, 06 Nov 1994 08:49:37 GMT, the example of RFC 9110 section 5.6.7


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"0", 0.0),
        (b"120", 120.0),
        (b"007", 7.0),
        (b"2147483648", MAX_RETRY_AFTER_S),
        (b"9999999999", MAX_RETRY_AFTER_S),
        (b"1" * 11, MAX_RETRY_AFTER_S),
        (b"9" * 10_000, MAX_RETRY_AFTER_S),
        (b"0" * 10_000 + b"5", 5.0),
    ],
)
def test_retry_after_may_be_seconds(value: bytes, seconds: float) -> None:
    assert retry_after_s(value, EXAMPLE_S) == seconds


@pytest.mark.parametrize(
    "value", [b"Sun, 06 Nov 1994 08:49:37 GMT", b"Sunday, 06-Nov-94 08:49:37 GMT", b"Sun Nov  6 08:49:37 1994"]
)
def test_retry_after_may_be_a_date_of_each_form(value: bytes) -> None:
    assert retry_after_s(value, EXAMPLE_S) == 0.0
    assert retry_after_s(value, EXAMPLE_S - 90.5) == 90.5
    assert retry_after_s(value, EXAMPLE_S + 1) == 0.0


def test_dates_at_the_edges() -> None:
    assert retry_after_s(b"Sat Nov 12 08:49:37 1994", EXAMPLE_S) == 6 * 86400
    assert retry_after_s(b"Fri, 31 Dec 1999 23:59:60 GMT", 946684790.0) == 9.0
    assert retry_after_s(b"Fri, 31 Dec 9999 23:59:59 GMT", EXAMPLE_S) == MAX_RETRY_AFTER_S
    assert retry_after_s(b"Thu, 01 Jan 1970 00:00:00 GMT", EXAMPLE_S) == 0.0
    assert retry_after_s(b"Mon, 01 Jan 1000 00:00:00 GMT", EXAMPLE_S) == 0.0


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"-1",
        b"+1",
        b"1.5",
        b"1e3",
        b"1_000",
        b" 1",
        b"\xb2",
        b"\xd9\xa1",
        b"soon",
        b"Sun, 06 Nov 1994 08:49:37",
        b"Sun, 06 Nov 1994 08:49:37 UTC",
        b"Sun, 06 Nov 1994 08:49:37 +0200",
        b"Sun, 06 Nov 1994 08:49:37 GMT, 5",
        b"Sun, 06 Nov 1994 24:00:00 GMT",
        b"Sun, 06 Nov 1994 08:60:37 GMT",
        b"Sun, 06 Nov 1994 08:49:61 GMT",
        b"Wed, 30 Feb 1994 08:49:37 GMT",
        b"Sun, 00 Nov 1994 08:49:37 GMT",
        b"Sun, 06 Foo 1994 08:49:37 GMT",
        b"Sun, 06 Nov 0000 08:49:37 GMT",
        b"Sun, 6 Nov 1994 08:49:37 GMT",
        b"1994-11-06T08:49:37Z",
        b"Sun, 06 Nov 1994 08:49:37 GMT\n",
    ],
)
def test_retry_after_that_is_neither_is_none(value: bytes) -> None:
    assert retry_after_s(value, EXAMPLE_S) is None
