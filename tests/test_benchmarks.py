"""The benchmarks compare like with like; what they measure is not asserted anywhere."""

from __future__ import annotations

import itertools
import json
import math
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import config
from benchmarks import __main__ as benchmarks_main
from benchmarks import cnn, conv, engine, gpt, mlp, optimizers, timing
from section1.parallel import Workers, available_threads
from section4.engine import Setting, settings
from section4.vision.resnet import thin_resnet


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """One call a side instead of thousands; the larger of two ratios comes first, or second."""
    ratios = itertools.cycle([0.5, 0.25, 0.25, 0.5])

    def compare(ours, theirs, **options):  # type: ignore[no-untyped-def]
        ours(), theirs()
        return timing.Comparison(1.0, 2.0, next(ratios), 0.4, 0.6)

    for module in (mlp, optimizers, cnn, conv, gpt):
        monkeypatch.setattr(module, "compare", compare)
    monkeypatch.setattr(cnn, "peak_growth", lambda side, *words: 1.0)
    monkeypatch.setattr(benchmarks_main, "gemm_peak", lambda threads: 100.0)


@pytest.mark.parametrize(
    ("name", "ratios"),
    [("mlp", {0.25, 0.5}), ("cnn", {0.5}), ("conv", {0.5}), ("gpt", {0.25, 0.5})],
)
def test_a_benchmark_writes_what_it_measured(
    hurried: None, name: str, ratios: set[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "RESULTS_DIR", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["benchmarks", name])
    monkeypatch.setattr(conv, "CASES", conv.CASES[:2])
    monkeypatch.setattr(gpt, "LARGE", gpt.CONFIG)
    assert benchmarks_main.main() == 0
    torch.set_num_threads(1)
    record = json.loads((tmp_path / "benchmarks" / f"{name}.json").read_text())
    assert {row["threads"] for row in record["rows"]} == {1, available_threads()}
    assert {row["ratio"] for row in record["rows"]} == ratios
    assert record["blas"] and record["machine"]["cpu"]
    assert bool(record["memory_mb"]) == (name == "cnn")


def test_benchmarks_that_cannot_run_say_so_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    said = {"gpu": "no benchmark 'gpu': choose from cnn, conv,", "mlp": "PyTorch, which"}
    for name, complaint in said.items():
        monkeypatch.setattr("sys.argv", ["benchmarks", name])
        with pytest.raises(SystemExit, match="2"):
            benchmarks_main.main()
        error = capsys.readouterr().err
        assert complaint in error and "[]" not in error


def mlp_steps(workers: Workers) -> tuple[cnn.Step, cnn.Step]:
    images, classes = cnn.batch(8)
    x = images.reshape(8, -1)
    return mlp.numpy_step(x, classes, workers), mlp.torch_step(x, classes)


def cnn_steps(workers: Workers, net: str, relu_first: bool) -> tuple[cnn.Step, cnn.Step]:
    theirs = cnn.torch_step(net, 8, channels_last=True, relu_first=relu_first)
    return cnn.numpy_step(net, 8, workers), theirs


CNNS = [
    partial(cnn_steps, net=net, relu_first=first) for net in cnn.NETS for first in (False, True)
]


@pytest.mark.parametrize("make", [mlp_steps, *CNNS])
def test_both_sides_train_a_network_of_the_same_size(
    make: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From random weights both start at about log 10, and learn the same batch by heart."""
    sizes = []

    def watch(module: Any) -> None:
        rule = module.SGD

        def sgd(parameters: Any, lr: float) -> Any:
            parameters = list(parameters)
            sizes.append([math.prod(getattr(p, "value", p).shape) for p in parameters])
            return rule(parameters, lr)

        monkeypatch.setattr(module, "SGD", sgd)

    for module in (mlp, cnn, torch.optim):
        watch(module)
    with Workers(1) as workers:
        steps = make(workers)
        assert len(sizes) == 2 and sizes[0] == sizes[1]
        for step in steps:
            losses = [step() for _ in range(10)]
            assert losses[0] < 2 * np.log(10) and losses[-1] < losses[0]


@pytest.mark.parametrize("gelu", ["none", "tanh"])
def test_both_sides_train_a_gpt(gelu: str) -> None:
    x, y = np.random.default_rng(0).integers(gpt.CONFIG.vocabulary, size=(2, 2, 16))
    with Workers(1) as workers:
        for step in (gpt.numpy_step(x, y, workers), gpt.torch_step(x, y, gelu)):
            losses = [step() for _ in range(5)]
            assert losses[0] == pytest.approx(np.log(65), rel=0.1) and losses[-1] < losses[0]


@pytest.mark.parametrize("case", conv.CASES[:4] + conv.CASES[-1:], ids=str)
def test_both_sides_of_a_convolution_give_the_same_shapes(case: conv.Case) -> None:
    with Workers(2) as workers:
        y, dx, dw = (array.shape for array in conv.numpy_pass(case, workers)())
    assert dx == (case.images, case.size, case.size, case.channels)
    theirs = [tensor.shape for tensor in conv.torch_pass(case, channels_last=False)()]
    axes = (0, 3, 1, 2), (0, 3, 1, 2), (3, 2, 0, 1)
    assert theirs == [tuple(shape[k] for k in order) for shape, order in zip((y, dx, dw), axes)]


def test_a_ratio_below_one_means_that_this_code_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"ours": 2.0, "theirs": 8.0}
    monkeypatch.setattr(timing, "milliseconds", lambda function, calls: clock[function()])
    c = timing.compare(lambda: "ours", lambda: "theirs", rounds=3)
    assert (c.ours_ms, c.torch_ms, c.ratio) == (2, 8, 0.25)


def test_the_peak_counts_the_products_of_all_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    def milliseconds(work: Callable[[], list], calls: int) -> float:
        assert len(work()) == 2
        return 4.0

    monkeypatch.setattr(timing, "milliseconds", milliseconds)
    assert timing.gemm_peak(2, size=10) == pytest.approx(2 * 2 * 10**3 / 4e-3 / 1e9)


@pytest.mark.parametrize("side", ["numpy", "torch", "torch-channels-last"])
def test_one_side_alone_prints_by_how_much_its_memory_grows(
    side: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr("sys.argv", ["cnn", side, "small", "16", "1"])
    cnn.main()
    assert abs(float(capsys.readouterr().out)) < 100  # MB; the system's own count is not exact


def test_work_is_counted_as_the_text_books_do() -> None:
    case = conv.Case(images=1, size=2, channels=1, filters=1, kernel=1)
    assert case.gflop == pytest.approx(3 * 2 * 4 / 1e9)
    case = conv.Case(images=1, size=3, channels=4, filters=6, stride=2, groups=2)
    assert case.gflop == pytest.approx(3 * 2 * 4 * (9 * 4 / 2 * 6) / 1e9)
    per_image = 2 * (784 * 9 * 8 * 2 + 196 * 72 * 16 * 3 + 784 * 10 * 3)
    assert cnn.gflop("small", 10) == pytest.approx(10 * per_image / 1e9)


def test_the_engine_is_held_against_every_setting(
    hurried: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """A clock in place of the time: the second setting is the fastest, by half."""
    choices = settings(torch.device("cpu"))
    milliseconds = dict(zip(choices, (64.0, 32.0, 96.0, 128.0)))

    def choose(model, batch, objective, given):  # type: ignore[no-untyped-def]
        return choices[1], {}

    monkeypatch.setattr(config, "RESULTS_DIR", str(tmp_path))
    monkeypatch.setattr("sys.argv", ["benchmarks", "engine"])
    monkeypatch.setattr(benchmarks_main, "available_threads", lambda: 1)
    monkeypatch.setattr(engine, "find_device", lambda: (torch.device("cpu"), ""))
    monkeypatch.setattr(engine, "CASES", [("thin8", lambda: thin_resnet(8), 32)])
    monkeypatch.setattr(engine, "choose", choose)
    monkeypatch.setattr(
        engine, "training_step", lambda model, batch, objective, setting: lambda: setting
    )
    monkeypatch.setattr(engine, "seconds", lambda step, device: milliseconds[step()] / 1e3)
    assert benchmarks_main.main() == 0
    rows = json.loads((tmp_path / "benchmarks" / "engine.json").read_text())["rows"]
    assert [row["case"] for row in rows] == [
        "thin8 batch 32 float32 NCHW", "thin8 batch 32 float32 NHWC, chosen",
        "thin8 batch 32 bfloat16 NCHW", "thin8 batch 32 bfloat16 NHWC",
    ]  # fmt: skip
    assert [row["torch_ms"] for row in rows] == pytest.approx([2, 1, 3, 4])
    assert [row["ratio"] for row in rows] == pytest.approx([1 / 2, 1, 1 / 3, 1 / 4])


def test_every_setting_of_the_engine_is_timed_on_real_steps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine, "ROUNDS", 1)
    choices = [Setting(torch.device("cpu"), channels_last=last) for last in (False, True)]
    chosen, times = engine.measure(thin_resnet(8), 2, choices)
    assert chosen in choices and list(times) == choices
    assert all(ms.shape == (1,) and ms[0] > 0 for ms in times.values())
