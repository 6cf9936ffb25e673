from __future__ import annotations

from txgateway.ids import random_ids


def test_ids_are_32_hexadecimal_digits_and_never_repeat() -> None:
    new_id = random_ids(16)
    ids = [new_id() for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert all(len(one) == 32 and set(one) <= set("0123456789abcdef") for one in ids)


def test_ids_are_the_source_s_bytes_cut_and_none_is_used_twice() -> None:
    asked: list[int] = []

    def source(count: int) -> bytes:
        asked.append(count)
        return bytes(number % 251 for number in range(count * len(asked)))[-count:]

    new_id = random_ids(16, source)
    first = new_id()
    assert first == bytes(range(16)).hex()
    assert new_id() == bytes(range(16, 32)).hex()
    assert len(asked) == 1


def test_no_id_is_zero() -> None:
    drawn = iter([bytes(2048), bytes(8) + b"\1" * 2040])
    new_id = random_ids(8, lambda size: next(drawn)[:size])
    assert new_id() == "01" * 8
