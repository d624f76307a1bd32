"""The experiments of section 3 on gradients and on speed, on tiny budgets."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from section2.experiments._account import check, check_mistake, check_whole
from section2.faults import Miswritten
from section2.gradient_check import TOLERANCE, check_layer
from section3.conv import Conv2D
from section3.conv_transpose import ConvTranspose2D
from section3.experiments import convolution_speed
from section3.experiments._checks import CONVOLUTIONS, EXAMPLES, MISTAKES, MODELS, POOLS
from section3.experiments.convolution_speed import Case, TorchServer
from section3.pooling import MaxPool2D
from tests.runs import small_run
from utils.errors import UserError
from utils.experiments import runner
from utils.experiments.results import Result

# --- cnn_gradient_checking ---------------------------------------------------------------


@pytest.mark.parametrize("cls", EXAMPLES, ids=lambda cls: cls.__name__)
def test_examples_are_right_and_lie_on_few_kinks(cls: type) -> None:
    for example in EXAMPLES[cls]:
        report = check(example, np.random.default_rng(1))
        assert report.passed and report.worst < TOLERANCE / 10, f"\n{report}"
        assert sum(row.kinks for row in report.rows) <= 2


@pytest.mark.parametrize("name", MODELS)
def test_models_are_right(name: str) -> None:
    report = check_whole(MODELS[name], np.random.default_rng(2))
    assert report.passed, f"\n{report}"


@pytest.mark.parametrize("name", MISTAKES)
def test_every_mistake_is_refused_where_it_is_one(name: str) -> None:
    layers, mistake = MISTAKES[name]
    reports = [
        check_mistake(example, np.random.default_rng(0), mistake)
        for cls, examples in EXAMPLES.items()
        if issubclass(cls, layers)
        for example in examples
    ]
    seen = [report for report in reports if report is not None]
    assert seen and not any(report.passed for report in seen)
    assert min(report.worst for report in seen) > 1e-3


@pytest.mark.parametrize(
    ("name", "geometries", "no_effect"),
    [
        ("filters not turned", CONVOLUTIONS, {"1×1"}),
        ("kernel transposed", CONVOLUTIONS, {"1×1"}),
        ("last image only", CONVOLUTIONS, set()),
        ("padding not cut", CONVOLUTIONS, {"1×1", "3×3", "dilation 2, no bias", "two groups"}),
        ("db averaged", CONVOLUTIONS, {"dilation 2, no bias"}),
        ("= for += in a pool", POOLS, {"2×2", "2×2, a row left over"}),
    ],
)
def test_where_a_mistake_is_none(name: str, geometries: dict, no_effect: set[str]) -> None:
    _, mistake = MISTAKES[name]
    rng = np.random.default_rng
    assert {g for g in geometries if check_mistake(geometries[g], rng(0), mistake) is None} == (
        no_effect
    )


def test_a_miswritten_layer_sees_what_the_layer_saw() -> None:
    """A `mistake` that is none, and makes use of all it is given, passes."""

    def by_hand(pool: MaxPool2D, x: np.ndarray, dy: np.ndarray) -> np.ndarray:
        dx = pool.backward(dy)
        assert dx is not None and dx.shape == x.shape
        return dx

    rng = np.random.default_rng(0)
    example = POOLS["3×3, stride 2"]
    layer = Miswritten(MaxPool2D(3, stride=2), by_hand)
    assert check_layer(layer, example.x(rng), rng=rng).passed
    assert check_mistake(example, rng, by_hand) is None


def test_cnn_gradient_checking(
    run_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("numpy_resnet", "mnist_cnn, batch norm, dropout"):  # slow, and checked above
        monkeypatch.delitem(MODELS, name)
    monkeypatch.setitem(EXAMPLES, Conv2D, [CONVOLUTIONS["padding 1, two channels"]])
    monkeypatch.setitem(EXAMPLES, ConvTranspose2D, EXAMPLES[ConvTranspose2D][:1])
    result = run_tiny("cnn_gradient_checking", "--mode", "quick", "--set", "seeds=1")
    metrics = result.metrics
    assert metrics["passed"] == metrics["checks"] >= 12
    assert metrics["worst_error"] <= TOLERANCE
    assert metrics["faults_refused"] == metrics["faults_planted"] > 150
    assert all(row[1] > 0 for row in result.tables["faults"].rows), "a fault was never planted"
    assert len(result.tables["geometries"].rows) == metrics["cases"]
    assert metrics["shown_at_worst"] < metrics["shown_at_best"] == 5
    assert all(row[4] == row[3] for row in result.tables["geometries"].rows)


# --- convolution_speed: no test asserts a time -------------------------------------------

TINY = ("--mode", "quick", "--set", "rounds=2", "--set", "sizes=4,2,3", "--set", "loops_up_to=3",
        "--set", "images=1", "--set", "block_ms=0.05")  # fmt: skip


def test_convolution_speed(run_tiny: Callable[..., Result]) -> None:
    result = run_tiny("convolution_speed", *TINY)
    times = result.tables["times"]
    rows = [dict(zip(times.columns, row)) for row in times.rows]
    assert {row["method"] for row in rows} == set(convolution_speed.METHODS.values())
    assert {row["size"] for row in rows if row["method"] == "loops"} == {2, 3}
    assert result.metrics["loops_size"] == 3
    for row in rows:
        assert row["repeats"] == (convolution_speed.LOOP_CALLS if row["method"] == "loops" else 2)
        assert 0 < row["lower quartile"] <= row["ms"] <= row["upper quartile"]
    methods, one_image = convolution_speed.METHODS, convolution_speed.ONE_IMAGE
    ms = {(row["layer"], row["size"], row["method"]): row["ms"] for row in rows}
    for key in ("im2col", "conv2d"):
        ratio = ms[one_image, 3, "loops"] / ms[one_image, 3, methods[key]]
        assert result.metrics[f"{key}_times_faster_than_loops"] == pytest.approx(ratio)
        shares = [
            row["ms at the peak"] / row["ms"]
            for row in rows
            if row["layer"] != one_image and row["method"] == methods[key]
        ]
        assert 0 < min(shares) == pytest.approx(result.metrics[f"{key}_share_lowest"])
        assert max(shares) == pytest.approx(result.metrics[f"{key}_share_highest"])
    assert "with 1 image, reach" in result.answer
    assert "PyTorch" in result.answer and "not be started" not in result.answer


def test_convolution_speed_without_torch(
    run_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [sys.executable, "-c", "import a_package_that_is_not_there"]
    monkeypatch.setattr(convolution_speed, "SERVER", command)
    result = run_tiny("convolution_speed", *TINY)
    assert "PyTorch could not be started" in result.answer
    assert "PyTorch" not in {row[3] for row in result.tables["times"].rows}


def test_sizes_without_any_for_loops_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="smallest of sizes must be at most 8, loops_up_to"):
        runner.compute(small_run("convolution_speed", tmp_path, {"sizes": [32, 16]}))


def test_a_server_that_dies_is_an_error() -> None:
    command = [sys.executable, "-c", "print(0, flush=True); input()"]
    with TorchServer(command) as server:
        assert server.version == "0"
        for _ in range(2):  # it ends during the first request, so before the second
            with pytest.raises(RuntimeError, match="has ended"):
                server.seconds(Case("a layer", 1, 4, 1, 1), 1)
            server.process.wait()


@pytest.mark.parametrize(
    "case", [Case("odd", 2, 5, 3, 4), Case("wide", 1, 6, 2, 3, kernel=5, stride=2)]
)
def test_all_ways_to_compute_a_convolution_agree(case: Case) -> None:
    functions = convolution_speed.calls(case, np.random.default_rng(0))
    loops, *others = (call() for call in functions.values())
    for arrays in others:
        for array, expected in zip(arrays, loops, strict=True):
            np.testing.assert_allclose(array, expected, rtol=1e-4, atol=1e-4)


def test_work_is_counted_by_the_places_of_the_output() -> None:
    case = Case("a layer", 2, 5, 3, 4, kernel=3, stride=2)
    conv = Conv2D(3, 4, 3, stride=2, padding=1, rng=np.random.default_rng(0))
    y = conv(np.zeros((2, 5, 5, 3), np.float32))
    assert case.gflop * 1e9 == pytest.approx(3 * 2 * y.size * conv.weight.value[..., 0].size)
