"""Scores in parts."""

import torch

from utils.evaluation import parts
from utils.evaluation.parts import in_parts, sum_of_parts


def test_a_part_has_as_many_rows_as_fit_and_every_row_once(monkeypatch):
    monkeypatch.setattr(parts, "VALUES_AT_ONCE", 20)
    features, labels = torch.randn(8, 3), torch.arange(8)
    found = list(in_parts(lambda part: part @ torch.ones(3, 6), 6, features, labels))
    assert [tuple(scores.shape) for scores, _ in found] == [(3, 6), (3, 6), (2, 6)]
    assert torch.equal(torch.cat([own for _, own in found]), labels)
    assert sum_of_parts(lambda scores, own: own.sum(), found).item() == 28


def test_more_classes_than_fit_are_scored_row_by_row(monkeypatch):
    monkeypatch.setattr(parts, "VALUES_AT_ONCE", 5)
    assert [len(part) for (part,) in in_parts(lambda part: part, 6, torch.ones(2, 6))] == [1, 1]


def test_no_rows_are_one_part():
    assert [part.shape for (part,) in in_parts(lambda part: part, 6, torch.ones(0, 6))] == [(0, 6)]
