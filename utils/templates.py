"""Templates of pages and documents."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2


def read_template(
    path: Path, filters: Mapping[str, Callable[..., Any]] | None = None
) -> jinja2.Template:
    """Returns a template. Lines with only a block leave no line, and a variable that is not given
    is an error. What is put into HTML is escaped.

    Args:
        path: its file; HTML if `.html` is among the endings of its name.
        filters: filters that it uses, by name.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(path.parent),
        autoescape=".html" in path.suffixes,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= filters or {}
    return environment.get_template(path.name)
