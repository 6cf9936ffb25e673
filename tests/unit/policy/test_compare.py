from __future__ import annotations

from typing import Any

import pytest

from txgateway.policy.compare import MAX_SHOWN, Difference, Seen, differences, seconds_text, shown
from txgateway.policy.tables import ExpectTable
from txgateway.testing.backends import Received


def compared(seen: Seen, **expect: Any) -> list[Difference]:
    return list(differences(ExpectTable.model_validate(expect), seen))


def received(method: bytes, place: str) -> tuple[str, Received]:
    return "a", Received(method, b"/", [], place, 0.0)


@pytest.mark.parametrize(
    ("delay_s", "fields"),
    [
        (0.9, ["delay", "at_least"]),
        (0.9995, []),
        (1.0004, []),
        (1.002, ["delay", "at_most"]),
    ],
)
def test_times_are_compared_to_the_millisecond(delay_s: float, fields: list[str]) -> None:
    seen = Seen(None, "", delay_s, (), {})
    found = compared(seen, delay="1s", at_most="1s", at_least="1s")
    assert [one.field for one in found if one.field != "answer"] == fields
    assert found[-1] == Difference(found[-1].field, "1s", seconds_text(delay_s)) or not fields


def test_last_request_of_a_backend_counts() -> None:
    seen = Seen(None, "", 0.0, [received(b"PUT", "b:1"), received(b"POST", "c:1")], {})
    assert len(compared(seen, backend={"method": "POST", "target": "c:1"})) == 1  # that there is no answer
    assert Difference("backend.method", "PUT", "POST") in compared(seen, backend={"method": "PUT"})
    assert Difference("backend.name", "nothing", "a") in compared(seen, backend=False)


def test_any_request_is_expected_where_only_its_fields_are() -> None:
    seen = Seen(None, "cut", 0.0, (), {})
    assert compared(seen, backend={"method": "POST"}) == [
        Difference("answer", "a whole one", "cut"),
        Difference("backend", "a request", "nothing"),
    ]


def test_values_are_shown_on_one_line_of_bounded_length() -> None:
    assert [shown(text) for text in ("a b", "", " a", "a\nb", "\x1b[2J")] == [
        "a b",
        "''",
        "' a'",
        r"'a\nb'",
        r"'\x1b[2J'",
    ]
    assert shown("x" * 1000) == f"{'x' * MAX_SHOWN}… (1000 characters)"


def test_times_are_shown_to_the_millisecond() -> None:
    assert [seconds_text(value) for value in (0, 30.0, 0.1, 3600.1234, 100.0)] == [
        "0s",
        "30s",
        "0.1s",
        "3600.123s",
        "100s",
    ]
