"""Any results in any order: the state against its definition, and the rounds against what the targets did."""

from __future__ import annotations

from typing import Any

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
from tests.unit.health.checked import STEP_S, Case, CheckedDialer

from txgateway.errors import PoolExhausted, UpstreamConnectFailed
from txgateway.health.state import Health, HealthState
from txgateway.proxy.target import Target

INTERVAL_S, SPREAD_S, TIMEOUT_S = 4.0, 0.4, 2.0


def health_after(results: list[bool], rise: int, fall: int) -> Health:
    """By definition: what the last result that settled anything has settled."""
    for end in range(len(results), 0, -1):
        past, last = results[: end - 1], results[end - 1]
        if last and (True not in past or all(results[max(end - rise, 0) : end])):
            return Health.HEALTHY
        if not last and end >= fall and not any(results[end - fall : end]):
            return Health.UNHEALTHY
    return Health.UNKNOWN


class StateMachine(RuleBasedStateMachine):
    """One target, any results."""

    @initialize(rise=st.integers(1, 4), fall=st.integers(1, 4))
    def build(self, rise: int, fall: int) -> None:
        self.rise, self.fall = rise, fall
        self.state = HealthState(rise, fall)
        self.results: list[bool] = []

    @rule(is_well=st.booleans(), times=st.integers(1, 5))
    def observe(self, is_well: bool, times: int) -> None:
        for _ in range(times):
            self.results.append(is_well)
            assert self.state.observe(is_well) is health_after(self.results, self.rise, self.fall)

    @invariant()
    def health_is_what_was_returned_last(self) -> None:
        if hasattr(self, "state"):
            assert self.state.health is health_after(self.results, self.rise, self.fall)


class ScriptedDialer(CheckedDialer):
    """Does what it is told to, and knows what a check has to make of it.

    Attributes:
        mode: what it does from now on.
        expected: for each dial, what the backend has to be told; ``""`` for nothing, None while it hangs.
    """

    def __init__(self, clock: Any) -> None:
        super().__init__(clock)
        self.expected: list[str | None] = []
        self.set_mode("well")

    def set_mode(self, mode: str) -> None:
        self.mode = mode
        self.holds = mode == "hang"
        self.is_broken = mode == "raise"
        self.error = {
            "refuse": UpstreamConnectFailed("Connection was refused by other side: 111: Connection refused."),
            "shortage": PoolExhausted("none"),
            "strange": ZeroDivisionError(),
        }.get(mode)

    def dial(self, receiver: Any) -> Any:
        self.expected.append(
            {
                "well": "connected",
                "refuse": "connect refused",
                "hang": None,
                "shortage": "",
                "raise": "internal error",
                "strange": "internal error",
            }[self.mode]
        )
        return super().dial(receiver)

    def let_through(self) -> None:
        verdict = {"well": "connected", "refuse": "connect refused"}.get(self.mode)
        self.expected = [verdict if told is None else told for told in self.expected]
        super().let_through()

    def settle(self) -> None:
        """Time has passed: whoever still hangs may be late."""
        now = self.clock.seconds()
        for index, dialed_at in enumerate(self.dialed_at):
            if self.expected[index] is None and now - dialed_at >= TIMEOUT_S:
                self.expected[index] = f"timeout after {TIMEOUT_S:g} s"


class ScriptedCase(Case):
    kind = ScriptedDialer


MODES = st.sampled_from(["well", "refuse", "hang", "shortage", "raise", "strange"])


class ChecksMachine(RuleBasedStateMachine):
    """A backend whose targets do anything and come and go, under checks that must not care."""

    @initialize(
        count=st.integers(1, 4), rise=st.integers(1, 3), fall=st.integers(1, 3), modes=st.lists(MODES, min_size=4)
    )
    def build(self, count: int, rise: int, fall: int, modes: list[str]) -> None:
        self.rise, self.fall = rise, fall
        self.case = ScriptedCase(count, interval_s=INTERVAL_S, timeout_s=TIMEOUT_S, rise=rise, fall=fall)
        self.joined: dict[Target, int] = dict.fromkeys(self.case.targets, 0)  # rounds that had begun before
        self.originals = self.case.targets[:]
        self.is_stopped = False
        for dialer, mode in zip(self.dialers, modes, strict=False):
            dialer.set_mode(mode)
        self.case.start()

    @property
    def dialers(self) -> list[ScriptedDialer]:
        return [self.dialer_of(target) for target in self.joined]

    def dialer_of(self, target: Target) -> ScriptedDialer:
        dialer = target.dialer
        assert isinstance(dialer, ScriptedDialer)
        return dialer

    @property
    def rounds(self) -> int:
        """That have begun."""
        return int(self.case.clock.seconds() // INTERVAL_S) + 1

    def told(self, target: Target) -> list[tuple[Health, str]]:
        return [(health, why) for who, health, why in self.case.backend.told if who is target]

    def counts(self) -> list[int]:
        return [len(self.case.backend.told), *(len(dialer.dialed_at) for dialer in self.case.dialers)]

    # --- what may happen ----------------------------------------------------------------------------------------------

    @rule(data=st.data(), mode=MODES)
    def target_changes(self, data: st.DataObject, mode: str) -> None:
        data.draw(st.sampled_from(self.dialers)).set_mode(mode)

    @rule(data=st.data(), mode=st.sampled_from(["well", "refuse"]))
    def hanging_target_makes_up_its_mind(self, data: st.DataObject, mode: str) -> None:
        dialer = data.draw(st.sampled_from(self.dialers))
        dialer.set_mode(mode)
        dialer.let_through()

    @rule(steps=st.integers(1, 40))
    def time_passes(self, steps: int) -> None:
        for _ in range(steps):
            self.case.clock.advance(STEP_S)
            self.case.clock.advance(0)
            for target in (*self.originals, *self.joined):
                self.dialer_of(target).settle()
            self.each_target_has_one_result_a_round()

    @precondition(lambda self: len(self.joined) > 1)
    @rule(data=st.data())
    def target_goes(self, data: st.DataObject) -> None:
        target = data.draw(st.sampled_from(list(self.joined)))
        del self.joined[target]
        self.case.backend.set_targets(list(self.joined))

    @precondition(lambda self: len(self.joined) < 5)
    @rule(mode=MODES)
    def target_comes(self, mode: str) -> None:
        target = self.case.make("new")
        self.dialer_of(target).set_mode(mode)
        self.joined[target] = self.rounds - 1  # it is checked at once, as if it had been here when the round began
        self.case.backend.set_targets(list(self.joined))
        self.case.clock.advance(0)

    @rule(is_broken=st.booleans())
    def backend_breaks(self, is_broken: bool) -> None:
        self.case.backend.is_broken = is_broken

    @precondition(lambda self: not self.is_stopped)
    @rule(chance=st.integers(0, 9))
    def stop(self, chance: int) -> None:
        if chance == 0:
            self.end()

    def end(self) -> None:
        self.is_stopped = True
        self.case.checks.stop()
        self.case.assert_nothing_left()
        counts = self.counts()
        self.case.wait(2 * INTERVAL_S)
        assert self.counts() == counts

    # --- what must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def each_target_has_one_result_a_round(self) -> None:
        if not hasattr(self, "case") or self.is_stopped:
            return
        into_round_s = self.case.clock.seconds() % INTERVAL_S
        for target, joined in self.joined.items():
            dialer = self.dialer_of(target)
            all_begun = self.rounds - joined
            # A check may begin a step late, since this clock goes in steps.
            is_spreading = self.rounds > 1 and into_round_s < SPREAD_S + STEP_S
            assert len(dialer.dialed_at) in ({all_begun - 1, all_begun} if is_spreading else {max(all_begun, 0)})
            told = self.told(target)
            # A newcomer's first check may end after one of the next round.
            assert sorted(why for _, why in told) == sorted(why for why in dialer.expected if why)
            results = [why == "connected" for _, why in told]
            for end, (health, _) in enumerate(told, start=1):
                assert health is health_after(results[:end], self.rise, self.fall)

    @invariant()
    def first_round_is_over_when_nobody_hangs_any_more(self) -> None:
        if hasattr(self, "case"):
            hangs = any(self.dialer_of(target).expected[:1] == [None] for target in self.originals)
            assert self.is_stopped or self.case.fired == ([] if hangs else [None])

    def teardown(self) -> None:
        if hasattr(self, "case") and not self.is_stopped:
            self.end()
            assert self.case.fired == [None]


def test_state_is_what_its_definition_says() -> None:
    run_state_machine_as_test(StateMachine, settings=settings(stateful_step_count=20))


def test_checks_go_on_whatever_targets_do() -> None:
    run_state_machine_as_test(ChecksMachine, settings=settings(stateful_step_count=25))
