"""No secret reaches a line, and no value breaks one, whatever was logged."""

from __future__ import annotations

import json
from typing import cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from twisted.logger import Logger
from twisted.python.failure import Failure

from txgateway.telemetry.lines import json_line, text_line
from txgateway.telemetry.logs import EventObserver, JsonObserver, TextObserver
from txgateway.telemetry.redaction import MAX_TEXT, redacted, scrub
from txgateway.telemetry.sink import LogSink

SECRETS = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-~", min_size=12, max_size=40).map(lambda text: "QZ" + text)
NAMES = st.sampled_from(
    [
        "authorization",
        "Proxy-Authorization",
        "Cookie",
        "Set-Cookie",
        "X-Api-Key",
        "api_key",
        "access_token",
        "token",
        "password",
        "GATEWAY_JWT_SECRET",
        "redis_password",
        "private_key",
        "query",
        "jwt",
        "session_id",
    ]
)
HEADERS = st.sampled_from(["Authorization", "Proxy-Authorization", "Cookie", "Set-Cookie", "X-Api-Key"])
PROSE = st.sampled_from(
    [
        "GET /a?key={} HTTP/1.1",
        "fetching https://host/jwks?{}",
        "/a?b=1&c={}#f",
        "redis://:{}@host:6379/0",
        "https://user:{}@host/path",
        "https://us@er:{}@host/path",
        "Authorization: Bearer {}",
        "authorization=Basic {}",
        "{{'Authorization': 'Bearer {}'}}",
        "(b'authorization', b'Authorization', b'Basic {}')",
        "(b'x-api-key', b'X-Api-Key', b'{}')",
        "b'token': [b'{}']",
        "Cookie: a=1; session={}",
        "Set-Cookie: id={}; HttpOnly",
        "got bearer {} from client",
        "password={}",
        'password = "two {} words"',
        "GATEWAY_JWT_SECRET={}",
        "client_secret: {}",
        "bad token eyJhbGciOiJIUzI1NiJ9.{}.signature",
    ]
)
SURROUNDINGS = st.text(max_size=20)
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | NAMES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.binary() | NAMES, inner, max_size=4),
    max_leaves=10,
)


class Lines:
    def __init__(self) -> None:
        self.data = b""

    def put(self, lines: bytes) -> None:
        self.data += lines


def observers() -> list[tuple[Lines, EventObserver]]:
    pairs: list[tuple[Lines, EventObserver]] = []
    for kind in (JsonObserver, TextObserver):
        lines = Lines()
        pairs.append((lines, kind(cast("LogSink", lines))))
    return pairs


@given(name=NAMES, header=HEADERS, secret=SECRETS, namespace=st.sampled_from(["txgateway.x", "twisted.web"]))
def test_no_secret_in_a_field_appears(name: str, header: str, secret: str, namespace: str) -> None:
    for lines, observer in observers():
        logger = Logger(namespace, observer=observer)
        logger.info(f"by name {{{name}}}", **{name: secret})  # noqa: G004 - the placeholder varies
        logger.info("as bytes", **{name: secret.encode()})
        logger.info("in an object", **{name: {"value": [secret]}})
        logger.info("in a dictionary", settings={name: secret}, headers={header.encode(): secret.encode()})
        logger.info("in pairs {headers}", headers=[(header, secret)])
        logger.info("in triples {headers}", headers=((header.lower().encode(), header.encode(), secret.encode()),))
        assert lines.data.count(b"\n") == 6
        assert secret.encode() not in lines.data


@given(prose=PROSE, secret=SECRETS, before=SURROUNDINGS, after=SURROUNDINGS)
def test_no_secret_in_prose_appears(prose: str, secret: str, before: str, after: str) -> None:
    text = before + " " + prose.format(secret) + " " + after
    for lines, observer in observers():
        logger = Logger("stdout", observer=observer)
        logger.info("{log_io}", log_io=text)
        logger.info("{text}", text=text)
        logger.failure("failed", Failure(RuntimeError(text)))
        assert secret.encode() not in lines.data


@given(st.dictionaries(st.text(min_size=1, max_size=8), ANYTHING, max_size=5), st.text(max_size=30))
@example({"loop": "\u2028\x85\n"}, "\ud800")
def test_any_event_is_one_line_of_json(fields: dict[str, object], message: str) -> None:
    (lines, observer), (text_lines, text_observer) = observers()
    event = {**fields, "log_namespace": "txgateway", "log_time": 1.0, "log_format": "{m}", "m": message}
    event.pop("log_level", None)
    observer(event)
    text_observer(event)
    assert lines.data.count(b"\n") == 1
    assert list(json.loads(lines.data))[:4] == ["ts", "level", "event", "message"]
    assert text_lines.data.count(b"\n") == 1
    assert len(text_lines.data.decode("utf-8").splitlines()) == 1


@given(st.dictionaries(st.text(max_size=8), ANYTHING, max_size=5))
def test_redacted_values_are_plain_data(fields: dict[str, object]) -> None:
    plain = redacted("fields", fields)
    json.dumps(plain, allow_nan=False)
    head = {"ts": "T", "level": "INFO", "event": "e"}
    assert json_line({**head, "f": plain}).count(b"\n") == 1
    assert text_line({**head, "f": plain}).count(b"\n") == 1


@given(st.text(max_size=300))
def test_scrubbing_is_bounded(text: str) -> None:
    assert len(scrub(text * 200)) <= MAX_TEXT + 1


@pytest.mark.parametrize(
    "text",
    [
        "twistd 26.10.0 (/opt/bin/python 3.11.2) starting up.",
        "reactor class: twisted.internet.epollreactor.EPollReactor.",
        "listening on 0.0.0.0:8000",
        "upstream https://10.0.0.1:9000/path failed",
        "is it ready? yes",
        "mail to ops@example.com",
    ],
)
def test_ordinary_text_is_left_alone(text: str) -> None:
    assert scrub(text) == text
