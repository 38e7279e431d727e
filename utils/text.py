"""Names and paths in messages."""

import os
from collections.abc import Sequence


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


def shown(path: str | os.PathLike) -> str:
    """Returns the path as text that every stream can encode. Bytes that are not UTF-8 are written
    as ``\\xNN``.

    Example:
        >>> print(shown("fl\\udce9ur.png"))
        fl\\xe9ur.png
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")
