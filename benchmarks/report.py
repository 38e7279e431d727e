"""What a benchmark found, as text, Markdown and JSON."""

import shlex
import sys
from collections.abc import Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from benchmarks.data import epoch_images, scaled
from benchmarks.measurements import Measurements, line_through, short
from benchmarks.settings import PHASES, RECIPE, SHARED, Settings
from benchmarks.sides import PLAIN, side_names
from datasets import LongTailedData
from utils.files import write_json
from utils.machine.device import choose_machine
from utils.machine.provenance import commit

TITLES = {
    "pretraining": "stage 1",
    "features": "stage 2, features",
    "classifier": "stage 2, classifier",
}
QUANTITIES = {
    **{f"{TITLES[p]}: training, images/s": f"{p} images/s" for p in ("pretraining", "features")},
    "evaluation pass, images/s": "evaluation images/s",
    "augmentation to batches, images/s": "augmentation images/s",
    "start-up to the first step, s": "start-up seconds",
    "peak memory of process and workers, MiB": "peak MiB of process and workers",
    "peak memory of device, MiB": "peak MiB of device",
}
RATIOS = {"training": "features images/s", "augmentation": "augmentation images/s"}
TEMPLATE = Path(__file__).parent / "templates" / "throughput.md.jinja"


class Report:
    """Of both sides, on this machine.

    Args:
        settings: of both sides.
        images: what the images are.
        data: all of them.
        parts: by size, the part of them that was trained on.
        found: the measurements, also those that are yet to be taken.
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
        """Returns where and on what it was measured."""
        m, options = self.machine, self.options
        sizes = ", ".join(
            f"x{size}: {images['pretraining']} and {images['features']}"
            for size, images in self.sizes.items()
        )
        return (
            f"{m['processor']}, {m['device']}, {m['threads']} threads; Python {m['python']}, "
            f"torch {m['torch']}\n"
            f"data: {self.images}, {self.full_size['pretraining']} training images, "
            f"{self.full_size['features']} in an epoch of stage 2; {options.arch}, batches of "
            f"{options.batch_size}\n"
            f"measured on (images in an epoch of stages 1 and 2): {sizes}\n"
            f"plain: {options.workers} workers a loader, persistent: "
            f"{self.settings.persistent_workers}; ours: step {m['step']}"
        )

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """All tables, by their titles."""
        texts = self.found.texts()
        return {
            "medians (lower to upper quartile)": self._medians(texts),
            "seconds of an epoch's training, and their growth beside that of its images": (
                self._growth(texts)
            ),
            "seconds of all of an epoch, with its passes without gradients": (
                _labelled(self._of_epochs(texts, "seconds"))
            ),
            "the recipe's full length, a PROJECTION from these epochs": self._projection(),
        }

    def text(self) -> str:
        """Returns all tables."""
        return "\n\n".join(f"{title}\n{table.to_string()}" for title, table in self.tables.items())

    def _medians(self, texts: pd.DataFrame) -> pd.DataFrame:
        measured = {t: q for t, q in QUANTITIES.items() if (q, 0) in texts.index}
        table = texts.loc[[(quantity, 0) for quantity in measured.values()], self.names]
        table = table.set_axis(list(measured), axis="index").rename_axis(columns=None)
        table[f"{self.ours} / plain"] = [short(self.ratio(q)) for q in measured.values()]
        return table

    def _of_epochs(self, frame: pd.DataFrame, what: str) -> pd.DataFrame:
        """Returns the rows of a quantity of epochs, by phase and size."""
        sizes = list(self.sizes)
        return pd.concat({p: frame.loc[f"{p} {what}"].loc[sizes, self.names] for p in PHASES})

    def _growth(self, texts: pd.DataFrame) -> pd.DataFrame:
        def times_first(frame: Any) -> Any:
            return (frame / frame.groupby(level=0).transform("first")).map("{:.2f}".format)

        medians = self._of_epochs(self.found.medians(), "training seconds")
        table = self._of_epochs(texts, "training seconds") + ", " + times_first(medians)
        table.columns = [f"{name}: s, times x1" for name in self.names]
        images = pd.concat({p: pd.Series({s: n[p] for s, n in self.sizes.items()}) for p in PHASES})
        table.insert(0, "images", images)
        table["images, times x1"] = times_first(images)
        return _labelled(table)

    def ratio(self, quantity: str) -> float:
        """Returns ours, in the precision asked for, over plain: of medians."""
        plain = self.found.median(quantity, PLAIN)
        return self.found.median(quantity, self.ours) / plain if plain else float("nan")

    def full_epoch(self, phase: str, name: str) -> float:
        """Returns seconds of an epoch of all the data: the median, where one was measured, else by
        the line through the sizes that were (a part that every epoch costs, and a part per
        image)."""
        quantity, wanted = f"{phase} seconds", self.full_size[phase]
        points = []
        for size, images in self.sizes.items():
            if images[phase] == wanted:
                return self.found.median(quantity, name, size)
            values = self.found.values(quantity, name, size)
            points += [(images[phase], seconds) for seconds in values]
        fixed, slope = line_through(*map(list, zip(*points, strict=True)))
        return fixed + wanted * slope

    @cached_property
    def projected(self) -> pd.DataFrame:
        """Seconds of an epoch of all the data: phases (rows) and sides (columns)."""
        cells = {n: {p: self.full_epoch(p, n) for p in PHASES} for n in self.names}
        return pd.DataFrame(cells)

    @property
    def recipe_seconds(self) -> pd.Series:
        """Seconds of the recipe's full length, by side."""
        return self.projected.mul(pd.Series(RECIPE), axis="index").sum()

    def _projection(self) -> pd.DataFrame:
        table = self.projected.set_axis(
            [
                f"{TITLES[phase]}: s an epoch of {self.full_size[phase]} images (x {epochs})"
                for phase, epochs in RECIPE.items()
            ],
            axis="index",
        )
        table.loc["all, minutes"] = self.recipe_seconds / 60
        table[f"plain / {self.ours}"] = table[PLAIN] / table[self.ours]
        return table.map(short)

    def ratio_lines(self) -> str:
        return "\n".join(f"{name} ratio: {self.ratio(q):.2f}" for name, q in RATIOS.items())

    def as_dict(self) -> dict:
        """Returns all values, for JSON."""
        settings = {name: getattr(self.options, name) for name in SHARED}
        settings |= {k: v for k, v in asdict(self.settings).items() if k != "flags"}
        return {
            "command": command(),
            "commit": commit(),
            "machine": {k: v for k, v in self.machine.items() if k != "command"},
            "settings": settings,
            "images": self.images,
            "class_counts": self.class_counts,
            "images_per_epoch": {"full": self.full_size, **self.sizes},
            "measurements": self.found.summary(),
            "projection": {
                name: {
                    "epoch_seconds": self.projected[name].to_dict(),
                    "epochs": RECIPE,
                    "recipe_seconds": self.recipe_seconds[name],
                }
                for name in self.names
            },
            **{f"{name}_ratio": self.ratio(quantity) for name, quantity in RATIOS.items()},
            "compared": [self.ours, PLAIN],
        }

    def write(self, folder: Path) -> None:
        """`throughput.json` with all values, `throughput.md` with the tables."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "throughput.json", self.as_dict())
        strict = jinja2.StrictUndefined
        template = jinja2.Template(
            TEMPLATE.read_text(), trim_blocks=True, keep_trailing_newline=True, undefined=strict
        )
        text = template.render(
            command=command(),
            commit=commit(),
            introduction=self.introduction(),
            tables=self.tables,
            ratio_lines=self.ratio_lines(),
        )
        (folder / "throughput.md").write_text(text)


def _labelled(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the table with the titles of its phases and sizes."""
    labels = [f"{TITLES[phase]}, x{size}" for phase, size in table.index]
    return table.set_axis(labels, axis="index").rename_axis(columns=None)


def command() -> str:
    """Returns the command line that started this program."""
    return shlex.join(["python", "-m", "benchmarks.throughput", *sys.argv[1:]])
