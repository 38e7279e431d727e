"""The progress bar on a terminal."""

import io
import sys

import torch

from utils.progress import Pace, Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run_progress(every=2, losses=(4.0, 3.0, 2.0, 1.0)):
    """Returns the texts beside the bar, one for each batch."""
    shown = []
    with Progress("features 1/3", len(losses), every) as bar:
        for loss in losses:
            bar.advance(torch.tensor(loss))
            shown.append(getattr(bar.bar, "postfix", None))
    return shown


def test_without_a_terminal_progress_prints_nothing(capsys):
    run_progress()
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_on_a_terminal_progress_shows_title_count_and_time_left(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    run_progress()
    assert "features 1/3" in terminal.getvalue() and "0/4" in terminal.getvalue()
    assert "batch/s" in terminal.getvalue()


def test_the_bar_moves_every_so_many_batches(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    counts = []
    with Progress("title", 7, 3) as bar:
        for _ in range(7):
            bar.advance(torch.tensor(1.0))
            counts.append(bar.bar.n)
    assert counts == [0, 0, 3, 3, 3, 6, 6]


def test_the_bar_shows_only_losses_that_a_batch_had(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    shown = [text for text in run_progress() if text]
    assert shown
    assert set(shown) <= {f"loss={loss:.4f}" for loss in (4.0, 3.0, 2.0, 1.0)}


def test_one_slow_epoch_does_not_change_the_estimate():
    pace = Pace()
    for seconds in (10.0, 10.0, 4000.0, 12.0, 11.0):
        pace.add("features", seconds)
    assert pace.seconds_of(3) == 33


def test_the_estimate_follows_the_last_epochs_and_starts_anew_with_a_phase():
    pace = Pace()
    for seconds in [10.0] * 20 + [30.0] * 5:
        pace.add("features", seconds)
    assert pace.seconds_of(1) == 30
    pace.add("classifier", 2.0)
    assert pace.seconds_of(10) == 20
