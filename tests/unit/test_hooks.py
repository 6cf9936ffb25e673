"""Whose hook it was that failed."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

from tests.helpers.logs import logged_events
from tests.unit.support import StubChannel, stub_request

from txgateway.errors import NoRoute
from txgateway.hooks import hook_fields

HERE = "tests.unit.test_hooks"


class Own:
    def __init__(self) -> None:
        self.context = SimpleNamespace(name="own")

    def hook(self, request: Any) -> None:
        raise ValueError("x")

    def closure(self) -> Any:
        def hook(request: Any) -> None:
            self.hook(request)

        return hook


class Callable:
    def __call__(self, request: Any) -> None:
        raise ValueError("x")


def test_owner_is_found_in_methods_closures_and_partials() -> None:
    own = Own()
    for hook, name in (
        (own.hook, "Own.hook"),
        (own.closure(), "Own.closure.<locals>.hook"),
        (partial(Own.hook, own), "Own.hook"),
    ):
        told = hook_fields(hook)
        assert told["middleware"] == "own"
        assert told["hook"].endswith(name)


def test_hook_of_nobody_is_told_by_where_it_is() -> None:
    assert hook_fields(Callable())["hook"].endswith("Callable")
    assert "middleware" not in hook_fields(lambda _: None)


def failing(register: str) -> tuple[list[Any], StubChannel, Any]:
    channel = StubChannel()
    request = stub_request(channel=channel)
    getattr(request, register)(Own().hook)
    with logged_events() as events:
        request.fail(NoRoute())
    return [event for event in events if event.get("log_failure")], channel, request


def test_hook_before_the_head_that_fails_is_a_500_with_a_name() -> None:
    (event,), channel, request = failing("before_head")
    assert (event["middleware"], event["hook"].rpartition(".")[2]) == ("own", "hook")
    assert channel.events[0][1] == 500
    assert (request.ended, request.reason) == (True, "INTERNAL_ERROR")


def test_hook_at_the_end_that_fails_is_told_with_a_name() -> None:
    (event,), channel, _ = failing("on_finish")
    assert event["middleware"] == "own"
    assert channel.events[0][1] == 404
