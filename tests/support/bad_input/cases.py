"""Bad commands by name, and the scene of each: data, folders and flags that would be right."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tests.support.helpers import (
    STAGE_1_NAME,
    stage_1,
    stage_2,
    write_tree,
)


@dataclass
class Scene:
    """The folder of one test, with the flags of a run that would be right."""

    tmp: Path
    tree: Path
    pretrained_root: Path

    @property
    def root(self) -> Path:
        return self.tmp / "root"

    @property
    def run_folder(self) -> Path:
        return self.root / STAGE_1_NAME

    def stage_1(self, *extra: object) -> list[object]:
        return stage_1(self.tree, self.root, *extra)

    def stage_2(self, *extra: object) -> list[object]:
        """Returns the command of a stage 2 from a finished stage 1."""
        self.copy_pretrained()
        return stage_2(self.tree, self.root, *extra)

    def stage_2_from(self, content: object) -> list[object]:
        """Returns the command of a stage 2 from a checkpoint with this content: bytes, or anything
        that `torch.save` takes."""
        path = self.tmp / "strange.pth.tar"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        return stage_2(self.tree, self.root, "--pretrained", path)

    def copy_pretrained(self) -> None:
        if not self.root.exists():
            shutil.copytree(self.pretrained_root, self.root)

    def unfinished(self) -> Path:
        """Returns the folder of a stage 1 that was killed after its last epoch."""
        self.copy_pretrained()
        (self.run_folder / "summary.json").unlink()
        return self.run_folder

    def checkpoint(self) -> dict:
        path = self.pretrained_root / STAGE_1_NAME / "ckpt.best.pth.tar"
        return torch.load(path, weights_only=True)

    def checkpoint_bytes(self) -> bytes:
        return (self.pretrained_root / STAGE_1_NAME / "ckpt.best.pth.tar").read_bytes()

    def own_tree(self, **settings: int) -> Path:
        folder = self.tmp / "data"
        write_tree(folder, **{"train": 3, "test": 1, "side": 32} | settings)
        return folder


@dataclass(frozen=True)
class Case:
    """A bad command: its name, its arguments, and texts that its message must have."""

    id: str
    argv: Callable[[Scene], list[object]]
    says: tuple[str, ...] = field(default=())


CASES: list[Case] = []


def flag(name: str, value: str | None, *says: str, stage: int = 1, id: str | None = None) -> None:
    """Adds a case of one bad flag. Its message must name the flag, the value and what is
    allowed."""
    arguments = [name] if value is None else [f"{name}={value}" if name[:2] == "--" else name]
    if value is not None and name[:2] != "--":
        arguments.append(value)

    def argv(scene: Scene) -> list[object]:
        return scene.stage_1(*arguments) if stage == 1 else scene.stage_2(*arguments)

    CASES.append(Case(id or f"{name} {value}", argv, says))


def case(*says: str) -> Callable:
    """Adds a case from a function that prepares the scene and returns the command."""

    def add(function: Callable[[Scene], list[object]]) -> Callable:
        CASES.append(Case(function.__name__.replace("_", " "), function, says))
        return function

    return add
