"""The GPU's table, run on a processor at a size for tests."""

import json

import pytest
import torch

from benchmarks import gpu


def test_rows_say_what_was_measured_and_on_what(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "seconds", lambda run, device, rounds=3: (run(), 1.0)[1])
    gpu.main(["--device", "cpu", "--small", "--json", str(tmp_path / "rows.jsonl"), *gpu.ROWS])
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert {(row["model"], row["work"]) for row in rows} == {(m, w) for m in ("xvlm", "blip") for w in gpu.ROWS}
    assert {row["precision"] for row in rows if row["work"] == "multiflow"} == {"fp32", "bf16"}
    assert all(row["card"] and row["seconds"] == 1.0 for row in rows)
    assert {row["ratio"] for row in rows if "ratio" in row} == {1.0}


def test_chita_is_expected_along_a_straight_line(monkeypatch):
    cpu, counts = torch.device("cpu"), []
    model = gpu.built("xvlm", cpu, small=True)
    data = [[gpu.batch(model, 2, 2 * i, cpu), gpu.batch(model, 2, 2 * i + 1, cpu)] for i in range(2)]
    monkeypatch.setattr(gpu.vlp_bench, "prune", lambda m, p, s, calibration: counts.append(len(calibration.batches)))
    monkeypatch.setattr(gpu, "seconds", lambda run, device, rounds: (run(), 5.0 + 2 * counts[-1])[1])
    found = gpu.chita(gpu.Subject("xvlm", model, data, cpu, "fp32"))
    assert counts == [8, 24]
    assert (found["seconds"], found["chita_pp"]) == (5 + 2 * 500, 60 * (5 + 2 * 50))
    assert "CHITA++ 6300 s (goal 2500)" in gpu.say({"work": "chita", "model": "xvlm", "precision": "fp32"} | found)


@pytest.mark.parametrize("plain", [gpu.forward, gpu.backward])
def test_plain_passes_hold_nothing_of_ours(plain, monkeypatch):
    cpu = torch.device("cpu")
    model = gpu.built("xvlm", cpu, small=True)
    monkeypatch.setattr(gpu, "Calibration", None)  # finds layers and looks at every weight
    plain(gpu.Subject("xvlm", model, [[gpu.batch(model, 2, 0, cpu)]], cpu, "fp32"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line(capsys):
    gpu.main([])
    assert capsys.readouterr().out.splitlines() == [
        "no GPU: nothing was measured (--device cpu --small runs the same code on the processor)"
    ]
