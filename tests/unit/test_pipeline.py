from __future__ import annotations

from typing import Any

from txgateway.pipeline import nest


class Named:
    def __init__(self, name: str, inner: Any = None) -> None:
        self.name = name
        self.inner = inner

    def render(self, request: Any) -> Any:
        return [self.name, *(self.inner.render(request) if self.inner else [])]


def test_nest_calls_in_the_order_given_and_ends_at_the_end() -> None:
    nested = nest(lambda inner: Named("a", inner), lambda inner: Named("b", inner), end=Named("end"))
    request: Any = None
    assert nested.render(request) == ["a", "b", "end"]
