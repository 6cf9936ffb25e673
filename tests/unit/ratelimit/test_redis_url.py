from __future__ import annotations

import pytest

from txgateway.ratelimit.redis_url import RedisAddress


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://cache", RedisAddress("cache")),
        ("redis://cache:7000/5", RedisAddress("cache", 7000, database=5)),
        ("redis://cache/", RedisAddress("cache")),
        ("redis://[::1]:7000", RedisAddress("::1", 7000)),
        ("redis://:p%40ss@cache", RedisAddress("cache", password="p@ss")),
        ("redis://us%3Aer:p:a%2Fss@cache", RedisAddress("cache", username="us:er", password="p:a/ss")),
        ("redis://pass@cache", RedisAddress("cache", password="pass")),
        ("rediss://cache:7000", RedisAddress("cache", 7000, is_tls=True)),
        ("unix:///run/redis.sock", RedisAddress(path="/run/redis.sock")),
        ("unix:///run/a%20b@c?db=3", RedisAddress(path="/run/a b@c", database=3)),
        ("unix://:pass@/run/redis.sock?db=1", RedisAddress(path="/run/redis.sock", password="pass", database=1)),
        ("unix://user:p%40@/r", RedisAddress(path="/r", username="user", password="p@")),
    ],
)
def test_url_is_understood(url: str, address: RedisAddress) -> None:
    assert RedisAddress.parse(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "", "redis://", "redis:///5", "http://:hunter2@cache", "redis://:hunter2@cache/x", "redis://:hunter2@cache:x",
        "redis://:hunter2@cache:99999", "unix://:hunter2@", "unix:///", "unix://:hunter2@/r?db=x", "unix://hunter2",
        "unix:///r?x=hunter2",
    ],
)  # fmt: skip
def test_other_url_is_refused_without_repeating_it(url: str) -> None:
    with pytest.raises(ValueError, match="expected") as caught:
        RedisAddress.parse(url)
    assert "hunter2" not in repr(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("redis://user:hunter2@cache/5", "redis://cache:6379/5"),
        ("rediss://:hunter2@[::1]", "rediss://[::1]:6379/0"),
        ("unix://:hunter2@/run/r?db=1", "unix:///run/r?db=1"),
    ],
)
def test_password_is_in_no_text(url: str, text: str) -> None:
    address = RedisAddress.parse(url)
    assert str(address) == text
    assert "hunter2" not in repr(address)
