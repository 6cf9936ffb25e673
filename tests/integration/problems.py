"""What every answer of the gateway's own has to look like, to the client and in the log."""

from __future__ import annotations

import re

from tests.integration.client import Response
from tests.integration.harness import Gateway, Line

MEMBERS = {"type", "title", "status", "detail", "reason", "request_id"}
#: Nothing that tells what is behind the gateway, or that it is made of Python.
INTERNALS = re.compile(rb"127\.0\.0\.1|Traceback|\.py|twisted|Error\(|errno", re.IGNORECASE)


def assert_problem(
    gateway: Gateway,
    response: Response,
    status: int,
    reason: str,
    *,
    proxy_error: str = "",
    closes: bool = False,
    line_status: int | None = None,
) -> Line:
    """Check a problem+json answer and its line in the access log, which is returned.

    Args:
        proxy_error: the error type in ``Proxy-Status``.
        closes: the answer ends its connection.
        line_status: what the log says, if not ``status``.
    """
    problem = response.json()
    assert (response.status, problem["reason"]) == (status, reason)
    assert set(problem) == MEMBERS
    assert problem["type"] == f"urn:txgateway:{reason}"
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"].endswith(".")
    assert problem["request_id"] == response.header("X-Request-ID")
    assert response.header("Content-Type") == "application/problem+json"
    assert not INTERNALS.search(response.body)
    assert response.header("Server") is None
    assert response.header("Date") is not None
    expected = f"txgateway; error={proxy_error}" if status >= 500 else None
    assert response.header("Proxy-Status") == expected
    assert response.header("Connection") == ("close" if closes else None)
    line = gateway.access_line(response)
    assert (line["status"], line["reason"]) == (line_status or status, reason)
    assert line["level"] == ("ERROR" if status >= 500 else "INFO")
    return line
