"""Stage 1's learning rate."""

import pytest
import torch

from utils.options.parse import parse_options
from utils.training.stage1 import DRW_START, _warn_of_likely_mistakes, learning_rate, scaled

PUBLISHED = [
    *((1, 0.02), (2, 0.04), (3, 0.06), (4, 0.08), (5, 0.1), (6, 0.1), (100, 0.1)),
    *((160, 0.1), (161, 0.001), (180, 0.001), (181, 0.00001), (200, 0.00001)),
]


@pytest.mark.parametrize(("epoch", "rate"), PUBLISHED)
def test_the_published_learning_rates(epoch, rate):
    for lr, factor in ((0.1, 1), (0.5, 5)):
        rate_of = learning_rate(parse_options(["--lr", str(lr)]))
        assert rate_of(epoch) == pytest.approx(factor * rate, rel=1e-12)


def test_every_epoch_has_the_rate_of_the_formula():
    rate_of = learning_rate(parse_options([]))
    for epoch in range(1, 251):
        if epoch <= 5:
            expected = 0.1 * epoch / 5
        elif epoch <= 160:
            expected = 0.1
        else:
            expected = 0.1 * (0.01 if epoch <= 180 else 0.0001)
        assert rate_of(epoch) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("epochs", "first", "second"),
    [
        *((200, 160, 180), (100, 80, 90), (20, 16, 18), (400, 320, 360)),
        *((13, 10, 12), (33, 26, 30), (92, 74, 83)),  # 10.4 and 11.7, 26.4 and 29.7, 73.6 and 82.8
    ],
)
def test_scaled_moves_the_steps_and_drws_switch_with_the_epochs(epochs, first, second, capsys):
    options = parse_options(["--schedule", "scaled", "--epochs", str(epochs)])
    assert scaled(DRW_START, options) == first
    rate_of = learning_rate(options)
    rates = [rate_of(e) for e in (first, first + 1, second, second + 1, epochs)]
    assert rates == pytest.approx([0.1, 0.001, 0.001, 0.00001, 0.00001], rel=1e-12)
    _warn_of_likely_mistakes(options)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("epochs", [1, 159, 160, 180])
def test_absolute_stays_as_published_and_warns_when_the_run_ends_before_its_steps(epochs, capsys):
    options = parse_options(["--epochs", str(epochs)])
    assert scaled(DRW_START, options) == 160
    assert learning_rate(options)(161) == pytest.approx(0.001)
    _warn_of_likely_mistakes(options)
    warning = capsys.readouterr().err
    assert warning.startswith("main.py: warning: ") and warning.count("\n") == 1
    for part in (f"--epochs {epochs} ", "160", "180", "--schedule scaled"):
        assert part in warning


@pytest.mark.parametrize("epochs", [1, 90, 200])
def test_cosine_falls_from_the_full_rate_as_torchs_does_and_scales_drws_switch(epochs, capsys):
    flags = ["--schedule", "cosine", "--epochs", str(epochs), "--lr", "0.2"]
    options = parse_options(flags)
    rate_of = learning_rate(options)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for epoch in range(1, epochs + 1):
        assert rate_of(epoch) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        scheduler.step()
    assert scaled(DRW_START, options) == round(0.8 * epochs)
    _warn_of_likely_mistakes(options)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("epochs", [181, 200, 300])
def test_absolute_does_not_warn_when_both_steps_are_taken(epochs, capsys):
    _warn_of_likely_mistakes(parse_options(["--epochs", str(epochs)]))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("schedule_name", ["absolute", "scaled"])
@pytest.mark.parametrize("warmup", [0, 1, 3])
def test_the_warm_up_is_as_long_as_asked_for(schedule_name, warmup):
    flags = ["--schedule", schedule_name, "--warmup", str(warmup), "--lr", "0.6"]
    rate_of = learning_rate(parse_options(flags))
    for epoch in range(1, 8):
        assert rate_of(epoch) == pytest.approx(0.6 * min(1, epoch / max(warmup, 1)), rel=1e-12)
    assert rate_of(161) == pytest.approx(0.006, rel=1e-12)


def test_cosine_with_a_warm_up_rises_linearly_then_falls_to_0_over_the_rest():
    flags = ["--schedule", "cosine", "--warmup", "5", "--epochs", "25"]
    rate_of = learning_rate(parse_options(flags))
    rates = [rate_of(epoch) for epoch in range(1, 26)]
    assert rates[:6] == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1, 0.1], rel=1e-12)
    assert rates[15] == pytest.approx(0.05, rel=1e-12)  # half of the 20 epochs are over
    plain = learning_rate(parse_options(["--schedule", "cosine", "--epochs", "20"]))
    assert rates[5:] == pytest.approx([plain(epoch) for epoch in range(1, 21)], rel=1e-12)


def test_a_run_no_longer_than_its_warm_up_is_all_warm_up():
    rate_of = learning_rate(
        parse_options(["--schedule", "cosine", "--warmup", "5", "--epochs", "5"])
    )
    assert [rate_of(epoch) for epoch in (1, 5)] == pytest.approx([0.02, 0.1], rel=1e-12)


@pytest.mark.parametrize(
    ("flags", "warmup"),
    [([], 5), (["--schedule", "scaled"], 5), (["--schedule", "cosine"], 0), (["--warmup", "2"], 2)],
)
def test_the_warm_ups_default_depends_on_the_schedule(flags, warmup):
    assert parse_options(flags).warmup == warmup
