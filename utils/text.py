"""Names and paths in messages."""

import os
import re
from collections.abc import Sequence

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def listed(items: Sequence[str], number: int = 6, separator: str = ", ") -> str:
    """Returns the first items, and how many more there are; "nothing" if there are none.

    Example:
        >>> listed(["ant", "bee", "cat"], number=2)
        'ant, bee and 1 more'
    """
    if not items:
        return "nothing"
    more = len(items) - number
    return separator.join(items[:number]) + (f" and {more} more" if more > 0 else "")


def printable(text: str) -> str:
    """Returns the text with its control characters (Unicode's category Cc) escaped: they would
    break a line, or change the terminal.

    Example:
        >>> print(printable("an\\nt"))
        an\\nt
    """
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def as_text(path: str | os.PathLike) -> str:
    """Returns the path as text that every stream can encode. Bytes that are not UTF-8 are written
    as ``\\xNN``.

    Example:
        >>> print(as_text("fl\\udce9ur.png"))
        fl\\xe9ur.png
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def shown(path: str | os.PathLike) -> str:
    """Returns the path as messages show it: as text in which everything is printable."""
    return printable(as_text(path))
