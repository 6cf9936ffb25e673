"""`txgateway test` over real files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree.ElementTree import Element, fromstring

import pytest
from click.testing import CliRunner, Result

from txgateway.cli import main

ROUTES = """
[backends.resumes]
targets = ["https://a.internal:8443", "https://b.internal:8443"]
breaker = { failures = 5, open_for = "30s" }

[[routes]]
name = "resumes"
path = "/api/v1/resumes"
backend = "resumes"
retry.max_attempts = 3

[[routes]]
name = "old"
path = "/old"
redirect.to = "/new/"
"""

ONE = """
[gateway.routes.backends.resumes]
targets = ["http://a:9000"]
breaker = { failures = 5, open_for = "30s" }
[[gateway.routes.routes]]
name = "resumes"
path = "/api"
backend = "resumes"
"""

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes a file of cases, with the routes document above beside it, and returns its name."""
    monkeypatch.chdir(tmp_path)

    def written(cases: str, gateway: str = '[gateway]\nroutes_file = "routes.toml"\n', name: str = "cases.toml") -> str:
        (tmp_path / "routes.toml").write_text(ROUTES, encoding="utf-8")
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(gateway + cases, encoding="utf-8")
        return name

    return written


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["test", *arguments])


def passes(*arguments: str) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    return result.stdout


def test_breaker_opens_and_closes_in_virtual_time(write: Write) -> None:
    name = write(
        """
[[cases]]
name = "a breaker opens and closes"
backends.resumes = [{ status = 503, times = 5 }, { status = 200, body = "back" }]
[[cases.steps]]
request = { method = "POST", path = "/api" }
repeat = 5
expect = { status = 503, reason = false, attempts = 1 }
[[cases.steps]]
request = { method = "POST", path = "/api" }
expect = { status = 503, reason = "BREAKER_OPEN", attempts = 0, headers = { retry-after = "30" }, backend = false }
[[cases.steps]]
advance = "29s"
request = { method = "POST", path = "/api" }
expect = { status = 503, reason = "BREAKER_OPEN", headers = { Retry-After = "1" } }
[[cases.steps]]
advance = "1s"
[[cases.steps]]
request = { method = "POST", path = "/api" }
expect = { status = 200, body = "back" }
""",
        ONE,
    )
    assert passes(name).splitlines() == [
        "cases.toml",
        "  ok    a breaker opens and closes  (30s)",
        "1 passed; 30s of virtual time",
    ]


def test_retries_are_counted_and_what_the_backend_received_is_seen(write: Write) -> None:
    passes(
        write("""
[[cases]]
name = "third time lucky"
backends.resumes = [{ refuse = true }, { reset = true }, { headers = { X-A = ["1", "2"] }, delay = "2s" }]
[[cases.steps]]
request = { path = "/api/v1/resumes?x=1", headers = { X-Tenant = "acme", X-B = ["1", "2"] }, client_ip = "203.0.113.7" }
expect.status = 200
expect.reason = false
expect.route = "resumes"
expect.attempts = 3
expect.at_least = "2s"
expect.at_most = "2300ms"
expect.headers = { x-a = ["1", "/^2$/"], X-Gone = false, X-Request-ID = true }
[cases.steps.expect.backend]
name = "resumes"
target = "/internal:8443$/"
method = "GET"
path = "/api/v1/resumes?x=1"
body = ""
headers = { x-tenant = "acme", X-B = ["1", "2"], X-Real-IP = "203.0.113.7", Host = "/^[ab]\\\\.internal/", Cookie = false }

[[cases]]
name = "a stalled backend"
backends.resumes = { stall = true }
[[cases.steps]]
request = { path = "/api/v1/resumes" }
expect = { status = 504, reason = "DEADLINE_EXCEEDED", at_least = "30s", at_most = "30.1s" }

[[cases]]
name = "a backend that breaks off late"
backends.resumes = { reset = true, delay = "2s" }
[[cases.steps]]
request = { method = "POST", path = "/api/v1/resumes" }
expect = { status = 502, reason = "UPSTREAM_RESET", attempts = 1, delay = "2s" }

[[cases]]
name = "a request with a body, and a change of backends"
[[cases.steps]]
request = { method = "POST", path = "/api/v1/resumes", body = "höhe" }
expect = { status = "/^2/", body = "ok", delay = "0s", backend = { method = "POST", body = "höhe" } }
[[cases.steps]]
backends.resumes = { status = 404, body = "gone" }
[[cases.steps]]
request = { path = "/api/v1/resumes" }
expect = { status = 404, body = "/^go/" }

[[cases]]
name = "no backend"
[[cases.steps]]
request = { path = "/old" }
expect = { status = 308, route = "old", headers = { Location = "/new/" }, attempts = 0, backend = false }
[[cases.steps]]
request = { path = "/nowhere" }
expect = { status = 404, reason = "NO_ROUTE", route = false }
""")
    )


def test_limit_refills_over_virtual_time(write: Write) -> None:
    passes(
        write("""
[gateway]
environment = { GATEWAY_BACKEND_TARGET = "https://a.internal", GATEWAY_RATE_LIMIT = "2/s" }
[[cases]]
name = "two a second"
[[cases.steps]]
request = {}
repeat = 2
expect.status = 200
[[cases.steps]]
request = {}
expect = { status = 429, reason = "RATE_LIMITED", headers = { Retry-After = "1" } }
[[cases.steps]]
request = { client_ip = "192.0.2.1" }
expect.status = 200
[[cases.steps]]
advance = "500ms"
request = {}
expect.status = 200
[[cases.steps]]
request = {}
expect.status = 429
[[cases]]
name = "a case knows nothing of the one before"
[[cases.steps]]
request = {}
expect.status = 200
""", "")
    )  # fmt: skip


TOKENS = """
[gateway]
tokens = true
[gateway.environment]
GATEWAY_BACKEND_TARGET = "http://a"
GATEWAY_JWT_JWKS_URL = "https://login.example.com/jwks.json"
GATEWAY_JWT_ALGORITHMS = "RS256"
GATEWAY_JWT_ISSUER = "https://login.example.com/"
GATEWAY_JWT_AUDIENCE = "api"
GATEWAY_JWT_REQUIRED_SCOPES = "resumes:read"
GATEWAY_JWT_CLAIM_HEADERS = "sub=X-User-Id"
"""


def test_tokens_are_signed_and_judged(write: Write) -> None:
    passes(
        write(
            """
[[cases]]
name = "tokens"
[[cases.steps]]
request = { token = { sub = "alice", scope = "resumes:read" } }
expect = { status = 200, backend.headers = { X-User-Id = "alice" } }
[[cases.steps]]
request = {}
expect = { status = 401, reason = "TOKEN_MISSING", headers = { WWW-Authenticate = "/^Bearer/" }, backend = false }
[[cases.steps]]
request = { token = { sub = "alice", scope = "other" } }
expect = { status = 403, reason = "SCOPE_MISSING" }
[[cases.steps]]
request = { token = { sub = "alice", scope = "resumes:read", exp = "-5m" } }
expect.reason = "TOKEN_EXPIRED"
[[cases.steps]]
request = { token = { scope = "resumes:read", aud = "another" } }
expect.reason = "TOKEN_BAD_CLAIMS"
[[cases.steps]]
request = { token = { scope = "resumes:read", iss = false } }
expect.reason = "TOKEN_BAD_CLAIMS"
[[cases.steps]]
request = { token = "nonsense" }
expect.reason = "TOKEN_MALFORMED"
[[cases.steps]]
advance = "2h"
request = { token = { scope = "resumes:read", nbf = "-1m", exp = "5m" } }
expect.status = 200
""",
            TOKENS,
        )
    )


MIDDLEWARE = """
from txgateway.middleware import Middleware
class Own(Middleware):
    "Says what it is."
    def render(self, request):
        if request.header(b"x-fail"):
            raise RuntimeError("of its own")
        request.before_head(lambda request: setattr(
            request, "response_headers", [*request.response_headers, (b"x-own", b"X-Own", b"NAME")]))
        return self.inner.render(request)
"""
OWN = """
[gateway]
environment = { GATEWAY_BACKEND_TARGET = "http://a", GATEWAY_MIDDLEWARES = "own_policy:Own" }
[[cases]]
name = "mine"
[[cases.steps]]
request = {}
expect.headers = { X-Own = "NAME" }
[[cases]]
name = "mine fails"
[[cases.steps]]
request = { headers = { X-Fail = "1" } }
expect = { status = 500, reason = "INTERNAL_ERROR" }
"""


def test_middlewares_of_each_file_are_found_beside_it(write: Write, tmp_path: Path) -> None:
    names = [write(OWN.replace("NAME", directory), "", f"{directory}/cases.toml") for directory in ("one", "two")]
    for directory in ("one", "two"):
        (tmp_path / directory / "own_policy.py").write_text(MIDDLEWARE.replace("NAME", directory), encoding="utf-8")
    before = list(sys.path)
    assert run(*names).exit_code == 0
    assert (sys.path, "own_policy" in sys.modules) == (before, False)


FAILING = """
[[cases]]
name = "passes"
[[cases.steps]]
request = { path = "/api" }
[[cases]]
name = "fails"
backends.resumes = { headers = { X-A = ["1", "2"] } }
[[cases.steps]]
advance = "1s"
[[cases.steps]]
request = { path = "/api", headers = { X-Tenant = "acme" } }
repeat = 2
expect.status = 503
expect.reason = "BREAKER_OPEN"
expect.route = false
expect.attempts = 3
expect.headers = { X-A = "1", X-Gone = true, Date = false }
expect.body = "/^no/"
expect.delay = "2s"
expect.at_least = "100ms"
expect.backend = { method = "POST", path = "/", headers = { X-Tenant = "other" }, body = "b" }
[[cases.steps]]
request = { path = "/never" }
expect.status = 200
"""


def test_failure_shows_what_was_expected_and_what_came(write: Write) -> None:
    result = run(write(FAILING, ONE))
    assert result.exit_code == 1
    assert (
        result.stdout
        == """\
cases.toml
  ok    passes  (0s)
  FAIL  fails  (1s)
        step 2 (cases[1].steps[1]), request 1 of 2: GET /api
                                    expected      got
          status                    503           200
          reason                    BREAKER_OPEN  nothing
          route                     nothing       resumes
          attempts                  3             1
          headers.X-A               1             [1, 2]
          headers.X-Gone            anything      nothing
          headers.Date              nothing       Fri, 15 Jan 2027 08:00:01 GMT
          body                      /^no/         ''
          delay                     2s            0s
          at_least                  0.1s          0s
          backend.method            POST          GET
          backend.path              /             /api
          backend.headers.X-Tenant  other         acme
          backend.body              b             ''
        log: 2027-01-15T08:00:01.000Z INFO  request client_ip=127.0.0.1 method=GET host=gateway.test path=/api protocol=HTTP/1.1 status=200 route=resumes backend=resumes target=a:9000 attempts=1 duration_ms=0.0 upstream_ms=0.0 bytes_in=0 bytes_out=0
        backend resumes at a:9000: GET /api
          Host: a:9000
          X-Tenant: acme
          X-Forwarded-For: 127.0.0.1
          X-Forwarded-Proto: http
          X-Forwarded-Port: 8000
          Forwarded: for=127.0.0.1;host=gateway.test;proto=http
          X-Forwarded-Host: gateway.test
          X-Real-IP: 127.0.0.1
          Via: 1.1 txgateway
          X-Request-ID: (id of the request)
1 passed, 1 failed; 1s of virtual time
"""
    )
    assert run("cases.toml").stdout == result.stdout


def test_failure_tells_of_faults_and_of_backends_that_got_nothing(write: Write, tmp_path: Path) -> None:
    (tmp_path / "own_policy.py").write_text(MIDDLEWARE, encoding="utf-8")
    result = run(write(OWN.replace("status = 500", "status = 200, backend.name = 'default'"), ""), "-k", "FAILS")
    assert result.exit_code == 1
    assert "mine  (" not in result.stdout
    told = [line.strip() for line in result.stdout.splitlines()]
    assert [line.split() for line in told[3:6]] == [
        ["expected", "got"], ["status", "200", "500"], ["backend", "default", "nothing"],
    ]  # fmt: skip
    assert "logged: RuntimeError: of its own" in told
    assert "backends: nothing received" in told


def test_answer_that_never_comes_whole_is_a_difference(write: Write) -> None:
    name = write(
        """
[[cases]]
name = "cut"
backends.resumes = { headers = { Content-Length = "10" }, body = "short" }
[[cases.steps]]
request = { path = "/api" }
expect = { status = 200, route = "resumes" }
""",
        ONE,
    )
    result = run(name)
    assert result.exit_code == 1
    assert ["answer", "a", "whole", "one", "broken", "off"] in [line.split() for line in result.stdout.splitlines()]


def test_json_is_one_object(write: Write) -> None:
    result = run(write(FAILING, ONE), "--json")
    told = json.loads(result.stdout)
    assert (result.exit_code, told["ok"], told["passed"], told["failed"], told["virtual_s"]) == (1, False, 1, 1, 1.0)
    first, second = told["files"][0]["cases"]
    assert first == {"name": "passes", "where": "cases[0]", "ok": True, "virtual_s": 0.0, "failure": None}
    failure = second["failure"]
    assert failure["differences"][0] == {"field": "status", "expected": "503", "got": "200"}
    assert (failure["where"], failure["turn"], failure["of"]) == ("cases[1].steps[1]", 1, 2)
    assert (failure["log"]["route"], failure["received"][0]["backend"]) == ("resumes", "resumes")
    assert ["X-Tenant", "acme"] in failure["received"][0]["headers"]


def test_choice_that_leaves_nothing_is_a_mistake(write: Write) -> None:
    result = run(write(FAILING, ONE), "-k", "nobody")
    assert result.exit_code == 2
    assert "no case has 'nobody' in its name" in result.stderr
    assert passes("cases.toml", "-k", "PASS").splitlines()[-1] == "1 passed; 0s of virtual time"


# --- JUnit ----------------------------------------------------------------------------------------------------

#: What the schemas that are about (Jenkins's, Ant's, GitLab's reader) agree on: attributes, the necessary ones first.
SCHEMA = {
    "testsuites": ({"tests", "failures"}, {"name", "time", "errors", "disabled"}, {"testsuite"}),
    "testsuite": ({"name", "tests"}, {"failures", "errors", "skipped", "time", "timestamp", "hostname"}, {"testcase"}),
    "testcase": ({"name", "classname", "time"}, {"status", "assertions"}, {"failure", "error", "skipped"}),
    "failure": (set(), {"message", "type"}, set()),
}


def check_schema(element: Element) -> None:
    needed, others, children = SCHEMA[element.tag]
    assert needed <= set(element.attrib) <= needed | others, element.attrib
    assert {child.tag for child in element} <= children
    for name in {"tests", "failures", "errors", "skipped"} & set(element.attrib):
        assert int(element.attrib[name]) >= 0
    assert float(element.attrib.get("time", "0")) >= 0
    for child in element:
        check_schema(child)


def test_junit_is_what_ci_systems_read(write: Write, tmp_path: Path) -> None:
    name = write(FAILING.replace('"fails"', r'"fa\u0007ils <&>"').replace('"acme"', '"<&>"'), ONE)
    passing = write('[[cases]]\nname = "x"\n[[cases.steps]]\nadvance = 1\n', ONE, "other.toml")
    assert run(name, passing, "--junit", "out.xml").exit_code == 1
    content = (tmp_path / "out.xml").read_bytes()
    root = fromstring(content)
    check_schema(root)
    assert content.startswith(b"<?xml version='1.0' encoding='utf-8'?>\n<testsuites ")
    assert (root.attrib["tests"], root.attrib["failures"]) == ("3", "1")
    assert [(suite.attrib["name"], suite.attrib["tests"], suite.attrib["failures"]) for suite in root] == [
        ("cases.toml", "2", "1"), ("other.toml", "1", "0"),
    ]  # fmt: skip
    passed, failed = root[0]
    assert (passed.attrib["name"], passed.attrib["classname"], len(passed)) == ("passes", "cases.toml", 0)
    assert failed.attrib["name"] == "fa\ufffdils <&>"
    (failure,) = failed
    assert failure.attrib == {"message": "cases[1].steps[1]: status: expected 503, got 200", "type": "difference"}
    assert failure.text is not None
    assert "  status                    503           200\n" in failure.text
    assert "X-Tenant: <&>" in failure.text


def test_junit_that_cannot_be_written_is_told(write: Write) -> None:
    result = run(write(FAILING, ONE), "--junit", "missing/out.xml")
    assert result.exit_code == 1
    assert "missing/out.xml" in result.stderr


# --- wrong files ----------------------------------------------------------------------------------------------

STEP = '[[cases]]\nname = "a"\n[[cases.steps]]\n'
GOOD = f"{STEP}advance = 1\n"


@pytest.mark.parametrize(
    ("cases", "gateway", "problems"),
    [
        ("cases = [", ONE, ["the file is not TOML: Invalid value (at line 2, column 2)"]),
        ("", ONE, ["cases: required: expected a list of at least one case"]),
        ("[[cases]]\n", ONE, ["cases[0].name: required", "cases[0].steps: required"]),
        ("cases = []\n", "", ["cases: '[]' is not accepted: expected a list of at least one", "gateway: expected routes_file, routes, or GATEWAY_BACKEND_TARGET in environment"]),
        ("cases = [1]\n[gateway]\nroutes_file = 'routes.toml'", "", ["cases[0]: expected a table"]),
        (f"{STEP}request = {{}}\nexpct = 1", ONE, ["cases[0].steps[0].expct: there is no such key; did you mean expect?"]),
        (f"{STEP}request = {{}}\nexpect.backend.heders = {{}}", ONE, ["cases[0].steps[0].expect.backend.heders: there is no such key; did you mean headers?"]),
        (f"{STEP}request = {{}}\nexpect.backend = 1", ONE, ["cases[0].steps[0].expect.backend: '1' is not accepted: expected a table"]),
        (f"[[case]]\n{GOOD}", ONE, ["case: there is no such key; did you mean cases?"]),
        (f"{STEP}repeat = 2", ONE, ["cases[0].steps[0]: expected a request beside expect and repeat"]),
        (STEP, ONE, ["cases[0].steps[0]: expected request, advance or backends"]),
        (f"{STEP}advance = '1 day'", ONE, ["cases[0].steps[0].advance: '1 day' is not accepted: expected a duration like 250ms, 2s, 5m or 1h, or a number of seconds, up to a year"]),
        (f"{STEP}request = {{}}\nrepeat = 0", ONE, ["cases[0].steps[0].repeat: '0' is not accepted: expected an integer from 1 to 10000"]),
        (f"{STEP}request = {{}}\nexpect = {{ status = '2xx', attempts = -1 }}", ONE, [
            "cases[0].steps[0].expect.status: '2xx' is not accepted: expected a status code from 100 to 599, or a regular expression in slashes, like \"/^2\\\\d\\\\d$/\"",
            "cases[0].steps[0].expect.attempts: '-1' is not accepted: expected an integer from 0 to 1000",
        ]),
        (f"{STEP}request = {{}}\nexpect = {{ body = '/(/', reason = true, headers = {{ 'X A' = 'a' }} }}", ONE, [
            "cases[0].steps[0].expect.reason: 'True' is not accepted: expected a text, a regular expression in slashes, or false for nothing",
            "cases[0].steps[0].expect.headers: X A: expected a word of letters, digits and -._",
            "cases[0].steps[0].expect.body: '/(/' is not accepted: expected a text, or a regular expression in slashes, which this is not: missing ), unterminated subpattern at position 0",
        ]),
        (f"{STEP}request = {{}}\nexpect.headers = {{ X-A = 1, x-a = 2 }}", ONE, ["cases[0].steps[0].expect.headers: expected each header name once, whatever its case; a header that is repeated is a list"]),
        (f"{STEP}request = {{}}\nexpect.headers = {{ X-A = 1.5, }}".replace(", }", " }"), ONE, ["cases[0].steps[0].expect.headers: X-A: expected a text, a regular expression in slashes, a list of these, true or false"]),
        (f"{STEP}request = {{}}\nexpect.headers = {{ X-A = [] }}", ONE, ["cases[0].steps[0].expect.headers: X-A: expected false for a header that is not there"]),
        (f"{STEP}request = {{}}\nexpect = {{ route = 'resume', backend = {{ name = 'resum' }} }}", ONE, [
            "cases[0].steps[0].expect.route: there is no route 'resume'; did you mean resumes?",
            "cases[0].steps[0].expect.backend.name: there is no backend 'resum'; did you mean resumes?",
        ]),
        (f"{STEP}request = {{ method = 'get', path = '/a b', client_ip = 'localhost', body = 1 }}", ONE, [
            "cases[0].steps[0].request.method: 'get' is not accepted: expected a method in upper case, like GET, other than CONNECT",
            "cases[0].steps[0].request.path: '/a b' is not accepted: expected a path without blanks and control characters",
            "cases[0].steps[0].request.body: '1' is not accepted: expected a text",
            "cases[0].steps[0].request.client_ip: 'localhost' is not accepted: expected an IP address",
        ]),
        (f"{STEP}request.headers = {{ X-A = ['a', ' b'] }}", ONE, ["cases[0].steps[0].request.headers: X-A: expected a header value: printable ASCII, no line ends, no space at either end"]),
        (f"{STEP}request.token = {{}}", ONE, ["cases[0].steps[0].request.token: expected gateway.tokens = true with a table of claims"]),
        (f"{STEP}request.token = {{ exp = 'now' }}", ONE, ['cases[0].steps[0].request.token: exp: expected a duration from now, like "5m" or "-5m", a number of epoch seconds, or false']),
        (f"backends.resums.status = 200\n{STEP}backends.resumes = []", ONE, ["cases[0].steps[0].backends.resumes: expected a reaction, or a list of at least one", "backends.resums: there is no backend 'resums'; did you mean resumes?"]),
        (f"{GOOD}[backends]\nresums.status = 200\nother = 1\n", ONE, [
            "backends.other: expected a table",
            "backends.resums: there is no backend 'resums'; did you mean resumes?",
            "backends.other: there is no backend 'other'; there is resumes",
        ]),
        (f"{STEP}advance = 1\nbackends.resumes = [{{}}, {{ status = 99 }}, {{ reset = true, body = '' }}, {{ refuse = true, delay = 1 }}]", ONE, [
            "cases[0].steps[0].backends.resumes[1].status: '99' is not accepted: expected an integer from 200 to 599",
            "cases[0].steps[0].backends.resumes[2]: expected one reaction, not reset and body together",
            "cases[0].steps[0].backends.resumes[3]: expected refuse without delay",
        ]),
        (GOOD, "[gateway]\nroutes_file = 'missing.toml'\n", ["gateway.routes_file: '{}/missing.toml' is not accepted: the file cannot be read (No such file or directory)"]),
        (GOOD, "[gateway]\nroutes_file = 'routes.toml'\nroutes = {}\n", ["gateway.routes: contradicts gateway.routes_file: set only one of the two"]),
        (GOOD, "[gateway]\nroutes_file = 'routes.toml'\nenvironment.GATEWAY_BACKEND_TARGET = 'demo'\n", ["gateway.environment.GATEWAY_BACKEND_TARGET: contradicts gateway.routes_file: set only one of the two"]),
        (GOOD, "[gateway]\nroutes_file = 'routes.toml'\nenvironment.GATEWAY_PROT = 1\n", ["gateway.environment.GATEWAY_PROT: there is no such variable; did you mean GATEWAY_PORT?"]),
        (GOOD, "[gateway]\nroutes_file = 'routes.toml'\nenvironment.GATEWAY_PORT = []\n", ["gateway.environment: GATEWAY_PORT: expected a text, as variables have"]),
        (GOOD, "[gateway]\nroutes_file = 'routes.toml'\nenvironment.GATEWAY_REDIS_URL = 'redis://r'\n", ["gateway.environment.GATEWAY_REDIS_URL: limits are kept in memory here: leave it out"]),
        (GOOD, ONE.replace("path =", "pth ="), ["gateway.routes.routes[0].pth: there is no such key; did you mean path?", "gateway.routes.routes[0].path: required"]),
        (GOOD, "[gateway.routes]\nroutes = [{ name = 'r', path = '/', resource = 'no.such:thing' }]\n", ["gateway.routes.routes[0].resource: 'no.such:thing' is not accepted: expected package.module:name of a twisted.web IResource: ModuleNotFoundError: No module named 'no'"]),
    ],
)  # fmt: skip
def test_wrong_file_is_told_with_places_and_what_is_accepted(
    cases: str, gateway: str, problems: list[str], write: Write, tmp_path: Path
) -> None:
    in_order = cases + gateway if cases.startswith(("backends", "cases =")) else gateway + cases
    result = run(write(in_order, ""))
    assert (result.exit_code, result.stdout) == (78, ""), result.output
    told = [line.removeprefix("cases.toml: ") for line in result.stderr.splitlines()]
    assert told == [problem.replace("{}", str(tmp_path)) for problem in problems]


def test_problem_of_a_routes_file_names_it(write: Write, tmp_path: Path) -> None:
    name = write(GOOD)
    (tmp_path / "routes.toml").write_text(ROUTES.replace('path = "/old"', 'path = "old"'), encoding="utf-8")
    (line,) = run(name).stderr.splitlines()
    assert line.startswith("cases.toml: gateway.routes_file routes.toml: routes[1].path: 'old' is not accepted: ")


def test_middleware_that_cannot_be_made_is_told(write: Write, tmp_path: Path) -> None:
    (tmp_path / "own_policy.py").write_text(
        f"{MIDDLEWARE}\n    def __init__(self, *_):\n        raise RuntimeError('not today')\n", encoding="utf-8"
    )
    result = run(write(OWN, ""))
    assert result.exit_code == 78
    assert result.stderr.startswith("cases.toml: gateway: MiddlewareFailed: ")


def test_all_files_are_judged_before_any_is_run(write: Write) -> None:
    result = run(write(GOOD), write("", name="empty.toml"), "missing.toml", "--json")
    assert result.exit_code == 78
    assert json.loads(result.stdout) == {
        "ok": False,
        "problems": [
            {"file": "empty.toml", "where": "cases", "value": None, "message": "required: expected a list of at least one case"},
            {"file": "missing.toml", "where": "", "value": None, "message": "the file cannot be read (No such file or directory)"},
        ],
    }  # fmt: skip
    assert result.stderr.splitlines()[1] == "missing.toml: the file cannot be read (No such file or directory)"


def test_table_in_braces_that_is_added_to_is_explained(write: Write) -> None:
    result = run(write(f"{STEP}request = {{}}\nexpect = {{ status = 200 }}\nexpect.backend = false\n"))
    assert result.stderr.endswith(
        "a table in braces cannot be added to: give each key a line of its own, as in expect.status = 200\n"
    )


# --- the surroundings -----------------------------------------------------------------------------------------


def test_variables_of_the_process_count_for_nothing(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_BACKEND_TARGET", "nonsense")
    passes(write(GOOD))


def test_paths_in_variables_are_relative_to_the_file(write: Write, tmp_path: Path) -> None:
    gateway = '[gateway.environment]\nGATEWAY_BACKEND_TARGET = "http://a"\nGATEWAY_RATE_LIMIT_FILE = "limit"\n'
    name = write(f"{STEP}request = {{}}\n{STEP}request = {{}}\nexpect.status = 200\n", gateway, "inner/cases.toml")
    (tmp_path / "inner" / "limit").write_text("1/h\n", encoding="utf-8")
    passes(name)


def test_neither_pytest_nor_hypothesis_is_needed(write: Write, tmp_path: Path) -> None:
    code = f"""
import sys
sys.modules["pytest"] = sys.modules["hypothesis"] = None
import txgateway.cli
assert "txgateway.policy" not in sys.modules
txgateway.cli.main(["test", {write(GOOD)!r}])
"""
    done = subprocess.run([sys.executable, "-c", code], timeout=60, check=True, capture_output=True, cwd=tmp_path)
    assert done.stdout == b"cases.toml\n  ok    a  (1s)\n1 passed; 1s of virtual time\n"
    assert done.stderr == b""


def test_page_is_right(write: Write) -> None:
    page = (Path(__file__).parents[2] / "implementation" / "howto" / "policy.md").read_text(encoding="utf-8")
    cases = page.partition("```toml cases.toml\n")[2].partition("```")[0]
    told = page.partition("$ txgateway test cases.toml\n")[2].partition("```")[0]
    name = write(cases, "")
    Path("routes.toml").write_text(ROUTES.replace(', "https://b.internal:8443"', ""), encoding="utf-8")
    assert passes(name) == told
