from __future__ import annotations

from typing import Any

from txgateway.pipeline import nest, random_ids


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


def test_ids_are_32_hexadecimal_digits_and_never_repeat() -> None:
    new_id = random_ids()
    ids = [new_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(len(one) == 32 and set(one) <= set("0123456789abcdef") for one in ids)


def test_ids_are_the_source_s_bytes_cut_and_none_is_used_twice() -> None:
    asked: list[int] = []

    def source(count: int) -> bytes:
        asked.append(count)
        return bytes(number % 251 for number in range(count * len(asked)))[-count:]

    new_id = random_ids(source)
    first = new_id()
    assert first == bytes(range(16)).hex()
    assert new_id() == bytes(range(16, 32)).hex()
    assert len(asked) == 1
