"""What a benchmark found, as JSON for programs and as Markdown for people."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

NO_GPU = "not measured: no GPU"
OUT_OF_TIME = "not measured: out of time"
NOT_LISTED = "not measured: no such line"

Row = dict[str, Any]


def failure(error: Exception) -> str:
    """The status of a line that could not be measured."""
    return f"failed: {type(error).__name__}: {' '.join(str(error).split())[:300]}"


@dataclass
class Section:
    """A table.

    Attributes:
        title, note: above it.
        columns: key in a row, and the heading; a number stands where the key's row has one.
        rows: figures by key; a row that was not measured has the reason as its "status".
    """

    title: str
    columns: dict[str, str]
    note: str = ""
    rows: list[Row] = field(default_factory=list)


def best_of(rows: Sequence[Row], key: str, part: str) -> tuple[float | None, str]:
    """The largest figure of the lines with `part` in their name; where there is none, also why."""
    named = [row for row in rows if part in row["variant"]]
    figures = [row[key] for row in named if row.get(key) is not None]
    if figures:
        return max(figures), ""
    return None, next((row["status"] for row in named if row.get("status")), NOT_LISTED)


def to_markdown(machine: dict[str, Any], command: str, sections: list[Section]) -> str:
    """The machine, then a table a section."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    lines = [
        f"{machine['date']}, commit {machine['commit']}: `{command}`",
        "",
        f"{machine['cpu']}, {machine['num_cores']:g} cores; GPU: {machine['gpu'] or 'none'}; "
        f"{machine['system']}; {versions}.",
    ]
    for section in sections:
        lines += ["", f"### {section.title}", ""]
        lines += [section.note, ""] if section.note else []
        lines.append("| " + " | ".join(section.columns.values()) + " |")
        lines.append("| " + " | ".join("---" for _ in section.columns) + " |")
        lines += ["| " + " | ".join(_cells(row, section.columns)) + " |" for row in section.rows]
    return "\n".join(lines) + "\n"


def _cells(row: Row, columns: dict[str, str]) -> list[str]:
    """The figures of a row; the reason of a missing one stands in its first empty cell."""
    cells = [format_value(row[key]) if row.get(key) is not None else "" for key in columns]
    status = row.get("status")
    if status:
        empty = [place for place, cell in enumerate(cells) if not cell]
        cells[empty[0] if empty else -1] += status
    return cells


def format_value(value: Any) -> str:
    """A figure with three digits that count, or a whole number where it is larger."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value).replace("|", "/").replace("\n", " ")


def write_report(
    sections: list[Section],
    *,
    machine: dict[str, Any],
    command: str,
    as_json: Path | None,
    markdown: Path | None,
) -> str:
    """Write the tables where the user wants them; the Markdown."""
    text = to_markdown(machine, command, sections)
    if as_json:
        content = {"command": command, "machine": machine, "sections": [asdict(s) for s in sections]}
        as_json.write_text(json.dumps(content, indent=2) + "\n")
    if markdown:
        markdown.write_text(text)
    return text
