"""``GET /explain?method=&url=&header=&client_ip=`` of the admin port: the query in, the explanation out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qs

from txgateway.config import Configuration
from txgateway.config.syntax import is_ip_address
from txgateway.explain.asked import Asked
from txgateway.explain.walk import explain
from txgateway.pipeline import Pipeline

_DEFAULTS: Final = {"method": "GET", "client_ip": "127.0.0.1"}
_KNOWN: Final = frozenset({"method", "url", "header", "client_ip"})
#: More than a request may have.
_MAX_ARGUMENTS: Final = 200


def explain_query(configuration: Configuration, pipeline: Pipeline, query: str) -> Mapping[str, Any]:
    """The explanation, with the state of the targets; or ``{"error": …}``, if the query asks for none.

    Args:
        configuration: in force.
        pipeline: in use.
        query: as it came, without the question mark.
    """
    try:
        asked = _asked(query)
    except ValueError as exc:
        return {"error": str(exc)}
    return explain(configuration, pipeline, asked, is_live=True)


def _asked(query: str) -> Asked:
    try:
        arguments = parse_qs(query, keep_blank_values=True, max_num_fields=_MAX_ARGUMENTS, errors="surrogateescape")
    except ValueError as exc:
        raise ValueError(f"expected at most {_MAX_ARGUMENTS} arguments") from exc
    for name, values in arguments.items():
        if name not in _KNOWN:
            raise ValueError("expected only method, url, header and client_ip")
        if len(values) > 1 and name != "header":
            raise ValueError(f"expected {name} once")
    one = _DEFAULTS | {name: values[0] for name, values in arguments.items()}
    if "url" not in one:
        raise ValueError("expected url, percent-encoded: /explain?method=GET&url=https%3A%2F%2Fapi.example.com%2F")
    if not is_ip_address(one["client_ip"]):
        raise ValueError("expected an IP address as client_ip")
    return Asked(one["method"], one["url"], tuple(arguments.get("header", ())), one["client_ip"])
