"""The small languages of single settings."""

from __future__ import annotations

import pytest

from txgateway.config import vocabulary


def test_claim_headers_from_variable_and_document_are_the_same() -> None:
    pairs = (("sub", "X-User-Id"), ("email", "X-Email"))
    assert vocabulary.claim_headers("sub=X-User-Id, email=X-Email") == pairs
    assert vocabulary.claim_headers({"sub": "X-User-Id", "email": "X-Email"}) == pairs


@pytest.mark.parametrize("value", ["sub", "=X", "sub=", "a=X-A,b=x-a", "sub=Host", 5])
def test_claim_headers_that_are_none_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="expected"):
        vocabulary.claim_headers(value)


@pytest.mark.parametrize(
    "name",
    [
        "Authorization",
        "Cookie",
        "Proxy-Authorization",
        "HTTP2-Settings",
        "X-Forwarded-For",
        "x-real-ip",
        "X-Request-Id",
        "Host",
    ],
)
def test_claim_may_not_replace_what_the_gateway_says(name: str) -> None:
    with pytest.raises(ValueError, match="header"):
        vocabulary.claim_headers(f"sub={name}")


def test_claim_headers_that_a_backend_may_take_for_the_same_are_refused() -> None:
    with pytest.raises(ValueError, match="once"):
        vocabulary.claim_headers("sub=X-User-Id,email=X_User.Id")


@pytest.mark.parametrize("text", ["", "a b", 'a"b', "a\\b", "ä", "a\n", "a" * 257])
def test_scope_that_no_token_can_carry_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected a scope"):
        vocabulary.scope(text)
    assert vocabulary.scope("resumes:read") == "resumes:read"
