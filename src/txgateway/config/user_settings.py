"""Settings of a user's middleware: what the document and the variables give, read by the user's own pydantic model.

Values of fields that may hold a secret (``SecretStr`` and its like) are shown to nobody, whatever is wrong with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from types import UnionType
from typing import Any, Final, TypeAlias, Union, get_args, get_origin

import attrs
import orjson
from pydantic import BaseModel, Secret, SecretBytes, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined, to_jsonable_python

from txgateway.config.problems import MASK, Location, Problem, existing, suggestion, value_shown
from txgateway.config.values import elements, without_user

_SECRETS: Final = (SecretStr, SecretBytes, Secret)
_LISTS: Final = (Sequence, AbstractSet)
_TEXTS: Final = (str, bytes, *_SECRETS)
#: How pydantic begins what we say in other words.
_BEGINNING: Final = "Input should be "

#: ``{"value": …, "source": …}``
Entry: TypeAlias = dict[str, Any]


@attrs.frozen
class Given:
    """A value that somebody has given.

    Attributes:
        value: as it stands in the document, or the text of a variable.
        where: the place in the document, or the variable.
        source: the same, as ``txgateway config`` tells it.
        is_text: it is a variable's.
    """

    value: Any
    where: str
    source: str
    is_text: bool = False


def key_of(name: str, field: FieldInfo) -> str:
    """What a document calls a field."""
    alias = field.validation_alias or field.alias
    return alias if isinstance(alias, str) else name


def read_settings(
    model: type[BaseModel], given: Mapping[str, Given], place: str, absent: Callable[[str], str]
) -> tuple[BaseModel | None, dict[str, Entry], list[Problem]]:
    """Read the settings.

    Args:
        model: the user's.
        given: by key.
        place: of all of them.
        absent: where a key could be given that is not.

    Returns:
        The settings, None if something is wrong with them; each with its value and source; all that is wrong.
    """
    fields = {key_of(name, field): field for name, field in model.model_fields.items()}
    problems = list(_unknown(model, given))
    raw: dict[str, Any] = {}
    failed: set[str] = set()
    for key, one in given.items():
        try:
            raw[key] = _of_text(fields[key], one.value) if one.is_text and key in fields else one.value
        except ValueError as exc:
            failed.add(key)
            problems.append(Problem(one.where, None, str(exc)))
    try:
        settings = model.model_validate(raw)
    except ValidationError as exc:
        told = {problem.where for problem in problems}
        problems += [one for one in _problems(exc, fields, raw, given, place, absent, failed) if one.where not in told]
    except Exception as exc:  # noqa: BLE001 -- a validator of the user's
        problems.append(Problem(place, None, _scrubbed(f"{type(exc).__name__}: {exc}", fields, raw)))
    if problems:
        return None, {}, problems
    return settings, dict(_entries(settings, given)), []


def _entries(settings: BaseModel, given: Mapping[str, Given]) -> Iterator[tuple[str, Entry]]:
    """Each of the settings with its source."""
    for name, field in type(settings).model_fields.items():
        key = key_of(name, field)
        source = given[key].source if key in given else "default"
        yield key, {"value": _shown(field, getattr(settings, name)), "source": source}


def may_be_empty(field: FieldInfo) -> bool:
    """Whether an empty variable means the default, which is nothing then."""
    return field.default in (None, "", (), []) or field.default_factory in (list, tuple, dict, set, frozenset)


# --- reading ------------------------------------------------------------------------------------------------------


def _of_text(field: FieldInfo, text: str) -> Any:
    """What a variable's text says: lists by commas, tables and lists also as JSON, all else as it is."""
    kinds = list(_kinds(field.annotation))
    if any(issubclass(kind, _TEXTS) for kind in kinds):
        return text
    if text[:1] in {"{", "["}:
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError as exc:
            raise ValueError("expected JSON, or elements separated by commas") from exc
    if any(issubclass(kind, _LISTS) for kind in kinds):
        return elements(text)
    return text


def _kinds(annotation: Any) -> Iterator[type]:
    """The classes that a value may be of: of ``list[str] | None`` only ``list``."""
    origin = get_origin(annotation)
    if origin in {Union, UnionType}:
        for one in get_args(annotation):
            yield from _kinds(one)
    elif isinstance(origin, type):
        yield origin
    elif isinstance(annotation, type) and annotation is not type(None):
        yield annotation
    elif hasattr(annotation, "__metadata__"):
        yield from _kinds(get_args(annotation)[0])


def _unknown(model: type[BaseModel], given: Mapping[str, Given]) -> Iterator[Problem]:
    for key, one in given.items():
        yield from _unknown_in(model, key, one.value, one.where)


def _unknown_in(model: type[BaseModel], key: str, value: object, where: str) -> Iterator[Problem]:
    """A key that a model does not know, here or in the models in it: pydantic takes no notice of it."""
    fields = {key_of(name, field): field for name, field in model.model_fields.items()}
    known = {**fields, **model.model_fields} if model.model_config.get("populate_by_name") else fields
    if key not in known:
        if model.model_config.get("extra") != "allow":
            yield Problem(where, None, f"there is no such setting{suggestion(key, list(known))}")
        return
    models = list(_models(known[key].annotation))
    if len(models) != 1:  # of several nobody knows which is meant
        return
    places = (
        [(f"{where}[{index}]", one) for index, one in enumerate(value)] if isinstance(value, list) else [(where, value)]
    )
    for place, one in places:
        for inner_key, inner_value in one.items() if isinstance(one, Mapping) else ():
            yield from _unknown_in(models[0], str(inner_key), inner_value, f"{place}.{inner_key}")


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a value, or the elements of a list, may be of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    elif get_origin(annotation) is not dict:
        for one in get_args(annotation):
            yield from _models(one)


# --- telling ------------------------------------------------------------------------------------------------------


def _problems(
    error: ValidationError,
    fields: Mapping[str, FieldInfo],
    raw: Mapping[str, Any],
    given: Mapping[str, Given],
    place: str,
    absent: Callable[[str], str],
    failed: set[str],
) -> Iterator[Problem]:
    """What pydantic has found, by place; not that something is missing which was given and ``failed`` before."""
    found: dict[str, Problem] = {}
    for one in error.errors(include_url=False):
        location: Location = existing(raw, one["loc"], is_missing=one["type"] == "missing")
        where, value = place, None
        if location and str(location[0]) in failed:
            continue
        if location and (key := str(location[0])) in given:
            tail = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location[1:])
            where = given[key].where + ("" if given[key].is_text else tail)
            is_hidden = key in fields and _may_be_secret(fields[key], is_deep=True)
            value = repr(MASK) if is_hidden else value_shown("", one["input"])
        elif location:
            where = absent(str(location[0]))
        is_missing = one["type"] == "missing"
        message = "required" if is_missing else _scrubbed(_message(one), fields, raw)
        before = found.get(where)
        if before is not None and before.message != message:
            message = f"{before.message}, or {message}"
        found[where] = Problem(where, None if is_missing else value, message)
    yield from found.values()


def _message(error: Any) -> str:
    if error["type"] in {"value_error", "assertion_error"}:
        return str(error["ctx"]["error"])
    if error["type"] == "extra_forbidden":
        return "there is no such setting"
    message: str = error["msg"]
    return "expected " + message.removeprefix(_BEGINNING) if message.startswith(_BEGINNING) else message


def _scrubbed(message: str, fields: Mapping[str, FieldInfo], raw: Mapping[str, Any]) -> str:
    """A message of the user's validator, without what it may have repeated of a secret."""
    for key, value in raw.items():
        if key in fields and _may_be_secret(fields[key], is_deep=True):
            for text in _texts(value):
                message = message.replace(text, MASK)
    return message


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, Mapping):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
    elif value not in (None, ""):
        yield str(value)


def _may_be_secret(field: FieldInfo, *, is_deep: bool) -> bool:
    return _holds_secret(field.annotation, is_deep)


def _holds_secret(annotation: Any, is_deep: bool) -> bool:
    kinds = [annotation, get_origin(annotation)]
    if any(isinstance(kind, type) and issubclass(kind, _SECRETS) for kind in kinds):
        return True
    if is_deep and isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return any(_holds_secret(field.annotation, is_deep) for field in annotation.model_fields.values())
    return any(_holds_secret(one, is_deep) for one in get_args(annotation))


def _shown(field: FieldInfo, value: object) -> Any:
    if value is None or value is PydanticUndefined:
        return None
    if _may_be_secret(field, is_deep=False):
        return MASK
    return _without_users(to_jsonable_python(value, fallback=str))


def _without_users(value: Any) -> Any:
    """The same, without what URLs may hide."""
    if isinstance(value, str):
        return without_user(value)
    if isinstance(value, list):
        return [_without_users(inner) for inner in value]
    if isinstance(value, dict):
        return {key: _without_users(inner) for key, inner in value.items()}
    return value
