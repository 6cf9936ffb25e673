"""Backends' scripts as the gateway in memory takes them."""

from __future__ import annotations

from collections.abc import Mapping

from txgateway.policy.document import Scripts
from txgateway.policy.tables import ReactionTable
from txgateway.testing.backends import Reaction, Refuse, Reset, Response, ScriptedBackend, Stall


def put(scripts: Scripts, backends: Mapping[str, ScriptedBackend]) -> None:
    """From now on the backends do what the scripts say."""
    for name, script in scripts.items():
        backends[name].script = [reaction(one) for one in script for _ in range(one.times)]


def reaction(table: ReactionTable) -> Reaction:
    """What a backend does with one request."""
    if table.refuse:
        return Refuse()
    if table.reset:
        return Reset(after_s=table.delay_s)
    if table.stall:
        return Stall(after_s=table.delay_s)
    fields = [(name.encode("ascii"), value.encode("ascii")) for name, value in table.headers]
    return Response(table.status, fields, table.body.encode("utf-8"), after_s=table.delay_s)
