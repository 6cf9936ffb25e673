"""Users' middlewares are told of, and asked only if they allow it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.helpers import own

from txgateway.config import load
from txgateway.explain import Asked, explain, lines, still_pipeline
from txgateway.middleware import GatewayRequest, Middleware

OWN = "tests.helpers.own"
SECRET = "hunter2-hunter2"


class Shy(Middleware):
    """Must not be asked."""

    def render(self, request: GatewayRequest) -> Any:
        raise AssertionError("asked")

    def explain(self, request: GatewayRequest) -> str:
        raise LookupError("no idea")


class Waiting(Middleware):
    explains = True

    def render(self, request: GatewayRequest) -> Any:
        return 1


class Failing(Middleware):
    explains = True

    def render(self, request: GatewayRequest) -> Any:
        raise LookupError("no idea")


class Answering(Middleware):
    explains = True

    def render(self, request: GatewayRequest) -> Any:
        request.answer(204, [], b"")


def told(use: str, *fields: str, **settings: Any) -> dict[str, Any]:
    document = {
        "routes": [{"name": "r", "path": "/", "response": {"status": 204}, "middlewares": ["t"]}],
        "middlewares": {"t": {"use": use, "settings": settings}},
    }
    environ = {"GATEWAY_ROUTES": json.dumps(document), "GATEWAY_MIDDLEWARES": f"{OWN}:Stamp"}
    configuration = load(environ)
    return explain(configuration, still_pipeline(configuration), Asked("GET", "/", fields))


def step(explanation: dict[str, Any], place: str = "decorators") -> dict[str, Any]:
    name = {"edge": "Stamp"}.get(place)
    ours = {"SecurityHeaders", "Admission", "Bulkhead"}
    return next(
        one for one in explanation[place] if one["decorator"] == name or (not name and one["decorator"] not in ours)
    )


def test_name_class_position_and_settings_are_told_with_their_sources() -> None:
    explanation = told(f"{OWN}:Tenancy", "X-Tenant: acme", claim="team", key=SECRET)
    assert step(explanation) == {
        "decorator": "Tenancy",
        "does": "Lets tenants through.",
        "outcome": "passes",
        "says": {"middleware": "t", "tells": "tenant acme"},
        "settings": {
            "use": {"value": f"{OWN}:Tenancy", "source": "document middlewares.t.use"},
            "position": {"value": "route", "source": f"class {OWN}:Tenancy"},
            "settings.claim": {"value": "team", "source": "document middlewares.t.settings.claim"},
            "settings.limit": {"value": 3, "source": "default"},
            "settings.hosts": {"value": [], "source": "default"},
            "settings.key": {"value": "***", "source": "document middlewares.t.settings.key"},
        },
    }
    assert SECRET not in json.dumps(explanation)
    assert explanation["route"]["settings"]["middlewares"]["value"] == ["t"]
    text = "\n".join(lines(explanation))
    assert "\nTenancy: passes\n" in text
    assert "settings.claim  team" in text
    assert explanation["outcome"] == {"is": "answered", "by": "FixedResponse"}


def test_one_at_the_edge_is_told_as_well() -> None:
    found = step(told(f"{OWN}:Tenancy"), "edge")
    assert (found["outcome"], found["says"]) == ("depends", {"middleware": "stamp"})


def test_one_that_may_be_asked_refuses() -> None:
    explanation = told(f"{OWN}:Tenancy", "X-Tenant: nobody")
    assert step(explanation)["outcome"] == "refuses"
    assert (explanation["outcome"]["by"], explanation["outcome"]["reason"]) == ("Tenancy", "TENANT_UNKNOWN")
    assert explanation["end"] is None


@pytest.mark.parametrize(
    ("kind", "outcome", "ends"),
    [
        ("Shy", "depends", "answered"),
        ("Waiting", "depends", "answered"),
        ("Failing", "refuses", "refused"),
        ("Answering", "answers", "answered"),
    ],
)
def test_what_asking_comes_to(kind: str, outcome: str, ends: str) -> None:
    explanation = told(f"{__name__}:{kind}")
    assert (step(explanation)["outcome"], explanation["outcome"]["is"]) == (outcome, ends)


def test_explain_that_fails_is_told() -> None:
    assert step(told(f"{__name__}:Shy"))["says"]["tells"] == "its explain failed: LookupError: no idea"


def test_asking_leaves_the_middleware_as_it_is() -> None:
    own.MADE.clear()
    told(f"{OWN}:Tenancy", "X-Tenant: acme")
    assert [type(one).__name__ for one in own.MADE] == ["Tenancy", "Stamp"]
    assert type(own.MADE[0].inner).__name__ == "Bulkhead"
