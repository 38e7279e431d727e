"""What a run consists of."""

from utils.machine.processes import ALONE
from utils.options.parse import parse_options
from utils.training import setup


def test_a_run_has_the_machine_of_its_flags(monkeypatch):
    monkeypatch.setattr(setup, "choose_machine", lambda *given: given)
    flags = ["--gpu", "3", "--precision", "bf16", "--step", "eager", "--accumulate", "2"]
    assert setup.machine_of(parse_options(flags), ALONE) == (3, "bf16", "eager", 2, ALONE)
