"""`python -m benchmarks.throughput --end_to_end`: both stages from the start of their process."""

import json

import pytest

from benchmarks import throughput
from tests.support.helpers import write_tree


def test_end_to_end_on_a_few_images(tmp_path, capsys):
    tree = write_tree(tmp_path / "data", train=24, test=4, side=32)
    argv = f"--end_to_end --dataset cifar10 --data_root {tree} --imb_factor 0.2 -a resnet8 -b 64"
    argv += f" -j 0 --lengths 1,1,1 --plain_epochs 1 --output {tmp_path / 'found'}"
    assert throughput.main([*argv.split(), "--precision", "float32"]) == 0
    ours, plain, last = capsys.readouterr().out.splitlines()
    record = json.loads((tmp_path / "found" / "end_to_end.json").read_text())
    assert last == f"end-to-end ratio: {record['ratio']:.2f}"
    assert ours.startswith("ours, float32: ") and "PROJECTED from 1 epochs" in plain
    found = record["plain"]
    medians = [m["median"] for m in found["measurements"]]
    assert len(medians) == 3
    assert found["wall_seconds"] == pytest.approx(found["start_up_seconds"] + sum(medians))
    assert record["ratio"] == pytest.approx(found["wall_seconds"] / record["ours"]["wall_seconds"])
    assert record["ours"]["wall_seconds"] > sum(record["ours"]["seconds"].values())
    assert record["ours"]["seconds"].keys() == {"1", "2"}
