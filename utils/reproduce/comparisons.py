"""Comparisons of rows: with each other, with published numbers, and by held-out images."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd

from utils.evaluation.statistics import (
    Difference,
    difference_to_constant,
    images_of_balanced,
    paired_difference,
    unpaired_difference,
)
from utils.options.recipes import RECIPES, Recipe
from utils.reproduce.plan import Length
from utils.reproduce.published import REMARKS
from utils.reproduce.results import (
    CHAINS,
    ENTRY,
    Frame,
    heldout_predictions,
    number_of_images,
    predictions,
)

PARTS = (
    ("the robust loss", "dro_lt", "control"),
    (
        "the robust loss, stage 1 with AutoAugment",
        "dro_lt_from_autoaugment",
        "control_from_autoaugment",
    ),
    ("the robust loss, margins bounded at zero", "dro_lt_bounded", "control"),
    ("the robust loss, normalised distances", "dro_lt_normalised", "control"),
    ("normalised distances over Euclidean, shared margin", "dro_lt_normalised", "dro_lt_shared"),
    (
        "learned margins over one shared margin, normalised distances",
        "dro_lt_normalised_learned",
        "dro_lt_normalised",
    ),
    (
        "temperature 0.2 over 0.07, normalised distances",
        "dro_lt_normalised_temperature",
        "dro_lt_normalised",
    ),
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
"""What is added, a row that has it, and a row that lacks it."""


def comparisons(frame: Frame) -> Frame:
    """Returns the difference that each of `PARTS` makes, if both of its rows have runs.

    There is a line for each data set, length, precision, protocol and kind of seeds, with both mean
    accuracies, their `Difference`, and the difference of NCM. `mixed_precision` says if the last
    stages of the rows differ in precision, such as `float32 against bf16`.
    """
    return pd.DataFrame([line for part in PARTS for line in _part(frame, *part)])


def _part(frame: Frame, what: str, ours: str, theirs: str) -> Iterator[dict[str, Any]]:
    mine, other = frame[frame["row"] == ours], frame[frame["row"] == theirs]
    if mine.empty or other.empty:
        return
    pairs = _pairs(mine, other, RECIPES[ours], RECIPES[theirs])
    columns = [*ENTRY, "mixed_precision"]
    for key, seeds in pairs.groupby(columns, sort=False):
        ncm = (seeds["ncm"] - seeds["ncm_of_other"]).mean(skipna=False)
        yield {
            **dict(zip(columns, key, strict=True)),
            "what": what,
            "ours": ours,
            "theirs": theirs,
            "seeds": seeds["seed"].tolist(),
            "ours_top1": seeds["top1"].mean(),
            "theirs_top1": seeds["top1_of_other"].mean(),
            "difference": _difference(seeds),
            "ncm_points": ncm,
        }


def _pairs(mine: Frame, other: Frame, ours: Recipe, theirs: Recipe) -> Frame:
    """Returns the pairs of runs to compare, one in each line.

    Both runs have one start and one length; if the other is a stage 1, these are those of stage 1.
    Runs are compared across precisions only if there is no other run of the same, or if one is the
    stage 1 of the other. `mixed_precision` has the precisions of both last stages if these differ,
    else an empty text.
    """

    def with_ends(runs: Frame) -> Frame:
        stages = runs["precision"].str.split("+")
        return runs.assign(first_precision=stages.str[0], last_precision=stages.str[-1])

    mine = with_ends(mine).assign(their_length=[length.of(theirs) for length in mine["length"]])
    other = with_ends(other).rename(columns={"length": "their_length"})
    same = ["data", "protocol", "of_seeds", "seed", "their_length"]
    if ours.start is not None:
        same.append("first_precision")
    pairs = mine.merge(other, on=same, suffixes=("", "_of_other"))
    is_start = ours.start is not None and theirs.start is None
    is_alike = (pairs["precision"] == pairs["precision_of_other"]) | is_start
    last, other_last = pairs["last_precision"], pairs["last_precision_of_other"]
    mixed = (last + " against " + other_last).mask(last == other_last, "")
    pairs = pairs.assign(mixed_precision=mixed)
    return pairs[is_alike | ~pairs["cell"].isin(pairs["cell"][is_alike])]


def _difference(seeds: Frame) -> Difference:
    """Returns the difference between two rows. It pairs the predictions of each image if all runs
    have recorded them. Otherwise it treats the images of the two rows as independent."""
    runs = [*seeds["run"], *seeds["run_of_other"]]
    tops = [*seeds["top1"], *seeds["top1_of_other"]]
    epochs = [*seeds["epoch"], *seeds["epoch_of_other"]]
    found = [predictions(run, epoch) for run, epoch in zip(runs, epochs, strict=True)]
    if (correct := _of_same_images(found)) is not None:
        return paired_difference(*np.split(correct[1], 2))
    half = len(seeds)
    return unpaired_difference(tops[:half], tops[half:], number_of_images(runs))


def _of_same_images(
    found: Sequence[tuple[np.ndarray, np.ndarray] | None],
) -> tuple[np.ndarray, np.ndarray] | None:
    """Returns the labels ``[N]`` and the masks of correct predictions ``[runs, N]``; None if they
    are missing for a run, or if the runs have other images, which their labels tell."""
    known = [one for one in found if one is not None]
    if len(known) < len(found) or any(not np.array_equal(known[0][0], one[0]) for one in known):
        return None
    return known[0][0], np.array([correct for _, correct in known])


def against_published(frame: Frame) -> Frame:
    """Returns the difference to the published number, for each entry of whole chains that has one.
    Shorter runs are left out if there is a run of full length."""
    chains = frame[(frame["of_seeds"] == CHAINS) & frame["published"].notna()]
    is_answered = chains.groupby(["title", "row", "protocol"])["is_full_length"].transform("any")
    chains = chains[chains["is_full_length"] | ~is_answered.astype(bool)]
    chains = chains.sort_values("is_full_length", ascending=False, kind="stable")
    lines = []
    for key, seeds in chains.groupby(ENTRY, sort=False):
        tops, first = seeds["top1"].tolist(), seeds.iloc[0]
        images = number_of_images(seeds["run"])
        lines.append(
            {
                **dict(zip(ENTRY, key, strict=True)),
                "is_full_length": first["is_full_length"],
                "published": first["published"],
                "top1": seeds["top1"].mean(),
                "difference": difference_to_constant(tops, first["published"], images),
                "remark": REMARKS.get((first["data"].name, first["data"].ratio, first["row"]), ""),
            }
        )
    return pd.DataFrame(lines)


def rankings(frame: Frame) -> list[Frame]:
    """Returns rankings: tables of rows with the same number of epochs, that of the best balanced
    accuracy on held-out images first.

    There is one for each data set, precision and length. It takes the protocol that has the most
    rows. On the paper's data sets, a ranking has at least three rows.

    A ranking compares last epochs, so held-out images select nothing but the order of the rows.
    Test accuracies, shares of the images, are shown and select nothing. `difference` is to
    `control`, or to the first row in RECIPES if `control` is missing.
    """
    chains = frame[(frame["of_seeds"] == CHAINS) & frame["final_heldout"].notna()]
    found = []
    for (data, _), group in chains.groupby(["data", "precision"], sort=False):
        for length in _budgets(group["length"]):
            is_part = [
                part == length.of(RECIPES[row])
                for part, row in zip(group["length"], group["row"], strict=True)
            ]
            rows = group[np.array(is_part)]
            by_protocol = [rows[rows["protocol"] == p] for p in ("heldout", "last", "test")]
            ranked = max(by_protocol, key=lambda lines: lines["row"].nunique())
            if ranked["row"].nunique() >= (3 if data.ratio else 1):
                found.append(_ranking(ranked, length))
    return found


def _budgets(lengths: Frame) -> list[Length]:
    """Returns the lengths, the longest first, without those that are only a part of another one."""
    parts = {
        part
        for length in lengths
        for part in (Length(length.stage_1), Length(length.stage_1, 0, length.classifier))
        if part != length
    }
    return sorted(set(lengths) - parts, reverse=True)


def _ranking(lines: Frame, length: Length) -> Frame:
    rows = lines.groupby("row", sort=False)
    table = rows.agg(
        seeds=("seed", list),
        heldout=("final_heldout", "mean"),
        test=("final_epoch_top1", "mean"),
        ncm=("final_ncm", "mean"),
        few=("final_few", "mean"),
        parameters=("parameters", "mean"),
        chain_images=("chain_images", "mean"),
        chain_seconds=("chain_seconds", "mean"),
        cell=("cell", "first"),
        protocol=("protocol", "first"),
    )
    reference = "control" if "control" in table.index else table.index[0]
    table["interval"] = [_heldout_interval(group) for _, group in rows]
    table["difference"] = [_to_reference(group, rows.get_group(reference)) for _, group in rows]
    table = table.reset_index().assign(length=length, reference=reference)
    return table.sort_values("heldout", ascending=False, kind="stable")


def _heldout_interval(lines: Frame) -> tuple[float, float] | None:
    """Returns the 95 % interval of the accuracy on held-out images, cut at 0 and 100; None if there
    is no error."""
    tops = lines["final_heldout"].tolist()
    found = difference_to_constant(tops, 0, _heldout_images(lines)).interval
    return None if found is None else (max(found[0], 0), min(found[1], 100))


def _heldout_images(lines: Frame) -> float:
    """Returns the number of held-out images that a balanced accuracy is worth. If their labels are
    not recorded, as in earlier versions, it is the number of all."""
    found = heldout_predictions(lines["run"].iloc[0])
    return float(lines["heldout_images"].iloc[0]) if found is None else images_of_balanced(found[0])


def _to_reference(ours: Frame, theirs: Frame) -> Difference | None:
    """Returns the difference on held-out images, or None for the reference itself.

    The accuracies are balanced. So if the predictions of all runs are recorded, each correct one of
    class c counts N / (K n_c), where n_c of the N images are of class c; the mean of these numbers
    is the balanced accuracy. If they are not, as in earlier versions, images count as independent,
    which makes the interval too wide.
    """
    seeds = ours.merge(theirs, on="seed", suffixes=("", "_of_other"))
    if seeds.empty or ours.iloc[0]["row"] == theirs.iloc[0]["row"]:
        return None
    found = [heldout_predictions(run) for run in [*seeds["run"], *seeds["run_of_other"]]]
    if (of_images := _of_same_images(found)) is not None:
        from sklearn.utils.class_weight import compute_sample_weight  # a second to import

        labels, correct = of_images
        weights = compute_sample_weight("balanced", labels)
        return paired_difference(*np.split(correct * weights, 2))
    tops = [seeds[name].tolist() for name in ("final_heldout", "final_heldout_of_other")]
    return unpaired_difference(*tops, images=_heldout_images(seeds))
