from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from txgateway.transport.websocket import FrameBoundaries, websocket_accept


def test_accept_is_the_one_of_the_standards_example() -> None:  # RFC 6455 section 1.3
    assert websocket_accept(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


def frame(size: int, *, is_masked: bool) -> bytes:
    mask = 0x80 if is_masked else 0
    if size < 126:
        header = bytes((0x81, mask | size))
    elif size < 2**16:
        header = bytes((0x81, mask | 126)) + size.to_bytes(2, "big")
    else:
        header = bytes((0x81, mask | 127)) + size.to_bytes(8, "big")
    return header + (b"mask" if is_masked else b"") + bytes(size)


SIZES = st.sampled_from([0, 1, 5, 125, 126, 127, 300, 65_535, 65_536])


@given(st.lists(st.tuples(SIZES, st.booleans()), max_size=5), st.data())
def test_boundaries_are_found_in_any_split(frames: list[tuple[int, bool]], data: st.DataObject) -> None:
    wire = b"".join(frame(size, is_masked=is_masked) for size, is_masked in frames)
    ends = [0]
    for size, is_masked in frames:
        ends.append(ends[-1] + len(frame(size, is_masked=is_masked)))
    boundaries = FrameBoundaries()
    position = 0
    while position < len(wire):
        piece = wire[position : position + data.draw(st.integers(1, 70_000))]
        expected = [end - position for end in ends[1:] if position < end <= position + len(piece)]
        assert boundaries.pass_over(piece) == (expected[0] if expected else -1)
        position += len(piece)
        assert boundaries.is_between == (position in ends)


@pytest.mark.parametrize("cut", range(1, 14))
def test_header_in_two_pieces(cut: int) -> None:
    wire = frame(70_000, is_masked=True)
    boundaries = FrameBoundaries()
    assert boundaries.pass_over(wire[:cut]) == -1
    assert not boundaries.is_between
    assert boundaries.pass_over(wire[cut:]) == len(wire) - cut
    assert boundaries.is_between
