"""Lookups: one at a time for a name, whatever the resolver does."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from typing import Any

from tests.helpers.logs import logged
from tests.helpers.resolver import ManualResolver, TableResolver, ip
from twisted.internet.interfaces import IAddress, IHostnameResolver
from zope.interface import implementer
from zope.interface.verify import verifyObject

from txgateway.transport.lookup import MAX_FOUND, Lookups


class _Asker:
    def __init__(self) -> None:
        self.answers: list[list[IAddress]] = []

    def told(self, found: Sequence[IAddress]) -> None:
        self.answers.append(list(found))


@implementer(IHostnameResolver)
class _Broken:
    def resolveHostName(self, *_: Any) -> Any:
        raise RuntimeError("no resolver today")


def test_doubles_are_resolvers() -> None:
    assert verifyObject(IHostnameResolver, ManualResolver())
    assert verifyObject(IHostnameResolver, TableResolver(ManualResolver(), {}))


def test_answer_comes_as_it_is() -> None:
    resolver, asker = ManualResolver(), _Asker()
    Lookups(resolver).ask("svc", asker.told)
    assert asker.answers == []
    resolver.answer("svc", "10.0.0.2", "::1", "10.0.0.1")
    assert asker.answers == [[ip("10.0.0.2"), ip("::1"), ip("10.0.0.1")]]


def test_all_who_ask_for_a_name_wait_for_one_lookup_and_are_told_once() -> None:
    resolver, first, second = ManualResolver(), _Asker(), _Asker()
    lookups = Lookups(resolver)
    for asker in (first, second, first, first):
        lookups.ask("svc", asker.told)
    lookups.ask("other", first.told)
    assert resolver.asked == ["svc", "other"]
    resolver.answer("svc", "10.0.0.1")
    assert first.answers == second.answers == [[ip("10.0.0.1")]]
    assert not lookups.is_out("svc")
    assert lookups.is_out("other")


def test_next_lookup_may_begin_when_the_answer_comes() -> None:
    resolver, asker = ManualResolver(), _Asker()
    lookups = Lookups(resolver)

    def ask_again(_: object) -> None:
        lookups.ask("svc", asker.told)

    lookups.ask("svc", ask_again)
    resolver.answer("svc")
    assert resolver.asked == ["svc", "svc"]
    resolver.answer("svc", "10.0.0.1")
    assert asker.answers == [[ip("10.0.0.1")]]


def test_answer_at_once() -> None:
    asker = _Asker()
    lookups = Lookups(TableResolver(ManualResolver(), {"svc": ("10.0.0.1",)}))
    lookups.ask("svc", asker.told)
    lookups.ask("svc", asker.told)
    assert asker.answers == [[ip("10.0.0.1")]] * 2


def test_resolver_that_raises_has_found_nothing() -> None:
    asker = _Asker()
    lookups = Lookups(_Broken())
    with logged() as lines:
        lookups.ask("svc", asker.told)
    assert asker.answers == [[]]
    assert not lookups.is_out("svc")
    assert len(lines) == 1


def test_asker_that_raises_keeps_nothing_from_the_others() -> None:
    resolver, asker = ManualResolver(), _Asker()
    lookups = Lookups(resolver)

    def fail(_: object) -> None:
        raise RuntimeError("not today")

    lookups.ask("svc", fail)
    lookups.ask("svc", asker.told)
    with logged() as lines:
        resolver.answer("svc", "10.0.0.1")
    assert asker.answers == [[ip("10.0.0.1")]]
    assert len(lines) == 1


def test_lookup_that_the_resolver_has_lost_is_begun_anew() -> None:
    resolver, asker = ManualResolver(), _Asker()
    lookups = Lookups(resolver)
    lookups.ask("svc", asker.told)
    resolver.lose("svc")
    gc.collect()
    lookups.ask("svc", asker.told)
    assert resolver.asked == ["svc", "svc"]
    resolver.answer("svc", "10.0.0.1")
    assert asker.answers == [[ip("10.0.0.1")]]


def test_answers_are_bounded() -> None:
    resolver, asker = ManualResolver(), _Asker()
    Lookups(resolver).ask("svc", asker.told)
    resolver.answer("svc", *(["10.0.0.1"] * (MAX_FOUND + 5)))
    assert [len(answer) for answer in asker.answers] == [MAX_FOUND]


def test_resolver_that_says_it_is_done_twice_is_heard_once() -> None:
    resolver, asker = ManualResolver(), _Asker()
    lookups = Lookups(resolver)
    lookups.ask("svc", asker.told)
    receiver = resolver.out["svc"]
    resolver.answer("svc")
    lookups.ask("svc", asker.told)
    receiver.resolutionComplete()
    assert asker.answers == [[]]
    assert lookups.is_out("svc")
