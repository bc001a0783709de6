"""A run that is killed and started again ends with the numbers, masks and weights of one that was left alone."""

import pytest

from benchmarks.endurance.kill_anywhere import Moment, differences, endure, moments


@pytest.fixture
def words(tiny):
    return [
        *(word for word in tiny if not word.startswith("paths.out")),
        "pruner=multiflow",
        "sparsity=0.5",
        "data.num_workers=2",
    ]


def test_a_run_killed_while_it_writes_its_mask_and_its_checkpoint(words, tmp_path):
    killed = []
    planned = [Moment("masks", 1), Moment("last.ckpt", 1)]
    assert endure(words, tmp_path, planned, killed.append) == []
    assert killed == ["killed at masks:1", "killed at last.ckpt:1"]
    changed = tmp_path / "killed" / "runs"
    [rows] = changed.glob("*/rows.jsonl")
    rows.write_text(rows.read_text().replace('"metric": "r_mean"', '"metric": "other"'))
    (tmp_path / "killed" / "masks" / ".m.safetensors.abcdefgh").touch()
    found = differences(tmp_path / "calm", tmp_path / "killed")
    assert any("rows" in line for line in found)
    assert any("was left behind" in line for line in found)


@pytest.mark.slow
@pytest.mark.parametrize("seed", (0, 1))
def test_a_run_killed_at_ten_random_moments(words, tmp_path, seed):
    assert endure(words, tmp_path, moments(10, seed), print) == []


def test_moments_visit_every_phase_in_the_order_of_a_run():
    found = [moment.phase for moment in moments(10, 0)]
    assert set(found) == {
        "calibration",
        "statistics",
        "masks",
        "training",
        "best.ckpt",
        "last.ckpt",
        "evaluation",
        "rows.jsonl",
    }
    assert found.index("masks") < found.index("last.ckpt") < found.index("rows.jsonl")
