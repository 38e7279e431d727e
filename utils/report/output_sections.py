"""The sections of the comparison page about predictions and features, which are in npz files:
reliability, confusion, and maps of the features."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from utils.evaluation.calibration import BINS, expected_calibration_error
from utils.report import figures
from utils.report.run_groups import SettingsGroup, class_counts, class_names
from utils.report.sections import Figure, Section, name_of
from utils.runs.records import MissingRecord, RecordedRun
from utils.text import printable

EVALUATE = "run its command (listed under Runs) with --evaluation True added"
MOST_MISTAKEN = 10
"""The number of pairs of classes that the text of a confusion matrix names."""
FEWEST_TESTED = 5
"""Classes with fewer test images are left out of that text: one image would be a large share."""
MAP_CLASSES = 3
"""The number of largest classes, and of smallest classes, in a map."""
MAP_POINTS = 100
"""The largest number of images of one class in a map."""


def reliability(groups: Sequence[SettingsGroup]) -> Section:
    """Returns the section on confidence and accuracy, with one evaluated run of each group."""
    section = Section(
        "reliability",
        "Reliability",
        "Accuracy on the test images against confidence (the largest softmax probability) in "
        f"{BINS} bins; grey bars: the share of the images in each bin.",
    )

    def attempt(run: RecordedRun) -> tuple[np.ndarray, np.ndarray]:
        arrays = run.arrays("outputs_test.npz", ["labels", "preds", "confs"])
        return arrays["confs"], arrays["labels"] == arrays["preds"]

    for group, run, (confs, correct) in section.first_runs(groups, attempt, EVALUATE):
        name = name_of(group, run)
        section.figures.append(
            Figure(
                f"{group.letter}_reliability",
                f"{name}. Expected calibration error: {_errors(group, attempt)}.",
                f"Reliability diagram of {len(confs)} test images, {name}.",
                partial(figures.reliability, confs=confs, correct=correct),
            )
        )
    return section


def _errors(group: SettingsGroup, attempt: Callable) -> str:
    """Returns the calibration error of each evaluated run of a group, as text."""
    found = []
    for run in group.runs:
        try:
            error = expected_calibration_error(*attempt(run))
        except MissingRecord:
            continue
        found.append(f"{100 * error:.2f} % (seed {run.seed})")
    return ", ".join(found)


def confusion(groups: Sequence[SettingsGroup]) -> Section:
    """Returns the section of confusion matrices, with the selected checkpoint of one run of each
    group."""
    section = Section(
        "confusion",
        "Confusion between classes",
        "Each row is a true class: the colour says which share of its test images the selected "
        "checkpoint gives to each class (column). The largest class is first. Colours follow the "
        "square root of the share, so that small shares can be seen. With more than "
        f"{figures.MAX_CELLS} classes, each row and column is a group of classes of similar size. "
        "Below a matrix: the classes "
        f"whose test images are most often mistaken, of those with {FEWEST_TESTED} or more.",
    )

    def attempt(run: RecordedRun) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        arrays, counts = _predictions(run), class_counts(run)
        _check_labels(arrays, counts)
        return arrays["labels"], arrays["preds"], counts

    remedy = "continue it to its end with --resume True"
    for group, run, (labels, preds, counts) in section.first_runs(groups, attempt, remedy):
        name, names = name_of(group, run), class_names(run.arguments, len(counts))
        section.figures.append(
            Figure(
                f"{group.letter}_confusion",
                f"{name}. {_most_mistaken(labels, preds, names)}".rstrip(),
                f"Confusion matrix of {len(counts)} classes, {name}.",
                partial(figures.confusion, labels=labels, preds=preds, counts=counts, names=names),
            )
        )
    return section


def _most_mistaken(labels: np.ndarray, preds: np.ndarray, names: Sequence[str]) -> str:
    """Returns as text the pairs of classes with the largest shares of mistaken test images; empty
    if there are none."""
    tested, is_wrong = np.bincount(labels), labels != preds
    pairs, images = np.unique(
        np.stack([labels[is_wrong], preds[is_wrong]]), axis=1, return_counts=True
    )
    shares = images / tested[pairs[0]]
    found = [i for i in np.lexsort((-images, -shares)) if tested[pairs[0, i]] >= FEWEST_TESTED]
    parts = []
    for i in found[:MOST_MISTAKEN]:
        true, pred = map(int, pairs[:, i])
        share = f"{100 * shares[i]:.0f} % ({images[i]} of {tested[true]})"
        parts.append(f"{printable(names[true])} for {printable(names[pred])}, {share}")
    return f"Most often mistaken: {'; '.join(parts)}." if parts else ""


def _predictions(run: RecordedRun) -> dict[str, np.ndarray]:
    """Returns the predictions of the selected checkpoint, which training writes at its end, and
    evaluation too."""
    try:
        return run.arrays("predictions.npz", ["labels", "preds"])
    except MissingRecord as reason:
        try:
            return run.arrays("outputs_test.npz", ["labels", "preds"])
        except MissingRecord:
            raise reason from None


def _check_labels(arrays: dict[str, np.ndarray], counts: np.ndarray) -> None:
    largest = max(arrays[name].max() for name in ("labels", "preds") if name in arrays)
    if largest >= len(counts):
        raise MissingRecord("its predictions have more classes than its log")


def feature_maps(groups: Sequence[SettingsGroup]) -> Section:
    """Returns the section of maps: the test features of a few largest and smallest classes, with
    one evaluated run of each group.

    A stage 2 has two maps, before (its stage 1) and after. A stage 1 that is not shown as "before"
    has one.
    """
    section = Section(
        "features",
        "Map of the features",
        "Test images of the largest and the smallest classes (in brackets: training images of the "
        "class) in the plane of the two largest principal components of their features. Each "
        "figure has its own plane. Large marks with a black edge are centroids of training images. "
        "In stage 2, a circle around a centroid has the margin ε as its radius, twice that of the "
        "ball in the paper's derivation, unless ε belongs to normalised distances or to other "
        "layers. The projection shortens distances, so an image inside a circle may be further "
        "than ε from the centroid.",
    )
    befores: set = set()
    stage_2_first = sorted(groups, key=lambda group: -group.stage)
    for group, run, clouds in section.first_runs(stage_2_first, _clouds, EVALUATE):
        if group.stage == 2:
            befores |= _add_before(section, group, run)
            section.figures.append(_map(group, run, clouds, "after stage 2"))
        elif not befores & {member.folder.resolve() for member in group.runs}:
            section.figures.append(_map(group, run, clouds, "of stage 1"))
    return section


def _add_before(section: Section, group: SettingsGroup, run: RecordedRun) -> set:
    """Adds the map of the features from which a stage 2 started. Returns the folder of its stage 1
    as a set, which is empty if there is no map."""
    if run.parent is None:
        reason = "the features before stage 2, because the folder above holds no stage-1 run"
        section.leave_out(group, reason, "train both stages below one --root_log")
        return set()
    try:
        clouds = _clouds(run.parent, like=run)
    except MissingRecord as reason:
        why = f"the features before stage 2, because of its stage 1 {reason}"
        section.leave_out(group, why, "run the command of stage 1 with --evaluation True added")
        return set()
    section.figures.append(_map(group, run, clouds, "before stage 2"))
    return {run.parent.folder.resolve()}


def _map(
    group: SettingsGroup, run: RecordedRun, clouds: list[figures.ClassCloud], when: str
) -> Figure:
    title, name = f"Features {when}", name_of(group, run)
    has_centroids = any(cloud.centroid is not None for cloud in clouds)
    lacking = "" if has_centroids else " Without centroids: there is no usable outputs_train.npz."
    return Figure(
        f"{group.letter}_{title.replace(' ', '_').lower()}",
        f"{name}: {when}.{lacking}",
        f"{title}: scatter of {len(clouds)} classes in two dimensions, {name}.",
        partial(figures.feature_map, clouds=clouds, title=title),
    )


def _clouds(run: RecordedRun, like: RecordedRun | None = None) -> list[figures.ClassCloud]:
    """Returns the largest and the smallest classes with their features from the run's outputs.

    Args:
        run: the run.
        like: the run whose class sizes choose the classes, so that the maps before and after stage
            2 show the same classes; `run` if None.

    Raises:
        MissingRecord: the run has not been evaluated, or its features cannot be drawn.
    """
    test = run.arrays("outputs_test.npz", ["feats", "labels"])
    counts = class_counts(like or run)
    _check_labels(test, counts)
    try:
        train = run.arrays("outputs_train.npz", ["feats", "labels"])
    except MissingRecord:
        train = None
    if train and train["feats"].shape[1] != test["feats"].shape[1]:
        raise MissingRecord("outputs_train.npz and outputs_test.npz are of different networks")
    record = run.margin_record if run.stage == 2 and _has_radii(run) else None
    names = class_names(run.arguments, len(counts))
    clouds = [
        figures.ClassCloud(
            f"{figures.class_name(names, label)} ({counts[label]})",
            test["feats"][test["labels"] == label][:MAP_POINTS],
            _centroid(train, label),
            float(record["margins"][label]) if record else None,
        )
        for label in _head_and_tail(counts)
    ]
    if test["feats"].shape[1] < 2 or sum(len(cloud.features) for cloud in clouds) < 2:
        raise MissingRecord("its features have fewer than two dimensions or images")
    return clouds


def _has_radii(run: RecordedRun) -> bool:
    """Returns True if the run's margins are distances between the features that are drawn."""
    options = run.options
    return options.robust_distance != "normalised" and options.feat_layers is None


def _head_and_tail(counts: np.ndarray) -> list[int]:
    by_size = np.argsort(-counts, kind="stable").tolist()
    few = min(MAP_CLASSES, len(counts) // 2)
    return by_size[:few] + by_size[len(counts) - few :]


def _centroid(train: dict[str, np.ndarray] | None, label: int) -> np.ndarray | None:
    if train is None or not (train["labels"] == label).any():
        return None
    return train["feats"][train["labels"] == label].mean(axis=0, dtype=np.float64)
