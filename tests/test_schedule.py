"""Stage 1's learning rate."""

import pytest
import torch

from utils.command_line import parse_options
from utils.device import Machine
from utils.pretraining import learning_rate, schedule

CPU = Machine(torch.device("cpu"), "float32")


PUBLISHED = [
    *((1, 0.02), (2, 0.04), (3, 0.06), (4, 0.08), (5, 0.1), (6, 0.1), (100, 0.1)),
    *((160, 0.1), (161, 0.001), (180, 0.001), (181, 0.00001), (200, 0.00001)),
]


@pytest.mark.parametrize(("epoch", "rate"), PUBLISHED)
def test_the_published_learning_rates(epoch, rate):
    steps, _ = schedule(parse_options([]))
    assert learning_rate(epoch, 0.1, steps) == pytest.approx(rate, rel=1e-12)
    assert learning_rate(epoch, 0.5, steps) == pytest.approx(5 * rate, rel=1e-12)


def test_every_epoch_has_the_rate_of_the_formula():
    steps, drw_start = schedule(parse_options([]))
    assert drw_start == 160
    for epoch in range(1, 251):
        if epoch <= 5:
            expected = 0.1 * epoch / 5
        elif epoch <= 160:
            expected = 0.1
        else:
            expected = 0.1 * (0.01 if epoch <= 180 else 0.0001)
        assert learning_rate(epoch, 0.1, steps) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("epochs", "first", "second"), [(200, 160, 180), (100, 80, 90), (20, 16, 18), (400, 320, 360)]
)
def test_scaled_moves_the_steps_and_drws_switch_with_the_epochs(epochs, first, second, capsys):
    steps, drw_start = schedule(parse_options(["--schedule", "scaled", "--epochs", str(epochs)]))
    assert drw_start == first
    rates = [learning_rate(e, 0.1, steps) for e in (first, first + 1, second, second + 1, epochs)]
    assert rates == pytest.approx([0.1, 0.001, 0.001, 0.00001, 0.00001], rel=1e-12)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("epochs", [1, 159, 160, 180])
def test_absolute_stays_as_published_and_warns_when_the_run_ends_before_its_steps(epochs, capsys):
    steps, drw_start = schedule(parse_options(["--epochs", str(epochs)]))
    assert drw_start == 160
    assert learning_rate(161, 0.1, steps) == pytest.approx(0.001)
    warning = capsys.readouterr().err
    assert warning.startswith("main.py: warning: ") and warning.count("\n") == 1
    for part in (f"--epochs {epochs} ", "160", "180", "--schedule scaled"):
        assert part in warning


@pytest.mark.parametrize("epochs", [181, 200, 300])
def test_absolute_does_not_warn_when_both_steps_are_taken(epochs, capsys):
    schedule(parse_options(["--epochs", str(epochs)]))
    assert capsys.readouterr().err == ""
