from __future__ import annotations

from random import Random

import pytest
from tests.unit.proxy.balancing.targets import targets_of

from txgateway.config.vocabulary import load_balancer
from txgateway.proxy.balancer import key_named, policy_named
from txgateway.proxy.balancing import keys
from txgateway.proxy.balancing.draw import WeightedRandom
from txgateway.proxy.balancing.least_request import LeastRequest
from txgateway.proxy.balancing.ring import HashRing
from txgateway.proxy.balancing.round_robin import RoundRobin


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("round_robin", RoundRobin),
        ("least_request", LeastRequest),
        ("random", WeightedRandom),
        ("hash:client_ip", HashRing),
        ("hash:header:X-User", HashRing),
        ("hash:cookie:Session", HashRing),
    ],
)
def test_setting_names_its_policy(name: str, kind: type) -> None:
    assert load_balancer(name) == name
    assert isinstance(policy_named(name, targets_of([1, 2]), Random(1)), kind)
    assert (key_named(name) is None) == (kind is not HashRing)


def test_address_is_the_key_of_the_hash_that_says_so() -> None:
    assert key_named("hash:client_ip") is keys.client_ip


@pytest.mark.parametrize("name", ["fastest", "hash:moon"])
def test_unknown_name_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        key_named(name)
        policy_named(name, targets_of([1]), Random(1))
