"""What a benchmark found, as text, Markdown and JSON."""

import shlex
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from benchmarks.arguments import RECIPE
from benchmarks.measure import PHASES, Measurements, line_through, short
from benchmarks.settings import Settings
from benchmarks.sides import PLAIN, side_names
from datasets import LongTailedData
from utils.files import write_json
from utils.machine.device import Machine
from utils.machine.provenance import commit

TITLES = {
    "pretraining": "stage 1",
    "features": "stage 2, features",
    "classifier": "stage 2, classifier",
}


class Report:
    """Of both sides, on a machine.

    Args:
        settings: of both sides.
        images: what the images are.
        data: all of them.
        parts: by size, those that were trained on.
        found: the measurements, also those that are yet to be taken.
        device: where the networks are.
    """

    def __init__(
        self,
        settings: Settings,
        images: str,
        data: LongTailedData,
        parts: dict[int, LongTailedData],
        found: Measurements,
        device: torch.device,
    ) -> None:
        self.settings, self.images, self.found = settings, images, found
        self.names = side_names(settings.precision)
        self.machine = Machine(device, settings.precision).description()
        self.full_size = epoch_images(data)
        self.sizes = {size: epoch_images(part) for size, part in parts.items()}
        self.class_counts = data.class_counts

    def introduction(self) -> str:
        m, s = self.machine, self.settings
        sizes = ", ".join(
            f"x{size}: {images['pretraining']} and {images['features']}"
            for size, images in self.sizes.items()
        )
        return (
            f"{m['processor']}, {m['device']}, {m['threads']} threads; Python {m['python']}, "
            f"torch {m['torch']}\n"
            f"data: {self.images}, {self.full_size['pretraining']} training images, "
            f"{self.full_size['features']} in an epoch of stage 2; {s.arch}, batches of "
            f"{s.batch_size}\n"
            f"measured on (images in an epoch of stages 1 and 2): {sizes}\n"
            f"plain: {s.workers} workers a loader, persistent: {s.persistent_workers}; "
            f"ours: step {s.step or 'default'}"
        )

    def text(self) -> str:
        """All tables."""
        return "\n\n".join(f"{title}\n{as_text(rows)}" for title, rows in self._tables().items())

    def _tables(self) -> dict[str, list[list[str]]]:
        return {
            "medians (lower to upper quartile)": self._rates(),
            "seconds of an epoch's training, and their growth beside that of its images": (
                self._growth()
            ),
            "seconds of all of an epoch, with its passes without gradients": self._epochs(),
            "the recipe's full length, a PROJECTION from these epochs": self._projection(),
        }

    def _rates(self) -> list[list[str]]:
        quantities = {
            **{f"{TITLES[p]}: training, images/s": f"{p} images/s" for p in PHASES[:2]},
            "evaluation pass, images/s": "evaluation images/s",
            "augmentation to batches, images/s": "augmentation images/s",
            "start-up to the first step, s": "start-up seconds",
            "peak memory of process and workers, MiB": "peak MiB of process and workers",
            "peak memory of device, MiB": "peak MiB of device",
        }
        rows = [["", *self.names, f"{self.names[-1]} / plain"]]
        for title, quantity in quantities.items():
            cells = [self.found.text(quantity, name) for name in self.names]
            if any(cells):
                rows.append([title, *cells, short(self.ratio(quantity)) if all(cells) else ""])
        return rows

    def ratio(self, quantity: str) -> float:
        """Ours, in the precision asked for, over plain: of medians."""
        ours, plain = (
            self.found.median(quantity, name) for name in (self.names[-1], self.names[0])
        )
        return ours / plain if plain else float("nan")

    def _growth(self) -> list[list[str]]:
        rows = [["", "images", *(f"{n}: s, times x1" for n in self.names), "images, times x1"]]
        for phase in PHASES:
            first = self.sizes[min(self.sizes)][phase]
            for size, images in self.sizes.items():
                cells = [
                    f"{self.found.text(f'{phase} training seconds', name, size)}, "
                    f"{self.growth(phase, name, size):.2f}"
                    for name in self.names
                ]
                times = f"{images[phase] / first:.2f}"
                rows.append([f"{TITLES[phase]}, x{size}", str(images[phase]), *cells, times])
        return rows

    def growth(self, phase: str, name: str, size: int) -> float:
        """Training seconds of an epoch at the size over those at the smallest: of medians."""
        quantity = f"{phase} training seconds"
        first = self.found.median(quantity, name, min(self.sizes))
        return self.found.median(quantity, name, size) / first

    def _epochs(self) -> list[list[str]]:
        rows = [["", *self.names]]
        for phase in PHASES:
            for size in self.sizes:
                cells = [self.found.text(f"{phase} seconds", name, size) for name in self.names]
                rows.append([f"{TITLES[phase]}, x{size}", *cells])
        return rows

    def full_epoch(self, phase: str, name: str) -> float:
        """Seconds of an epoch of all the data: the median, where one was measured, else by the
        line through the sizes that were (a part that every epoch costs, and a part per image)."""
        quantity, wanted = f"{phase} seconds", self.full_size[phase]
        points = []
        for size, images in self.sizes.items():
            if images[phase] == wanted:
                return self.found.median(quantity, name, size)
            values = self.found.values(quantity, name, size)
            points += [(images[phase], seconds) for seconds in values]
        fixed, slope = line_through(*map(list, zip(*points, strict=True)))
        return fixed + wanted * slope

    def recipe_seconds(self, name: str) -> float:
        return sum(epochs * self.full_epoch(phase, name) for phase, epochs in RECIPE.items())

    def _projection(self) -> list[list[str]]:
        rows = [["", *self.names, f"plain / {self.names[-1]}"]]
        for phase, epochs in RECIPE.items():
            seconds = [self.full_epoch(phase, name) for name in self.names]
            title = f"{TITLES[phase]}: s an epoch of {self.full_size[phase]} images (x {epochs})"
            rows.append([title, *map(short, seconds), short(seconds[0] / seconds[-1])])
        totals = [self.recipe_seconds(name) for name in self.names]
        minutes = [short(total / 60) for total in totals]
        return [*rows, ["all, minutes", *minutes, short(totals[0] / totals[-1])]]

    def ratio_lines(self) -> str:
        training = self.ratio("features images/s")
        augmentation = self.ratio("augmentation images/s")
        return f"training ratio: {training:.2f}\naugmentation ratio: {augmentation:.2f}"

    def as_dict(self) -> dict:
        names, phases = self.names, RECIPE
        return {
            "command": command(),
            "commit": commit(),
            "machine": {k: v for k, v in self.machine.items() if k != "command"},
            "settings": asdict(self.settings),
            "images": self.images,
            "class_counts": self.class_counts,
            "images_per_epoch": {"full": self.full_size, **self.sizes},
            "measurements": list(self.found.summary()),
            "projection": {
                name: {
                    "epoch_seconds": {phase: self.full_epoch(phase, name) for phase in phases},
                    "epochs": RECIPE,
                    "recipe_seconds": self.recipe_seconds(name),
                }
                for name in names
            },
            "training_ratio": self.ratio("features images/s"),
            "augmentation_ratio": self.ratio("augmentation images/s"),
            "compared": [names[-1], PLAIN],
        }

    def write(self, folder: Path) -> None:
        """`throughput.json` with all values, `throughput.md` with the tables."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "throughput.json", self.as_dict())
        introduction = self.introduction().replace("\n", "  \n")
        parts = ["# Throughput", f"`{command()}`, commit {commit()}", introduction]
        for title, rows in self._tables().items():
            parts += [f"## {title[0].upper()}{title[1:]}", as_markdown(rows)]
        parts.append(self.ratio_lines().replace("\n", "  \n"))
        (folder / "throughput.md").write_text("\n\n".join(parts) + "\n")


def epoch_images(data: LongTailedData) -> dict[str, int]:
    """Images in an epoch of each phase."""
    balanced = max(data.class_counts) * data.num_classes
    return {"pretraining": len(data.train), "features": balanced, "classifier": balanced}


def as_text(rows: list[list[str]]) -> str:
    widths = np.array([[len(cell) for cell in row] for row in rows]).max(axis=0)
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    )


def as_markdown(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def command() -> str:
    """The command line that started this program."""
    return shlex.join(["python", "-m", "benchmarks.throughput", *sys.argv[1:]])
