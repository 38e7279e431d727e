"""Which version of the code a run was made with."""

import os
import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
"""The folder of `main.py`."""


def commit() -> str | None:
    """Returns the commit of the working tree, ten hexadecimal digits, with `+changes` if a file
    that git tracks differs from it. None if the program's folder is not a git repository."""
    try:
        if not (REPOSITORY / ".git").exists():
            return None
        name = _git("rev-parse", "--short=10", "HEAD")
        return name + ("+changes" if _git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    # Without the optional lock: a run reads the repository and leaves its index alone. Without the
    # variables of git, which its hooks have: a GIT_DIR would win over the folder.
    environment = {name: v for name, v in os.environ.items() if not name.startswith("GIT_")}
    ran = subprocess.run(
        ["git", "--no-optional-locks", "-C", str(REPOSITORY), *arguments],
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=20,
    )
    return ran.stdout.strip()
