import pytest
import torch

from vlp_bench.pruning.masks.size_and_speed import FORMS, Size, Time, broken_groups, sizes, times, verdict


def test_bytes_by_hand():
    """Two layers of 8 × 8 and 4 × 16 weights that keep 10 and 6 of them, in float32."""
    masks = {"a": torch.zeros(8, 8).bool(), "b": torch.zeros(4, 16).bool()}
    masks["a"].view(-1)[:10] = True
    masks["b"].view(-1)[:6] = True
    found = {size.form: size.bytes for size in sizes(masks)}
    assert tuple(found) == FORMS
    assert found["dense"] == 4 * 128
    assert found["bit mask + values"] == 16 + 4 * 16
    assert found["CSR int32"] == 4 * 16 + 4 * 16 + 4 * (9 + 5)
    assert found["CSR int64"] == 4 * 16 + 8 * 16 + 8 * (9 + 5)
    assert found["2:4"] == 4 * 64 + 64 * 2 // 8


def test_two_of_four():
    fits = torch.tensor([[1, 1, 0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 1, 0, 0, 1]]).bool()
    assert broken_groups({"w": fits}) == 0
    assert next(size for size in sizes({"w": fits}) if size.form == "2:4").possible
    fits[0, 3] = True  # three of the first four
    assert broken_groups({"w": fits}) == 1 / 4
    assert not next(size for size in sizes({"w": fits}) if size.form == "2:4").possible
    assert broken_groups({"w": torch.zeros(2, 6).bool()}) == 1  # rows of six can't be cut into fours


def test_every_form_is_measured_at_every_number_of_tokens():
    masks = {name: torch.rand(16, 8) < 0.2 for name in "abc"} | {"d": torch.rand(4, 8) < 0.2}
    weights = {name: torch.randn(mask.shape) for name, mask in masks.items()}
    found = times(weights, masks, [1, 5], "cpu", rounds=1)
    assert {(time.form, time.tokens) for time in found} == {(f, t) for f in ("dense", "CSR") for t in (1, 5)}
    assert all(time.milliseconds > 0 for time in found)


def test_plain_sentences():
    stored = [Size("dense", 400), Size("bit mask + values", 100), Size("2:4", 50, possible=False)]
    measured = [Time("dense", 1, 2.0), Time("CSR", 1, 6.0), Time("dense", 30, 8.0), Time("CSR", 30, 2.0)]
    assert verdict(stored, measured) == [
        "Smaller: bit mask + values takes 4.0 times less than dense.",
        "Sparse is not faster at 1 token: CSR takes 3.00 times as long as dense.",
        "Faster at 30 tokens: CSR takes 4.00 times less than dense.",
    ]
    assert verdict([Size("dense", 4), Size("CSR int64", 9)], [])[0] == "Not smaller."
    other = verdict(stored, [Time("dense", 9, 2.0), Time("2:4", 9, 1.0)])[1]
    assert (
        other
        == "Faster at 9 tokens: 2:4 takes 2.00 times less than dense (other weights: the two largest of every four)."
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_two_of_four_on_a_gpu():
    masks = {"w": torch.rand(64, 128) < 0.2}
    found = times({"w": torch.randn(64, 128)}, masks, [8], "cuda", rounds=1)
    assert {time.form for time in found} == {"dense", "2:4", "CSR"}
