"""The results of a benchmark as Markdown and JSON."""

import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.data import epoch_images, scaled
from benchmarks.measurements import Measurements, line_through, short
from benchmarks.settings import PHASES, RECIPE, SHARED, Settings
from benchmarks.side_process import PLAIN, side_names
from datasets import LongTailedData
from utils.files import write_json
from utils.machine.device import choose_machine
from utils.machine.provenance import commit

RATIOS = {"training": "features images/s", "augmentation": "augmentation images/s"}

OF_EPOCHS = {
    "Seconds of an epoch's training": "training seconds",
    "Seconds of a whole epoch, with its passes without gradients": "seconds",
}

Table = list[list[str]]
"""The rows of a table. The first row is the heading."""


def markdown(table: Table) -> str:
    """Returns a table in Markdown, with columns of equal width."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    heading, *rows = [" | ".join(map(str.ljust, row, widths)) for row in table]
    return "\n".join(f"| {row} |" for row in [heading, " | ".join("-" * w for w in widths), *rows])


class Report:
    """The report of `benchmarks.throughput` about this machine.

    Args:
        settings: the settings of the benchmark.
        images: a text that says what the images are.
        data: all images.
        parts: the part of the images that epochs had at each size; none if no epochs were measured.
        found: the measurements; more may be added later.
    """

    def __init__(
        self,
        settings: Settings,
        images: str,
        data: LongTailedData,
        parts: Mapping[int, float],
        found: Measurements,
    ) -> None:
        self.settings, self.images, self.found = settings, images, found
        self.options = settings.options
        self.names = side_names(self.options.precision)
        self.ours = self.names[-1]
        self.class_counts = data.class_counts
        self.full_size = epoch_images(data)
        self.sizes = {size: epoch_images(scaled(data, part)) for size, part in parts.items()}
        machine = choose_machine(self.options.gpu, self.options.precision, self.options.step)
        self.machine = machine.description()

    def introduction(self) -> str:
        """Returns the machine, the images and the settings, as text."""
        m, options = self.machine, self.options
        sizes = ", ".join(
            f"x{size}: {images['pretraining']} and {images['features']}"
            for size, images in self.sizes.items()
        )
        epochs = f"measured on (images in an epoch of stages 1 and 2): {sizes}\n" if sizes else ""
        return (
            f"{m['processor']}, {m['device']}, {m['threads']} threads; Python {m['python']}, "
            f"torch {m['torch']}\n"
            f"data: {self.images}, {self.full_size['pretraining']} training images, "
            f"{self.full_size['features']} in an epoch of stage 2; {options.arch}, batches of "
            f"{options.batch_size}\n{epochs}"
            f"plain: {options.workers} workers a loader, persistent: "
            f"{self.settings.persistent_workers}; ours: step {m['step']}"
        )

    def text(self) -> str:
        """Returns all tables with their titles, in Markdown."""
        tables = {"Medians (lower to upper quartile)": self._medians()}
        if self.sizes:
            tables |= {title: self._epochs(what) for title, what in OF_EPOCHS.items()}
            title = "The recipe's full length, a PROJECTION from these epochs"
            tables[title] = self._projection()
        return "\n\n".join(f"## {title}\n\n{markdown(rows)}" for title, rows in tables.items())

    def _medians(self) -> Table:
        rows = [["", *self.names, f"{self.ours} / plain"]]
        for quantity in self.found.without_size():
            texts = [self.found.text(quantity, name) for name in self.names]
            rows.append([quantity, *texts, short(self.ratio(quantity))])
        return rows

    def _epochs(self, what: str) -> Table:
        """Returns the seconds of epochs at each size, and their growth beside the images'."""
        columns = [f"{name}: s, times x1" for name in self.names]
        rows = [["", "images", *columns, "images, times x1"]]
        for phase in PHASES:
            quantity = f"{phase} {what}"
            for size, images in self.sizes.items():
                row = [f"{phase}, x{size}", str(images[phase])]
                for name in self.names:
                    growth = self.found.median(quantity, name, size)
                    growth /= self.found.median(quantity, name, 1)
                    row.append(f"{self.found.text(quantity, name, size)}, {growth:.2f}")
                rows.append([*row, f"{images[phase] / self.sizes[1][phase]:.2f}"])
        return rows

    def _projection(self) -> Table:
        projections = [self.projection(name) for name in self.names]
        values = {
            f"{phase}: s an epoch of {self.full_size[phase]} images (x {epochs})": [
                projection["epoch_seconds"][phase] for projection in projections
            ]
            for phase, epochs in RECIPE.items()
        }
        values["all, minutes"] = [p["recipe_seconds"] / 60 for p in projections]
        heading = ["", *self.names, f"plain / {self.ours}"]
        return [heading] + [
            [title, *map(short, [*row, row[0] / row[-1]])] for title, row in values.items()
        ]

    def ratio(self, quantity: str) -> float:
        """Returns the median of ours in the given precision, divided by that of the plain loop."""
        plain = self.found.median(quantity, PLAIN)
        return self.found.median(quantity, self.ours) / plain if plain else float("nan")

    def ratio_lines(self) -> str:
        return "\n".join(f"{name} ratio: {self.ratio(q):.2f}" for name, q in RATIOS.items())

    def projection(self, name: str) -> dict:
        """Returns the seconds of an epoch of each phase on all images, and of the recipe."""
        seconds = {phase: self.full_epoch(phase, name) for phase in PHASES}
        total = sum(RECIPE[phase] * seconds[phase] for phase in PHASES)
        return {"epoch_seconds": seconds, "epochs": RECIPE, "recipe_seconds": total}

    def full_epoch(self, phase: str, name: str) -> float:
        """Returns the seconds of an epoch on all images. If no size has all images, they are
        projected by a line through the sizes: a fixed time an epoch, and a time per image."""
        quantity, wanted = f"{phase} seconds", self.full_size[phase]
        points = []
        for size, images in self.sizes.items():
            if images[phase] == wanted:
                return self.found.median(quantity, name, size)
            values = self.found.values(quantity, name, size)
            points += [(images[phase], seconds) for seconds in values]
        fixed, slope = line_through(*map(list, zip(*points, strict=True)))
        return fixed + wanted * slope

    def record(self) -> dict:
        """Returns all values, for JSON."""
        settings = {name: getattr(self.options, name) for name in SHARED}
        settings |= {"persistent_workers": self.settings.persistent_workers}
        return {
            "command": shlex.join(["python", "-m", "benchmarks.throughput", *sys.argv[1:]]),
            "commit": commit(),
            "machine": {k: v for k, v in self.machine.items() if k != "command"},
            "settings": settings | {"quick": self.settings.quick},
            "images": self.images,
            "class_counts": self.class_counts,
            "images_per_epoch": {"full": self.full_size, **self.sizes},
            "measurements": self.found.summary(),
            "projection": {name: self.projection(name) for name in self.names if self.sizes},
            **{f"{name}_ratio": self.ratio(quantity) for name, quantity in RATIOS.items()},
            "compared": [self.ours, PLAIN],
        }

    def write(self, folder: Path) -> None:
        """Writes `throughput.json` with all values, and `throughput.md` with the tables."""
        folder.mkdir(parents=True, exist_ok=True)
        record = self.record()
        write_json(folder / "throughput.json", record)
        introduction, ratios = (
            text.replace("\n", "  \n") for text in (self.introduction(), self.ratio_lines())
        )
        started_by = f"`{record['command']}`, commit {record['commit']}"
        parts = ["# Throughput", started_by, introduction, self.text(), ratios]
        (folder / "throughput.md").write_text("\n\n".join(parts) + "\n")
