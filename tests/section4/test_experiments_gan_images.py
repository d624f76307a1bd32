"""The experiments on GANs for images, small: what they measure, keep, take over and survive."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from section4.experiments import (
    _gan_training,
    _gans,
    _gans_drawn,
    _vision,
    conditional_gan,
    gan_variants,
    latent_space,
)
from section4.experiments._gan_training import VARIANTS
from tests.runs import assert_same_result, small_run
from utils.errors import UserError
from utils.experiments import runner
from utils.experiments.results import Curve, Result
from utils.output import plots

SMALL: dict[str, Any] = {
    "samples": 400, "held_out": 40, "judged": 40, "judge_epochs": 1, "steps": 4, "looks": 2,
    "batch_size": 16, "noise": 6, "widths": [4, 3],
}  # fmt: skip
SIZES = [
    word
    for key, value in (SMALL | {"widths": "4,3"}).items()
    for word in ("--set", f"{key}={value}")
]
WORDS = ("--mode", "quick", "--data", "embedded", "--device", "cpu", "--threads", "1", *SIZES)


def run(name: str, folder: Path, **changes: Any) -> Result:
    return runner.compute(small_run(name, folder, SMALL | changes))


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """(who was trained, whether there was a checkpoint to start from), in their order."""
    seen = list[tuple[str, bool]]()

    def watch(module: Any, who: Callable[..., str]) -> None:
        fit = module.fit

        def watched(*parts: Any, **options: Any) -> Any:
            seen.append((who(*parts), (options["checkpoints"] / "last.pt").exists()))
            return fit(*parts, **options)

        monkeypatch.setattr(module, "fit", watched)

    watch(_gan_training, lambda *_: "generator")
    watch(_vision, lambda *_: "judge")
    return seen


def test_every_variant_is_trained_measured_and_drawn(run_tiny: Callable[..., Result]) -> None:
    result = run_tiny("gan_variants", *WORDS, "--set", "seeds=2")
    rows = result.tables["variants"].rows
    assert [row[0] for row in rows] == [*(v.label for v in VARIANTS.values()), "real digits"]
    assert [row[-2:] for row in rows[:-1]] == [[2, 0]] * len(VARIANTS)
    assert all(len(row) == len(result.tables["variants"].columns) for row in rows)
    for name in VARIANTS:
        assert result.arrays[f"{name}_samples"].shape == (2, 16, 28, 28, 1)
        assert result.curves[f"{name}_distance"].x == [2, 4]
        assert result.curves[f"{name}_generator_loss"].x == [1, 2, 3, 4]
        assert result.metrics["real_frechet_distance"] < result.metrics[f"{name}_frechet_distance"]
    assert result.metrics["best_frechet_distance"] >= 0


def test_the_other_two_are_drawn(run_tiny: Callable[..., Result]) -> None:
    result = run_tiny("latent_space", *WORDS, "--set", "compared=20")
    assert "trained here" in result.answer  # no training of gan_variants was there to be taken
    for space in latent_space.SPACES:
        assert result.arrays[f"{space}_samples"].shape == (20,)
        assert len(np.unique(result.arrays[f"{space}_shown"], axis=0)) == latent_space.SHOWN
    told = run_tiny("conditional_gan", *WORDS)
    counts = told.arrays["confusion"]
    assert counts.sum(axis=1).tolist() == [4] * 10
    assert told.metrics["as_asked"] == np.trace(counts) / 40
    assert told.arrays["grid"].shape == (10, conditional_gan.COLUMNS, 28, 28, 1)


@pytest.mark.usefixtures("one_setting")
def test_a_comparison_that_is_stopped_goes_on_and_ends_with_the_same_numbers(
    tmp_path: Path, stop_at: Callable[[int], list[str]]
) -> None:
    whole = run("gan_variants", tmp_path / "whole", seeds=1)
    notes = stop_at(1 + 3)  # the judge has one epoch; then after the first look at the second
    with pytest.raises(KeyboardInterrupt):
        run("gan_variants", tmp_path / "cut", seeds=1)
    rest = run("gan_variants", tmp_path / "cut", seeds=1)
    assert len(notes) == 1 + 2 * len(VARIANTS)
    assert_same_result(rest, whole)


@pytest.mark.usefixtures("one_setting")
def test_what_one_experiment_has_trained_others_use(
    tmp_path: Path, fits: list[tuple[str, bool]]
) -> None:
    variants = run("gan_variants", tmp_path, seeds=1)
    assert fits == [("judge", False), *[("generator", False)] * len(VARIANTS)]
    fits.clear()
    taken = run("latent_space", tmp_path, compared=20)
    assert fits == [("judge", True), ("generator", True)]
    assert "trained here" not in taken.answer
    best = min(VARIANTS, key=lambda name: variants.curves[f"{name}_distance"].y[-1])
    assert f"({VARIANTS[best].label} seed 0)" in taken.answer
    fits.clear()
    other = run("latent_space", tmp_path, compared=20, lr=0.001)  # the judge is the same
    assert fits == [("judge", True), ("generator", False)]
    assert "trained here" in other.answer
    fits.clear()
    run("conditional_gan", tmp_path, judge_epochs=2)
    assert fits == [("judge", False), ("generator", False)]


@pytest.mark.usefixtures("one_setting")
def test_a_variant_that_diverges_is_reported_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = _gan_training.fit

    def diverge(*parts: Any, **options: Any) -> Any:
        """The second training, after its first look."""
        if options["checkpoints"].name == "lsgan_1":
            fit(*parts, **options | {"epochs": 1})
            raise FloatingPointError("the training diverged: a loss is 1e+09")
        return fit(*parts, **options)

    monkeypatch.setattr(_gan_training, "fit", diverge)
    result = run("gan_variants", tmp_path, seeds=2)
    rows = {row[0]: row for row in result.tables["variants"].rows}
    assert rows["LSGAN"][-2:] == [1, 1] and rows["standard"][-2:] == [2, 0]
    assert result.tables["diverged"].rows == [["LSGAN", "the training diverged: a loss is 1e+09"]]
    assert "LSGAN diverged in 1 of 2 trainings" in result.answer
    place = tmp_path / "section4/gan_variants/checkpoints/quick/lsgan_1"
    assert (place / "last.pt").exists() and not (place / "recipe.json").exists()
    assert gan_variants.draw(result)


@pytest.mark.usefixtures("one_setting")
@pytest.mark.parametrize("lost", ["lsgan", "mlp"])
def test_a_variant_of_which_every_training_diverges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    fit = _gan_training.fit

    def diverge(*parts: Any, **options: Any) -> Any:
        if options["checkpoints"].name.startswith(lost):
            raise FloatingPointError("the training diverged")
        return fit(*parts, **options)

    monkeypatch.setattr(_gan_training, "fit", diverge)
    result = run("gan_variants", tmp_path, seeds=1)
    row = next(row for row in result.tables["variants"].rows if row[0] == VARIANTS[lost].label)
    assert row[-2:] == [0, 1] and row[1] is None
    assert f"{lost}_frechet_distance" not in result.metrics
    assert gan_variants.draw(result).keys() == {"samples", "distance", "quality", "losses"}


@pytest.mark.usefixtures("one_setting")
def test_when_nothing_is_left_to_compare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(*parts: Any, **options: Any) -> Any:
        raise FloatingPointError("the training diverged")

    monkeypatch.setattr(_gan_training, "fit", diverge)
    with pytest.raises(UserError, match="every training diverged: take a smaller learning rate"):
        run("gan_variants", tmp_path, seeds=1)
    for name in ("latent_space", "conditional_gan"):
        with pytest.raises(UserError, match="the training diverged"):
            run(name, tmp_path)


# --- parts -----------------------------------------------------------------------------------


def test_batches_go_on_where_the_last_look_ended(tmp_path: Path) -> None:
    """Whatever the number of looks, the same images in the same order."""

    def images(looks: int) -> torch.Tensor:
        small = small_run("gan_variants", tmp_path, SMALL | {"steps": 60, "looks": looks})
        digits = _gans.load_digits(small)
        batches = digits.batches(digits.train, 16, _gan_training.PLAIN, seed=5)
        data = _gan_training.in_rounds(batches, 60 // looks)
        return torch.cat([x for look in range(looks) for x, _ in data(look)])

    assert len(images(1)) > 2 * 16 * 20  # more than two epochs
    torch.testing.assert_close(images(1), images(4), rtol=0, atol=0)


def test_pixels_there_and_back() -> None:
    images = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    scaled = _gans.scaled(images)
    assert scaled.min() == -1 and scaled.max() == 1
    np.testing.assert_array_equal(_gans.pictures(scaled)[..., 0], images[0])


def test_digits_are_the_same_for_all_and_none_is_in_two_parts(tmp_path: Path) -> None:
    digits = [
        _gans.load_digits(small_run(name, tmp_path, SMALL))
        for name in ("gan_variants", "conditional_gan")
    ]
    for part in ("train", "validation", "test"):
        (first, _), (second, _) = (getattr(one, part) for one in digits)
        assert torch.equal(first, second)
    learned, held_out = ({x.numpy().tobytes() for x in digits[0].train[0]},
                         {x.numpy().tobytes() for x in digits[0].validation[0]})  # fmt: skip
    assert not learned & held_out and len(digits[0].validation[0]) == 40


def test_test_images_come_in_random_order_with_their_labels(tmp_path: Path) -> None:
    run = small_run("gan_variants", tmp_path, SMALL)
    digits, whole = _gans.load_digits(run), run.load("mnist")
    x, y = digits.test
    file = _gans.as_bytes(whole.test_x)
    assert not torch.equal(x, file) and torch.equal(x, _gans.as_bytes(digits.raw))

    def pairs(images: torch.Tensor, labels: Any) -> list[tuple[bytes, int]]:
        return sorted((x.numpy().tobytes(), int(y)) for x, y in zip(images, labels))

    assert pairs(x, y) == pairs(file, whole.test_y)


@pytest.mark.usefixtures("one_setting")
@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"widths": [16, 8, 4]}, "widths: images of 28x28 cannot be halved 3 times"),
        ({"judged": 3}, "at least 10 real ones, and there are 3 for validation"),
        ({"held_out": 9}, "at least 10 real ones, and there are 9 for validation"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_a_generator_is_trained(
    tmp_path: Path, fits: list[tuple[str, bool]], change: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(UserError, match=complaint):
        run("conditional_gan", tmp_path, **change)
    assert ("generator", False) not in fits and ("widths" in change or not fits)


def test_nearest_is_that_of_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_space, "AT_ONCE", 7)
    rng = np.random.default_rng(0)
    points, cloud = rng.standard_normal((5, 3)), rng.standard_normal((30, 3))
    distance, which = latent_space.nearest(points, cloud)
    every = np.linalg.norm(points[:, None] - cloud, axis=2)
    np.testing.assert_array_equal(which, every.argmin(axis=1))
    np.testing.assert_allclose(distance, every.min(axis=1), rtol=1e-6)


def test_an_arc_keeps_to_the_sphere_and_its_ends() -> None:
    first, second = torch.randn(2, 4, 16, generator=torch.Generator().manual_seed(0))
    first, second = (5 * z / z.norm(dim=1, keepdim=True) for z in (first, second))
    torch.testing.assert_close(latent_space.arc(first, second, 0.0), first)
    torch.testing.assert_close(latent_space.arc(first, second, 1.0), second)
    middle = latent_space.arc(first, second, 0.5)
    torch.testing.assert_close(middle.norm(dim=1), torch.full((4,), 5.0))
    assert (latent_space.straight(first, second, 0.5).norm(dim=1) < 4.9).all()


def test_an_arc_between_points_on_one_line_is_that_line() -> None:
    first, second = torch.tensor([[1.0], [1.0], [2.0]]), torch.tensor([[3.0], [-1.0], [2.0]])
    torch.testing.assert_close(
        latent_space.arc(first, second, 0.25), torch.tensor([[1.5], [0.5], [2.0]])
    )


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_words_follow_the_share_of_near_copies(share: float) -> None:
    metrics: dict[str, float] = {"compared": 100}
    for space in latent_space.SPACES:
        metrics |= {f"{space}_ratio": 1.0, f"{space}_close": share}
    words = latent_space.of_copies(metrics)
    assert words.startswith("has not learned by heart" if share == 0 else "makes more near-copies")


def test_latent_space_wants_as_many_samples_as_it_shows(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="compared must be at least 12, got 5"):
        run("latent_space", tmp_path, compared=5)


@pytest.mark.parametrize(
    ("right", "said"),
    [
        ([0.5, 0.2, 0.9], "the 1 least often (20.0%)"),
        ([0.0, 0.2, 0.0], "the 0 and 2 least often (0.0%)"),
        ([1.0, 1.0, 1.0], "no digit less often than another"),
    ],
)
def test_all_digits_that_are_made_least_often_are_named(right: list[float], said: str) -> None:
    assert conditional_gan.least_often(("0", "1", "2"), np.array(right)) == said


@pytest.mark.parametrize("count", [2, 3, 9, 10, 12, 16])
def test_any_number_of_images_is_shown_as_a_square(count: int) -> None:
    _, axes = plots.grid()
    _gans_drawn.show_square(axes[0, 0], np.zeros((count, 5, 5, 1), np.uint8))
    side = int(count**0.5)
    assert axes[0, 0].images[0].get_array().shape == (5 * side, 5 * side)


def compared(**distances: list[float]) -> Result:
    """Trainings of which those of `distances` have not diverged."""
    arrays = {f"{name}_distances": np.array(distances.get(name, [])) for name in VARIANTS}
    metrics: dict[str, float] = {"seeds": 3, "steps": 1, "real_frechet_distance": 0.1}
    metrics |= {"judge_accuracy": 0.99}
    for name, runs in distances.items():
        metrics[f"{name}_frechet_distance"] = float(np.mean(runs))
        metrics[f"{name}_frechet_distance_std"] = metrics[f"{name}_training_seconds"] = 1.0
    return Result("", "steps", metrics, arrays=arrays)


def test_a_variant_within_noise_is_told_also_where_one_of_its_trainings_diverged() -> None:
    three, two, one = [1.0, 2.0, 3.0], [2.0, 3.0], [9.0]
    result = compared(standard=three, lsgan=two, sn=one)
    words = gan_variants.in_words(result.metrics, result.arrays)
    assert "after 1 step of" in words and "(no more than noise behind: LSGAN)" in words
    assert "LSGAN diverged in 1 of 3 trainings. WGAN-GP diverged in 3 of 3 trainings." in words
    names = [_gans_drawn.label_of(result, name) for name in ("standard", "lsgan", "sn")]
    assert names == ["standard", "LSGAN (n = 2)", "spectral norm (n = 1)"]


def test_few_real_digits_are_drawn_as_well() -> None:
    result = compared(standard=[1.0])
    result.curves["standard_distance"] = Curve([1], [1.0])
    result.arrays["real"] = np.zeros((48, 28, 28, 1), np.uint8)
    result.arrays |= {f"{name}_samples": np.zeros((1, 10, 28, 28, 1)) for name in VARIANTS}
    assert _gans_drawn.draw_samples(result)
