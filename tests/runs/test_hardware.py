import pytest

from vlp_bench.results.report.material import _device
from vlp_bench.runs import provenance


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ("model name\t: A Xeon\nflags\t\t: avx2 avx512f amx_bf16\n", "A Xeon, AVX-512, AMX"),
        ("model name\t: A Xeon\nflags\t\t: avx2 avx512f_x\n", "A Xeon"),
        ("model name\t: A Ryzen: 9\nflags\t\t: avx512f\n", "A Ryzen: 9, AVX-512"),
        ("BogoMIPS\t: 50.00\n", "arm"),  # Linux on ARM names no model
        (None, "arm"),  # macOS
    ],
)
def test_the_processor_by_name_and_by_what_makes_it_fast(told, expected, tmp_path, monkeypatch):
    file = tmp_path / "cpuinfo"
    if told:
        file.write_text(told)
    monkeypatch.setattr(provenance, "CPU_INFO", file)
    monkeypatch.setattr(provenance.platform, "processor", lambda: "arm")
    assert provenance.processor.__wrapped__() == expected


def test_a_report_tells_processors_apart():
    """A seed's numbers differ between processors with AMX, where a run is in bfloat16, and without."""
    rows = [provenance.hardware() | {"gpus": []}, {"processor": "A Xeon"}, {"machine": "x86_64"}, {"gpus": ["A", "A"]}]
    assert [_device(row) for row in rows] == [provenance.processor(), "A Xeon", "x86_64 CPU", "A + A"]
