"""Published top-1 accuracies of ResNet-32 in percent. Nearly all were selected on the test set.

CE and DRO-LT are from the paper's leaderboard entries and the tables of later papers, LDAM-DRW (Cao
et al., NeurIPS 2019) from the tables of later papers.
"""

PUBLISHED = {
    ("cifar100", 100, "ce"): 38.3,
    ("cifar100", 50, "ce"): 43.9,
    ("cifar100", 10, "ce"): 55.7,
    ("cifar100", 100, "ldam_drw"): 42.0,
    ("cifar100", 50, "ldam_drw"): 46.6,
    ("cifar100", 10, "ldam_drw"): 58.7,
    ("cifar100", 100, "dro_lt"): 47.3,
    ("cifar100", 50, "dro_lt"): 57.6,
    ("cifar100", 10, "dro_lt"): 63.4,
    ("cifar10", 100, "ce"): 70.4,
}
REMARKS = {("cifar100", 50, "dro_lt"): "it has no second source and looks like an outlier"}
"""Remarks on published numbers."""

# The published numbers are compared with both: the released code is taken to have made them.
PUBLISHED |= {
    (dataset, ratio, "dro_lt_released"): value
    for (dataset, ratio, method), value in PUBLISHED.items()
    if method == "dro_lt"
}
REMARKS |= {
    (dataset, ratio, "dro_lt_released"): remark
    for (dataset, ratio, method), remark in REMARKS.items()
    if method == "dro_lt"
}
