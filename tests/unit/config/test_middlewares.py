"""What is wrong with users' middlewares, and what is made of those that are right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.helpers import own

from txgateway.config import Configuration, ConfigurationError, load
from txgateway.config.middlewares import snake

OWN = "tests.helpers.own"
TENANCY = f"{OWN}:Tenancy"


def document(*routes: dict[str, Any], **middlewares: Any) -> dict[str, str]:
    """Routes that answer by themselves, and tables."""
    made = [
        {"name": f"r{index}", "path": f"/{index}", "response": {"status": 204}, **keys}
        for index, keys in enumerate(routes or ({},))
    ]
    return {"GATEWAY_ROUTES": json.dumps({"routes": made, "middlewares": middlewares})}


def table(use: str = TENANCY, **settings: Any) -> dict[str, Any]:
    return {"use": use, "settings": settings}


def problems_of(environ: dict[str, str]) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(environ)
    return [str(problem) for problem in caught.value.problems]


def settings_of(configuration: Configuration, name: str) -> Any:
    return configuration.middlewares.named[name].settings


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Tenancy", "tenancy"),
        ("RateGuard", "rate_guard"),
        ("JWTGuard", "jwt_guard"),
        ("my-auth.v2", "my_auth_v2"),
        ("OAuth2", "o_auth2"),
    ],
)
def test_names_of_variables_and_metrics(name: str, words: str) -> None:
    assert snake(name) == words


def test_class_may_be_named_directly_and_by_a_table() -> None:
    configuration = load(document({"middlewares": [TENANCY]}))
    found = configuration.middlewares.named[TENANCY]
    assert (found.name, found.use, found.kind, found.position) == ("tenancy", TENANCY, own.Tenancy, "route")
    assert configuration.routes[0].middlewares == (TENANCY,)
    configuration = load(document({"middlewares": ["t"]}, t=table(claim="team")))
    assert settings_of(configuration, "t") == own.Tenancy.Settings(claim="team")
    assert configuration.middlewares.named["t"].name == "t"


def test_any_class_with_render_will_do() -> None:
    assert load(document({"middlewares": [f"{OWN}:Plain"]})).middlewares.named[f"{OWN}:Plain"].kind is own.Plain


@pytest.mark.parametrize(
    ("use", "message"),
    [
        ("no.such:Thing", "it cannot be imported: ModuleNotFoundError: No module named 'no'"),
        (
            f"{OWN}:Tenanci",
            f"it cannot be imported: ImportError: module '{OWN}' has no 'Tenanci'; did you mean Tenancy?",
        ),
        (f"{OWN}:NO_CLASS", "expected package.module:Class of a class with a render method"),
        (f"{OWN}:SecretStr", "expected package.module:Class of a class with a render method"),
        (f"{OWN}:Async", "its render is async: what waits is returned as self.when(deferred, request, then)"),
        (f"{OWN}:Narrow", "expected a class that is called with (inner, settings, context): too many positional arguments"),
        (f"{OWN}:Nowhere", "its position is not accepted: expected edge or route"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_middleware(use: str, message: str) -> None:
    assert problems_of(document({"middlewares": [use]})) == [
        f"routes[0].middlewares: {use!r} is not accepted: {message}"
    ]
    assert problems_of({**document(), "GATEWAY_MIDDLEWARES": use}) == [
        f"GATEWAY_MIDDLEWARES: {use!r} is not accepted: {message}"
    ]
    assert problems_of(document(x={"use": use})) == [f"middlewares.x.use: {use!r} is not accepted: {message}"]


def test_module_that_fails_or_exits_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_fails.py").write_text("1 / 0")
    (tmp_path / "own_exits.py").write_text("raise SystemExit(3)")
    names = [f"own_{word}:A" for word in ("fails", "exits")]
    first, second = problems_of(
        document({"middlewares": names[:1]}, {"middlewares": names[1:]}, x=table("own_exits:B"))
    )[:2]
    assert "own_exits:B" in first
    assert "SystemExit: 3" in first
    assert "ZeroDivisionError" in second


def test_unknown_names_get_a_hint() -> None:
    (problem,) = problems_of(document({"middlewares": ["tenanzy"]}, {"middlewares": ["tenanzy"]}, tenancy=table()))
    assert problem.startswith(
        "routes[0].middlewares: 'tenanzy' is not accepted: expected package.module:Class, the name"
    )
    assert problem.endswith("; did you mean tenancy?")


def test_entry_point_gives_a_name_and_is_imported_only_where_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "own-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[txgateway.middlewares]\ntenants = {TENANCY}\nother = no.such.module:X\n")
    monkeypatch.syspath_prepend(tmp_path)
    found = load(document({"middlewares": ["tenants"]})).middlewares.named["tenants"]
    assert (found.name, found.use) == ("tenants", TENANCY)
    environ = {**document(t={"use": "tenants"}), "GATEWAY_MIDDLEWARES": "t", "GATEWAY_MIDDLEWARE_T_CLAIM": "x"}
    assert settings_of(load(environ), "t").claim == "x"
    (problem,) = problems_of(document({"middlewares": ["tenant"]}))
    assert problem.endswith("did you mean tenants?")
    (problem,) = problems_of(document({"middlewares": ["other"]}))
    assert "No module named 'no'" in problem


def test_table_goes_before_an_entry_point_of_its_name() -> None:
    assert settings_of(load(document({"middlewares": ["tenancy"]}, tenancy=table(limit=9))), "tenancy").limit == 9


def test_two_of_one_name_are_refused() -> None:
    (problem,) = problems_of(document({"middlewares": ["tenancy"]}, {"middlewares": [TENANCY]}, tenancy=table()))
    assert problem.startswith(f"routes[1].middlewares: '{TENANCY}' is not accepted: tenancy is called tenancy as well")
    (problem,) = problems_of(document({"middlewares": ["a-b", "a.b"]}, **{"a-b": table(), "a.b": table()}))
    assert problem.startswith('middlewares."a.b".use: ')


# --- settings -----------------------------------------------------------------------------------------------------


def test_document_goes_before_the_environment_and_that_before_the_default(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("hunter2\n")
    environ = {
        **document({"middlewares": ["t"]}, t=table(claim="doc")),
        "GATEWAY_MIDDLEWARE_T_CLAIM": "env",
        "GATEWAY_MIDDLEWARE_T_HOSTS": "a, b",
        "GATEWAY_MIDDLEWARE_T_KEY_FILE": str(tmp_path / "key"),
    }
    configuration = load(environ)
    settings = settings_of(configuration, "t")
    assert (settings.claim, settings.limit, settings.hosts) == ("doc", 3, ["a", "b"])
    assert settings.key.get_secret_value() == "hunter2"
    assert configuration.effective()["middlewares"]["t"] == {
        "use": {"value": TENANCY, "source": "document middlewares.t.use"},
        "position": {"value": "route", "source": f"class {TENANCY}"},
        "settings.claim": {"value": "doc", "source": "document middlewares.t.settings.claim"},
        "settings.limit": {"value": 3, "source": "default"},
        "settings.hosts": {"value": ["a", "b"], "source": "env GATEWAY_MIDDLEWARE_T_HOSTS"},
        "settings.key": {"value": "***", "source": f"file GATEWAY_MIDDLEWARE_T_KEY_FILE {tmp_path / 'key'}"},
    }
    assert "hunter2" not in repr(configuration)


def test_without_a_document_variables_are_named_after_the_class() -> None:
    environ = {
        "GATEWAY_BACKEND_TARGET": "http://a",
        "GATEWAY_MIDDLEWARES": TENANCY,
        "GATEWAY_MIDDLEWARE_TENANCY_LIMIT": "7",
        "GATEWAY_MIDDLEWARE_TENANCY_HOSTS": '["x,y"]',
        "GATEWAY_MIDDLEWARE_TENANCY_KEY": "",
    }
    settings = settings_of(load(environ), TENANCY)
    assert (settings.limit, settings.hosts, settings.key) == (7, ["x,y"], None)


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"claims": "a"}, ".claims: there is no such setting; did you mean claim?"),
        ({"claim": 7}, ".claim: '7' is not accepted: expected a valid string"),
        ({"limit": "x"}, ".limit: 'x' is not accepted: expected a valid integer, unable to parse string as an integer"),
        ({"hosts": ["a", 2]}, ".hosts[1]: '2' is not accepted: expected a valid string"),
        ({"key": "abc"}, ".key: '***' is not accepted: *** is too short"),
        ({"key": 12345}, ".key: '***' is not accepted: expected a valid string"),
    ],
)
def test_bad_settings_of_a_document_are_told_with_their_place(settings: dict[str, Any], line: str) -> None:
    (problem,) = problems_of(document({"middlewares": ["tenancy"]}, tenancy=table(**settings)))
    assert problem.startswith(f"middlewares.tenancy.settings{line}")
    assert "abc" not in problem
    assert "12345" not in problem


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("TENANCY_CLIAM", "x", "there is no such variable; did you mean GATEWAY_MIDDLEWARE_TENANCY_CLAIM?"),
        ("TENANCY_LIMIT", "x", "'x' is not accepted: expected a valid integer, unable to parse string as an integer"),
        ("TENANCY_LIMIT", "", "it is set, but empty"),
        ("TENANCY_KEY", "abc", "'***' is not accepted: *** is too short"),
        ("TENANCY_HOSTS", "[1", "expected JSON, or elements separated by commas"),
        ("TENANCY_CLAIM_FILE", "/no/such", "the file cannot be read (No such file or directory)"),
        ("OTHER_CLAIM", "x", "there is no such variable"),
    ],
)
def test_bad_variables_are_told_by_their_names(name: str, value: str, line: str) -> None:
    environ = {"GATEWAY_BACKEND_TARGET": "http://a", "GATEWAY_MIDDLEWARES": TENANCY}
    (problem,) = problems_of({**environ, f"GATEWAY_MIDDLEWARE_{name}": value})
    assert problem.startswith(f"GATEWAY_MIDDLEWARE_{name}: {line}")


def test_variable_and_its_file_contradict_each_other(tmp_path: Path) -> None:
    (tmp_path / "claim").write_text("x")
    environ = {
        "GATEWAY_MIDDLEWARE_TENANCY_CLAIM": "x",
        "GATEWAY_MIDDLEWARE_TENANCY_CLAIM_FILE": str(tmp_path / "claim"),
    }
    (problem,) = problems_of({**document({"middlewares": [TENANCY]}), **environ})
    assert problem == (
        "GATEWAY_MIDDLEWARE_TENANCY_CLAIM_FILE: contradicts GATEWAY_MIDDLEWARE_TENANCY_CLAIM: set only one of the two"
    )


def test_variables_of_what_cannot_be_imported_are_not_told_as_well() -> None:
    (problem,) = problems_of({
        **document({"middlewares": ["no.such:Tenancy"]}), "GATEWAY_MIDDLEWARE_TENANCY_CLAIM": "x",
    })  # fmt: skip
    assert "No module" in problem


def test_variables_without_any_middleware_are_unknown() -> None:
    (problem,) = problems_of({**document(), "GATEWAY_MIDDLEWARE_TENANCY_CLAIM": "x"})
    assert problem == "GATEWAY_MIDDLEWARE_TENANCY_CLAIM: there is no such variable"
    (problem,) = problems_of({**document(), "GATEWAY_MIDDLEWARE_SERVICE_HOST": "10.0.0.1"})
    assert "Kubernetes sets this" in problem


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"frist": {}}, ".frist: there is no such setting; did you mean first?"),
        ({"first": {"name": "a", "seat": 1}}, ".first.seat: there is no such setting; did you mean seats?"),
        ({"rooms": [{"name": "a"}, {"name": "b", "seat": 1}]}, ".rooms[1].seat: there is no such setting; did you mean seats?"),
        ({"rooms": [{"seats": 1}]}, ".rooms[0].name: required"),
        ({"tags": {"a": 7}}, ".tags.a: '***' is not accepted: expected a valid string"),
        ({"size": "x"}, ".size: 'x' is not accepted: expected a valid integer, unable to parse string as an integer"),
    ],
)  # fmt: skip
def test_settings_in_settings_are_told_with_their_place(settings: dict[str, Any], line: str) -> None:
    assert problems_of(document(x=table(f"{OWN}:Roomy", **settings))) == [f"middlewares.x.settings{line}"]


def test_settings_in_settings_may_be_given_as_json() -> None:
    environ = {
        "GATEWAY_MIDDLEWARE_X_ROOMS": '[{"name": "a"}]',
        "GATEWAY_MIDDLEWARE_X_FIRST": '{"name": "b", "seats": 3}',
        "GATEWAY_MIDDLEWARE_X_TAGS": '{"k": "hunter2"}',
    }
    configuration = load({**document({"middlewares": ["x"]}, x=table(f"{OWN}:Roomy")), **environ})
    settings = settings_of(configuration, "x")
    assert (settings.rooms[0].name, settings.first.seats) == ("a", 3)
    shown = configuration.effective()["middlewares"]["x"]
    assert shown["settings.rooms"]["value"] == [{"name": "a", "seats": 1}]
    assert shown["settings.tags"]["value"] == "***"
    lines = problems_of({**document(x=table(f"{OWN}:Roomy", frist=1, size="x")), **environ})
    assert len(lines) == 2


def test_required_settings_that_are_missing() -> None:
    use = f"{OWN}:Needy"
    assert problems_of(document(x=table(use))) == ["middlewares.x.settings.url: required"]
    assert problems_of(document({"middlewares": [use]})) == ["GATEWAY_MIDDLEWARE_NEEDY_URL: required"]


def test_one_that_takes_no_settings_says_so() -> None:
    use = f"{OWN}:Stamp"
    (problem,) = problems_of({**document(x=table(use, a=1)), "GATEWAY_MIDDLEWARES": "x"})
    assert problem == f"middlewares.x.settings.a: {use} takes no settings"


def test_all_problems_are_told_at_once() -> None:
    environ = document({"middlewares": ["no.such:X"]}, tenancy=table(limit="x"))
    lines = problems_of({**environ, "GATEWAY_PORT": "x"})
    assert [line.partition(":")[0] for line in lines] == [
        "GATEWAY_PORT", "middlewares.tenancy.settings.limit", "routes[0].middlewares",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        ({"x": {"use": "a b"}}, "middlewares.x.use: 'a b' is not accepted: expected package.module:Class, or a name"),
        ({"x": {}}, "middlewares.x.use: required"),
        ({"x": {"use": TENANCY, "position": "top"}}, "middlewares.x.position: 'top' is not accepted: expected edge or"),
        ({"x": {"use": TENANCY, "setting": {}}}, "middlewares.x.setting: there is no such key; did you mean settings?"),
        ({"x": {"use": TENANCY, "settings": "hunter2"}}, "middlewares.x.settings: '***' is not accepted: "),
        ({"1x": {"use": TENANCY}}, "middlewares.1x: the name is not accepted: expected up to 64 letters"),
        ([], "middlewares: expected a table of middlewares by name"),
    ],
)
def test_tables_that_are_not_well_formed(raw: Any, line: str) -> None:
    route = {"name": "r", "path": "/", "response": {"status": 204}}
    (problem,) = problems_of({"GATEWAY_ROUTES": json.dumps({"routes": [route], "middlewares": raw})})
    assert problem.startswith(line)


# --- places -------------------------------------------------------------------------------------------------------


def test_process_wide_list_is_split_by_position_and_routes_without_a_list_inherit() -> None:
    stamp, plain = f"{OWN}:Stamp", f"{OWN}:Plain"
    environ = document({}, {"middlewares": []}, {"middlewares": [plain]})
    configuration = load({**environ, "GATEWAY_MIDDLEWARES": f"{TENANCY},{stamp},{plain}"})
    assert configuration.middlewares.edge == (stamp,)
    assert [route.middlewares for route in configuration.routes] == [(TENANCY, plain), (), (plain,)]
    effective = configuration.effective()["routes"]
    assert effective["r0"]["middlewares"] == {"value": [TENANCY, plain], "source": "env GATEWAY_MIDDLEWARES"}
    assert effective["r1"]["middlewares"] == {"value": [], "source": "document routes[1].middlewares"}


def test_position_of_a_table_goes_before_the_class() -> None:
    environ = {**document(x={"use": TENANCY, "position": "edge"}), "GATEWAY_MIDDLEWARES": "x"}
    configuration = load(environ)
    assert configuration.middlewares.edge == ("x",)
    assert configuration.effective()["middlewares"]["x"]["position"]["source"] == "document middlewares.x.position"


def test_route_cannot_have_one_of_the_edge() -> None:
    (problem,) = problems_of(document({}, {"middlewares": [f"{OWN}:Stamp"]}))
    assert problem == (
        f"routes[1].middlewares: '{OWN}:Stamp' is not accepted: it stands at the edge, where every request passes it: "
        "name it in GATEWAY_MIDDLEWARES"
    )


def test_table_that_nothing_names_is_a_warning() -> None:
    environ = document({"middlewares": ["a"]}, a=table(), b=table())
    assert load(environ).warnings == ("middlewares.b: no list names it, so it has no effect",)
    assert load({**environ, "GATEWAY_MIDDLEWARES": "b"}).warnings == ()
