"""Any interleaving of attempts, outcomes, checks and time: the breaker against lists of all that ever happened."""

from __future__ import annotations

import math
from random import Random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from txgateway.config.groups import Breaker
from txgateway.proxy.breaker import BreakerState, CircuitBreaker

CLOSED, HALF_OPEN, OPEN = BreakerState.CLOSED, BreakerState.HALF_OPEN, BreakerState.OPEN

#: Windows whose slots are powers of two, so that the model's arithmetic has no rounding.
WINDOWS_S = [10.0, 2.5, 0.625]


class Model:
    """A breaker as one would explain it: what happened, in lists that are read anew each time."""

    def __init__(self, numbers: Breaker) -> None:
        self.numbers = numbers
        self.state = CLOSED
        self.outcomes: list[tuple[float, bool]] = []  # since it was closed last
        self.failed_probes = 0  # since it was closed last
        self.opened_at = 0.0
        self.is_recovered = False
        self.probed_at = -math.inf  # by a probe that bars others; counts while it is half-open

    def row(self) -> int:
        """Failures since the last success."""
        oks = [ok for _, ok in self.outcomes]
        return oks[::-1].index(True) if True in oks else len(oks)

    def failures_and_all(self, now: float) -> tuple[int, int]:
        """In the window, by the slots that it is made of."""
        slot_s = self.numbers.window_s / 10
        oldest = math.floor(now / slot_s) - 10
        oks = [ok for at, ok in self.outcomes if math.floor(at / slot_s) >= oldest]
        # The slots cover what they should: all of the window, and less than a tenth more.
        assert sum(now - at <= self.numbers.window_s for at, _ in self.outcomes) <= len(oks)
        assert len(oks) <= sum(now - at < self.numbers.window_s * 1.1 for at, _ in self.outcomes)
        return oks.count(False), len(oks)

    def reason(self, now: float) -> str:
        """Why a failure that has just come in opens it, or ``""``."""
        failures, outcomes = self.failures_and_all(now)
        if not self.numbers.enabled:
            return ""
        if self.row() >= self.numbers.failures:
            return f"{self.row()} failures in a row"
        if outcomes >= self.numbers.min_requests and failures / outcomes >= self.numbers.ratio:
            return f"ratio {failures / outcomes:.2f} of {outcomes} requests"
        return ""

    def open_s(self) -> float:
        """How long it stays open at most."""
        configured = self.numbers.open_for_s
        return min(configured * 2.0**self.failed_probes, max(300.0, configured))


class BreakerMachine(RuleBasedStateMachine):
    @initialize(
        enabled=st.integers(0, 9),
        failures=st.integers(1, 6),
        ratio=st.sampled_from([0.25, 0.5, 0.6, 1.0]),
        min_requests=st.integers(1, 8),
        window_s=st.sampled_from(WINDOWS_S),
        open_for_s=st.sampled_from([0.5, 5.0, 40.0, 290.0, 400.0]),
        seed=st.integers(0, 2**32),
    )
    def build(
        self,
        enabled: int,
        failures: int,
        ratio: float,
        min_requests: int,
        window_s: float,
        open_for_s: float,
        seed: int,
    ) -> None:
        numbers = Breaker(
            enabled=enabled > 0,
            failures=failures,
            ratio=ratio,
            min_requests=min_requests,
            window_s=window_s,
            open_for_s=open_for_s,
        )
        self.now = 1000.0
        self.model = Model(numbers)
        self.breaker = CircuitBreaker(numbers, Random(seed), self.on_change)
        self.under_way: list[bool] = []  # attempts: whether each is a probe
        self.told: list[tuple[BreakerState, str]] = []
        self.was_allowed_at = -math.inf  # since it opened

    def on_change(self, state: BreakerState, why: str) -> None:
        self.told.append((state, why))

    def must_tell(self, *changes: tuple[BreakerState, str]) -> None:
        assert self.told == list(changes)
        self.told.clear()

    def opens(self) -> None:
        model = self.model
        model.state, model.opened_at, model.is_recovered = OPEN, self.now, False
        assert model.open_s() * 0.9 <= self.breaker.wait_s(self.now) + 1e-9
        assert self.breaker.wait_s(self.now) <= model.open_s() + 1e-9

    # --- what may happen ------------------------------------------------------------------------------------------

    def begin(self) -> None:
        was = self.model.state
        if not self.breaker.allows(self.now):
            return
        is_probe = self.breaker.admit(self.now)
        assert is_probe == (was is not CLOSED)
        if is_probe:
            self.model.state, self.model.probed_at = HALF_OPEN, self.now
        self.must_tell(*([(HALF_OPEN, "probe begins")] if was is OPEN else []))
        self.under_way.append(is_probe)

    @rule(count=st.integers(1, 4))
    def attempts_begin(self, count: int) -> None:
        for _ in range(count):
            self.begin()

    def end(self, attempt: int, *, ok: bool) -> None:
        is_probe, model = self.under_way.pop(attempt), self.model
        if ok:
            self.breaker.succeeded(self.now, is_probe=is_probe)
        else:
            self.breaker.failed(self.now, is_probe=is_probe, why="reset")
        is_decisive = is_probe and model.state is HALF_OPEN
        if is_decisive and ok:
            self.must_tell((CLOSED, "probe succeeded"))
            self.model = Model(model.numbers)
        elif is_decisive:
            self.must_tell((OPEN, "probe failed: reset"))
            model.failed_probes += 1
            self.opens()
        elif model.state is CLOSED:
            model.outcomes.append((self.now, ok))
            if not ok and (reason := model.reason(self.now)):
                self.must_tell((OPEN, reason))
                self.opens()
        self.must_tell()

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), oks=st.lists(st.booleans(), min_size=1, max_size=4))
    def attempts_end(self, data: st.DataObject, oks: list[bool]) -> None:
        for ok in oks[: len(self.under_way)]:
            self.end(data.draw(st.integers(0, len(self.under_way) - 1)), ok=ok)

    @precondition(lambda self: self.model.state is CLOSED)
    @rule(count=st.integers(1, 6))
    def attempts_begin_and_fail(self, count: int) -> None:
        for _ in range(count):
            if self.model.state is CLOSED:
                self.begin()
                self.end(-1, ok=False)

    @precondition(lambda self: True in self.under_way)
    @rule(ok=st.booleans())
    def probe_ends(self, ok: bool) -> None:
        self.end(self.under_way.index(True), ok=ok)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def attempt_is_cancelled(self, data: st.DataObject) -> None:
        is_probe = self.under_way.pop(data.draw(st.integers(0, len(self.under_way) - 1)))
        self.breaker.cancelled(is_probe=is_probe)
        self.must_tell()
        if is_probe:
            self.model.probed_at = -math.inf
            assert self.breaker.allows(self.now) or self.model.state is OPEN

    @rule(chance=st.integers(0, 3))
    def check_finds_it_well(self, chance: int) -> None:
        if chance == 0:
            self.breaker.recover(self.now)
            self.model.is_recovered = True
            self.must_tell()

    @rule(step_s=st.sampled_from([1 / 64, 0.25, 1.0, 2.5, 9.0, 10.0, 11.0]), times=st.integers(1, 4))
    def time_passes(self, step_s: float, times: int) -> None:
        self.now += step_s * times

    @precondition(lambda self: self.model.state is OPEN)
    @rule(share=st.sampled_from([0.5, 0.9, 1.0, 1.0]))
    def open_time_passes(self, share: float) -> None:
        self.now += self.model.open_s() * share
        self.begin()

    # --- what must hold -------------------------------------------------------------------------------------------

    @invariant()
    def state_is_that_of_the_model(self) -> None:
        if hasattr(self, "model"):
            assert self.breaker.state is self.model.state
            assert bool(self.breaker.state) == (self.model.state is not CLOSED)

    @invariant()
    def probe_bars_others_until_it_ends_or_for_the_open_time(self) -> None:
        if not hasattr(self, "model"):
            return
        model = self.model
        if model.state is HALF_OPEN:
            assert self.breaker.allows(self.now) == (self.now >= model.probed_at + model.numbers.open_for_s)
            assert self.breaker.allows(self.now) or True in self.under_way

    @invariant()
    def open_time_is_as_configured_or_up_to_a_tenth_less(self) -> None:
        if not hasattr(self, "model"):
            return
        model, breaker, now = self.model, self.breaker, self.now
        allows, wait_s = breaker.allows(now), breaker.wait_s(now)
        if model.state is not OPEN:
            assert wait_s == 0.0
            assert breaker.state_at(now) is model.state
            assert allows or model.state is HALF_OPEN
            self.was_allowed_at = -math.inf
            return
        assert allows == (wait_s == 0.0)
        assert breaker.state_at(now) is (HALF_OPEN if allows else OPEN)
        passed = now - model.opened_at
        if passed >= model.open_s() or model.is_recovered:
            assert allows
        elif passed < model.open_s() * 0.9:
            assert not allows
        # Once a probe may be made, it may be made until it is.
        assert allows or self.was_allowed_at < model.opened_at
        if allows:
            self.was_allowed_at = now


def test_breaker_does_what_the_model_does() -> None:
    run_state_machine_as_test(BreakerMachine, settings=settings(stateful_step_count=80))
