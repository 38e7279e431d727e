"""The files of fitted classifiers, which are read back only for the same network."""

import csv
import json

import pytest
import torch
from torch import nn

from models import resnet8
from utils.errors import UserError
from utils.evaluation.classifiers import accuracies, apply_classifier
from utils.evaluation.fitting import FeatureBank, fit
from utils.options.flags import READINGS
from utils.runs.checkpoint import weights_digest
from utils.runs.classifier_files import (
    load_classifier,
    save_classifiers,
    write_readings,
)

COUNTS = [30, 12, 5]


@pytest.fixture
def bank():
    generator = torch.Generator().manual_seed(0)
    labels = torch.repeat_interleave(torch.arange(3), torch.tensor(COUNTS))
    features = torch.randn(len(labels), 6, generator=generator) + labels.unsqueeze(1)
    torch.manual_seed(1)
    return FeatureBank(features, labels, nn.Linear(6, 3), COUNTS, heldout=(features, labels))


@pytest.fixture
def saved(bank, tmp_path):
    path = tmp_path / "classifiers.pth"
    save_classifiers(path, fit(["crt", "ncm_centred"], bank), bank.head, 7, ["a", "b", "é"])
    return path


def test_readings_are_written_as_json_and_csv(bank, tmp_path):
    records = accuracies(fit(READINGS, bank), bank.features, bank.labels, COUNTS)
    write_readings(tmp_path, records)
    assert json.loads((tmp_path / "readings.json").read_text()) == records
    with open(tmp_path / "readings.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["reading"] for row in rows] == list(READINGS)
    for row in rows:
        record = records[row["reading"]]
        assert row["ece"] == ("" if record["ece"] is None else str(record["ece"]))
        assert float(row["worst"]) == min(record["per_class"])
        for name in ("top1", "balanced", "macro_f1"):
            assert float(row[name]) == record[name]


def test_the_file_holds_plain_data_in_the_form_that_is_documented(saved, bank):
    content = torch.load(saved, weights_only=True)
    assert content["format"] == 1 and content["epoch"] == 7
    assert content["class_names"] == ["a", "b", "é"]
    assert content["weights"] == weights_digest(bank.head.state_dict())
    assert list(content["classifiers"]) == ["crt", "ncm_centred"]
    assert content["classifiers"]["ncm_centred"]["kind"] == "cosine"


@pytest.mark.parametrize("name", ["crt", "ncm_centred"])
def test_a_classifier_read_back_gives_the_same_scores(name, saved, bank):
    expected = fit([name], bank)[name](bank.features)
    found = load_classifier(saved, name, bank.head)
    assert torch.equal(apply_classifier(found, bank.features), expected)


def test_a_classifier_of_another_network_is_refused(saved):
    with pytest.raises(UserError, match="fitted on other weights"):
        load_classifier(saved, "crt", nn.Linear(6, 3))


def test_a_file_of_another_format_is_refused(saved, bank):
    torch.save(torch.load(saved) | {"format": 2}, saved)
    with pytest.raises(UserError, match="its format is 2, not 1"):
        load_classifier(saved, "crt", bank.head)


def test_a_classifier_that_was_not_fitted_is_refused_with_those_that_were(saved, bank):
    with pytest.raises(UserError, match="no classifier lws, but crt, ncm_centred"):
        load_classifier(saved, "lws", bank.head)


def test_a_missing_file_says_which_command_makes_it(bank, tmp_path):
    with pytest.raises(UserError, match=r"no such file .*--evaluation True --readings crt"):
        load_classifier(tmp_path / "classifiers.pth", "crt", bank.head)


@pytest.mark.parametrize("content", [b"", b"no classifiers", b"PK\x03\x04"])
def test_another_file_is_refused(content, bank, tmp_path):
    path = tmp_path / "classifiers.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a file of fitted classifiers"):
        load_classifier(path, "crt", bank.head)


def test_a_flipped_bit_is_refused(saved, bank):
    content = bytearray(saved.read_bytes())
    weight = torch.load(saved, weights_only=True)["classifiers"]["crt"]["weight"]
    content[content.index(weight.numpy().tobytes())] ^= 1
    saved.write_bytes(content)
    with pytest.raises(UserError, match="not a file of fitted classifiers"):
        load_classifier(saved, "crt", bank.head)


def test_a_shortage_of_memory_is_no_fault_of_the_file(saved, bank, monkeypatch):
    def allocate(*_, **__):
        raise MemoryError

    monkeypatch.setattr(torch, "load", allocate)
    with pytest.raises(MemoryError):
        load_classifier(saved, "crt", bank.head)


def test_a_checkpoint_is_no_file_of_classifiers(bank, tmp_path):
    torch.save({"state_dict": bank.head.state_dict()}, tmp_path / "classifiers.pth")
    with pytest.raises(UserError, match="not a file of fitted classifiers"):
        load_classifier(tmp_path / "classifiers.pth", "crt", bank.head)


def test_the_digest_depends_on_weights_and_statistics_but_not_on_memory_layout():
    model = resnet8(10)
    digest = weights_digest(model.state_dict())
    model.to(memory_format=torch.channels_last)
    assert weights_digest(model.state_dict()) == digest
    with torch.no_grad():
        model.bn1.running_mean[0] += 1e-3
    assert weights_digest(model.state_dict()) != digest
