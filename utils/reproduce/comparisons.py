"""What the table's rows are compared with: each other, published numbers, and held-out images."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from utils.evaluation.statistics import (
    Difference,
    deviation,
    difference_to_constant,
    mean,
    paired_difference,
    unpaired_difference,
)
from utils.options.recipes import RECIPES
from utils.reproduce.published import PUBLISHED, REMARKS
from utils.reproduce.results import CELL, CHAINS, Frame, Line, number_of_images, only, predictions

PARTS = (
    ("the robust loss", "dro_lt", "control"),
    (
        "the robust loss, stage 1 with AutoAugment",
        "dro_lt_from_autoaugment",
        "control_from_autoaugment",
    ),
    ("the robust loss, margins bounded at zero", "dro_lt_bounded", "control"),
    ("the robust loss, normalised distances", "dro_lt_normalised", "control"),
    ("AutoAugment and Cutout in stage 1", "ce_autoaugment", "ce"),
    ("LDAM-DRW over cross-entropy", "ldam_drw", "ce"),
    ("classifier re-trained alone, balanced", "classifier_only", "ce"),
    ("features fine-tuned without the robust loss", "control", "classifier_only"),
    ("all of stage 2", "dro_lt", "ce"),
    ("learned margins over one shared margin", "dro_lt", "dro_lt_shared"),
    ("learned margins over margins by sample count", "dro_lt", "dro_lt_sample_count"),
    ("margins bounded at zero", "dro_lt_bounded", "dro_lt"),
    ("margins spared weight decay", "dro_lt_no_decay", "dro_lt"),
    ("margins of the wrong classes, as released", "dro_lt_released", "dro_lt"),
    ("classifier phase not balanced", "dro_lt_instance", "dro_lt"),
    ("AutoAugment in the stage 1 of DRO-LT", "dro_lt_from_autoaugment", "dro_lt"),
    ("balanced softmax and its recipe over cross-entropy", "bs", "ce"),
    ("a cosine head, balanced softmax", "bs_cosine_head", "bs"),
    ("mixup, balanced softmax", "bs_mixup", "bs"),
    ("distillation from a ResNet-56, balanced softmax", "bs_distilled", "bs"),
    ("a balanced contrast, balanced softmax", "bs_contrastive", "bs"),
    ("the robust loss in one stage, balanced softmax", "bs_robust", "bs"),
    (
        "the robust loss, normalised, from balanced softmax",
        "dro_lt_normalised_from_bs",
        "control_from_bs",
    ),
    ("stage 2 without the robust loss, from balanced softmax", "control_from_bs", "bs"),
    ("twice the weight decay in stage 1", "ce_decay", "ce"),
    ("twice the weight decay in the stage 1 of DRO-LT", "dro_lt_from_decay", "dro_lt"),
)
"""What is added, by the difference of which two rows."""


def comparisons(frame: Frame, parts: tuple = PARTS) -> Frame:
    """Returns a line for each part, length, precision, protocol and kind of seeds for which there
    are runs of both rows: the two mean accuracies, their `Difference`, and that of NCM."""
    lines = [line for part in parts for line in _part(frame, *part)]
    return pd.DataFrame(lines)


def _part(frame: Frame, what: str, ours: str, theirs: str) -> Iterator[dict[str, Any]]:
    for _, group in frame[frame["row"] == ours].groupby(CELL, sort=False):
        first = group.iloc[0]
        base = only(frame, ["name", "ratio", "subset", "protocol", "of_seeds"], first)
        length = first["length"].of(RECIPES[theirs])
        precision = first["precision"]
        if RECIPES[theirs].start is None:
            precision = precision.split("+")[0]
        is_base = (base["row"] == theirs) & (base["precision"] == precision)
        base = base[is_base & np.array([x == length for x in base["length"]], dtype=bool)]
        pairs = paired_seeds(group, base)
        if pairs is None:
            continue
        mine, other = pairs
        yield {
            "what": what,
            "ours": ours,
            "theirs": theirs,
            **{name: first[name] for name in CELL if name != "row"},
            "seeds": mine["seed"].tolist(),
            "ours_top1": mean(mine["top1"].tolist()),
            "theirs_top1": mean(other["top1"].tolist()),
            "difference": difference(mine, other),
            "ncm_points": _points(mine["ncm"], other["ncm"]),
        }


def paired_seeds(ours: Frame, theirs: Frame) -> tuple[Frame, Frame] | None:
    """Returns the lines of the seeds that both have, in the same order; None where they share
    none."""
    seeds = sorted(set(ours["seed"]) & set(theirs["seed"]))
    if not seeds:
        return None
    first, second = (lines.set_index("seed", drop=False).loc[seeds] for lines in (ours, theirs))
    return first, second


def difference(ours: Frame, theirs: Frame) -> Difference:
    """Returns the difference of two rows' accuracies over the same seeds, line by line: image by
    image where all predictions are recorded, else with the images taken as independent."""
    found = [predictions(line) for lines in (ours, theirs) for _, line in lines.iterrows()]
    known = [one for one in found if one is not None]
    if len(known) == len(found) and all(np.array_equal(known[0][0], one[0]) for one in known):
        correct = np.array([one[1] for one in known])
        return paired_difference(correct[: len(ours)], correct[len(ours) :])
    images = number_of_images(pd.concat([ours, theirs]))
    return unpaired_difference(ours["top1"].tolist(), theirs["top1"].tolist(), images)


def _points(ours: Line, theirs: Line) -> float | None:
    found = (ours - theirs).astype(float)
    return None if found.isna().any() else float(found.mean())


def against_published(frame: Frame) -> Frame:
    """Returns a line for each cell of whole chains that has a published number. Runs cut short
    count only where there is none at full length, and say nothing against it."""
    lines, answered = [], set()
    chains = frame[frame["of_seeds"] == CHAINS] if len(frame) else frame
    groups = [group for _, group in chains.groupby(CELL, sort=False)] if len(chains) else []
    groups.sort(key=lambda group: not _is_full(group.iloc[0]))
    for group in groups:
        first = group.iloc[0]
        key = first["name"], first["ratio"], first["row"]
        published, is_full = PUBLISHED.get(key), _is_full(first)
        if published is None or (not is_full and (*key, first["protocol"]) in answered):
            continue
        answered.add((*key, first["protocol"]) if is_full else None)
        tops = group["top1"].tolist()
        lines.append(
            {
                **{name: first[name] for name in CELL},
                **{"is_full_length": is_full, "top1": mean(tops), "published": published},
                "difference": difference_to_constant(tops, published, number_of_images(group)),
                "remark": REMARKS.get(key, ""),
            }
        )
    return pd.DataFrame(lines)


def _is_full(line: Line) -> bool:
    return line["length"].is_full(RECIPES[line["row"]])


def rankings(frame: Frame, least: int = 3) -> list[Frame]:
    """Returns tables of rows with the same budget, the best on held-out images first; one for each
    data set, length, precision and protocol with at least so many rows. The last epochs are
    compared, so that held-out images choose between rows alone. Test accuracies stand beside and
    choose nothing; `difference` is to the row that stands first in RECIPES among `control` and the
    others."""
    if frame.empty:
        return []
    chains = frame[(frame["of_seeds"] == CHAINS) & frame["final_heldout"].notna()]
    found = []
    keys = ["name", "ratio", "subset", "precision"]
    for _, group in chains.groupby(keys, sort=False):
        lengths = dict.fromkeys(group["length"])
        longest = [x for x in lengths if x.features] or list(lengths)
        for length in sorted(longest, reverse=True):
            fits = [
                x == length.of(RECIPES[r])
                for x, r in zip(group["length"], group["row"], strict=True)
            ]
            of_length = group[np.array(fits)]
            ranked = [
                _ranking(of_length[of_length["protocol"] == protocol])
                for protocol in ("heldout", "last", "test")
            ]
            best = max(ranked, key=len)
            if len(best) >= least:
                found.append(best)
    return found


def _ranking(lines: Frame) -> Frame:
    groups = {row: group for row, group in lines.groupby("row", sort=False)}
    reference = next((r for r in ("control", *RECIPES) if r in groups), None)
    table = []
    for row, group in groups.items():
        pairs = paired_seeds(group, groups[reference])
        table.append(
            {
                **{name: group.iloc[0][name] for name in CELL},
                **{"reference": reference, "seeds": group["seed"].tolist()},
                "heldout": mean(group["final_heldout"].tolist()),
                "heldout_std": deviation(group["final_heldout"].tolist()),
                "difference": None if pairs is None or row == reference else _of_heldout(*pairs),
                **{name: mean(group[name].tolist()) for name in ("final_epoch_top1", "seconds")},
                "ncm": _mean_or_none(group["final_ncm"]),
                "few": _mean_or_none(group["few"]),
                "cell": group.iloc[0]["cell"],
            }
        )
    table.sort(key=lambda line: -line["heldout"])
    return pd.DataFrame(table)


def _of_heldout(ours: Frame, theirs: Frame) -> Difference:
    """Held-out predictions are not recorded: images are taken as independent, which makes the
    interval too wide."""
    tops = [lines["final_heldout"].tolist() for lines in (ours, theirs)]
    return unpaired_difference(*tops, images=int(ours["heldout_images"].iloc[0]))


def _mean_or_none(values: Line) -> float | None:
    return None if values.isna().any() else float(values.mean())
