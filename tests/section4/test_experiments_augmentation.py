"""The comparison of augmentations: what it says follows from the numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from section4.experiments import augmentation_study as study
from section4.images import Change
from tests.runs import small_run
from utils.experiments import runner
from utils.experiments.results import Result, Table
from utils.experiments.run import Run

CPU = ("--device", "cpu", "--precision", "float32", "--data", "embedded", "--mode", "quick")


def small(folder: Path, **changes: Any) -> Run:
    sizes = {"samples": [20, 40], "epochs": 1, "width": 4, "seeds": 1}
    return small_run("augmentation_study", folder, sizes | changes)


def two_arms(classes: int, side: int) -> dict[str, Change | None]:
    return {"none": None, "darker": lambda x, y: (x / 2, y)}


def test_augmentation_study(
    run_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "SHOWN", 2)
    budget = ("--samples", "30,60", "--epochs", "1", "--set", "width=4", "--set", "seeds=2")
    result = run_tiny("augmentation_study", *CPU, *budget)
    rows = result.tables["augmentations"].rows
    assert [row[0] for row in rows] == [27] * 12 + [54] * 12
    assert result.arrays["test_accuracy"].shape == (2, 12, 2)
    assert result.arrays["pictures"].shape == (12, 2, 32, 32, 3)
    assert result.metrics["none_27_gain"] == result.metrics["none_54_gain"] == 0
    for number, row in enumerate(rows):
        size, arm = divmod(number, 12)
        assert row[4] == pytest.approx(result.arrays["test_accuracy"][size, arm].mean())
        assert row[6] == pytest.approx(row[2] - row[4])
        assert row[7] == pytest.approx(row[4] - rows[12 * size][4])
        assert row[8] > 0 and row[9] == 2
    assert "Training was short" in result.answer and "n = 2" in result.answer
    assert list(result.tables) == ["augmentations"]  # captions are no table of the report
    captions = dict(zip([row[1] for row in rows], result.arrays["captions"].tolist()))
    assert all(captions["none"]) and not any(captions["flip"])
    assert all("%" in words for arm in ("mixup", "cutmix", "combined") for words in captions[arm])


def test_what_is_done_is_kept_and_all_arms_start_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the third training; an arm that changes nothing gets what "none" gets."""
    monkeypatch.setattr(study, "arms", lambda *_: {"none": None, "same": lambda x, y: (x, y)})
    monkeypatch.setattr(study, "GROUP", 1)
    whole = runner.compute(small(tmp_path / "whole"))
    scores, calls = study.scores, list[int]()

    def stop(*words: Any) -> list[float]:
        calls.append(words[3])
        if len(calls) == 3:
            raise KeyboardInterrupt
        return scores(*words)

    monkeypatch.setattr(study, "scores", stop)
    with pytest.raises(KeyboardInterrupt):
        runner.compute(small(tmp_path / "cut"))
    kept = list((tmp_path / "cut").rglob("18_*.json"))
    assert len(kept) == 2 and len(json.loads(kept[0].read_text(encoding="utf-8"))) == 2
    rest = runner.compute(small(tmp_path / "cut"))
    assert calls == [18, 18, 36, 36, 36]
    assert rest.metrics == whole.metrics and rest.tables == whole.tables
    test = whole.arrays["test_accuracy"]
    np.testing.assert_array_equal(test[:, 0], test[:, 1])


def test_both_sets_are_gone_through_in_the_same_number_of_steps() -> None:
    x, y = torch.arange(10)[:, None], torch.arange(10)
    images, labels = study.first_rows((x, y), 4)
    assert labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert images[:, 0].tolist() == labels.tolist()


def test_one_size_and_one_seed_say_what_they_cannot_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "arms", two_arms)
    result = runner.compute(small(tmp_path, samples=[20]))
    assert study.ALONE in result.answer
    assert result.tables["augmentations"].rows[1][8] is None
    title = study.draw(result)["comparison"].get_suptitle()
    assert title.startswith("On average over 1 augmentation the gain in test accuracy is ")


@pytest.mark.parametrize(
    ("freedom", "two_sided", "published"),
    [
        (10, 0.95, 2.228), (12, 0.95, 2.179), (24, 0.95, 2.064), (24, 0.99, 2.797),
        (60, 0.99, 2.660), (12, 1 - 0.05 / 11, 3.480), (24, 1 - 0.05 / 11, 3.130),
    ],
)  # fmt: skip
def test_quantiles_of_student(freedom: int, two_sided: float, published: float) -> None:
    assert study.student((1 + two_sided) / 2, freedom) == pytest.approx(published, abs=1.5e-3)


def test_by_chance_an_arm_differs_in_at_most_one_of_twenty_studies() -> None:
    rng = np.random.default_rng(0)
    gain, margin = study.gains(rng.normal(0.5, 0.01, (2000, 12, 3)))
    assert 0.02 < (abs(gain) > margin[:, None]).any(axis=1).mean() < 0.06


def test_the_verdict_follows_from_the_numbers() -> None:
    names = ["flip", "crop", "mixup"]
    assert study.verdict(names, np.array([0.05, -0.03, 0.001]), 0.02) == (
        "this is raised by flip (+5.0), lowered by crop (-3.0) points; "
        "within the noise of seeds: 1 of 3"
    )
    assert study.verdict(names, np.array([0.05, 0.03, 0.001]), 0.02) == (
        "this is raised by flip (+5.0) and crop (+3.0) points; within the noise of seeds: 1 of 3"
    )
    assert study.verdict(names, np.array([-0.05, -0.03, -0.04]), 0.02) == (
        "this is lowered by crop (-3.0), mixup (-4.0) and flip (-5.0) points"
    )
    assert "none of 3" in study.verdict(names, np.array([0.01, 0.01, -0.01]), 0.02)
    assert study.verdict(names, np.array([0.5, 0, 0]), np.inf) == study.ALONE
    noise = np.array([-0.01, 0, 0.01])
    for few, many, said in (
        (0.1, 0.0, "larger from the smallest set than from the largest"),
        (0.0, 0.1, "larger from the largest set than from the smallest"),
        (0.0, 0.001, "no difference between the sets beyond the noise of seeds"),
    ):
        test = np.stack([[0.4 + noise, 0.4 + mean + noise[::-1]] for mean in (few, many)])
        gained, where = study.by_size([10, 90], test)
        assert where == said and gained[0] == f"{100 * few:+.1f} points from 10"


def test_training_images_need_not_be_ahead() -> None:
    test = np.full((1, 3, 2), 0.5)
    learnt = test + np.array([-0.001, -0.02, -0.02])[:, None]
    said = study.words([20], ["none", "flip", "crop"], learnt, test, 1)
    assert "minus test accuracy is +0 points without, and -2 on average with aug" in said
    assert said.endswith("(1 step each, n = 2)")


def test_more_sizes_than_there_are_markers_are_drawn() -> None:
    sizes, names = range(10, 19), ["none", "flip", "crop", "mixup"]
    rows = [[size, name] for size in sizes for name in names]
    tables = {"augmentations": Table(["images", "augmentation"], rows)}
    test = np.stack([[[0.5, 0.51], [0.6, 0.61], [0.4, 0.41], [0.4, 0.41]]] * len(sizes))
    arrays = {"training_accuracy": test, "test_accuracy": test}
    arrays |= {"pictures": np.zeros((4, 1, 4, 4, 3)), "captions": np.full((4, 1), "")}
    result = Result("", "steps", {"steps": 1}, {}, tables, arrays)
    title = study.draw(result)["comparison"].get_suptitle()
    assert title.endswith(
        "those that raise it beyond noise: 1, 1, 1, 1, 1, 1, 1, 1 and 1, "
        "that lower it: 2, 2, 2, 2, 2, 2, 2, 2 and 2"
    )
