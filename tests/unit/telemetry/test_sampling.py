from __future__ import annotations

from random import Random

import pytest
from opentelemetry.sdk.trace.sampling import TraceIdRatioBased

from txgateway.telemetry.sampling import SAMPLERS, Sampler

TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.mark.parametrize(
    ("name", "alone", "below_sampled", "below_unsampled"),
    [
        ("always_on", True, True, True),
        ("always_off", False, False, False),
        ("parentbased_always_on", True, True, False),
        ("parentbased_always_off", False, True, False),
        ("traceidratio", False, False, False),
        ("parentbased_traceidratio", False, True, False),
    ],
)
def test_samplers_heed_the_caller_if_their_name_says_so(
    name: str, alone: bool, below_sampled: bool, below_unsampled: bool
) -> None:
    sampler = Sampler(name, 0.0)
    told = [sampler.decides(TRACE, parent) for parent in (None, True, False)]
    assert told == [alone, below_sampled, below_unsampled]


def test_every_sampler_is_tested() -> None:
    assert len(SAMPLERS) == len(set(SAMPLERS)) == 6


@pytest.mark.parametrize("ratio", [0.0, 2.0**-64, 1e-9, 0.01, 0.1, 0.25, 1 / 3, 0.5, 0.999, 1 - 2.0**-53, 1.0])
def test_ratio_decides_as_the_sdk_does(ratio: float) -> None:
    ours, theirs, chance = Sampler("traceidratio", ratio), TraceIdRatioBased(ratio), Random(1)
    low = round(ratio * 2**64)
    edges = [number % 2**64 for number in (low - 1, low, low + 1)]
    for number in [*edges, *(chance.getrandbits(64) for _ in range(500))]:
        trace_id = (chance.getrandbits(64) << 64) | number
        expected = theirs.should_sample(None, trace_id, "x").decision.is_sampled()
        assert ours.decides(f"{trace_id:032x}", None) is expected


@pytest.mark.parametrize("ratio", [0.01, 0.1, 0.5, 0.9])
def test_ratio_is_the_share_that_is_sampled(ratio: float) -> None:
    sampler, chance, count = Sampler("parentbased_traceidratio", ratio), Random(7), 20_000
    sampled = sum(sampler.decides(f"{chance.getrandbits(128):032x}", None) for _ in range(count))
    four_sigma = 4 * (count * ratio * (1 - ratio)) ** 0.5
    assert abs(sampled - count * ratio) < four_sigma
