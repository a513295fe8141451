"""What the entries of a list are: videos, folders of pictures, pictures, or folders of parts; and how the
files of a folder are named."""

from dataclasses import dataclass
from typing import Literal, get_args

from shards.stream import Modality

Kind = Literal["videos", "frames", "flow", "images", "parts"]
KINDS: tuple[Kind, ...] = get_args(Kind)
TEMPLATES: dict[Kind, str] = {"frames": "img_{:05}.jpg", "flow": "{}_{:05d}.jpg", "parts": "part_{}.mp4"}
_FIRST_NUMBERS: dict[Kind, int] = {"frames": 1, "flow": 1, "parts": 0}
_EXPECTED_LINES: dict[Kind, str] = {
    "videos": "path label [label ...]",
    "frames": "dir num_frames label [label ...]",
    "flow": "dir num_frames label [label ...]",
    "images": "path label [label ...]",
    "parts": "dir label num_parts positive [positive ...]",
}


@dataclass(frozen=True)
class SourceFormat:
    """How a source is read; `build_source_format` fills in what depends on the kind.

    Attributes:
        kind: "videos" and "images" are files. "frames" (RGB) and "flow" (grey, a picture for x and one for y)
            are directories with a file a frame; "parts" are directories of an untrimmed video's parts.
        template: name of a file in the directory, for `str.format` with the number, for flow with "x" or "y"
            and the number. Empty where sources are files.
        start_index: number of the first file of a directory.
        with_offset: the list gives clips of directories: where they start, and how long they are.
    """

    kind: Kind = "videos"
    template: str = ""
    start_index: int = 0
    with_offset: bool = False

    @property
    def modality(self) -> Modality:
        return "flow" if self.kind == "flow" else "rgb"

    @property
    def has_directories(self) -> bool:
        return self.kind in TEMPLATES

    @property
    def expected_line(self) -> str:
        """What a line of the list looks like."""
        line = _EXPECTED_LINES[self.kind]
        return line.replace("num_frames", "offset num_frames") if self.with_offset else line

    def file_names(self, index: int) -> tuple[str, ...]:
        """Names of the files of frame (part) `index` of a directory, counted from 0: one, or x and y."""
        number = index + self.start_index
        if self.kind == "flow":
            return self.template.format("x", number), self.template.format("y", number)
        return (self.template.format(number),)

    def options(self) -> dict[str, str | int]:
        """The options that shape the content."""
        options: dict[str, str | int] = {"source": self.kind}
        if self.has_directories:
            options |= {"template": self.template, "start_index": self.start_index}
        return options | ({"with_offset": True} if self.with_offset else {})


VIDEOS = SourceFormat()


def build_source_format(
    kind: Kind, *, template: str | None = None, start_index: int | None = None, with_offset: bool = False
) -> SourceFormat:
    """The format of a list; None stands for the default of the kind.

    Raises:
        ValueError: an option that the kind does not have, or a template that does not make file names.
    """
    if kind not in KINDS:
        raise ValueError(f"--source {kind}: expected one of {', '.join(KINDS)}")
    if kind not in TEMPLATES and (template is not None or start_index is not None):
        option = "--template" if template is not None else "--start-index"
        raise ValueError(
            f"{option}: --source {kind} are files, not directories of numbered files; leave it out"
        )
    if with_offset and kind not in ("frames", "flow"):
        raise ValueError(f"--with-offset: --source {kind} has no frame numbers; only frames and flow do")
    if kind not in TEMPLATES:
        return SourceFormat(kind)
    made = SourceFormat(
        kind,
        TEMPLATES[kind] if template is None else template,
        _FIRST_NUMBERS[kind] if start_index is None else start_index,
        with_offset,
    )
    if made.start_index < 0:
        raise ValueError(f"--start-index {made.start_index}: expected 0 or more")
    _check_template(made)
    return made


def _check_template(made: SourceFormat) -> None:
    try:
        names = {name for index in (0, 1) for name in made.file_names(index)}
    except (ValueError, IndexError, KeyError) as error:
        raise ValueError(
            f"--template {made.template}: {error}; expected a pattern like {TEMPLATES[made.kind]}"
        ) from error
    if len(names) != (4 if made.kind == "flow" else 2):
        raise ValueError(
            f"--template {made.template}: several files would have the name {min(names)}; "
            f"expected a pattern like {TEMPLATES[made.kind]}"
        )
