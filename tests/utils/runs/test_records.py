"""What can be read from the record files of a run."""

import json

import pytest

from tests.support.helpers import read_records, stage_2_folder
from tests.support.made_up_records import record
from tests.support.made_up_runs import write_run
from utils.errors import UserError
from utils.runs.records import read_run
from utils.runs.run_folder import RunFolder, recorded_options


def keys_of(value):
    """Returns the keys of nested dictionaries, without their values."""
    return {k: keys_of(v) for k, v in value.items()} if isinstance(value, dict) else None


def test_made_up_records_have_the_keys_of_real_ones(finished):
    assert keys_of(record(1)) == keys_of(read_records(stage_2_folder(finished))[0])


@pytest.mark.parametrize("counts", [7, [3, None], ["many"], [float("inf")], [3, 2]], ids=str)
@pytest.mark.parametrize("name", ["args.json", "summary.json"])
def test_wrong_class_counts_are_one_line(name, counts, tmp_path):
    folder = write_run(tmp_path / "run", 0)
    record = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(record | {"class_counts": counts}))
    with pytest.raises(UserError, match=rf"{name}: not a record of a run"):
        read_run(folder)


@pytest.mark.parametrize("text", ["{", "[" * 100_000], ids=len)
def test_options_that_cannot_be_read_are_one_line(text, tmp_path):
    (tmp_path / "args.json").write_text(text)
    with pytest.raises(UserError, match="unreadable"):
        recorded_options(RunFolder(tmp_path, tmp_path))
