"""The entries of a list, from lines of text or from JSON. What is wrong with one is told beside it."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from shards.source_format import SourceFormat

# The numbers stand at the end of the line, so that a path may contain spaces.
_LINE = re.compile(r"(?P<path>.*?\S)(?P<numbers>(?:\s+[+-]?\d+)+)\s*")


@dataclass(frozen=True)
class Entry:
    """What a list says of one source.

    Attributes:
        path: as it stands there.
        labels: class ids.
        count: frames or parts of a directory; 1 for a file.
        offset: first frame of a clip within its directory, counted from 0.
        positive: the parts that show the class.
    """

    path: str
    labels: tuple[int, ...]
    count: int = 1
    offset: int = 0
    positive: tuple[int, ...] = ()


@dataclass(frozen=True)
class ListItem:
    """An entry with its number (line, or position in JSON), or None for one that cannot be read, and what is
    wrong with it."""

    number: int
    entry: Entry | None
    problems: tuple[str, ...] = ()


def iter_lines(text: str, source_format: SourceFormat) -> Iterator[ListItem]:
    """Items of a list of lines, counted from 1; empty ones are skipped."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entry = _parse_line(line.strip(), source_format)
        except ValueError as error:
            yield ListItem(number, None, (str(error),))
        else:
            yield ListItem(number, entry, tuple(_number_problems(entry, source_format)))


def _parse_line(line: str, source_format: SourceFormat) -> Entry:
    expected = f'expected "{source_format.expected_line}"'
    found = _LINE.fullmatch(line)
    if not found:
        raise ValueError(f'"{line}" does not end with a label, {expected}')
    path, numbers = found["path"], tuple(map(int, found["numbers"].split()))
    num_needed = {"frames": 2, "flow": 2, "parts": 2}.get(source_format.kind, 1) + source_format.with_offset
    if len(numbers) < num_needed:
        raise ValueError(f'"{line}" ends with too few numbers, {expected}')
    if source_format.kind == "parts":
        label, count, *positive = numbers
        return Entry(path, (label,), count, positive=tuple(positive))
    extent, labels = numbers[: num_needed - 1], numbers[num_needed - 1 :]
    return Entry(path, labels, count=extent[-1] if extent else 1, offset=extent[0] if extent[1:] else 0)


def _number_problems(entry: Entry, source_format: SourceFormat) -> Iterator[str]:
    what = "num_parts" if source_format.kind == "parts" else "num_frames"
    if entry.count < 1:
        yield f"{what} {entry.count}: expected 1 or more"
    if entry.offset < 0:
        yield f"offset {entry.offset}: expected 0 or more"
    if source_format.kind != "parts":
        return
    outside = [part for part in entry.positive if not 0 <= part < entry.count]
    if outside and entry.count > 0:
        yield f"positive part {outside[0]}: expected 0..{entry.count - 1}"
    if not entry.positive:
        yield "no positive part: name one, or remove the line"
    if len(set(entry.positive)) < len(entry.positive):
        yield f"a positive part stands twice: {' '.join(map(str, entry.positive))}"


def load_json_items(
    text: str, source_format: SourceFormat, category: str | None
) -> tuple[list[ListItem], int]:
    """Items of a JSON list, counted from 0, and how many samples were left out for having no label of
    `category`.

    An entry is `{"filename": path, "label": id or [ids]}`; of directories of frames `{"frame_dir": path,
    "total_frames": n, "label": ...}`, with "offset" where clips are listed. With `category` a label is
    `{category: [ids], ...}`.

    Raises:
        ValueError: not a JSON list.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(content, list):
        raise ValueError('expected a list: [{"filename": ..., "label": ...}, ...]')
    if source_format.kind == "parts":
        raise ValueError(f'--source parts takes lines "{source_format.expected_line}", not JSON')
    items, num_left_out = [], 0
    for number, fields in enumerate(content):
        try:
            entry = _parse_fields(fields, source_format, category)
        except ValueError as error:
            items.append(ListItem(number, None, (str(error),)))
            continue
        if entry is None:
            num_left_out += 1
        else:
            items.append(ListItem(number, entry, tuple(_number_problems(entry, source_format))))
    return items, num_left_out


def _parse_fields(fields: Any, source_format: SourceFormat, category: str | None) -> Entry | None:
    """None: it has no label of the category."""
    if not isinstance(fields, dict):
        raise ValueError(f'{json.dumps(fields)[:40]}: expected {{"filename": ..., "label": ...}}')
    numbers = {}
    if source_format.has_directories:
        numbers["count"] = _integer(fields, "total_frames")
    if source_format.with_offset:
        numbers["offset"] = _integer(fields, "offset")
    elif "offset" in fields:
        raise ValueError("offset: only with --with-offset")
    names = ("frame_dir", "filename") if source_format.has_directories else ("filename",)
    path = next((fields[name] for name in names if name in fields), None)
    if not isinstance(path, str) or not path:
        raise ValueError(f"{names[0]}: expected the path, found {json.dumps(path)}")
    if any("\ud800" <= character <= "\udfff" for character in path):
        raise ValueError(f"{names[0]}: {json.dumps(path)} is not Unicode text; rename the file, in UTF-8")
    labels = _labels(fields.get("label"), category)
    return Entry(path, labels, **numbers) if labels else None


def _integer(fields: dict[str, Any], name: str) -> int:
    value = fields.get(name)
    if type(value) is not int:
        raise ValueError(f"{name}: expected a whole number, found {json.dumps(value)}")
    return value


def _labels(value: Any, category: str | None) -> tuple[int, ...]:
    """Class ids; none where the sample has no label of the category."""
    if isinstance(value, dict) and category is None:
        raise ValueError(f"label: has categories, give --category, one of {', '.join(sorted(value))}")
    if category is not None:
        if not isinstance(value, dict):
            raise ValueError(f"label: expected categories for --category, found {json.dumps(value)}")
        value = value.get(category, [])
        if value == []:
            return ()
    labels: list[Any] = value if isinstance(value, list) else [value]
    if not labels or any(type(label) is not int for label in labels):
        raise ValueError(f"label: expected a class id or a list of them, found {json.dumps(value)}")
    return tuple(labels)
