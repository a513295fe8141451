"""DALI's index of a WebDataset tar (`wds2idx`, format v1.2): where each member of each sample lies.

The first line is `v1.2 <number of samples>`; then a line a sample: `extension offset size file-name` for
each member.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

VERSION = "v1.2"


@dataclass(frozen=True)
class Member:
    """A file of a tar: `offset` and `size_bytes` of its content."""

    name: str
    offset: int
    size_bytes: int


Index = dict[str, tuple[Member, ...]]  # key -> members, both in the order of the tar


def format_index(samples: Iterable[tuple[str, tuple[Member, ...]]]) -> str:
    """The text of an index file that lists `samples` (key and members of each), repeated or not."""
    lines = [
        " ".join(f"{m.name} {m.offset} {m.size_bytes} {key}.{m.name}" for m in members)
        for key, members in samples
    ]
    lines.insert(0, f"{VERSION} {len(lines)}")
    return "\n".join(lines) + "\n"


def load_index(path: Path) -> Index:
    """Read an index file.

    Raises:
        ValueError: not an index of this version; the message names file and line.
        FileNotFoundError: there is none.
    """
    first, *lines = path.read_text(encoding="utf-8").splitlines() or [""]
    if first != f"{VERSION} {len(lines)}":
        raise ValueError(f'{path.name}: starts with "{first[:40]}", expected "{VERSION} {len(lines)}"')
    index: Index = {}
    for number, line in enumerate(lines, start=2):
        try:
            key, members = _parse_line(line)
        except ValueError as error:
            raise ValueError(f"{path.name}:{number}: {error}") from error
        if key in index:
            raise ValueError(f"{path.name}:{number}: key {key} for the second time")
        index[key] = members
    return index


def _parse_line(line: str) -> tuple[str, tuple[Member, ...]]:
    words = line.split(" ")
    if len(words) % 4:
        raise ValueError(f'{len(words)} words, expected "extension offset size file-name" for each member')
    groups = [words[i : i + 4] for i in range(0, len(words), 4)]
    keys = {file_name.removesuffix(f".{extension}") for extension, _, _, file_name in groups}
    if len(keys) != 1:
        raise ValueError(f"members of {len(keys)} samples on one line: {', '.join(sorted(keys))}")
    return keys.pop(), tuple(Member(name, int(offset), int(size)) for name, offset, size, _ in groups)
