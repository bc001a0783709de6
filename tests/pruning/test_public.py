import subprocess
import sys
from pathlib import Path

import pytest

import vlp_bench
from vlp_bench.pruning.pruner import Pruner

ROOT = Path(vlp_bench.__file__).parents[1]


def test_import_is_light():
    heavy = "'torch', 'lightning', 'transformers', 'hydra', 'numpy'"
    code = f"import sys, vlp_bench; dir(vlp_bench); sys.exit(any(name in sys.modules for name in ({heavy})))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_public_names():
    assert vlp_bench.Pruner is Pruner
    assert all(getattr(vlp_bench, name) is not None for name in vlp_bench.__all__)
    assert set(vlp_bench.__all__) <= set(dir(vlp_bench))
    with pytest.raises(AttributeError, match="no attribute 'prun'"):
        vlp_bench.prun  # noqa: B018
