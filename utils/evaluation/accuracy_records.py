"""Records of accuracies, those of earlier versions too."""

from collections.abc import Mapping


def balanced_accuracy(record: Mapping) -> float | None:
    """Returns the balanced accuracy of a record of `accuracy_record`, in percent. Records of
    earlier versions have no ``balanced``; for them it is the mean of ``per_class``."""
    if "balanced" in record:
        return record["balanced"]
    # A class without images has None.
    known = [accuracy for accuracy in record["per_class"] if accuracy is not None]
    return sum(known) / len(known) if known else None
