"""In which folder the run of a command is, by its name and by those of earlier versions."""

import shutil
from pathlib import Path

import pytest
import torch

from tests.support.named_runs import FLAGS, STAGE_2, made, options_of
from utils.errors import UserError
from utils.runs.checkpoint import weights_digest
from utils.runs.evaluated import find_evaluated
from utils.runs.folders import differences, digest_of, run_folder
from utils.runs.lookup import checkpoint_of_flag
from utils.runs.resuming import prepare

EARLIER = Path(__file__).parent / "earlier"
"""Records of a stage 1 and a stage 2 that an earlier version made, without their checkpoints."""

NAME = "digits_resnet20_CE_None_exp_0.01_0"


@pytest.fixture
def earlier(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(EARLIER, tmp_path / "checkpoint")
    for arguments in (tmp_path / "checkpoint").rglob("args.json"):
        for name in ("ckpt.pth.tar", "ckpt.best.pth.tar"):
            (arguments.parent / name).touch()
    return Path("checkpoint")


def test_an_earlier_run_keeps_its_folder(earlier):
    folder = run_folder(options_of(FLAGS, "--epochs 1")).models
    assert folder == earlier / NAME
    assert run_folder(options_of(FLAGS, "--epochs 9")).models == folder
    stage_2 = run_folder(options_of(FLAGS, STAGE_2, f"--pretrained {NAME}")).models
    assert stage_2.parent == folder and stage_2.name.endswith("_augment=none")
    assert (stage_2 / "summary.json").exists()


@pytest.mark.parametrize("flags", ["--lr 0.2", "--seed 1", "-b 32", "--rand_number 1"])
def test_a_run_that_differs_from_an_earlier_one_has_a_folder_of_its_own(flags, earlier):
    assert run_folder(options_of(FLAGS, "--epochs 1", flags)).models != earlier / NAME
    folder = run_folder(options_of(FLAGS, STAGE_2, f"--pretrained {NAME}", flags)).models
    assert flags.startswith("--lr") == folder.exists()


def test_an_earlier_run_is_found_as_the_start_of_a_stage_2_and_evaluated(earlier):
    options = options_of(FLAGS, STAGE_2, f"--pretrained {NAME}", "--evaluation True")
    assert checkpoint_of_flag(options, "pretrained") == earlier / NAME / "ckpt.best.pth.tar"
    path, folder = find_evaluated(options)
    assert path.parent == folder.models == run_folder(options).models
    path, folder = find_evaluated(options_of(FLAGS, "--evaluation True"))
    assert path.parent == folder.records == earlier / NAME


def test_a_stage_1_below_the_home_folder_is_found(earlier, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    options = options_of(FLAGS, STAGE_2, f"--pretrained=~/checkpoint/{NAME}")
    found = checkpoint_of_flag(options, "pretrained")
    assert found == tmp_path / earlier / NAME / "ckpt.best.pth.tar"


def test_stages_2_from_different_checkpoints_of_a_run_share_no_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start = made(FLAGS)
    (start / "ckpt.pth.tar").touch()
    (start / "ckpt.best_heldout.pth.tar").touch()

    def options(file, *more):
        return options_of(FLAGS, STAGE_2, f"--pretrained {start}{file}", *more)

    def name(file, *more):
        return run_folder(options(file, *more)).models.name

    assert name("/ckpt.best.pth.tar") == name("")
    assert len({name(""), name("/ckpt.pth.tar"), name("/ckpt.best_heldout.pth.tar")}) == 3
    for protocol, chosen in (("last", "ckpt.pth.tar"), ("heldout", "ckpt.best_heldout.pth.tar")):
        assert name(f"/{chosen}", f"--select_on {protocol}") == name("", f"--select_on {protocol}")
        # In a run that was selected on test, this is another checkpoint.
        assert name("/ckpt.best.pth.tar", f"--select_on {protocol}") != (
            name("", f"--select_on {protocol}")
        )
    (start / "ckpt.best_heldout.pth.tar").unlink()  # of a run that was selected on held-out images
    heldout = "--select_on heldout"
    assert name("/ckpt.best.pth.tar", heldout) == name("", heldout)
    last = options("/ckpt.pth.tar")
    assert "--pretrained ckpt.pth.tar" in digest_of(last, run_folder(last))


def test_a_stage_2_does_not_go_on_from_a_longer_stage_1(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def options(epochs):
        return options_of(FLAGS, STAGE_2, f"--pretrain_epochs {epochs} --resume True")

    made(f"{FLAGS} {STAGE_2} --pretrain_epochs 20")
    assert prepare(options(20), run_folder(options(20))) == "continue"
    with pytest.raises(UserError, match=r"--pretrain_epochs 40 \(recorded: 20\)"):
        prepare(options(40), run_folder(options(40)))
    alone = options_of(FLAGS, STAGE_2, f"--pretrained {NAME} --resume True")
    assert "pretrain_epochs" not in differences(alone, options(20).as_dict())


@pytest.mark.parametrize("more", ["", "--backbone public.pth"])
def test_a_stage_2_that_an_earlier_version_started_from_another_checkpoint_is_found(
    more, tmp_path, monkeypatch
):
    """Earlier versions gave it the folder of a stage 2 from the best checkpoint."""
    monkeypatch.chdir(tmp_path)
    Path("public.pth").write_bytes(b"weights")
    start = made(FLAGS)
    (start / "ckpt.pth.tar").touch()
    flags = f"{FLAGS} {STAGE_2} {more} --pretrained {start}"
    last = f"{flags}/ckpt.pth.tar"
    folder = made(flags, pretrained=f"{start}/ckpt.pth.tar")
    assert run_folder(options_of(last)).models == folder
    assert prepare(options_of(last, "--resume True"), run_folder(options_of(last))) == "continue"
    from_best = options_of(flags, "--resume True")
    with pytest.raises(UserError, match=r"other options: --pretrained .*\(recorded: .*ckpt\.pth"):
        prepare(from_best, run_folder(from_best))


def test_a_stage_2_is_not_taken_for_that_of_another_file_of_the_same_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    digests = {}
    for value, name in enumerate(("a", "b", "c")):
        weights = {"linear.weight": torch.full((2, 3), min(value, 1))}
        Path(name).mkdir()
        torch.save({"state_dict": weights, "epoch": value}, Path(name, "model.pth"))
        digests[name] = weights_digest(weights)
    flags = f"{FLAGS} {STAGE_2} --pretrained"
    folder = made(f"{flags} b/model.pth", start=digests["b"], start_file="b/model.pth")

    def prepared(file):
        options = options_of(flags, file, "--resume True")
        return prepare(options, run_folder(options))

    # Without a checkpoint, it has not begun with any weights.
    assert prepared("a/model.pth") == "continue"
    (folder / "ckpt.pth.tar").touch()
    with pytest.raises(UserError, match=r"began with b/model.pth, and --pretrained a/model.pth is"):
        prepared("a/model.pth")
    # The third has the weights of the second, and nothing else of it.
    assert prepared("b/model.pth") == prepared("c/model.pth") == "continue"


@pytest.mark.parametrize(
    ("file", "parent"),
    [
        ("model.pth", "model"),
        ("other.pth.tar", "other"),
        ("weights.safetensors", "weights"),
        ("bare", "bare_run"),
        (f"{NAME}/ckpt.best.pth.tar", NAME),
    ],
)
def test_a_stage_2_from_a_file_goes_below_the_name_of_the_file_or_its_run(
    file, parent, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    path = Path("checkpoint", file)
    path.parent.mkdir(parents=True)
    path.touch()
    for given in (file, path, path.absolute()):
        options = options_of(FLAGS, STAGE_2, f"--pretrained {given}")
        assert checkpoint_of_flag(options, "pretrained").samefile(path)
        assert run_folder(options).models.parent == Path("checkpoint", parent)


def test_the_run_says_what_its_digest_stands_for():
    options = options_of(FLAGS, "--epochs 3")
    text = digest_of(options, run_folder(options))
    assert set(text.split(", ")) == {"--batch-size 64", "--augment none", "--seed 0"}
    options = options_of("--dataset digits --epochs 3")
    assert digest_of(options, run_folder(options)) == ""
