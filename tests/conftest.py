"""What the whole suite shares: Hypothesis profiles and the one reactor that real sockets run on."""

from __future__ import annotations

import os

import pytest
import trustme
from hypothesis import settings
from twisted.internet.posixbase import PosixReactorBase

# "ci" finds the same examples on every run, so that a red build is the change's own fault; "deep" goes looking.
settings.register_profile("ci", derandomize=True, deadline=None, max_examples=60, print_blob=True)
settings.register_profile("deep", deadline=None, max_examples=5000, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Issues a module's certificates."""
    return trustme.CA()


@pytest.fixture(scope="session")
def reactor() -> PosixReactorBase:
    """The running reactor, for tests with real sockets; pytest-twisted installed and drives it (``--reactor``)."""
    from twisted.internet import reactor as running

    assert isinstance(running, PosixReactorBase)
    return running
