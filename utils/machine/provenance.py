"""Which version of the code a run was made with."""

import subprocess
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def commit() -> str | None:
    """The commit of the working tree, with `+changes` where files that git knows differ from it;
    None outside a repository of this project's own."""
    try:
        if not (REPOSITORY / ".git").exists():
            return None
        name = _git("rev-parse", "--short=10", "HEAD")
        return name + ("+changes" if _git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    ran = subprocess.run(
        ["git", "-C", str(REPOSITORY), *arguments],
        check=True,
        capture_output=True,
        text=True,
        timeout=20,
    )
    return ran.stdout.strip()
