"""Records of accuracies, of this version and of earlier ones."""

from utils.evaluation.accuracy_records import balanced_accuracy


def test_an_earlier_record_gets_its_balanced_accuracy_from_its_classes():
    assert balanced_accuracy({"top1": 40.0, "per_class": [50.0, 100.0, None]}) == 75.0
    assert balanced_accuracy({"balanced": 61.0, "per_class": [50.0, 100.0, None]}) == 61.0
    assert balanced_accuracy({"per_class": [None]}) is None
