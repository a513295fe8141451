"""The list of videos and the class file: read as a whole, all faults reported at once."""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

# The labels are the whole numbers at the end of the line, so that a path may contain spaces.
_LINE = re.compile(r"(?P<path>.*?\S)(?P<labels>(?:\s+[+-]?\d+)+)\s*")


class SourceListError(Exception):
    """Faults of list and class file, one a line of the message."""


@dataclass(frozen=True)
class Source:
    """One video of a list.

    Attributes:
        name: its path as the list gives it.
        path: where it lies.
        labels: class ids.
        size_bytes: of the file.
    """

    name: str
    path: str
    labels: tuple[int, ...]
    size_bytes: int


@dataclass(frozen=True)
class SourceList:
    """All videos of a split, in the order of the list, and the class names in the order of the labels."""

    sources: tuple[Source, ...]
    classes: tuple[str, ...]
    list_sha256: str
    classes_sha256: str


def load_sources(list_path: Path, root: Path, classes_path: Path | None) -> SourceList:
    """Read a list of lines `path label [label ...]` and a file with one class name a line.

    A path is relative to `root`; an absolute one stands for itself. Empty lines are skipped in the list and
    at the end of the class file.

    Raises:
        SourceListError: names every fault of both files, with line numbers.
    """
    faults: list[str] = []
    class_text = _read(classes_path, "class file", "--classes FILE with one class name a line", faults)
    list_text = _read(list_path, "list", '--list FILE with lines "path label [label ...]"', faults)
    classes = _parse_classes(classes_path, class_text, faults) if class_text is not None else []
    sources = _parse_list(list_path, list_text, root, len(classes), faults) if list_text is not None else []
    if faults or classes_path is None:
        raise SourceListError("\n".join(faults))
    return SourceList(tuple(sources), tuple(classes), _sha256(list_path), _sha256(classes_path))


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
    classes = [line.strip() for line in text.rstrip().splitlines()]
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


def _parse_list(path: Path, text: str, root: Path, num_classes: int, faults: list[str]) -> list[Source]:
    sources: list[Source] = []
    first_line: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        found = _LINE.fullmatch(line.strip())
        if not found:
            expected = 'expected "path label [label ...]"'
            faults.append(f'{path}:{number}: "{line.strip()}" does not end with a label, {expected}')
            continue
        name, labels = found["path"], tuple(int(word) for word in found["labels"].split())
        file = os.path.normpath(root / name)
        problems = _label_problems(labels, num_classes)
        if file in first_line:
            problems.append(f"{name} stands on line {first_line[file]} already")
        elif not os.path.isfile(file):
            problems.append(f"{file}: no such file")
        first_line.setdefault(file, number)
        faults += [f"{path}:{number}: {problem}" for problem in problems]
        if not problems:
            sources.append(Source(name, file, labels, os.path.getsize(file)))
    if not first_line and not faults:
        faults.append(f'{path}: empty, expected lines "path label [label ...]"')
    return sources


def _label_problems(labels: tuple[int, ...], num_classes: int) -> list[str]:
    """`num_classes` 0: not known, because the class file is at fault."""
    last = num_classes - 1 if num_classes else float("inf")
    allowed = f"0..{last}, the lines of the class file" if num_classes else "0 and up"
    problems = [f"label {label}: expected {allowed}" for label in labels if not 0 <= label <= last]
    if len(set(labels)) < len(labels):
        problems.append(f"a label stands twice: {' '.join(map(str, labels))}")
    return problems
