"""`--size`: which size a video is stored in."""

import re
from dataclasses import dataclass

EXAMPLES = "source, 340x256, short256, height240, width320"
_PATTERN = re.compile(r"source|(?P<w>\d+)x(?P<h>\d+)|(?P<side>short|height|width)(?P<n>\d+)")


@dataclass(frozen=True)
class SizeRule:
    """How the stored size follows from that of the source; made by `parse_size`.

    Attributes:
        kind: "source" (unchanged), "exact", or which side is given: "short", "height", "width".
        width, height: pixels; the one that `kind` names, both for "exact", otherwise 0.
    """

    kind: str
    width: int = 0
    height: int = 0

    def apply(self, width: int, height: int) -> tuple[int, int]:
        """Stored (width, height) of a source of `width` x `height` pixels. Rounds like MMAction2's Resize."""
        match self.kind:
            case "source":
                return width, height
            case "exact":
                return self.width, self.height
            case "short":
                factor = self.height / min(width, height)
            case "height":
                factor = self.height / height
            case _:
                factor = self.width / width
        return max(1, int(width * factor + 0.5)), max(1, int(height * factor + 0.5))


def parse_size(text: str) -> SizeRule:
    """Read `source`, `WxH`, `shortN`, `heightN` or `widthN`.

    Raises:
        ValueError: none of these, or a side outside 8..16384.
    """
    found = _PATTERN.fullmatch(text)
    if not found:
        raise ValueError(f"--size {text}: expected one of the forms {EXAMPLES}")
    sides = [int(found[name]) for name in ("w", "h", "n") if found[name]]
    if any(not 8 <= side <= 16_384 for side in sides):
        raise ValueError(f"--size {text}: a side has 8 to 16384 pixels")
    if found["w"]:
        return SizeRule("exact", sides[0], sides[1])
    if found["side"] == "width":
        return SizeRule("width", width=sides[0])
    return SizeRule(found["side"], height=sides[0]) if found["side"] else SizeRule("source")
