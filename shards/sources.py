"""The list of what is packed and the class file: read as a whole, all faults reported at once."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from shards.list_entries import Entry, ListItem, iter_lines, load_json_items
from shards.source_format import VIDEOS, SourceFormat


class SourceListError(Exception):
    """Faults of list and class file, one a line of the message."""


@dataclass(frozen=True)
class Source:
    """One entry of a list: a file, or a directory.

    Attributes:
        name: its path as the list gives it; of a clip `path:offset+num_frames`.
        path: where it lies, absolute: FFmpeg takes a relative `a:b.mp4` for a URL.
        labels: class ids.
        size_bytes: of the file; of a directory that of its first file, 0 if it lacks that.
        count: frames or parts of a directory; 1 for a file.
        offset: first frame of a clip within its directory, counted from 0.
        positive: the parts that show the class.
    """

    name: str
    path: str
    labels: tuple[int, ...]
    size_bytes: int
    count: int = 1
    offset: int = 0
    positive: tuple[int, ...] = ()


@dataclass(frozen=True)
class SourceList:
    """All sources of a split, in the order of the list, and the class names in the order of the labels.

    `category`: that of the labels, where the list has several; `num_left_out` of its entries have none of it.
    """

    sources: tuple[Source, ...]
    classes: tuple[str, ...]
    list_sha256: str
    classes_sha256: str
    category: str | None = None
    num_left_out: int = 0


def load_sources(
    list_path: Path,
    root: Path,
    classes_path: Path | None,
    source_format: SourceFormat = VIDEOS,
    *,
    category: str | None = None,
) -> SourceList:
    """Read a list and a file with one class name a line.

    A path is relative to `root`; an absolute one stands for itself. Empty lines are skipped in the list and
    at the end of the class file.

    Args:
        list_path: lines as `source_format.expected_line` says, or JSON (suffix .json), see `load_json_items`.
        root: directory of the paths.
        classes_path: the class file.
        source_format: what the entries are.
        category: of a JSON list whose labels have several; samples without it are left out.

    Raises:
        SourceListError: names every fault of both files, with line numbers.
    """
    faults: list[str] = []
    class_text = _read(classes_path, "class file", "--classes FILE with one class name a line", faults)
    lines = f'--list FILE with lines "{source_format.expected_line}"'
    list_text = _read(list_path, "list", lines, faults)
    classes = _parse_classes(classes_path, class_text, faults) if class_text is not None else []
    items, num_left_out = [], 0
    if list_text is not None:
        items, num_left_out = _load_items(list_path, list_text, source_format, category, faults)
    sources = _check_items(list_path, items, root, source_format, len(classes), faults)
    if faults or classes_path is None:
        raise SourceListError("\n".join(faults))
    digests = _sha256(list_path), _sha256(classes_path)
    return SourceList(tuple(sources), tuple(classes), *digests, category, num_left_out)


def _read(path: Path | None, what: str, expected: str, faults: list[str]) -> str | None:
    if path is None:
        faults.append(f"no {what}: give {expected}")
    elif not path.is_file():
        faults.append(f"{path}: no such file; give {expected}")
    else:
        try:
            return path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            faults.append(f"{path}: byte {error.start} is not UTF-8 text; save the {what} as UTF-8")
    return None


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _parse_classes(path: Path | None, text: str, faults: list[str]) -> list[str]:
    # Not `splitlines`: it ends a line at characters like U+2028, too.
    classes = [line.strip() for line in text.rstrip().split("\n")] if text.strip() else []
    first_line: dict[str, int] = {}
    for number, name in enumerate(classes, start=1):
        if not name:
            faults.append(f"{path}:{number}: empty line, expected a class name")
        elif name in first_line:
            faults.append(f'{path}:{number}: class "{name}" stands on line {first_line[name]} already')
        first_line.setdefault(name, number)
    if not classes:
        faults.append(f"{path}: empty, expected one class name a line")
    return classes


def _load_items(
    path: Path, text: str, source_format: SourceFormat, category: str | None, faults: list[str]
) -> tuple[list[ListItem], int]:
    items, num_left_out = [], 0
    if path.suffix == ".json":
        try:
            items, num_left_out = load_json_items(text, source_format, category)
        except ValueError as error:
            faults.append(f"{path}: {error}")
            return [], 0
    elif category is not None:
        faults.append(f"--category {category}: {path} is not a .json list, only these have categories")
    else:
        items = list(iter_lines(text, source_format))
    if not items and num_left_out:
        faults.append(f"--category {category}: none of the {num_left_out} samples of {path} has it")
    elif not items and not faults:
        faults.append(f'{path}: empty, expected lines "{source_format.expected_line}"')
    return items, num_left_out


def _check_items(
    path: Path,
    items: list[ListItem],
    root: Path,
    source_format: SourceFormat,
    num_classes: int,
    faults: list[str],
) -> list[Source]:
    """The sources of all good items; what is wrong with the others joins the faults."""
    is_json = path.suffix == ".json"
    sources: list[Source] = []
    first_place: dict[tuple[str | int, ...], str] = {}
    for item in items:
        problems = list(item.problems)
        if item.entry is not None:
            source, key = _locate(item.entry, root, source_format)
            problems += _label_problems(source.labels, num_classes)
            if key in first_place:
                problems.append(f"{source.name} stands {first_place[key]} already")
            elif not (os.path.isdir if source_format.has_directories else os.path.isfile)(source.path):
                what = "directory" if source_format.has_directories else "file"
                problems.append(f"{source.path}: no such {what}")
            elif not problems:
                sources.append(source)
            first_place.setdefault(key, f"in entry {item.number}" if is_json else f"on line {item.number}")
        where = f"{path}[{item.number}]" if is_json else f"{path}:{item.number}"
        faults += [f"{where}: {problem}" for problem in problems]
    return sources


def _locate(entry: Entry, root: Path, source_format: SourceFormat) -> tuple[Source, tuple[str | int, ...]]:
    """The source of an entry, and by what two entries are the same."""
    path = str(root.absolute() / entry.path)
    first = os.path.join(path, source_format.file_names(entry.offset)[0]) if source_format.template else path
    is_clip = source_format.with_offset
    source = Source(
        name=f"{entry.path}:{entry.offset}+{entry.count}" if is_clip else entry.path,
        path=path,
        labels=entry.labels,
        size_bytes=os.path.getsize(first) if os.path.isfile(first) else 0,
        count=entry.count,
        offset=entry.offset,
        positive=entry.positive,
    )
    same_path = os.path.normpath(path)  # never opened: after a link, `..` leads elsewhere
    return source, (same_path, entry.offset, entry.count) if is_clip else (same_path,)


def _label_problems(labels: tuple[int, ...], num_classes: int) -> list[str]:
    """`num_classes` 0: not known, because the class file is at fault."""
    last = num_classes - 1 if num_classes else float("inf")
    allowed = f"0..{last}, the lines of the class file" if num_classes else "0 and up"
    problems = [f"label {label}: expected {allowed}" for label in labels if not 0 <= label <= last]
    if len(set(labels)) < len(labels):
        problems.append(f"a label stands twice: {' '.join(map(str, labels))}")
    return problems
