"""What files import: only rooms below their own, as docs/architecture.md draws them, and packages
that are among the requirements."""

import ast
import re
import sys
from pathlib import Path

import pytest

from tests.support.helpers import REPOSITORY

FLOORS = (
    ("utils.errors", "utils.files", "utils.progress", "utils.templates", "utils.text"),
    ("losses", "models"),
    ("utils.options", "utils.machine"),
    ("datasets.origin", "datasets.normalisation", "datasets.long_tail", "datasets.files"),
    ("datasets.recorded", "datasets.samplers"),
    ("datasets.splits",),
    ("datasets.loading", "datasets.subset"),
    ("datasets.sources",),
    ("datasets.load",),
    ("datasets",),
    ("utils.evaluation",),
    ("utils.runs",),
    ("utils.report",),
    ("utils.training",),
    ("utils.commands",),
    ("benchmarks",),
    ("main",),
    ("utils.reproduce", "utils.predict", "utils.demo", "utils.metrics"),
    ("utils.export",),  # a program for other machines is what prediction runs here
)
"""The rooms from the ground up; those of one floor do not know each other, but for the ground's."""

HEIGHT = {room: height for height, floor in enumerate(FLOORS) for room in floor}


def room_of(module: str) -> str | None:
    """The room that a module is in; None where it is not the project's."""
    return next((r for r in HEIGHT if module == r or module.startswith(f"{r}.")), None)


def modules() -> list[Path]:
    roots = [REPOSITORY / name for name in ("losses", "models", "datasets", "utils", "benchmarks")]
    files = [path for root in roots for path in root.rglob("*.py")]
    return sorted([REPOSITORY / "main.py", *files])


def name_of(path: Path) -> str:
    parts = path.relative_to(REPOSITORY).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> set[str]:
    """The modules that a file imports, within functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_file_uses_only_rooms_below_its_own(path):
    own = name_of(path)
    if own == "utils":
        assert not imported(path)
        return
    room = room_of(own)
    assert room is not None, f"{own} stands in no room"
    for module in imported(path):
        other = room_of(module)
        if other is None or other == room:
            continue
        is_ground = HEIGHT[other] == HEIGHT[room] == 0
        assert HEIGHT[other] < HEIGHT[room] or is_ground, f"{own} uses {module}"


def test_every_room_is_there():
    for room in HEIGHT:
        path = REPOSITORY / room.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").is_file(), room


@pytest.mark.parametrize(
    "path", [path for path in modules() if path.name == "__init__.py"], ids=name_of
)
def test_a_package_only_names_what_it_has(path):
    for node in ast.parse(path.read_text()).body:
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_all = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        assert is_text or is_all or isinstance(node, ast.ImportFrom), ast.unparse(node)[:80]


def test_the_command_line_is_read_without_torch():
    for path in (REPOSITORY / "utils" / "options").rglob("*.py"):
        assert not {m for m in imported(path) if m.split(".")[0] in ("torch", "torchvision")}, path


def requirements():
    """Names of the packages in requirements.txt, in lower case."""
    lines = (REPOSITORY / "requirements.txt").read_text().splitlines()
    lines = [line.split("#")[0].strip() for line in lines]
    return {re.split(r"[^A-Za-z0-9._-]", line)[0].lower() for line in lines if line}


# Modules whose package has another name; Pillow comes with torchvision.
PACKAGE_OF = {
    "markdown_it": "markdown-it-py",
    "sklearn": "scikit-learn",
    "tensorboardX": "tensorboardx",
    "PIL": "pillow",
}


def packages_used():
    """The first file that uses each package that is not the project's, by the package's name."""
    found = {}
    for path in modules():
        for module in imported(path):
            name = module.split(".")[0]
            if name not in sys.stdlib_module_names and room_of(module) is None:
                found.setdefault(PACKAGE_OF.get(name, name), name_of(path))
    return found


def test_every_imported_package_is_among_the_requirements():
    used = packages_used()
    assert {"torch", "numpy", "scikit-learn"} <= used.keys()
    assert not {name: file for name, file in used.items() if name not in requirements()}


def test_every_requirement_is_used():
    assert requirements() <= packages_used().keys()
