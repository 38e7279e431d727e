"""Accuracies as aligned text."""

from tests.support.made_up_records import COUNTS, EMPTY_GROUP_COUNTS, reading
from utils.evaluation.tables import OF_CLASSIFIERS, accuracy_table, per_class_table

HEAD = ["top-1", "top-5", "balanced", "macro", "F1"]


def test_the_table_of_accuracies_has_group_sizes_and_two_decimals():
    table = accuracy_table({"linear": reading(40.123), "NCM by cosine": reading(41)}, COUNTS)
    head, linear, ncm = table.splitlines()
    assert head.split() == [*HEAD, "many", "(2)", "medium", "(2)", "few", "(2)"]
    assert linear.split() == [
        "linear",
        "40.12",
        "60.12",
        "41.12",
        "38.12",
        "50.12",
        "40.62",
        "30.12",
    ]
    assert ncm.split()[3:] == ["41.00", "61.00", "42.00", "39.00", "51.00", "41.50", "31.00"]
    assert len({len(line) for line in table.splitlines()}) == 1


def test_an_empty_group_reads_not_available():
    table = accuracy_table({"linear": reading(40, EMPTY_GROUP_COUNTS)}, EMPTY_GROUP_COUNTS)
    head, linear = table.splitlines()
    assert head.split() == [*HEAD, "many", "(2)", "medium", "(4)", "few", "(0)"]
    assert linear.split() == ["linear", "40.00", "60.00", "41.00", "38.00", "50.00", "40.50", "n/a"]


def test_the_mean_of_one_seed_stands_without_a_deviation():
    records = {name: {"top1": {"mean": 40.0, "std": s}} for name, s in (("1", None), ("2", 0.5))}
    _, one, two = accuracy_table(records, COUNTS).splitlines()
    assert one.split()[:3] == ["1", "40.00", "n/a"]  # the record has no top-5
    assert two.split()[:5] == ["2", "40.00", "±", "0.50", "n/a"]


def test_a_record_made_earlier_shows_its_balanced_accuracy_and_no_macro_f1():
    earlier = {k: v for k, v in reading(40).items() if k not in ("balanced", "macro_f1")}
    _, row = accuracy_table({"linear": earlier}, COUNTS).splitlines()
    mean = sum(earlier["per_class"]) / 6
    assert row.split()[:5] == ["linear", "40.00", "60.00", f"{mean:.2f}", "n/a"]


def test_the_table_of_classifiers_has_the_worst_class_and_the_calibration_error():
    records = {"ncm_cosine": reading(40) | {"worst": 7.0, "ece": None}}
    head, row = accuracy_table(records, COUNTS, OF_CLASSIFIERS).splitlines()
    assert head.split()[-3:] == ["worst", "class", "ECE"]
    assert row.split()[-2:] == ["7.00", "n/a"]


def test_the_table_of_classes_goes_from_the_largest_to_the_smallest():
    names, counts = ("owl", "apple", "aquarium_fish"), (5, 500, 50)
    linear = {"per_class": [10.0, 99.96, None], "precision": [None, 88.88, 0.0]}
    ncm = {"per_class": [20.0, 30.25, 50.0]}
    lines = [line.split() for line in per_class_table(linear, ncm, names, counts).splitlines()]
    assert lines == [
        ["class", "images", "linear", "NCM", "precision"],
        ["apple", "500", "100.0", "30.2", "88.9"],
        ["aquarium_fish", "50", "n/a", "50.0", "0.0"],
        ["owl", "5", "10.0", "20.0", "n/a"],
    ]


def test_a_class_name_neither_breaks_a_line_of_the_table_nor_reaches_the_terminal_raw():
    record = {"per_class": [10.0, 20.0], "precision": [30.0, 40.0]}
    lines = per_class_table(record, record, ("a\nb", "\x1b[31mred"), (5, 4)).splitlines()
    assert [line.split()[0] for line in lines] == ["class", r"a\nb", r"\x1b[31mred"]
    assert len({len(line) for line in lines}) == 1
