"""Checkpoints: a killed run goes on as if nothing had happened, and bad files are refused."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from section1 import checkpoint
from section1.losses import SoftmaxCrossEntropy
from section1.sgd import SGD
from section1.training import History, accuracy, fit
from section2.models import fully_connected_net
from section2.muon import Muon
from section2.optimizers import Adam, Momentum, clip_gradient_norm
from section2.schedules import cosine

EPOCHS = 4
SHUFFLED = np.random.default_rng(7)
X = SHUFFLED.standard_normal((90, 6)).astype(np.float32)
Y = SHUFFLED.integers(0, 3, 90)


class Killed(Exception):
    pass


def make(
    kind: Any = Adam,
    sizes: Any = (6, 12, 12, 3),
    activation: str = "relu",
    seed: int = 0,
    **options: Any,
) -> Any:
    rng = np.random.default_rng(seed)
    options = {"batchnorm": True, "dropout": 0.3} | options
    model = fully_connected_net(sizes, activation, rng=rng, **options)
    return model, kind(model.parameters(), 0.05)


def train(
    model: Any,
    optimizer: Any,
    seed: int = 1,
    rng: np.random.Generator | None = None,
    epochs: int = EPOCHS,
    lr: float = 0.05,
    **options: Any,
) -> Any:
    return fit(
        model,
        SoftmaxCrossEntropy(),
        optimizer,
        (X[:60], Y[:60]),
        epochs=epochs,
        batch_size=25,
        rng=rng or np.random.default_rng(seed),
        validation=(X[60:], Y[60:]),
        schedule=cosine(lr, 12),
        on_gradients=lambda: clip_gradient_norm(model.parameters(), 1.0),
        **options,
    )


def everything(model: Any, optimizer: Any) -> list[np.ndarray]:
    arrays = [p.value for p in model.parameters()] + model.buffers()
    return arrays + [array for kind in optimizer.state for array in kind]


def without_time(history: History) -> dict:
    return {name: numbers for name, numbers in vars(history).items() if name != "seconds"}


@pytest.mark.parametrize("kind", [SGD, Momentum, Adam, Muon])
@pytest.mark.parametrize("killed_after", [1, 3])
@pytest.mark.parametrize("options", [{}, {"batchnorm": False}], ids=["whole", "cut"])
def test_a_resumed_run_ends_as_the_uninterrupted_one(
    tmp_path: Path, kind: Any, killed_after: int, options: dict
) -> None:
    model, optimizer = make(kind, **options)
    cut: dict = {"micro_batch": 7}
    history = train(model, optimizer, **cut)

    def kill(history: History) -> None:
        if len(history.loss) == killed_after:
            raise Killed

    with pytest.raises(Killed):
        train(*make(kind, **options), on_epoch=kill, checkpoints=tmp_path, **cut)
    # other weights, other dropout seeds, another order: all of it comes from the checkpoint
    other, resumed = make(kind, seed=5, **options)
    rest = train(other, resumed, seed=6, checkpoints=tmp_path, resume=True, threads=1, **cut)
    assert resumed.steps == optimizer.steps == 3 * EPOCHS
    assert resumed.lr == optimizer.lr
    assert without_time(rest) == without_time(history)
    assert rest.seconds == sorted(rest.seconds) and len(rest.seconds) == EPOCHS
    for ours, theirs in zip(everything(model, optimizer), everything(other, resumed)):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("bits", ["PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64"])
def test_every_kind_of_random_numbers_goes_on(tmp_path: Path, bits: str) -> None:
    model, optimizer = make(SGD)
    rng, other = (np.random.Generator(getattr(np.random, bits)(seed)) for seed in (1, 2))
    rng.random(3, np.float32)
    checkpoint.save(tmp_path / "a.npz", model, optimizer, rng, {})
    checkpoint.load(tmp_path / "a.npz", model, optimizer, other)
    np.testing.assert_array_equal(other.random(9, np.float32), rng.random(9, np.float32))
    np.testing.assert_array_equal(other.permutation(900), rng.permutation(900))


def test_a_run_that_is_finished_is_not_repeated(tmp_path: Path) -> None:
    model, optimizer = make()
    history = train(model, optimizer, checkpoints=tmp_path, resume=True)  # nothing there yet
    before = [array.copy() for array in everything(model, optimizer)]
    again = train(model, optimizer, checkpoints=tmp_path, resume=True)
    assert vars(again) == vars(history)
    for old, new in zip(before, everything(model, optimizer)):
        np.testing.assert_array_equal(old, new)


@pytest.mark.skipif(os.name == "nt", reason="Windows has other permissions")
def test_others_may_read_a_checkpoint(tmp_path: Path) -> None:
    model, optimizer = make()
    train(model, optimizer, epochs=1, checkpoints=tmp_path)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o644}


@pytest.mark.parametrize("metric", [accuracy, None])
def test_best_is_the_best_epoch_on_the_validation_data(tmp_path: Path, metric: Any) -> None:
    seen = []
    model, optimizer = make()

    def keep(history: History) -> None:
        seen.append([array.copy() for array in everything(model, optimizer)])

    history = train(model, optimizer, epochs=6, checkpoints=tmp_path, on_epoch=keep, metric=metric)
    scores = history.val_metric if metric else [-loss for loss in history.val_loss]
    best = int(np.argmax(scores))
    for name, epoch in (("best.npz", best), ("last.npz", 5)):
        loaded = checkpoint.load(tmp_path / name, model, optimizer, np.random.default_rng())
        assert len(loaded["loss"]) == epoch + 1
        for ours, theirs in zip(everything(model, optimizer), seen[epoch]):
            np.testing.assert_array_equal(ours, theirs)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.npz", "last.npz"]


def test_newest_is_best() -> None:
    assert not History().newest_is_best()
    assert History(val_metric=[0.5], val_loss=[9.0]).newest_is_best()
    assert not History(val_metric=[0.5, 0.5], val_loss=[9.0, 1.0]).newest_is_best()
    assert History(val_metric=[np.nan, np.nan], val_loss=[2.0, 1.0]).newest_is_best()
    assert not History(val_metric=[np.nan], val_loss=[np.nan]).newest_is_best()


# --- what goes wrong ---------------------------------------------------------------------


def test_a_loss_that_is_not_a_number_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    model, optimizer = make(SGD)
    train(model, optimizer, epochs=2, checkpoints=tmp_path)
    good = (tmp_path / "last.npz").read_bytes()
    with (
        np.errstate(all="ignore"),
        pytest.raises(FloatingPointError, match=r"epoch 3, step \d+, at learning rate .*e\+"),
    ):
        train(model, optimizer, lr=1e300, checkpoints=tmp_path, resume=True, threads=1)
    assert (tmp_path / "last.npz").read_bytes() == good


def test_weights_that_are_not_numbers_are_not_saved(tmp_path: Path) -> None:
    model, optimizer = make()
    rng, path = np.random.default_rng(0), tmp_path / "last.npz"
    checkpoint.save(path, model, optimizer, rng, {})
    good = path.read_bytes()
    model.parameters()[0].value[0, 0] = np.nan
    with pytest.raises(FloatingPointError, match=r"last.npz was left as it was"):
        checkpoint.save(path, model, optimizer, rng, {})
    assert path.read_bytes() == good and len(list(tmp_path.iterdir())) == 1


def test_a_write_that_fails_leaves_the_old_file_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, optimizer = make()
    rng, path = np.random.default_rng(0), tmp_path / "last.npz"
    checkpoint.save(path, model, optimizer, rng, {})
    good = path.read_bytes()

    def full(file: Any, **arrays: Any) -> None:
        file.write(b"half of it")
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(path, model, optimizer, rng, {})
    assert path.read_bytes() == good and len(list(tmp_path.iterdir())) == 1


@pytest.fixture
def saved(tmp_path: Path) -> Any:
    model, optimizer = make()
    train(model, optimizer, epochs=1, checkpoints=tmp_path)
    return tmp_path / "last.npz"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"sizes": (6, 12, 11, 3)}, r"another model: weight \d+ is float32 \(12, 12\), here"),
        ({"sizes": (6, 12, 3)}, "another model: Sequential Linear"),
        ({"activation": "tanh"}, "another model: .*ReLU.*, here .*Tanh"),
        ({"batchnorm": False}, "another model"),
        ({"dtype": np.float64}, "another model: weight 0 is float32.*here float64"),
        ({"kind": Momentum}, "another optimizer: Adam, here Momentum"),
        (
            {"kind": lambda parameters, lr: Adam(parameters, lr, amsgrad=True)},
            "another model: only one of the two has state 2 of 0",
        ),
        (
            {"kind": lambda parameters, lr: Adam(parameters, lr, betas=(0.8, 0.999))},
            r"setting of the optimizer: .*betas=\(0.9, .*, here .*betas=\(0.8, ",
        ),
        (
            {"kind": lambda parameters, lr: Adam(parameters, lr, weight_decay=0.1)},
            r"weight_decay=0.0.*, here .*weight_decay=0.1",
        ),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_and_changes_nothing(
    saved: Path, options: dict, sentence: str
) -> None:
    model, optimizer = make(**options)
    before = [array.copy() for array in everything(model, optimizer)]
    with pytest.raises(ValueError, match=sentence):
        train(model, optimizer, checkpoints=saved.parent, resume=True)
    for old, new in zip(before, everything(model, optimizer)):
        np.testing.assert_array_equal(old, new)
    assert optimizer.steps == 0


def test_a_checkpoint_that_does_not_say_its_settings_is_refused(saved: Path) -> None:
    with np.load(saved) as archive:
        arrays = dict(archive)
    facts = json.loads(str(arrays["facts"]))
    del facts["setting of the optimizer"]
    arrays["facts"] = np.array(json.dumps(facts))
    np.savez(saved, **arrays)
    model, optimizer = make()
    with pytest.raises(ValueError, match="another setting of the optimizer: None, here Adam"):
        checkpoint.load(saved, model, optimizer, np.random.default_rng())


def test_settings_of_another_type_are_the_same(saved: Path) -> None:
    betas = tuple(np.array([0.9, 0.999]))
    model, optimizer = make(lambda parameters, lr: Adam(parameters, lr, betas, weight_decay=0))
    checkpoint.load(saved, model, optimizer, np.random.default_rng())


def test_other_random_numbers_are_refused(saved: Path) -> None:
    rng = np.random.Generator(np.random.MT19937(0))
    model, optimizer = make()
    with pytest.raises(ValueError, match="kind of random numbers: PCG64, here MT19937"):
        train(model, optimizer, rng=rng, checkpoints=saved.parent, resume=True)


def test_a_file_cut_short_or_damaged_is_refused(saved: Path) -> None:
    whole = saved.read_bytes()
    model, optimizer = make()
    for length in (0, 1, 10, 200, len(whole) // 2, len(whole) - 30, len(whole) - 1):
        saved.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"last.npz is not a checkpoint, or one cut short"):
            checkpoint.load(saved, model, optimizer, np.random.default_rng())
    place = whole.index(model.parameters()[0].value.dtype.str.encode()) + 200
    saved.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
    with pytest.raises(ValueError, match="cut short"):
        checkpoint.load(saved, model, optimizer, np.random.default_rng())


def test_other_files_are_refused(tmp_path: Path) -> None:
    model, optimizer = make()
    rng, path = np.random.default_rng(), tmp_path / "last.npz"
    np.savez(path, weights=np.zeros(3))
    with pytest.raises(ValueError, match="not a checkpoint"):
        checkpoint.load(path, model, optimizer, rng)
    np.savez(path, facts=np.array([{"format": 1}], dtype=object))  # a pickle
    with pytest.raises(ValueError, match="not a checkpoint"):
        checkpoint.load(path, model, optimizer, rng)
    np.savez(path, facts=np.array('{"format": 99}'))
    with pytest.raises(ValueError, match="format 99"):
        checkpoint.load(path, model, optimizer, rng)
    with pytest.raises(FileNotFoundError):
        checkpoint.load(tmp_path / "none.npz", model, optimizer, rng)
    with pytest.raises(ValueError, match="resume=True needs checkpoints"):
        train(model, optimizer, resume=True)
