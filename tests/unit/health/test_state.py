"""The rules of a target's health, one by one."""

from __future__ import annotations

import pytest

from txgateway.health.state import Health, HealthState

LETTERS = {Health.UNKNOWN: "?", Health.HEALTHY: "h", Health.UNHEALTHY: "u"}


def course(results: str, rise: int, fall: int) -> str:
    """The health after each result, ``+`` or ``-``."""
    state = HealthState(rise, fall)
    found = ""
    for result in results:
        returned = state.observe(result == "+")
        assert returned is state.health
        found += LETTERS[returned]
    return found


@pytest.mark.parametrize(
    ("rise", "fall", "results", "expected"),
    [
        pytest.param(2, 3, "+", "h", id="first success is enough"),
        pytest.param(5, 3, "-+", "?h", id="first success is enough after a failure"),
        pytest.param(2, 3, "---", "??u", id="never well"),
        pytest.param(5, 2, "--+", "?uh", id="first success is enough for who was only unhealthy so far"),
        pytest.param(2, 3, "+--", "hhh", id="too few failures"),
        pytest.param(2, 3, "+---", "hhhu", id="enough failures"),
        pytest.param(2, 3, "+--+--+---", "hhhhhhhhhu", id="failures count only in a row"),
        pytest.param(2, 3, "+---+", "hhhuu", id="one success does not bring back"),
        pytest.param(2, 3, "+---++", "hhhuuh", id="enough successes"),
        pytest.param(2, 3, "+---+-+-++", "hhhuuuuuuh", id="successes count only in a row"),
        pytest.param(3, 1, "+-+++-+", "huuuhuu", id="the first success counts as such only once"),
        pytest.param(2, 3, "+---+--++", "hhhuuuuuh", id="failures while unhealthy"),
        pytest.param(1, 1, "-+-+", "uhuh", id="one is always enough"),
        pytest.param(2, 3, "+---++--+---", "hhhuuhhhhhhu", id="back and away again"),
    ],
)
def test_course(rise: int, fall: int, results: str, expected: str) -> None:
    assert course(results, rise, fall) == expected


def test_begins_unknown() -> None:
    assert HealthState(2, 3).health is Health.UNKNOWN
