"""The benchmarks compare like with like; what they measure is not asserted anywhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import config
from benchmarks import __main__ as benchmarks_main
from benchmarks import cnn, conv, mlp, optimizers, timing
from section1.parallel import Workers, available_threads


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """One call a side instead of thousands."""

    def compare(ours, theirs, **options):  # type: ignore[no-untyped-def]
        ours(), theirs()
        return timing.Comparison(1.0, 2.0, 0.5, 0.4, 0.6)

    for module in (mlp, optimizers, cnn, conv):
        monkeypatch.setattr(module, "compare", compare)
    monkeypatch.setattr(cnn, "peak_growth", lambda side, *words: 1.0)
    monkeypatch.setattr(benchmarks_main, "gemm_peak", lambda threads: 100.0)


@pytest.mark.parametrize("name", ["mlp", "cnn", "conv"])
def test_a_benchmark_writes_what_it_measured(
    hurried: None, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "RESULTS_DIR", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["benchmarks", name])
    monkeypatch.setattr(conv, "CASES", conv.CASES[:2])
    assert benchmarks_main.main() == 0
    torch.set_num_threads(1)
    record = json.loads((tmp_path / "benchmarks" / f"{name}.json").read_text())
    assert {row["threads"] for row in record["rows"]} == {1, available_threads()}
    assert all(row["ratio"] == 0.5 for row in record["rows"])
    assert record["blas"] and record["machine"]["cpu"]
    assert bool(record["memory_mb"]) == (name == "cnn")


@pytest.mark.parametrize("net", cnn.NETS)
@pytest.mark.parametrize("relu_first", [False, True])
def test_both_sides_train_a_network_of_the_same_size(net: str, relu_first: bool) -> None:
    """From random weights both start at about log 10, and learn the same batch by heart."""
    with Workers(1) as workers:
        ours = cnn.numpy_step(net, 8, workers)
        theirs = cnn.torch_step(net, 8, channels_last=True, relu_first=relu_first)
        for step in (ours, theirs):
            losses = [step() for _ in range(10)]
            assert losses[0] < 2 * np.log(10) and losses[-1] < losses[0]


@pytest.mark.parametrize("case", conv.CASES[:4] + conv.CASES[-1:], ids=str)
def test_both_sides_of_a_convolution_give_the_same_shapes(case: conv.Case) -> None:
    with Workers(2) as workers:
        dx = conv.numpy_pass(case, workers)()
    assert isinstance(dx, np.ndarray)
    assert dx.shape == (case.images, case.size, case.size, case.channels)
    conv.torch_pass(case, channels_last=False)()


def test_work_is_counted_as_the_text_books_do() -> None:
    case = conv.Case(images=1, size=2, channels=1, filters=1, kernel=1)
    assert case.gflop == pytest.approx(3 * 2 * 4 / 1e9)
    per_image = 2 * (784 * 9 * 8 * 2 + 196 * 72 * 16 * 3 + 784 * 10 * 3)
    assert cnn.gflop("small", 10) == pytest.approx(10 * per_image / 1e9)
