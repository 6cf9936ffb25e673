"""Limits, and how time passes between requests."""

from __future__ import annotations

from hypothesis import strategies as st

from txgateway.ratelimit import Limit

_COUNTS = st.one_of(st.integers(1, 12), st.integers(1, 10**9), st.sampled_from([999_999_937, 10**9, 7, 1000]))


@st.composite
def limits(draw: st.DrawFn, max_burst: int = 10**9) -> Limit:
    """One to three rates as a configuration may have them, sometimes divided among workers."""
    rates = draw(st.lists(st.tuples(_COUNTS, st.sampled_from([1, 60, 3600])), min_size=1, max_size=3))
    small = st.integers(1, min(max_burst, 20))
    burst = draw(st.one_of(small, st.integers(1, max_burst)))
    limit = Limit.of(rates, burst)
    return limit.divided(draw(st.integers(1, 1024))) if draw(st.integers(0, 3)) == 0 else limit


def steps_us(*, backwards: bool = False) -> st.SearchStrategy[int]:
    """Microseconds between two requests."""
    forward = st.one_of(
        st.sampled_from([0, 0, 0, 1, 999, 1000, 10**6, 60 * 10**6]),
        st.integers(0, 10**6),
        st.integers(0, 4 * 10**9),
    )
    return st.one_of(forward, forward, forward, forward.map(lambda step: -step)) if backwards else forward
