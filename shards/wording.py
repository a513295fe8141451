"""Words of messages."""


def counted(number: int, noun: str) -> str:
    """ "1 video", "2 videos"; for nouns with a plain s."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
