"""What is wrong with a card, in one line: each field with what was expected, what was found and what to type."""

import difflib
import types
import typing

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

EXAMPLES = {
    "id": "the folder's name",
    "title": 'e.g. title = "My model"',
    "dataset": 'e.g. dataset = "cifar10"',
    "entry": 'e.g. entry = "model.py:build"',
    "threat_models": 'e.g. [[threat_models]] with norm = "Linf" and eps = "8/255"',
    "norm": 'e.g. norm = "Linf"',
    "eps": 'e.g. eps = "8/255"',
    "sha256": "the 64 hexadecimal digits of the file's sha256",
    "robust_accuracy": "a share in [0, 1]",
    "attack": 'e.g. attack = "AutoAttack"',
}
"""What to type for a field that must be there."""

KINDS = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "tuple_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
}
"""pydantic's name of an ill-typed value, and what was expected instead."""

MOST = 4
"""Problems told at once."""

Place = tuple[str | int, ...]


def shown(value: object) -> str:
    """``value`` as it is shown in a message: one line, not too long, nothing a terminal would act on."""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."


def path_of(place: Place) -> str:
    """``("threat_models", 0, "eps")`` as ``threat_models[0].eps``."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _inner_table(annotation: object) -> type[BaseModel] | None:
    """The table behind ``Annotated[tuple[Table, ...], ...]`` or ``Table | None``."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        return annotation if issubclass(annotation, BaseModel) else None
    return next((found for part in typing.get_args(annotation) if (found := _inner_table(part))), None)


def _unknown(place: Place, card: type[BaseModel]) -> str:
    table = card
    for part in place[:-1]:
        if isinstance(part, str) and part in table.model_fields:
            table = _inner_table(table.model_fields[part].annotation) or table
    name, known = str(place[-1]), list(table.model_fields)
    if table is not card and name in card.model_fields:
        return f"unknown field; {name!r} belongs to the card itself: move it above the first [table]"
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"unknown field; did you mean {close[0]!r}?" if close else f"unknown field; known: {', '.join(known)}"


def _choice(error: ErrorDetails) -> str:
    allowed = str(error["ctx"]["expected"])
    words = [word.strip("', ") for word in allowed.replace(" or ", ",").split(",")]
    close = difflib.get_close_matches(str(error["input"]), words, n=1)
    return f"expected {allowed}, got {shown(error['input'])}{f'; did you mean {close[0]!r}?' if close else ''}"


def _problem(error: ErrorDetails, card: type[BaseModel]) -> str:
    """The text of one of pydantic's errors, without the field."""
    kind, limits = error["type"], error.get("ctx", {})
    if kind == "missing":
        text = f"missing, expected {EXAMPLES.get(str(error['loc'][-1]), 'a value')}"
    elif kind == "extra_forbidden":
        text = _unknown(error["loc"], card)
    elif kind == "value_error":
        text = str(limits["error"])
    elif kind == "literal_error":
        text = _choice(error)
    else:
        wanted = KINDS.get(kind, error["msg"])
        if "ge" in limits or "le" in limits:
            wanted = f"at least {limits['ge']}" if "ge" in limits else f"at most {limits['le']}"
        text = f"expected {wanted}, got {shown(error['input'])}"
    return text


def explain(error: ValidationError, card: type[BaseModel]) -> str:
    """Every problem (or the first few), unknown fields first, as ``field: expected X, got Y``, joined by semicolons."""
    errors = sorted(error.errors(include_url=False), key=lambda item: item["type"] != "extra_forbidden")
    # A problem of the card as a whole names its field itself.
    found = [": ".join(filter(None, (path_of(item["loc"]), _problem(item, card)))) for item in errors]
    rest = f"; and {len(found) - MOST} more" if len(found) > MOST else ""
    return "; ".join(found[:MOST]) + rest
