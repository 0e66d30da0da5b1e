"""Task data from a file of JSON lines: {"clean", "counterfactual", "answer", "distractor", "template", "position"}.
Torch-free.

`clean` and `answer` are required. `counterfactual` and `distractor` may be left out or null; without `template` an
example counts as a template of its own. `position` is the token at which the answer is read, for tasks that predict
`at position` (see `passes.examples.Example`). Files of BLiMP (`sentence_good`, `sentence_bad`) are read as well.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dsl.tasks.blimp import is_blimp, read_pair
from graphir.errors import DataError, UnavailableError
from graphir.names import closest
from passes.examples import Example

REQUIRED = ("clean", "answer")
OPTIONAL = ("counterfactual", "distractor", "template", "position")
FIELDS = REQUIRED + OPTIONAL

MAX_LINE = 1 << 20
"""Longest line in bytes. A prompt is far shorter; a longer line is a file of another kind."""


def read_jsonl(
    path: str | Path, *, limit: int | None = None, max_line: int = MAX_LINE, at: str | None = None
) -> list[Example]:
    """The examples of a file, the first `limit` when given; empty lines are skipped. `at` is where a task reads the
    answer: with `position` every example says one, with `last` none does; None takes either.

    Raises UnavailableError when the file cannot be read, DataError with file and line when it is not UTF-8, not JSON,
    lacks a field, has one that is unknown or of the wrong type, has a line of more than `max_line` bytes, or is empty.
    """
    path = Path(path)
    examples: list[Example] = []
    try:
        with path.open("rb") as file:
            number = 0
            while (limit is None or len(examples) < limit) and (line := file.readline(max_line + 1)):
                number += 1
                example = parse_line(line, f"{path.name}:{number}", max_line)
                if example is not None:
                    check_at(example, at)
                    examples.append(example)
    except OSError as error:
        raise UnavailableError(f"cannot read task data `{path}`: {error.strerror or error}") from None
    if not examples:
        raise DataError(f"`{path}` has no examples", [f"write one JSON object a line with {', '.join(REQUIRED)}"])
    return examples


def parse_line(line: bytes, source: str, max_line: int = MAX_LINE) -> Example | None:
    """The example of one line, None for an empty one; DataError starting with `source`."""
    if len(line) > max_line:
        raise DataError(f"{source}: the line is longer than {max_line} bytes", ["write one JSON object a line"])
    try:
        text = line.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise DataError(f"{source}: not UTF-8 at byte {error.start}", ["save the file as UTF-8"]) from None
    if not text:
        return None
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        what = (
            f"{error.msg} at column {error.colno}"
            if isinstance(error, json.JSONDecodeError)
            else "too deep or too large"
        )
        raise DataError(f"{source}: not JSON: {what}", ["write one JSON object a line"]) from None
    if not isinstance(record, dict):
        raise DataError(f"{source}: a line is an object with {', '.join(REQUIRED)}, not {json_type(record)}")
    if is_blimp(record):
        return read_pair(record, source)
    check_fields(record, source)
    return Example(
        clean=record["clean"],
        counterfactual=record.get("counterfactual"),
        answer=record["answer"],
        distractor=record.get("distractor"),
        template=record.get("template") or source,
        source=source,
        position=record.get("position"),
    )


def check_at(example: Example, at: str | None) -> None:
    """DataError where an example and its task disagree on where the answer is read."""
    if at == "position" and example.position is None:
        raise DataError(f"{example.source}: no field `position`, and the task reads the answer `at position`", [
            "write the number of the token at which the answer is read, from 0", "or `predict … at last`"
        ])  # fmt: skip
    if at == "last" and example.position is not None:
        raise DataError(
            f"{example.source}: has a `position`, and the task reads the answer `at last`",
            ["write `predict answer vs distractor at position`", "or leave the field out"],
        )


def check_fields(record: dict[str, Any], source: str) -> None:
    """DataError for a field that is missing, unknown or not text."""
    for name in record:
        if name not in FIELDS:
            near = closest(name, FIELDS)
            hint = f"did you mean `{near[0]}`?" if near else f"fields are {', '.join(FIELDS)}"
            raise DataError(f"{source}: unknown field `{name}`", [hint])
    for name in REQUIRED:
        if name not in record:
            raise DataError(f"{source}: no field `{name}`", [f"each line needs {' and '.join(REQUIRED)}"])
    for name, value in record.items():
        if name == "position":
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise DataError(f"{source}: `position` is a whole number from 0, not {json.dumps(value)[:40]}")
            continue
        if not isinstance(value, str) and not (name in OPTIONAL and value is None):
            raise DataError(f"{source}: `{name}` is text, not {json_type(value)}")
        if isinstance(value, str) and not value and name in REQUIRED:
            raise DataError(f"{source}: `{name}` is empty")


def json_type(value: object) -> str:
    """The JSON name of a value's type, with its article."""
    names: dict[type, str] = {dict: "an object", list: "an array", str: "text", bool: "true or false", int: "a number"}
    return "null" if value is None else names.get(type(value), "a number")
