"""The content of the files that flags name. It tells runs apart; the place of a file does not."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.errors import UserError
from utils.options.data_paths import expanded
from utils.options.digests import file_digest
from utils.options.flags import FIELDS, Options
from utils.runs.lookup import checkpoint_of_flag

RECORD = "contents"
"""The key of the digests in `args.json`."""


def named_files(options: Options) -> dict[str, str]:
    """Returns the values of the options that name a file whose content decides this run's result,
    by the options' names."""
    return {
        name: value
        for name in options.decisive()
        if FIELDS[name].metadata["content"] and (value := getattr(options, name)) is not None
    }


def contents_of(options: Options) -> dict[str, str]:
    """Returns the SHA-256 of each of the `named_files`, without those that are not there.

    With `--seeds`, each seed may have another teacher; then there is one digest of all.
    """
    found = {name: _content(options, name) for name in named_files(options)}
    return {name: digest for name, digest in found.items() if digest is not None}


def _content(options: Options, name: str) -> str | None:
    paths = dict.fromkeys(file_of(of_seed, name) for of_seed in options.by_seed())
    digests = [path and file_digest(str(path)) for path in paths]
    if None in digests:
        return None
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(map(str, digests)).encode()).hexdigest()


def file_of(options: Options, name: str) -> Path | None:
    """Returns the file that an option names; None if it is not there."""
    if FIELDS[name].metadata["content"] == "file":
        return expanded(getattr(options, name))
    try:
        return checkpoint_of_flag(options, name)
    except UserError:  # the run that needs the file reports it
        return None


def is_same_file(options: Options, name: str, recorded: Mapping[str, Any]) -> bool:
    """Returns True if an option names the same file as a run's record.

    Files are the same if they have the same content, wherever they are. If the file is gone, or the
    record has no content (earlier versions), they are the same if they have the same path.

    Args:
        options: the options of the run.
        name: one of the `named_files`.
        recorded: the content of an `args.json`.
    """
    before, now = recorded.get(RECORD, {}).get(name), contents_of(options).get(name)
    if before is not None and now is not None:
        return before == now
    return is_same_path(getattr(options, name), recorded.get(name))


def is_same_path(given: object, recorded: object) -> bool:
    """Returns True if two paths lead to the same place, or if both are None."""
    if given is None or recorded is None:
        return given == recorded
    paths = (os.path.realpath(os.path.expanduser(str(path))) for path in (given, recorded))
    return given == recorded or len(set(paths)) == 1
