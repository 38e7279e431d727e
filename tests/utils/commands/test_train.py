"""From options to training."""

import utils.commands.train as train
from utils.machine.processes import ALONE
from utils.options.parse import parse_options


def test_a_run_has_the_machine_of_its_flags(monkeypatch):
    monkeypatch.setattr(train, "choose_machine", lambda *given: given)
    flags = ["--gpu", "3", "--precision", "bf16", "--step", "eager", "--accumulate", "2"]
    assert train.machine_of(parse_options(flags), ALONE) == (3, "bf16", "eager", 2, ALONE)
