"""What a file of cases may say, table by table; the text below a key is its meaning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeAlias

from pydantic import Field, PlainValidator, model_validator

from txgateway.config import syntax
from txgateway.config.groups import Boolean, Seconds, Table
from txgateway.config.values import integer
from txgateway.policy import values
from txgateway.policy.values import Pairs, Wanted

SomeTimes = Annotated[int, PlainValidator(values.times)]
RawTable = Annotated[dict[str, Any], PlainValidator(values.table)]
RawTables = Annotated[list[Any], PlainValidator(values.some_tables)]
Fields = Annotated[Pairs, PlainValidator(values.fields)]
Text = Annotated[str, PlainValidator(values.text)]
Expected: TypeAlias = Annotated[Wanted | None, PlainValidator(values.wanted)]
ExpectedHeaders = Annotated[Mapping[str, Wanted], PlainValidator(values.wanted_headers)]


class GatewayTable(Table):
    """The configuration that is tested."""

    routes_file: Text | None = None
    """a routes document, relative to this file"""
    routes: Annotated[dict[str, Any] | None, PlainValidator(values.table)] = None
    """a routes document, instead"""
    environment: Annotated[Mapping[str, str], PlainValidator(values.environment)] = Field(default_factory=dict)
    """variables; paths in those that end in _FILE are relative to this file"""
    tokens: Boolean = False
    """the keys that verify tokens are replaced by one that `token` signs with"""


class ReactionTable(Table):
    """What a backend does with one request, or with several."""

    status: Annotated[int, PlainValidator(integer(200, 599))] = 200
    headers: Fields = ()
    body: Text = ""
    delay_s: Seconds = 0.0
    """until it does it"""
    times: SomeTimes = 1
    """requests that it does it with; the last of a list stays"""
    reset: Boolean = False
    """it breaks the connection off"""
    refuse: Boolean = False
    """it refuses connections"""
    stall: Boolean = False
    """it falls silent"""

    def contradiction(self) -> str | None:
        """What is wrong with it as a whole; None for nothing."""
        faults = [name for name in ("reset", "refuse", "stall") if getattr(self, name)]
        answer = [name for name in ("status", "headers", "body") if name in self.model_fields_set]
        if len(faults) > 1 or (faults and answer):
            return f"expected one reaction, not {' and '.join((*faults, *answer))} together"
        if (self.refuse or self.stall) and self.delay_s:
            return f"expected {faults[0]} without delay"
        return None


class RequestTable(Table):
    """What the client sends."""

    method: Annotated[str, PlainValidator(syntax.method)] = "GET"
    path: Annotated[str, PlainValidator(values.target)] = "/"
    headers: Fields = ()
    body: Text | None = None
    token: Annotated[str | Mapping[str, Any] | None, PlainValidator(values.token)] = None
    """claims that are signed, or what stands behind Bearer as it is"""
    client_ip: Annotated[str, PlainValidator(values.address)] = "127.0.0.1"


class BackendExpectTable(Table):
    """The last request that a backend has received of the step; false: none has received anything."""

    name: Expected = None
    target: Expected = None
    """host:port"""
    method: Expected = None
    path: Annotated[Wanted | None, PlainValidator(values.wanted_path)] = None
    headers: ExpectedHeaders = Field(default_factory=dict)
    body: Expected = None

    @model_validator(mode="before")
    @classmethod
    def _of_false(cls, raw: object) -> object:
        return {"name": False} if raw is False else raw


class ExpectTable(Table):
    """What is expected of an answer."""

    status: Annotated[Wanted | None, PlainValidator(values.wanted_status)] = None
    reason: Expected = None
    """the code of the gateway's own answer; false for a backend's"""
    route: Expected = None
    attempts: Annotated[int | None, PlainValidator(integer(0, 1000))] = None
    headers: ExpectedHeaders = Field(default_factory=dict)
    body: Expected = None
    delay_s: Seconds | None = None
    """virtual time until the answer is whole, to the millisecond"""
    at_most_s: Seconds | None = None
    at_least_s: Seconds | None = None
    backend: BackendExpectTable | None = None


class StepTable(Table):
    """What happens next: backends change, then time passes, then a request is made."""

    backends: RawTable = Field(default_factory=dict)
    advance_s: Seconds | None = None
    request: RequestTable | None = None
    repeat: SomeTimes = 1
    expect: ExpectTable | None = None

    def contradiction(self) -> str | None:
        """What is wrong with it as a whole; None for nothing."""
        if self.request is None and {"expect", "repeat"} & self.model_fields_set:
            return "expected a request beside expect and repeat"
        if not {"backends", "advance_s", "request"} & self.model_fields_set:
            return "expected request, advance or backends"
        return None


class CaseTable(Table):
    """A case; its backends and steps are read one by one."""

    name: Text = ""
    backends: RawTable = Field(default_factory=dict)
    steps: RawTables = Field(default_factory=list)


class RootTable(Table):
    """The whole file; its backends and cases are read one by one."""

    gateway: GatewayTable = GatewayTable()
    backends: RawTable = Field(default_factory=dict)
    cases: RawTables = Field(default_factory=list)
