import pytest

from vlp_bench.pruning.schedule import constant, exponential, linear, one_shot, power


def test_by_hand():
    assert one_shot(0.9) == [0.9]
    assert constant(0.9, steps=2) == [0.9, 0.9]
    assert power(0.5, steps=3) == pytest.approx([0.125, 0.35355339, 0.5])
    assert linear(0.75, steps=3) == pytest.approx([0.25, 0.5, 0.75])
    assert exponential(0.875, steps=3) == pytest.approx([0.5, 0.75, 0.875])
    assert linear(0.5, steps=2, compat="official") == pytest.approx([0.75, 1.0])
    assert exponential(0.875, steps=3, compat="official") == pytest.approx([0.5, 0.75, 0.875])


@pytest.mark.parametrize("schedule", [constant, power, linear, exponential])
@pytest.mark.parametrize("sparsity", [0.0, 0.1, 0.63, 0.9, 0.999])
@pytest.mark.parametrize("steps", [1, 2, 60])
def test_grows_to_the_target_exactly(schedule, sparsity, steps):
    path = schedule(sparsity, steps=steps)
    assert len(path) == steps
    assert path[-1] == sparsity
    assert path == sorted(path)


@pytest.mark.parametrize("schedule", [linear, exponential])
def test_bad_settings(schedule):
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        schedule(0.5, steps=0)
    with pytest.raises(ValueError, match="unknown compat 'paper': use one of corrected, official"):
        schedule(0.5, steps=2, compat="paper")
