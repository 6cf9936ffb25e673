"""Spellings of paths: which are one and the same, and which are refused."""

from __future__ import annotations

import pytest

from txgateway.errors import BadPath
from txgateway.routing.path import canonical_path, has_encoded_slash, split_target


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/a", b"/a", b""),
        (b"/a?", b"/a", b"?"),
        (b"/a?x=1?y", b"/a", b"?x=1?y"),
        (b"?x", b"", b"?x"),
    ],
)
def test_target_is_split_at_first_question_mark(target: bytes, path: bytes, query: bytes) -> None:
    assert split_target(target) == (path, query)


@pytest.mark.parametrize(
    "path",
    [b"/", b"/a", b"/a/", b"/a/b.c", b"/a..b/c", b"/.well-known/x", b"/...", b"/v1/users:batch", b"/a%20b", b"/%C3%A9"],
)
def test_canonical_path_is_kept(path: bytes) -> None:
    assert canonical_path(path) == path


@pytest.mark.parametrize(
    ("path", "canonical"),
    [
        (b"/%61dmin", b"/admin"),
        (b"/%7Euser", b"/~user"),
        (b"/v1/users%3adelete", b"/v1/users:delete"),
        (b"/a%2Bb", b"/a+b"),
        (b"/a%2Fb", b"/a/b"),
        (b"/a%2fb", b"/a/b"),
        (b"//a///b//", b"/a/b/"),
        (b"/a/%2f/b", b"/a/b"),
        (b"/a;x=1/b;y", b"/a/b"),
        (b"/a%3Bx/b%3by", b"/a/b"),
        (b"/;x/a", b"/a"),
        (b"/%c3%a9", b"/%C3%A9"),
        (b"/a|b", b"/a%7Cb"),
        (b"/a%7cb", b"/a%7Cb"),
        (b"/{x}", b"/%7Bx%7D"),
        (b"/%252e%252e/a", b"/%252e%252e/a"),
        (b"/%252Fa", b"/%252Fa"),
        (b"/%3f%23", b"/%3F%23"),
        (b"/a/%2e%2e%2e", b"/a/..."),
    ],
)
def test_other_spelling_becomes_canonical(path: bytes, canonical: bytes) -> None:
    assert canonical_path(path) == canonical


@pytest.mark.parametrize(
    "path",
    [
        b"/.",
        b"/..",
        b"/a/../b",
        b"/a/./b",
        b"/a/..",
        b"/a/%2e%2E/b",
        b"/a/.%2e",
        b"/a%2f..%2fb",
        b"/a/..;x/b",
        b"/a/..%3bx/b",
        b"/a/.;/b",
        b"/a/%2e%2e%3b",
        b"/a//../b",
        b"/a/;x/../b",
    ],
)
def test_dot_segment_is_refused(path: bytes) -> None:
    with pytest.raises(BadPath):
        canonical_path(path)


@pytest.mark.parametrize(
    "path",
    [
        b"/a%00",
        b"/a%0a",
        b"/a%0D",
        b"/a%5Cb",
        b"/a%5cb",
        b"/a\\b",
        b"/a\x00b",
        b"/a\nb",
        b"/a\n",
        b"/a b",
        b"/a\x7f",
        b"/a\xc3\xa9",
        b"/a#b",
        b"/a?b",
    ],
)
def test_forbidden_character_is_refused(path: bytes) -> None:
    with pytest.raises(BadPath):
        canonical_path(path)


@pytest.mark.parametrize("path", [b"/%", b"/a%2", b"/a%zz", b"/%u002e", b"/%%32%65", b"/a;%g0"])
def test_broken_percent_encoding_is_refused(path: bytes) -> None:
    with pytest.raises(BadPath):
        canonical_path(path)


@pytest.mark.parametrize(
    "path",
    [b"/%c0%af", b"/%c0%ae%c0%ae/a", b"/%e0%80%af", b"/%ff", b"/%C3", b"/%C3/%A9", b"/%ed%a0%80", b"/a;%80", b"/%80"],
)
def test_escapes_that_are_not_utf8_are_refused(path: bytes) -> None:
    with pytest.raises(BadPath):
        canonical_path(path)


@pytest.mark.parametrize("path", [b"/api;%2Fpublic/secret", b"/api;x=a%2fb", b"/api%3B%2Fpublic"])
def test_encoded_slash_in_a_parameter_is_refused(path: bytes) -> None:
    with pytest.raises(BadPath):
        canonical_path(path)


@pytest.mark.parametrize("path", [b"", b"*", b"a", b"http://h/a", b"%2Fa", b"?"])
def test_path_without_leading_slash_is_refused(path: bytes) -> None:
    with pytest.raises(BadPath):
        canonical_path(path)


@pytest.mark.parametrize(
    ("path", "has"), [(b"/a%2Fb", True), (b"/a%2fb", True), (b"/a/b", False), (b"/a%252Fb", False)]
)
def test_encoded_slash_is_found(path: bytes, has: bool) -> None:
    assert has_encoded_slash(path) is has
