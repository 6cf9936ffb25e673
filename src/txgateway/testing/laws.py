"""Laws that any middleware has to keep, whatever happens around it; one call puts a middleware to all of them.

A law is a small function: it is given a :class:`Trial`, which plays stories with the middleware and without it, and an
example, and says what is wrong, or None. Needs the extra ``testing``.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final

import attrs
import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, given
from hypothesis import strategies as st

from txgateway.errors import CLIENT_GONE
from txgateway.middleware.base import Middleware
from txgateway.testing.bench import HORIZON_S
from txgateway.testing.containers import container_sizes
from txgateway.testing.context import MiddlewareFactory, factory_of
from txgateway.testing.forgeries import drops_forgeries
from txgateway.testing.law import Law, LawBroken, law
from txgateway.testing.samples import SAMPLES
from txgateway.testing.scripted_inner import CRASH_TEXT, FAILED, RAISED
from txgateway.testing.stories import Client, End, Pairs, Story
from txgateway.testing.strategies import chunkings, histories, pairs_of_stories, stories
from txgateway.testing.trial import HOLDING, Promises, Trial, difference

__all__ = ["LAWS", "Law", "LawBroken", "Promises", "Trial", "assert_middleware_laws"]

#: CPU seconds that one ``render`` may take.
MAX_RENDER_CPU_S: Final = 0.25
#: Requests at once that are tried when permits are counted.
CROWD: Final = 12
_REASONS: Final = {End.RAISES: RAISED.reason, End.FAILS: FAILED.reason, End.BREAKS: FAILED.reason}


# --- of one exchange ------------------------------------------------------------------------------------------------


@law(stories)
def never_blocks(trial: Trial, story: Story) -> str | None:
    """Nothing blocks: the reactor has other requests to serve."""
    exchange = trial.exchange(story)
    if exchange.bench.blocked:
        return f"it calls {exchange.bench.blocked[0]}"
    spent_s = exchange.outcome.record.render_cpu_s
    return f"render takes {spent_s:.2f} s of CPU" if spent_s > MAX_RENDER_CPU_S else None


@law(stories)
def shares_nothing(trial: Trial, story: Story) -> str | None:
    """What requests of a connection share is replaced, and never changed in place."""
    return trial.exchange(story).outcome.record.changed or None


@law(stories)
def counts_at_the_end(trial: Trial, story: Story) -> str | None:
    """What is counted is read when the request is over, when it is right."""
    exchange = trial.exchange(story)
    record = exchange.outcome.record
    if record.early:
        return f"request.{record.early[0]} is read before there is anything to count"
    reports, request = trial.promises.reports, record.request
    if reports is None or request is None:
        return None
    true = {"requests": 1, "bytes_in": request.bytes_in, "bytes_out": request.bytes_out}
    reported = reports(exchange.bench.middleware)
    wrong = {name: count for name, count in reported.items() if count != true[name]}
    return f"it reports {wrong}, and it was {true}" if wrong else None


@law(stories)
def answers_once(trial: Trial, story: Story) -> str | None:
    """A request is answered once, and nobody is asked when it is over."""
    outcome = trial.exchange(story).outcome
    record = outcome.record
    if record.asked_late:
        return "the inner is asked although the request is over"
    if len(record.seen) > 1:
        return f"the inner is asked {len(record.seen)} times"
    if record.heads > 1 or outcome.finals > 1:
        return f"{max(record.heads, outcome.finals)} answers are begun"
    return None


@law(stories)
def passes_errors_on(trial: Trial, story: Story) -> str | None:
    """An error of the inner comes to the client as that error."""
    exchange = trial.exchange(story)
    end, outcome, bare = story.reply.end, exchange.outcome, exchange.bare
    if not outcome.record.seen or story.client != Client() or end in {End.WHOLE, End.STALLS} or not bare.record.seen:
        return None
    if trial.promises.is_own(outcome):
        return None
    if end is not End.CRASHES and bare.reason != _REASONS[end]:
        return None  # something else ended it before the inner could
    if (outcome.status, outcome.reason, outcome.is_whole) != (bare.status, bare.reason, bare.is_whole):
        got, due = (f"{one.status} {one.reason}" for one in (outcome, bare))
        return f"the inner {end.value}, and the client gets {got} instead of {due}"
    return None


@law(stories)
def settles(trial: Trial, story: Story) -> str | None:
    """Every request ends in time, unless it is in the inner's hands."""
    exchange = trial.exchange(story)
    if exchange.outcome.is_over or not (exchange.bare.is_over or exchange.bare.record.seen):
        return None
    where = "the inner is done with it" if exchange.outcome.record.seen else "the inner was never asked"
    return f"the request is not over after {HORIZON_S:g} s, and {where}"


@law(stories)
def runs_hooks_once(trial: Trial, story: Story) -> str | None:
    """Hooks before the head run once, and those at the end once, and last."""
    outcome = trial.exchange(story).outcome
    events = outcome.record.events
    if outcome.record.request is None or not trial.exchange(story).bare.record.events:
        return None
    if events.count("finish") != 1 or events[-1] != "finish":
        return f"this ran: {events}"
    if events.count("head") > 1 or (outcome.status and "head" not in events):
        return f"this ran before the head went out: {events.count('head')} times each hook"
    return None


@law(stories)
def refuses_as_declared(trial: Trial, story: Story) -> str | None:
    """It refuses with declared reasons, and answers itself only if that is declared."""
    exchange = trial.exchange(story)
    outcome, bare = exchange.outcome, exchange.bare
    if not bare.record.seen or not outcome.status or trial.promises.is_own(outcome) or outcome.reason == CLIENT_GONE:
        return None
    if not outcome.record.seen:
        return f"it answers {outcome.status} {outcome.reason or 'of its own'}, which is not declared"
    if outcome.reason not in {None, bare.reason}:
        return f"the exchange ends with {outcome.reason}, which is not declared"
    return None


@law(stories)
def keeps_request(trial: Trial, story: Story) -> str | None:
    """The inner gets the request as the client made it, but for what is declared."""
    exchange = trial.exchange(story)
    if story.client != Client() or not exchange.outcome.record.seen or trial.promises.is_own(exchange.outcome):
        return None
    found = difference(trial.request_of(exchange.outcome), trial.request_of(exchange.bare))
    return None if found is None else f"the inner gets another {found}"


@law(stories)
def keeps_response(trial: Trial, story: Story) -> str | None:
    """The client gets the answer as the inner gave it, but for what is declared."""
    exchange = trial.exchange(story)
    seen, bare = exchange.outcome.record.seen, exchange.bare
    if not seen or story.reply.end is not End.WHOLE or story.client.leaves_at_s is not None:
        return None
    if trial.promises.is_own(exchange.outcome) or not bare.is_whole:
        return None
    found = difference(trial.answer_of(exchange.outcome), trial.answer_of(bare))
    return None if found is None else f"the client gets another {found}"


@law(stories)
def frees_everything(trial: Trial, story: Story) -> str | None:
    """When no request is left, no timer and no deadline is."""
    bench = trial.exchange(story).bench
    if trial.promises.outlasts_s:
        bench.rest(trial.promises.outlasts_s)
    left = bench.left_over()
    return f"what is left: {'; '.join(left)}" if left else None


@law(stories)
def logs_no_faults(trial: Trial, story: Story) -> str | None:
    """Nothing goes wrong inside that the inner has not done."""
    bench = trial.exchange(story).bench
    faults = [fault for fault in bench.faults if CRASH_TEXT not in fault]
    return faults[0] if faults else None


@law(stories)
def repeats_what_was_said(trial: Trial, story: Story) -> str | None:
    """Its own answer to a repeated request is what the inner has said to that, or a 304."""
    promises = trial.promises
    if not promises.may_answer or not promises.changes.isdisjoint({"status", "response_body"}):
        return None
    again = attrs.evolve(story, reply=attrs.evolve(story.reply, end=End.WHOLE), client=Client())
    bench, was_asked = trial.bench(), False
    for one in (story, again, again):
        (outcome,) = bench.play(one)
        was_asked = was_asked or bool(outcome.record.seen)
        is_own = promises.is_own(outcome) and outcome.reason is None
        if one is not again or not was_asked or not is_own or outcome.status == 304:
            continue
        (bare,) = trial.bare_bench().play(again)
        found = difference(trial.content_of(outcome), trial.content_of(bare))
        if found is not None:
            return f"asked again, it answers itself with another {found}"
    return None


# --- of two ---------------------------------------------------------------------------------------------------------


@law(chunkings)
def any_chunking(trial: Trial, chunking: tuple[Story, Story]) -> str | None:
    """Whatever pieces bodies come in, empty ones included, the outcome is the same."""
    (whole,), (parts,) = (trial.bench().play(story) for story in chunking)
    found = difference(trial.answer_of(parts), trial.answer_of(whole))
    if found is not None:
        return f"in pieces, the client gets another {found}"
    found = difference(trial.request_of(parts), trial.request_of(whole))
    return None if found is None else f"in pieces, the inner gets another {found}"


@law(pairs_of_stories)
def keeps_apart(trial: Trial, pair: tuple[Story, Story]) -> str | None:
    """Two requests at the same time each get what they get alone."""
    together = trial.bench().play(*pair)
    for number, (story, outcome) in enumerate(zip(pair, together, strict=True), 1):
        (alone,) = trial.bench().play(story, first=number)
        if trial.promises.is_own(outcome) or trial.promises.is_own(alone):
            continue  # a limit that both count for
        is_strict = not trial.promises.depends_on_others
        found = difference(
            trial.answer_of(outcome, is_strict=is_strict), trial.answer_of(alone, is_strict=is_strict)
        ) or difference(trial.request_of(outcome), trial.request_of(alone))
        if found is not None:
            return f"next to the other, request {number} has another {found}"
    return None


# --- of many --------------------------------------------------------------------------------------------------------


@law(histories)
def gives_permits_back(trial: Trial, history: Sequence[Story]) -> str | None:
    """After whatever happened, as many requests get through at once as before."""
    fresh = trial.bench().capacity(HOLDING, CROWD)
    bench = trial.bench()
    for _ in range(2):
        bench.play(*history)
    bench.rest()
    now = bench.capacity(HOLDING, CROWD)
    return f"{now} of {CROWD} get through at once, which were {fresh}" if now < fresh else None


@law(histories)
def keeps_nothing(trial: Trial, history: Sequence[Story]) -> str | None:
    """Containers do not grow with what is over."""
    bench = trial.bench()
    not_its_own = (bench.clock, bench.wheel, bench.inner)

    def sizes() -> dict[str, int]:
        for _ in range(2):
            bench.play(*history)
        bench.rest()
        return container_sizes(bench.middleware, not_its_own)

    before, after = sizes(), sizes()
    grown = [
        f"{place}: {before[place]}, then {size}" for place, size in after.items() if size > before.get(place, size)
    ]
    return f"{grown[0]} after the same again" if grown else None


#: In the order in which they are judged: what is found first says most.
LAWS: Final[tuple[Law, ...]] = (
    any_chunking,
    never_blocks,
    shares_nothing,
    counts_at_the_end,
    answers_once,
    passes_errors_on,
    settles,
    runs_hooks_once,
    refuses_as_declared,
    keeps_request,
    keeps_response,
    repeats_what_was_said,
    drops_forgeries,
    frees_everything,
    logs_no_faults,
    keeps_apart,
    gives_permits_back,
    keeps_nothing,
)


def assert_middleware_laws(
    factory: MiddlewareFactory | type[Middleware],
    *,
    settings: Any = None,
    changes_request_headers: Collection[str | bytes] = (),
    changes_response_headers: Collection[str | bytes] = (),
    changes: Collection[str] = (),
    refuses: Collection[str] = (),
    may_answer: bool = False,
    request_headers: Pairs = (),
    response_headers: Pairs = (),
    claims: Mapping[str, Any] | None = None,
    outlasts_s: float = 0.0,
    depends_on_others: bool = False,
    reports: Callable[[Any], Mapping[str, int]] | None = None,
    laws: Sequence[Law] = LAWS,
    max_examples: int | None = None,
) -> None:
    """Put a middleware to the laws.

    Args:
        factory: makes it: ``factory(inner, context)``; or its class, which is given ``settings`` too.
        settings: for a class, as in a routes document.
        changes_request_headers: names of fields that it may change on the way to the backend.
        changes_response_headers: names of fields that it may change on the way to the client.
        changes: what else it may change, of ``target``, ``request_body``, ``response_body``, ``status``.
        refuses: reasons that it may refuse with.
        may_answer: it may answer requests itself.
        request_headers: fields that all requests are made with, so that it lets them through.
        response_headers: fields that all answers of the inner have, in place of its own of these names.
        claims: of the token that has been verified above it; None for no token.
        outlasts_s: how long timers of its may run on when no request is left.
        depends_on_others: what it tells in the declared fields depends on other requests, as with a limit.
        reports: given the middleware, what it has counted: some of ``requests``, ``bytes_in``, ``bytes_out``.
        laws: those that are judged.
        max_examples: of each kind, beside the usual ones; None for those of the Hypothesis profile.

    Raises:
        LawBroken: a law is; says which, and tells the shortest history that was found.
    """
    promises = Promises(
        changes_request_headers=changes_request_headers,
        changes_response_headers=changes_response_headers,
        changes=changes,
        refuses=refuses,
        may_answer=may_answer,
        request_headers=request_headers,
        response_headers=response_headers,
        claims=claims or {},
        outlasts_s=outlasts_s,
        depends_on_others=depends_on_others,
        reports=reports,
    )
    makes = factory_of(factory, settings) if isinstance(factory, type) else factory
    trial = Trial(makes, promises)
    gc.collect()  # a failed Deferred that others have left behind is told of when it is found, and would be taken for ours
    for examples, judged in _by_examples(laws):
        _judge(trial, examples, judged, max_examples)


def _by_examples(laws: Sequence[Law]) -> Iterator[tuple[Callable[[], st.SearchStrategy[Any]], list[Law]]]:
    kinds = list(dict.fromkeys(one.examples for one in laws))
    yield from ((kind, [one for one in laws if one.examples is kind]) for kind in kinds)


def _judge(
    trial: Trial, examples: Callable[[], st.SearchStrategy[Any]], laws: Sequence[Law], max_examples: int | None
) -> None:
    @hypothesis.settings(
        max_examples=max_examples or hypothesis.settings().max_examples,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
        verbosity=Verbosity.quiet,  # the law tells it shorter
        phases=(Phase.generate, Phase.shrink),
    )
    @given(examples())
    def judged(example: Any) -> None:
        for one in laws:
            one(trial, example)

    for sample in SAMPLES.get(examples, ()):
        for one in laws:
            one(trial, sample)
    judged()
