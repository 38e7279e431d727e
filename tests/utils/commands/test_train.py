"""What the training command asks of several processes."""

from types import SimpleNamespace

import pytest

from utils.commands.train import train
from utils.errors import UserError
from utils.machine import collectives
from utils.options.parse import parse_options


def test_other_images_on_one_of_several_machines_are_told_to_all_processes(monkeypatch):
    def refuse(data):
        raise UserError("other images")

    told = []

    def together(function, world):
        try:
            return function()
        except UserError as error:
            told.append(error)
            raise

    job = SimpleNamespace(is_open=False, has_data_elsewhere=True, check_same_images=refuse)
    monkeypatch.setattr("utils.commands.train.plan", lambda stages: ([[job]], None))
    data = SimpleNamespace(account=lambda: "made-up data")
    monkeypatch.setattr("utils.commands.train.load_data", lambda options, record: data)
    monkeypatch.setattr(collectives, "together", together)
    with pytest.raises(UserError) as raised:
        train([parse_options([])])
    assert told == [raised.value]
