from __future__ import annotations

import pytest

from txgateway.auth.encoding import MAX_DEPTH, base64url, json_object


@pytest.mark.parametrize(("text", "octets"), [(b"", b""), (b"AA", b"\0"), (b"_-8", b"\xff\xef"), (b"YWJj", b"abc")])
def test_canonical_base64url_is_decoded(text: bytes, octets: bytes) -> None:
    assert base64url(text) == octets


@pytest.mark.parametrize(
    "text",
    [b"AA==", b"AA=", b"AB", b"AAB", b"A", b"AAAAA", b"A A", b"AA\n", b"\nAA", b"+/8", b"AA.A", b"\xc3\xa4AA", b"AA\0"],
)
def test_any_other_spelling_of_octets_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        base64url(text)


def test_object_is_read() -> None:
    assert json_object(b' {"a": [1, 2.5, true, null, {"b": "\\u00e4\\ud83d\\ude00"}]} ') == {
        "a": [1, 2.5, True, None, {"b": "ä😀"}]
    }


@pytest.mark.parametrize(
    "document",
    [
        b"", b"[]", b"1", b'"a"', b"null", b"{", b"{}{}", b"{'a': 1}", b'{"a": 1,}', b'\xef\xbb\xbf{}',
        b'{"a": 1, "a": 1}', b'{"a": {"b": 1, "b": 2}}', b'{"a": 1, "\\u0061": 2}',
        b'{"a": NaN}', b'{"a": Infinity}', b'{"a": -Infinity}', b'{"a": 1e999}', b'{"a": -1e999}',
        b'{"a": "\xff"}', b'{"a": "\xed\xa0\x80"}', b'{"a": "\\ud800"}', b'{"a": "\\udc00\\ud800"}', b'{"\\uDfff": 1}',
        b'{"a": "\n"}', b'{"a": 01}', b'{"a": ' + b"1" * 5000 + b"}",
    ],
)  # fmt: skip
def test_document_that_can_be_read_in_two_ways_or_none_is_refused(document: bytes) -> None:
    with pytest.raises(ValueError, match=r".*"):
        json_object(document)


def nested(depth: int, opening: bytes = b"[", closing: bytes = b"]") -> bytes:
    return b'{"a": ' + opening * (depth - 1) + b"1" + closing * (depth - 1) + b"}"


def test_nesting_is_bounded() -> None:
    json_object(nested(MAX_DEPTH))
    json_object(b'{"a": [' + b", ".join([b"[]"] * 100) + b"]}")
    json_object(b'{"a": "\\"' + b"[" * 100 + b'"}')
    for document in (nested(MAX_DEPTH + 1), nested(100_000), b"[" * 100_000, nested(500, b'{"a":', b"}")):
        with pytest.raises(ValueError, match="nested"):
            json_object(document)
