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


@pytest.mark.parametrize("name", ["Authorization", "X-Forwarded-For", "x-real-ip", "X-Request-Id", "Host"])
def test_claim_may_not_replace_what_the_gateway_says(name: str) -> None:
    with pytest.raises(ValueError, match="header"):
        vocabulary.claim_headers(f"sub={name}")
