"""The experiments on toy sets and functions, run whole on tiny budgets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from section1 import parallel
from section1.activations import ACTIVATIONS
from section1.experiments._functions import tanh_units
from section1.experiments.activation_functions import value_and_slope, where
from tests.runs import small_run
from utils.errors import UserError
from utils.experiments import runner
from utils.experiments.results import Result

RunTiny = Callable[..., Result]


def test_activation_functions(run_tiny: RunTiny) -> None:
    result = run_tiny("activation_functions", "--set", "seeds=2", "--samples", "100")
    assert [row[0] for row in result.tables["activations"].rows] == list(ACTIVATIONS)
    assert result.metrics["relu_stopped"] == pytest.approx(0.5, abs=0.01)
    assert result.metrics["identity_stopped"] == 0
    assert result.metrics["sigmoid_largest_slope"] == pytest.approx(0.25)
    assert "relu stops" in result.answer and "sigmoid is at most 0.25" in result.answer


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slopes_are_those_of_the_values(name: str) -> None:
    x = np.linspace(-3, 3, 13) + 0.1  # no kink among them
    _, slope = value_and_slope(name, x)
    higher, lower = value_and_slope(name, x + 1e-6)[0], value_and_slope(name, x - 1e-6)[0]
    np.testing.assert_allclose(slope, (higher - lower) / 2e-6, atol=1e-7)


def test_intervals_in_words() -> None:
    chosen = np.zeros(1001, bool)
    assert where(chosen) == "nowhere"
    chosen[:101] = chosen[400:500] = chosen[800] = chosen[900:] = True
    assert where(chosen) == "x < -4, -1 < x < 0, x near 3, x > 4"


def test_xor_needs_a_hidden_layer(run_tiny: RunTiny) -> None:
    result = run_tiny("xor", "--set", "seeds=3", "--set", "hidden=8", "--epochs", "300")
    assert result.metrics["solved_0"] == 0
    assert result.metrics["solved_8"] == 1


def test_decision_boundaries(run_tiny: RunTiny) -> None:
    result = run_tiny(
        "decision_boundaries", "--set", "seeds=2", "--set", "shapes=0,16", "--epochs", "20"
    )
    for name in ("moons", "circles", "spirals", "swiss_roll"):
        for score in ("0_train", "0_test", "16_train", "16_test"):
            assert 0 <= result.metrics[f"{name}_{score}"] <= 1
        assert result.metrics[f"{name}_16_test"] > result.metrics[f"{name}_0_test"]
    assert result.metrics["circles_0_test"] < 0.7 < 0.9 < result.metrics["circles_16_test"]
    assert result.arrays["swiss_roll_16"].shape[-1] == 4


def test_decision_boundaries_of_one_seed_without_a_linear_model(run_tiny: RunTiny) -> None:
    result = run_tiny(
        "decision_boundaries", "--set", "seeds=1", "--set", "shapes=3-2", "--epochs", "1"
    )
    assert "none" in result.answer  # nothing is separated after one epoch, and it says so


def test_universal_approximation(run_tiny: RunTiny) -> None:
    result = run_tiny(
        "universal_approximation", "--set", "seeds=2", "--set", "widths=2,32",
        "--set", "targets=sines,step", "--epochs", "40", "--samples", "400",
    )  # fmt: skip
    assert result.headline == "fold_2_to_32"
    errors = result.arrays["sines_errors"]  # (seeds, widths)
    assert (errors[:, 1] < errors[:, 0] / 3).all()
    assert result.metrics["fold_2_to_32"] == pytest.approx(result.metrics["fold_2_to_32_sines"])
    assert "less: " in result.answer and "step" in result.answer
    np.testing.assert_allclose(result.curves["sines"].y, errors.mean(axis=0))


def test_universal_approximation_falls_tenfold(run_tiny: RunTiny) -> None:
    result = run_tiny(
        "universal_approximation", "--set", "seeds=1", "--set", "widths=2,64",
        "--set", "targets=sines", "--set", "targets_2d=saddle",
    )  # fmt: skip
    assert result.metrics["fold_2_to_64_sines"] > 10


def test_bends_are_spread_over_the_square() -> None:
    model = tanh_units(2, 64, np.random.default_rng(0))
    weight, bias = (parameter.value for parameter in model.parameters()[:2])  # (2, 64), (64,)
    distance = np.abs(bias) / np.linalg.norm(weight, axis=0)  # of each bend from the centre
    np.testing.assert_allclose(np.linalg.norm(weight, axis=0), 8, rtol=1e-5)
    assert distance.max() <= 2**0.5 and 0.3 < distance.mean() < 0.7


def test_regression(run_tiny: RunTiny) -> None:
    result = run_tiny("regression", "--set", "seeds=2", "--samples", "10,200", "--epochs", "60")
    metrics = result.metrics
    assert metrics["train_10"] < metrics["noise_floor"] < metrics["test_200"]
    assert metrics["test_200"] < metrics["test_10"]
    assert metrics["spread_200"] < metrics["spread_10"]
    assert "Noise is fitted" in result.answer and "with 10 samples" in result.answer
    assert result.curves["validation_10"].n == 2
    assert result.arrays["fits_200"].shape == (2, 401)


def test_noise_of_zero_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="noise must be above 0"):
        runner.compute(small_run("regression", tmp_path, {"noise": 0.0}))


@pytest.mark.parametrize(
    ("name", "budget"),
    [
        ("xor", {"hidden": [2]}),
        ("decision_boundaries", {"shapes": ["0"], "samples": 40}),
        ("universal_approximation", {"widths": [2], "targets": ["sines"], "targets_2d": ["bumps"]}),
        ("regression", {"samples": [8]}),
    ],
)
def test_no_more_threads_than_asked_for(
    name: str, budget: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never() -> int:
        raise AssertionError("all cores were taken, where one thread was asked for")

    monkeypatch.setattr(parallel, "available_threads", never)
    runner.compute(small_run(name, tmp_path, {"seeds": 1, "epochs": 1, **budget}, threads=1))


def test_regression_with_one_seed(run_tiny: RunTiny) -> None:
    result = run_tiny("regression", "--set", "seeds=1", "--samples", "20", "--epochs", "2")
    assert result.curves["test"].std is None
    assert "spread_20" not in result.metrics
