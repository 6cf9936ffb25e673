from __future__ import annotations

import pytest

from txgateway.config import values
from txgateway.config.values import Rate


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("2s", 2), ("5m", 300), ("1h", 3600), ("10", 10), ("1.5", 1.5), ("0.5s", 0.5), ("0", 0), (7, 7)],
)
def test_duration_in_any_unit_is_seconds(text: object, seconds: float) -> None:
    assert values.duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "s", "-1s", "+1s", "1 s", "1S", "1d", "1e3", "nan", "inf", ".5s", "5.", "1_0", "١s", "9" * 30, "99999h",
     True, None, [], float("nan"), float("inf"), -1],
)  # fmt: skip
def test_duration_of_anything_else_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="expected a duration"):
        values.duration(text)


@pytest.mark.parametrize("text", ["0", "0s", "0ms", 0])
def test_positive_duration_of_zero_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="above zero"):
        values.positive_duration(text)


@pytest.mark.parametrize(
    ("text", "count"), [("64KiB", 65536), ("10MiB", 10 * 2**20), ("1GiB", 2**30), ("17", 17), (5, 5), ("0", 0)]
)
def test_size_in_any_unit_is_bytes(text: object, count: int) -> None:
    assert values.size()(text) == count


@pytest.mark.parametrize("text", ["", "KiB", "1KB", "1k", "1.5KiB", "-1", "1 KiB", "2048GiB", 1.0, True, None])
def test_size_of_anything_else_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="expected a size"):
        values.size()(text)


@pytest.mark.parametrize(
    ("text", "rate"), [("100/s", Rate(100, 1)), ("1000/m", Rate(1000, 60)), ("5/h", Rate(5, 3600))]
)
def test_rate_is_count_and_period(text: str, rate: Rate) -> None:
    assert values.rate(text) == rate
    assert str(rate) == text


@pytest.mark.parametrize("text", ["", "100", "/s", "0/s", "1/d", "1/s/s", "1.5/s", "-1/s", " 1/s", "9999999999/s", 5])
def test_rate_of_anything_else_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="expected a rate"):
        values.rate(text)


@pytest.mark.parametrize(("value", "expected"), [("true", True), ("false", False), (True, True), (False, False)])
def test_boolean_is_true_or_false(value: object, expected: bool) -> None:
    assert values.boolean(value) is expected


@pytest.mark.parametrize("value", ["True", "yes", "1", "", 1, 0, None])
def test_boolean_of_anything_else_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="expected true or false"):
        values.boolean(value)


@pytest.mark.parametrize("value", ["0", "65535", 0, 65535])
def test_integer_at_its_bounds_is_accepted(value: object) -> None:
    assert values.integer(0, 65535)(value) == int(str(value))


@pytest.mark.parametrize("value", ["", "abc", "-1", "65536", "1_0", " 1", "٣", "1.0", "9" * 5000, 65536, -1, 1.0, True])
def test_integer_of_anything_else_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="expected an integer from 0 to 65535"):
        values.integer(0, 65535)(value)


@pytest.mark.parametrize("value", ["0", "1.1", "-0.5", "x", 0, 2, True, float("nan")])
def test_fraction_outside_its_range_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        values.fraction(value)


def test_list_from_a_variable_and_from_a_document_is_the_same() -> None:
    parse = values.listed(values.string)
    assert parse(" a , b") == parse(["a", "b"]) == ("a", "b")
    assert parse("") == parse([]) == ()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("a,,b", "without empty elements"),
        ("a,", "without empty elements"),
        (["a", ""], "without empty elements"),
        ("a,b,a", "once, not 'a' twice"),
        ({"a": 1}, "expected a list"),
        (None, "expected a list"),
        ([["a"]], "expected a string"),
        (",".join(map(str, range(10_001))), "at most 10000"),
    ],
)
def test_list_with_something_wrong_is_refused(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        values.listed(values.string)(value)


def test_shown_value_hides_user_information_and_queries() -> None:
    assert values.shown("redis://user:pass@host:1/0") == "'redis://***@host:1/0'"
    assert values.shown("http://a:b@c,http://d:e@f") == "'http://***@f'"
    assert values.shown("https://host/?token=1") == "'https://host/?***'"


def test_shown_value_is_one_bounded_line() -> None:
    assert values.shown("a\nb") == r"'a\nb'"
    assert len(values.shown("x" * 10_000)) < 150
