"""The examples in the docstrings of the metrics print what they say."""

import doctest
from importlib import import_module

import pytest

from vlp_bench import metrics


@pytest.mark.parametrize("name", metrics.__all__)
def test_the_example_of_a_metric_runs(name: str) -> None:
    if name == "CaptionMetrics":
        pytest.importorskip("pycocoevalcap")
    home = import_module(getattr(metrics, name).__module__)
    [example] = [test for test in doctest.DocTestFinder().find(getattr(metrics, name), name, home) if test.examples]
    assert doctest.DocTestRunner(optionflags=doctest.REPORT_NDIFF).run(example).failed == 0


def test_what_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Recall'"):
        _ = metrics.Recall
