"""Which teacher a run has, and with which prior."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch.testing import assert_close

from datasets.origin import Origin
from losses import prior_offsets
from models import build_model
from tests.support.made_up_runs import write_run
from utils.errors import UserError
from utils.machine.device import Machine
from utils.options.parse import parse_options
from utils.training.teacher import load_teacher

COUNTS = [9, 7, 5, 3, 1]


@pytest.fixture
def run(tmp_path):
    """Gives `run(path)`: the run that a teacher is loaded for."""

    def make(path, *flags):
        data = SimpleNamespace(
            num_classes=5,
            class_counts=COUNTS,
            origin=Origin(),
            has_fingerprint=lambda fingerprint: True,
            changed_splits=lambda record: None,
            image_size=32,
            is_streamed=False,
            normalisation=SimpleNamespace(as_dict=lambda: {"mean": [0.5]}),
            class_names=list("abcde"),
        )
        options = parse_options(["--teacher", str(path), "--root_model", str(tmp_path), *flags])
        machine = Machine(torch.device("cpu"), "float32")
        return SimpleNamespace(options=options, data=data, machine=machine, place=lambda m: m)

    return make


def save(path, arch="resnet20", classes=5, scale=None, **header):
    torch.manual_seed(0)
    model = build_model(arch, classes, scale)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"arch": arch, "state_dict": model.state_dict()} | header, path)
    return model.eval()


@pytest.mark.parametrize("scale", [None, 30.0], ids=["linear head", "cosine head"])
def test_a_teacher_of_another_network_predicts_as_its_checkpoint(scale, run, tmp_path):
    model = save(tmp_path / "deep" / "ckpt.best.pth.tar", "resnet44", scale=scale)
    teacher = load_teacher(run("deep"))
    images = torch.randn(3, 3, 32, 32)
    assert_close(teacher.network(images)[1], model(images)[1], rtol=1e-4, atol=1e-4)
    assert teacher.offsets is None and not teacher.network.training
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())


@pytest.mark.parametrize(
    ("header", "counts", "tau"),
    [
        ({"loss_type": "BS"}, COUNTS, 1.0),
        ({"loss_type": "BS", "prior_weight": 0.5}, COUNTS, 0.5),
        ({"loss_type": "BS", "class_counts": [5, 4, 3, 2, 1]}, [5, 4, 3, 2, 1], 1.0),
        ({"loss_type": "CE"}, None, None),
        ({"loss_type": "BS", "train_rule": "None"}, COUNTS, 1.0),
        ({"loss_type": "LDAM", "train_rule": "DRW"}, COUNTS, 1.0),
        ({"loss_type": "CE", "train_rule": "Resample"}, COUNTS, 1.0),
        ({"feat_loss": "bs_lt,robust_loss", "cls_loss": "bs"}, COUNTS, 1.0),
        ({"feat_loss": "bs", "cls_loss": "ce"}, None, None),
        ({"feat_loss": "ce_lt", "feat_sampler": "resample,4", "cls_loss": "ce"}, COUNTS, 1.0),
        (
            {"feat_sampler": "resample,4", "cls_loss": "ce", "cls_sampler": "instance"},
            *(None, None),
        ),
        ({"feat_sampler": "resample,4", "cls_loss": "ce_lt"}, None, None),
        (
            {"cls_sampler": "resample,2", "cls_loss": "bs_lt", "prior_weight": 0.5},
            *(COUNTS, 0.5),
        ),
        ({"cls_loss": "ce_bal"}, COUNTS, 1.0),
        ({"cls_loss": "ce_bal", "feat_sampler": "resample,1"}, COUNTS, 2.0),
        ({"feat_loss": "robust_loss,ce_lt", "feat_sampler": "resample,4"}, None, None),
        (
            {"feat_loss": "ce_lt", "feat_sampler": "resample,4", "cls_loss": "ce"}
            | {"balanced_clf_nepochs": 0},
            *(None, None),
        ),
        ({"cls_loss": "ce", "cls_sampler": 7}, None, None),
        ({}, None, None),
    ],
)
def test_the_prior_is_the_one_that_the_teacher_was_trained_under(
    header, counts, tau, run, tmp_path
):
    path = tmp_path / "t.pth.tar"
    save(path, **header)
    offsets = load_teacher(run(path)).offsets
    if counts is None:
        assert offsets is None
    else:
        assert_close(offsets, prior_offsets(counts, tau))


@pytest.mark.parametrize("counts", [[9], [9, 7, 5, 3], [9, 7, 5, 3, 0]], ids=str)
def test_class_counts_that_give_no_prior_of_the_classes_are_an_error(counts, run, tmp_path):
    path = tmp_path / "t.pth.tar"
    save(path, loss_type="BS", class_counts=counts)
    with pytest.raises(UserError, match="its class_counts are not those of 5 classes"):
        load_teacher(run(path))
    save(path, loss_type="CE", class_counts=counts)
    assert load_teacher(run(path)).offsets is None


def test_an_older_checkpoints_loss_is_read_from_the_record_beside_it(run, tmp_path):
    save(tmp_path / "old" / "ckpt.best.pth.tar")
    (tmp_path / "old" / "args.json").write_text(json.dumps({"loss_type": "BS"}))
    assert_close(load_teacher(run("old")).offsets, prior_offsets(COUNTS, 1.0))
    (tmp_path / "old" / "args.json").write_text("{")
    assert load_teacher(run("old")).offsets is None


@pytest.mark.parametrize("says", [["--teacher", "no such folder or file"]])
def test_a_teacher_that_is_not_there_is_an_error(says, run):
    with pytest.raises(UserError) as error:
        load_teacher(run("nowhere"))
    assert all(part in str(error.value) for part in says)
    assert "--pretrained" not in str(error.value)


def test_a_teacher_of_other_classes_is_an_error(run, tmp_path):
    save(tmp_path / "t.pth.tar", classes=7)
    with pytest.raises(UserError, match="7 classes, but the data have 5"):
        load_teacher(run(tmp_path / "t.pth.tar"))


def test_a_teacher_of_classes_with_other_names_is_an_error(run, tmp_path):
    path = tmp_path / "t.pth.tar"
    save(path, data={"class_names": list("abcde")})
    assert load_teacher(run(path)) is not None
    save(path, data={"class_names": list("edcba")})
    with pytest.raises(UserError, match="other names"):
        load_teacher(run(path))


def test_a_teacher_of_another_program_may_mean_something_else_by_data(run, tmp_path):
    save(tmp_path / "t.pth.tar", data="imagenet")
    assert load_teacher(run(tmp_path / "t.pth.tar")).offsets is None


def test_a_teacher_of_images_of_another_size_is_an_error(run, tmp_path):
    path = tmp_path / "t.pth.tar"
    save(path, data={"image_size": 32})
    assert load_teacher(run(path)) is not None
    save(path, data={"image_size": 224})
    with pytest.raises(UserError, match="224x224 pixels, and this run's have 32x32; --image_size"):
        load_teacher(run(path))


@pytest.mark.parametrize(
    ("chosen", "protocol", "warns"),
    [("test", "last", True), ("test", "heldout", True), ("test", "test", False)]
    + [("last", protocol, False) for protocol in ("test", "heldout", "last")]
    + [(None, "last", False)],
)
def test_a_teacher_that_another_protocol_chose_warns(
    chosen, protocol, warns, run, tmp_path, capsys
):
    save(tmp_path / "t.pth.tar", **({"selected_on": chosen} if chosen else {}))
    load_teacher(run(tmp_path / "t.pth.tar", "--select_on", protocol))
    assert ("was selected on test, so the chain is not" in capsys.readouterr().err) == warns


def test_a_teacher_whose_run_is_not_finished_warns(run, tmp_path, capsys):
    path = write_run(tmp_path / "deep", epochs=3, finished=False) / "ckpt.best.pth.tar"
    save(path)
    load_teacher(run(path))
    assert f"{path} is from a run that is not finished: 3 of 4" in capsys.readouterr().err


def test_a_teacher_is_asked_whether_it_was_trained_on_held_out_images(run, tmp_path, monkeypatch):
    def refuse(options, start, path, data):
        raise UserError(f"{path.name}: {options.heldout_fraction}")

    monkeypatch.setattr("utils.training.teacher.check_not_trained_on", refuse)
    save(tmp_path / "t.pth.tar")
    with pytest.raises(UserError, match=r"t\.pth\.tar: 0\.25"):
        load_teacher(run(tmp_path / "t.pth.tar", "--heldout_fraction", "0.25"))


def test_a_teacher_of_images_normalised_in_another_way_warns(run, tmp_path, capsys):
    path = tmp_path / "t.pth.tar"
    save(path, data={"normalisation": {"mean": [0.4]}})
    load_teacher(run(path))
    assert "normalised in another way" in capsys.readouterr().err
    save(path, data={"normalisation": {"mean": [0.5]}})
    load_teacher(run(path))
    assert capsys.readouterr().err == ""
