"""Writes SETUP.md: the prose of SETUP.template.md, with tables of the variables made from where these are defined.

``python -m implementation.generate``, from the top of the checkout, writes the page; a test compares it with what it should
be. A comment ``<!-- variables: port tls_* -->`` in the template stands for a table: of these settings in this order, by their
keys with dots; ``retry.*`` are all of a group. Default, key of the routes document and meaning are the setting's own. What is
accepted is what its parser says when it refuses a value.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final, cast

import attrs
from pydantic import PlainValidator

from txgateway.config.document import BackendTable, RouteTable
from txgateway.config.groups import Leaf, Table, leaves
from txgateway.config.settings import DEFAULTS, VARIABLES
from txgateway.config.tracing import VARIABLES as TRACING
from txgateway.config.values import Parser, format_duration, format_size

PAGE: Final = Path(__file__).with_name("SETUP.md")
TEMPLATE: Final = Path(__file__).with_name("SETUP.template.md")
COMMAND: Final = "python -m implementation.generate"
#: The name by which a table asks for OpenTelemetry's variables.
OF_TRACING: Final = "OTEL_*"

_NOTE: Final = (
    f"<!-- Made of SETUP.template.md and the settings in src/txgateway/config by `{COMMAND}`. Change those. -->\n"
)
_TABLE: Final = re.compile(r"<!-- variables:([^>]*)-->")
#: No parser but that of any text takes it, so each says what it would take.
_REFUSED: Final = "\0"
_ANY: Final = "a text"
#: What parsers say at length, as it is said in a table.
_SHORTER: Final = (
    (re.compile(r"an integer from (\d+) to (\d+)"), r"\1 to \2"),
    (re.compile(r"a duration like .*"), "a duration"),
    (re.compile(r"a size like .*, from (\w+) to (\w+)"), r"a size, \1 to \2"),
    (re.compile(r"a header value: .*"), _ANY),
    (re.compile(r" \(international ones in their xn-- form\)"), ""),
    (re.compile(r"the file cannot be read.*"), "the path of a file"),
)
_WORD: Final = re.compile(r"[\w.:+/@…\[\]-]+")


@attrs.frozen
class Row:
    """A variable.

    Attributes:
        name: of the variable.
        key: in the routes document, empty if it has none.
        default: as it is written, empty for none.
        accepted: what may be its value.
        meaning: in a line.
    """

    name: str
    key: str
    default: str
    accepted: str
    meaning: str


def page(template: str) -> str:
    """The page of a template.

    Raises:
        ValueError: a setting is in no table, in two, or has no text that says what it means; or a table asks for what
            there is not.
    """
    rows = {**setting_rows(), OF_TRACING: tracing_rows()}
    left = dict(rows)

    def table(found: re.Match[str]) -> str:
        asked: list[Row] = []
        for key in (key for word in found[1].split() for key in _keys(word, rows)):
            if key not in left:
                raise ValueError(f"{TEMPLATE.name}: {key} is asked for twice, or is no setting")
            asked += left.pop(key)
        return _table(asked)

    made = _TABLE.sub(table, template)
    if left:
        raise ValueError(f"{TEMPLATE.name}: there is no table with {', '.join(left)}")
    return _NOTE + made


def _keys(word: str, known: Iterable[str]) -> list[str]:
    if word in known or not word.endswith(".*"):
        return [word]
    return [key for key in known if key.startswith(word.removesuffix("*"))]


def _table(rows: list[Row]) -> str:
    columns = ["variable", "key", "default", "accepted", "meaning"]
    cells = [[f"`{row.name}`", _code(row.key), _code(row.default), row.accepted, row.meaning] for row in rows]
    for column in ("key", "default"):
        index = columns.index(column)
        if not any(line[index] for line in cells):
            del columns[index]
            for line in cells:
                del line[index]
    rule = "|" + "---|" * len(columns)
    head, *lines = ["|" + "|".join(f" {cell} " if cell else " " for cell in line) + "|" for line in (columns, *cells)]
    return "\n".join((head, rule, *lines))


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


# --- what there is ---------------------------------------------------------------------------------------------------


def setting_rows() -> dict[str, list[Row]]:
    """A row for each setting, by its key."""
    in_document = {leaf.key for table in (BackendTable(), RouteTable()) for leaf in leaves(table)}
    definitions = dict(_definitions(DEFAULTS))
    rows: dict[str, list[Row]] = {}
    for name, leaf in VARIABLES.items():
        parse, meaning = definitions[leaf.key]
        if not meaning:
            raise ValueError(f"{leaf.key}: below its definition, no text says what it means")
        key = leaf.key if leaf.key in in_document else ""
        rows[leaf.key] = [Row(name, key, _written(leaf), accepted(parse), " ".join(meaning.split()))]
    return rows


def _definitions(table: Table, prefix: str = "") -> Iterator[tuple[str, tuple[Parser[Any], str]]]:
    """Key, parser and meaning of each setting."""
    for name, field in type(table).model_fields.items():
        key, value = prefix + (field.alias or name), getattr(table, name)
        if isinstance(value, Table):
            yield from _definitions(value, f"{key}.")
        else:
            parser = next(made for made in field.metadata if isinstance(made, PlainValidator))
            yield key, (cast("Parser[Any]", parser.func), field.description or "")


def tracing_rows() -> list[Row]:
    """A row for each of OpenTelemetry's variables."""
    return [
        Row(variable.names[-1], "", _of_tracing(variable.default), accepted(variable.parse), variable.meaning)
        for variable in TRACING
    ]


def _of_tracing(default: object) -> str:
    return "" if default == {} else _written(Leaf("", "", default))


def _written(leaf: Leaf) -> str:
    """A default in the form that its variable has."""
    value = leaf.value
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and leaf.name.endswith("_s"):
        return format_duration(value)
    if isinstance(value, int) and leaf.name.endswith("_bytes"):
        return format_size(value)
    if isinstance(value, tuple):
        return ",".join("-".join(map(str, part)) if isinstance(part, tuple) else str(part) for part in value)
    return "" if value is None else str(value)


# --- what is accepted ------------------------------------------------------------------------------------------------


def accepted(parse: Callable[[Any], Any]) -> str:
    """What a parser takes, in its own words; Markdown."""
    said = _refusal(parse, _REFUSED)
    if said is None:
        return _ANY
    said, of_list, _ = said.partition(" instead of ")
    said = re.sub(r"^.*?expected ", "", said)
    for long, short in _SHORTER:
        said = long.sub(short, said)
    zero = _refusal(parse, "0")
    if said == "a duration" and zero is not None and zero.endswith("above zero"):
        said += " above 0"
    return ("list: " if of_list else "") + _marked(said)


def _refusal(parse: Callable[[Any], Any], value: str) -> str | None:
    try:
        parse(value)
    except ValueError as exc:
        return str(exc)
    return None


def _marked(text: str) -> str:
    """Words to choose from are written as code; all else as it is, whatever Markdown makes of such characters."""
    first, _, last = text.rpartition(" or ")
    words = [*first.split(", "), last]
    if _WORD.fullmatch(words[-1]) if not first else all(_WORD.fullmatch(word) for word in words[:-1]):
        return ", ".join(f"`{word}`" if _WORD.fullmatch(word) else word for word in words if word)
    return re.sub(r"([*_\[\]<|\\])", r"\\\1", text)


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(TEMPLATE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
