from __future__ import annotations

import pytest

from txgateway.policy.values import ANYTHING, NOTHING, moment, token, wanted, wanted_headers, wanted_path, wanted_status


@pytest.mark.parametrize(
    ("written", "values", "fits"),
    [
        ("a", ["a"], True),
        ("a", ["A"], False),
        ("a", ["ab"], False),
        ("a", [], False),
        ("a", ["a", "a"], False),
        ("", [""], True),
        (5, ["5"], True),
        ("/b/", ["abc"], True),
        ("/^b/", ["abc"], False),
        ("/b/", [], False),
        ("//", ["//"], True),
        ("/", ["/"], True),
        (False, [], True),
        (False, [""], False),
    ],
)
def test_text_is_compared_as_a_whole_and_in_slashes_it_is_searched(
    written: object, values: list[str], fits: bool
) -> None:
    assert wanted(written).fits(values) is fits


def test_path_in_slashes_is_a_path() -> None:
    assert wanted_path("/a/").fits(["/a/"])
    assert not wanted_path("/a/").fits(["/ba"])
    assert wanted_path("/^/a/").fits(["/abc"])
    found = wanted_headers({"Location": "/a/", "X-A": "/a/"})
    assert (found["Location"].fits(["xax"]), found["X-A"].fits(["xax"])) == (False, True)
    with pytest.raises(ValueError, match="expected a path, or a regular expression between"):
        wanted_path("/^(/")


def test_headers_are_there_or_not_or_repeated() -> None:
    found = wanted_headers({"A": True, "B": False, "C": ["1", "/2/"], "D": 3})
    assert (found["A"], found["B"], found["D"].fits(["3"])) == (ANYTHING, NOTHING, True)
    assert [found["A"].fits(values) for values in ([], [""], ["a", "b"])] == [False, True, True]
    assert [found["C"].fits(values) for values in (["1", "2"], ["2", "1"], ["1"], ["1, 2"])] == [
        True,
        False,
        False,
        False,
    ]
    assert found["C"].shown == "[1, /2/]"


@pytest.mark.parametrize("written", [False, True, 99, 600, "20", "OK", "", 2.0, [200]])
def test_status_is_a_code(written: object) -> None:
    with pytest.raises(ValueError, match="expected a status code from 100 to 599"):
        wanted_status(written)


def test_only_a_text_is_literal() -> None:
    assert [wanted(one).literal for one in ("a", "/a/", False, "")] == ["a", None, None, ""]
    assert ANYTHING.literal is None


def test_moments_are_relative_if_they_are_durations() -> None:
    claims = token({"exp": "5m", "nbf": "-90s", "iat": 5, "sub": "5m", "aud": False})
    assert isinstance(claims, dict)
    assert {name: moment(value, 1000.5) for name, value in claims.items()} == {
        "exp": 1300, "nbf": 910, "iat": 5, "sub": "5m", "aud": False,
    }  # fmt: skip
