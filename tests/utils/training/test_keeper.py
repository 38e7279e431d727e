"""Which checkpoints are written after which epochs."""

from utils.options.parse import parse_options
from utils.runs import checkpoint
from utils.runs.run_folder import RunFolder
from utils.training.keeper import Keeper


def test_checkpoints_are_written_after_every_so_many_epochs_and_when_they_are_due(
    tmp_path, monkeypatch
):
    """The best checkpoint, of epoch 2, is written together with the next one."""
    written = []
    monkeypatch.setattr(
        checkpoint, "save", lambda path, content: written.append((content["epoch"], path.name))
    )
    keeper = Keeper(RunFolder(tmp_path, tmp_path), parse_options(["--checkpoint_every", "3"]))
    for epoch in range(1, 6):
        chosen_by = ["test"] if epoch == 2 else []
        keeper.keep({"epoch": epoch}, chosen_by, {"epoch": epoch}, is_due=epoch == 5)
    keeper.close()
    assert written == [(2, "ckpt.best.pth.tar"), (3, "ckpt.pth.tar"), (5, "ckpt.pth.tar")]
