import pytest
import torch

from vlp_bench.pruning.scores import share_of_rest
from vlp_bench.pruning.selection import lamp_order as rest
from vlp_bench.pruning.selection import thresholds


def layers(kind):
    g = torch.Generator().manual_seed(5)
    shapes = [(40, 30), (1, 3), (200, 50), (64, 8)]
    scales = [1.0, 3.0, 0.02, 1e-3]
    drawn = [torch.randn(shape, generator=g) * scale for shape, scale in zip(shapes, scales, strict=True)]
    change = {
        "normal": lambda w: w,
        "coarse": lambda w: (w * 50).round() / 50,
        "equal": lambda w: torch.full_like(w, 0.3),
        "one bin": lambda w: 1 + w.abs() * 1e-4,
        "wide": lambda w: w.sign() * 10 ** (w * 8).clamp(-18, 18),
        "half zero": lambda w: w * (w > 0),
    }
    return {str(i): change[kind](w) for i, w in enumerate(drawn)}


@pytest.mark.parametrize("small", [rest.SMALL, 0])  # 0: even the smallest layers are sampled, and misleadingly
@pytest.mark.parametrize("ties", ["first", "none"])
@pytest.mark.parametrize("kind", ["normal", "coarse", "equal", "one bin", "wide", "half zero"])
def test_budgets_and_masks_are_those_of_the_sorted_definition(kind, ties, small, monkeypatch):
    monkeypatch.setattr(rest, "SMALL", small)
    monkeypatch.setattr(rest, "DEVIATIONS", 4.0 if small else 0.1)
    weights = layers(kind)
    scores = {name: share_of_rest(w) for name, w in weights.items()}
    total = sum(w.numel() for w in weights.values())
    for kept in (0, 1, 17, total // 10, total // 3, total // 2, total - 2, total):
        (expected,) = thresholds.kept_per_layer({n: lambda n=n: scores[n] for n in scores}, [kept], ties=ties)
        found = rest.kept_per_layer({n: lambda n=n: weights[n] for n in weights}, kept, ties=ties)
        assert found == expected
        memory = {}
        rest.kept_per_layer({n: lambda n=n: weights[n] for n in weights}, kept, ties=ties, memory=memory)
        for name, w in weights.items():
            mask = rest.keep_largest(w, found[name], ties=ties, memory=memory, name=name)
            assert mask.equal(thresholds.keep_largest(scores[name], found[name], ties=ties))
    for name, w in weights.items():
        for kept in (0, 1, w.numel() // 3, w.numel() - 1, w.numel()):
            expected = thresholds.keep_largest(scores[name], kept, ties=ties)
            assert rest.keep_largest(w, kept, ties=ties).equal(expected)


def test_few_weights_are_sorted(monkeypatch):
    weights = {str(i): torch.randn(300, 300, generator=torch.Generator().manual_seed(i)) for i in range(3)}
    seen, count, memory = [], rest._count, {}
    monkeypatch.setattr(rest, "_count", lambda *given: seen.append(count(*given)) or seen[-1])
    found = rest.kept_per_layer({n: lambda n=n: weights[n] for n in weights}, 100_000, memory=memory)
    assert len(seen) == 3
    assert 0 < sum(len(own.sizes) for own in seen) < 0.3 * 270_000
    for name, w in weights.items():
        rest.keep_largest(w, found[name], name=name, memory=memory)
    assert len(seen) == 3  # the masks follow from what was found


def test_nan_is_refused_by_name():
    with pytest.raises(ValueError, match="weights of 'a' hold NaN"):
        rest.keep_largest(torch.tensor([1.0, float("nan")]), 1, name="a")
