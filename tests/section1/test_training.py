"""The training loop: it learns what PyTorch learns, on any number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from section1.activations import Activation
from section1.losses import BinaryCrossEntropy, MeanSquaredError, SoftmaxCrossEntropy
from section1.mlp import MLP
from section1.parallel import Workers, available_threads, one_blas_thread
from section1.sgd import SGD
from section1.training import (
    LANES,
    Batch,
    History,
    TrainingStep,
    accuracy,
    batch_ends,
    evaluate,
    fit,
    micro_batches,
    predict,
    shuffled,
)

SIZES = [12, 16, 5]


def problem(rows: int = 200, dtype: type = np.float32) -> Batch:
    rng = np.random.default_rng(1)
    x: np.ndarray = rng.standard_normal((rows, SIZES[0])).astype(dtype)
    return x, (x @ rng.standard_normal((SIZES[0], SIZES[-1]))).argmax(axis=1)


def new_model(dtype: type = np.float32) -> MLP:
    return MLP(SIZES, "tanh", rng=np.random.default_rng(2), dtype=dtype)


def learn(
    model: MLP,
    data: Batch | Callable[[np.random.Generator], Iterator[Batch]],
    lr: float = 0.1,
    seed: int = 0,
    **settings: Any,
) -> History:
    """`fit` by plain gradient descent on the cross-entropy; `settings` go to `fit`."""
    optimizer = SGD(model.parameters(), lr)
    rng = np.random.default_rng(seed)
    return fit(model, SoftmaxCrossEntropy(), optimizer, data, rng=rng, **settings)


def weights(model: MLP) -> list[np.ndarray]:
    return [parameter.value.copy() for parameter in model.parameters()]


def assert_same(ours: list[np.ndarray], theirs: list[np.ndarray]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)


# --- learning ---------------------------------------------------------------------------


def test_fit_learns() -> None:
    x, y = problem()
    model = new_model()
    history = learn(model, (x, y), lr=0.5, epochs=30, batch_size=20, validation=(x, y))
    assert history.loss[-1] < 0.3 * history.loss[0] and history.val_metric[-1] > 0.95
    assert len(history.step_loss) == 300
    for column in (history.loss, history.metric, history.val_loss, history.seconds):
        assert len(column) == 30
    assert history.seconds == sorted(history.seconds)


def test_steps_equal_those_of_pytorch() -> None:
    x, y = problem(dtype=np.float64)
    model = new_model(np.float64)
    layers = [torch.nn.Linear(a, b, dtype=torch.float64) for a, b in zip(SIZES, SIZES[1:])]
    twin = torch.nn.Sequential(layers[0], torch.nn.Tanh(), layers[1])
    with torch.no_grad():
        for layer, weight, bias in zip(layers, weights(model)[::2], weights(model)[1::2]):
            layer.weight.copy_(torch.from_numpy(weight.T))
            layer.bias.copy_(torch.from_numpy(bias))
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.3)
    batches = list(shuffled((x, y), 64, np.random.default_rng(5)))  # the last one is smaller
    for batch_x, batch_y in batches:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(
            twin(torch.from_numpy(batch_x)), torch.from_numpy(batch_y)
        ).backward()
        optimizer.step()
    learn(model, (x, y), lr=0.3, epochs=1, batch_size=64, seed=5, micro_batch=10)
    for layer, weight, bias in zip(layers, weights(model)[::2], weights(model)[1::2]):
        np.testing.assert_allclose(weight, layer.weight.detach().numpy().T, atol=1e-12)
        np.testing.assert_allclose(bias, layer.bias.detach().numpy(), atol=1e-12)


@pytest.mark.parametrize("loss", [SoftmaxCrossEntropy(), MeanSquaredError()])
@pytest.mark.parametrize("micro_batch", [1, 7, 30, 64, 1000])
def test_a_cut_batch_has_the_gradient_of_the_whole(loss: object, micro_batch: int) -> None:
    x, y = problem(64, np.float64)
    target = y if isinstance(loss, SoftmaxCrossEntropy) else np.eye(SIZES[-1])[y]
    whole = new_model(np.float64)
    value = loss.forward(whole(x), target)  # type: ignore[attr-defined]
    whole.backward(loss.backward())  # type: ignore[attr-defined]

    model = new_model(np.float64)
    with Workers(2) as workers:
        optimizer = SGD(model.parameters(), lr=0.0)
        step = TrainingStep(model, loss, optimizer, workers, None, micro_batch)  # type: ignore[arg-type]
        for _ in range(2):  # the second step starts from zero again
            value_cut, _ = step(x, target)
    assert value_cut == pytest.approx(value, rel=1e-12)
    for a, b in zip(model.parameters(), whole.parameters()):
        np.testing.assert_allclose(a.grad, b.grad, rtol=0, atol=1e-13)


def train(threads: int | None, seed: int = 3, rows: int = 300, **options: object) -> MLP:
    model = new_model()
    learn(
        model,
        problem(rows),
        lr=0.2,
        epochs=3,
        batch_size=150,
        seed=seed,
        micro_batch=32,
        threads=threads,
        **options,
    )
    return model


def test_threads_do_not_change_a_bit() -> None:
    reference = weights(train(1))
    for threads in (1, 2, 3, 8, None):
        assert_same(weights(train(threads)), reference)
    assert any((a != b).any() for a, b in zip(weights(train(1, seed=4)), reference))


def test_a_layer_that_needs_the_whole_batch_gets_it() -> None:
    seen = []

    class Whole(Activation):
        whole_batch = True

        def forward(self, x: np.ndarray) -> np.ndarray:
            seen.append(len(x))
            return super().forward(x)

        def function(self, x: np.ndarray, y: np.ndarray) -> None:
            y[...] = x

        def slope(self, x: np.ndarray, y: np.ndarray, out: np.ndarray) -> None:
            out.fill(1)

    model = MLP(SIZES, Whole(), rng=np.random.default_rng(0))
    x, y = problem(64)
    with Workers(2) as workers:
        step = TrainingStep(
            model, SoftmaxCrossEntropy(), SGD(model.parameters(), 0.1), workers, None, 8
        )
        step(x, y)
    assert seen == [2, 64]  # two rows to measure how much memory a row takes, then the batch


class Watched(Activation):
    """y = x, which wants few rows at once, and notes what it is given."""

    micro_batch = 9
    rows: list[int] = []
    numbers: list[tuple[int, ...]] = []

    def forward(self, x: np.ndarray) -> np.ndarray:
        self.rows.append(len(x))
        return x

    def backward(self, dy: np.ndarray) -> np.ndarray:
        return dy

    def reseed(self, *numbers: int) -> None:
        self.numbers.append(numbers)


def watched_step(rows: int, micro_batch: int | None, memory: int | None = None) -> TrainingStep:
    """A step on so many rows, whose cut `Watched` has seen; and the same uncut, to compare."""
    x, y = problem(rows, np.float64)
    loss, model = SoftmaxCrossEntropy(), MLP(
        SIZES, Watched(), rng=np.random.default_rng(0), dtype=np.float64
    )  # fmt: skip
    value = loss.forward(model(x), y)
    model.backward(loss.backward())
    expected, score = [parameter.grad.copy() for parameter in model.parameters()], model(x)
    with Workers(2) as workers:
        optimizer = SGD(model.parameters(), 0.0)
        step = TrainingStep(model, loss, optimizer, workers, accuracy, micro_batch, memory=memory)
        for _ in range(2):
            Watched.rows, Watched.numbers = [], []  # the first step also measures what a row takes
            assert step(x, y) == pytest.approx((value, accuracy(score, y)), rel=1e-12)
    for parameter, grad in zip(model.parameters(), expected):
        np.testing.assert_allclose(parameter.grad, grad, rtol=0, atol=1e-13)
    assert sum(Watched.rows) == rows
    assert len(step.replicas) == min(LANES, len(Watched.rows))
    return step


@pytest.mark.parametrize(
    ("micro_batch", "sizes"), [(None, {8, 9}), (50, {50}), (1, {1}), (6, {5, 6})]
)
@pytest.mark.parametrize("rows", [50, 100])
def test_a_batch_is_cut_as_the_layers_like_it(
    micro_batch: int | None, sizes: set[int], rows: int
) -> None:
    watched_step(rows, micro_batch)
    assert set(Watched.rows) == sizes


def test_more_micro_batches_than_lanes_take_turns() -> None:
    watched_step(100, 3)
    assert len(Watched.rows) == 34 > 4 * LANES
    assert sorted(Watched.numbers) == [(1, number) for number in range(34)]  # each has its own


def test_a_batch_that_does_not_fit_into_memory_is_cut_further() -> None:
    row = watched_step(50, None).bytes_per_row
    for fitting, sizes in ((LANES * 5, {5}), (LANES * 2 - 1, {1}), (0, {1})):
        watched_step(50, None, memory=fitting * row)
        assert set(Watched.rows) == sizes


def test_schedule_sees_every_step_from_zero() -> None:
    asked: list[int] = []

    def schedule(step: int) -> float:
        asked.append(step)
        return 0.0

    before = weights(new_model())
    model = train(1, schedule=schedule)
    assert asked == list(range(6))
    assert_same(weights(model), before)  # a learning rate of 0 changes nothing


def test_the_type_of_a_schedules_numbers_changes_nothing() -> None:
    model = train(1, schedule=lambda step: np.float64(0.2))
    assert_same(weights(model), weights(train(1)))


def test_data_may_be_a_function_that_yields_batches() -> None:
    x, y = problem(40)
    seen = []

    def batches(rng: np.random.Generator) -> Iterator[Batch]:
        for k in rng.permutation(4):
            seen.append(k)
            yield x[10 * k : 10 * k + 10], y[10 * k : 10 * k + 10]

    model = new_model()
    history = learn(model, batches, epochs=2, batch_size=10)
    assert len(history.step_loss) == len(seen) == 8


def test_nothing_grows_from_step_to_step() -> None:
    x, y = problem(100)
    model = new_model()
    with Workers(2) as workers:
        step = TrainingStep(
            model, SoftmaxCrossEntropy(), SGD(model.parameters(), 0.1), workers, None, 25
        )
        step(x, y)
        kept = [
            {name: id(array) for name, array in (layer._scratch or {}).items()}
            for replica in step.replicas
            for layer in replica.model.modules()
        ]
        for _ in range(5):
            step(x, y)
        assert kept == [
            {name: id(array) for name, array in (layer._scratch or {}).items()}
            for replica in step.replicas
            for layer in replica.model.modules()
        ]
    assert model._memory is None and all(layer._memory is None for layer in model.modules())


# --- what goes wrong --------------------------------------------------------------------


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    x, y = problem(40)
    x[25] = np.nan
    model = new_model()
    with pytest.raises(FloatingPointError, match=r"nan in epoch 1, step \d, at learning rate 0.25"):
        learn(model, (x, y), lr=0.25, epochs=2, batch_size=10)


@pytest.mark.parametrize("setting", ["epochs", "batch_size", "micro_batch", "threads"])
def test_settings_below_one_are_refused(setting: str) -> None:
    model = new_model()
    settings = {"epochs": 1, "batch_size": 10, setting: 0}
    with pytest.raises(ValueError, match="at least 1, got 0"):
        learn(model, problem(20), **settings)


def test_inputs_and_targets_must_go_together() -> None:
    model = new_model()
    x, y = problem(20)
    for data in ((x, y[:10]), (x[:0], y[:0])):
        with pytest.raises(ValueError, match="do not go with"):
            learn(model, data, epochs=1, batch_size=5)


def test_batches_that_are_used_up_are_refused() -> None:
    batches = shuffled(problem(20), 10, np.random.default_rng(0))
    model = new_model()
    with pytest.raises(ValueError, match="no batch in epoch 2; it must make new batches"):
        learn(model, lambda rng: batches, epochs=2, batch_size=10)


# --- the pieces -------------------------------------------------------------------------


def test_every_row_comes_once_an_epoch_in_a_new_order() -> None:
    x = np.arange(10)
    rng = np.random.default_rng(0)
    epochs = [list(shuffled((x, x), 4, rng)) for _ in range(3)]
    for epoch in epochs:
        assert [len(batch) for batch, _ in epoch] == [4, 4, 2]
        assert sorted(np.concatenate([batch for batch, _ in epoch])) == list(range(10))
        assert all((a == b).all() for a, b in epoch)
    # the rows are mixed, not only the order of fixed batches
    assert len({frozenset(epoch[0][0].tolist()) for epoch in epochs}) == 3


@pytest.mark.parametrize(
    ("rows", "batch_size", "sizes"),
    [
        (8, 4, [4, 4]),
        (9, 4, [4, 5]),  # a row is not left alone
        (10, 4, [4, 4, 2]),
        (3, 4, [3]),
        (5, 4, [5]),
        (1, 4, [1]),
        (3, 1, [1, 1, 1]),
    ],
)
def test_sizes_of_batches(rows: int, batch_size: int, sizes: list[int]) -> None:
    x = np.arange(rows)
    batches = [batch for batch, _ in shuffled((x, x), batch_size, np.random.default_rng(0))]
    assert [len(batch) for batch in batches] == sizes
    assert batch_ends(rows, batch_size) == np.cumsum(sizes).tolist()
    assert sorted(np.concatenate(batches)) == list(range(rows))


@pytest.mark.parametrize(("rows", "at_most"), [(1, 8), (8, 8), (9, 8), (100, 7), (64, 1)])
def test_micro_batches_cover_all_rows_evenly(rows: int, at_most: int) -> None:
    cuts = micro_batches(rows, at_most)
    sizes = [cut.stop - cut.start for cut in cuts]
    assert np.concatenate([np.arange(rows)[cut] for cut in cuts]).tolist() == list(range(rows))
    assert max(sizes) <= at_most and max(sizes) - min(sizes) <= 1
    assert len(cuts) == -(-rows // at_most)


def test_accuracy() -> None:
    scores = np.array([[1.0, 2.0, 0.0], [3.0, 1.0, 2.0]])
    assert accuracy(scores, np.array([1, 0])) == 1
    assert accuracy(scores, np.array([1, 2])) == 0.5
    logits = np.array([[0.5], [-2.0], [3.0], [-1.0]])
    for target in (np.array([1, 0, 0, 0]), np.array([[1], [0], [0], [0]])):
        assert accuracy(logits, target) == 0.75


@pytest.mark.parametrize("loss", [SoftmaxCrossEntropy(), BinaryCrossEntropy()])
def test_evaluate_and_predict(loss: object) -> None:
    x, y = problem(300)
    sizes = SIZES if isinstance(loss, SoftmaxCrossEntropy) else [SIZES[0], 1]
    y = y if isinstance(loss, SoftmaxCrossEntropy) else y % 2
    model = MLP(sizes, "tanh", rng=np.random.default_rng(0))
    scores = model(x)
    for threads in (1, 2):
        value, share = evaluate(model, loss, (x, y), threads=threads)  # type: ignore[arg-type]
        assert value == pytest.approx(loss.forward(scores, y), rel=1e-6)  # type: ignore[attr-defined]
        assert share == pytest.approx(accuracy(scores, y))
        np.testing.assert_allclose(predict(model, x, threads=threads), scores, atol=1e-5)
    assert all(layer.training for layer in model.modules())  # the mode is as it was
    model.layers[0].eval()
    evaluate(model, loss, (x, y))  # type: ignore[arg-type]
    assert [layer.training for layer in model.layers[:2]] == [False, True][: len(model)]


def test_no_rows_are_predicted_but_not_evaluated() -> None:
    x, y = problem(30)
    assert predict(new_model(), x[:0]).shape == (0, SIZES[-1])
    with pytest.raises(ValueError, match="no rows to evaluate"):
        evaluate(new_model(), SoftmaxCrossEntropy(), (x[:0], y[:0]))


def test_evaluate_without_metric() -> None:
    x, y = problem(30)
    value, metric = evaluate(new_model(), SoftmaxCrossEntropy(), (x, y), metric=None)
    assert np.isfinite(value) and np.isnan(metric)


# --- threads ----------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_workers_map_in_order(threads: int) -> None:
    with Workers(threads) as workers:
        assert workers.map(lambda a, b: a * b, range(10), range(10)) == [k * k for k in range(10)]
        assert workers.map(str, []) == []


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("broken", [0, 1, 2])
def test_an_error_in_any_worker_reaches_the_caller(threads: int, broken: int) -> None:
    def work(number: int) -> None:
        if number == broken:
            raise ZeroDivisionError(number)

    with Workers(threads) as workers, pytest.raises(ZeroDivisionError, match=str(broken)):
        workers.map(work, range(3))


def test_error_state_holds_in_every_worker() -> None:
    if int(np.__version__.split(".")[0]) < 2:
        pytest.skip("before NumPy 2 the error state belongs to a thread")
    with Workers(2) as workers, np.errstate(divide="ignore"):
        assert workers.map(lambda x: np.divide(1.0, x), np.zeros(8)) == [np.inf] * 8


def test_threads_there_are() -> None:
    assert available_threads() >= 1
    with pytest.raises(ValueError, match="at least 1, got 0"):
        Workers(0)


def test_blas_is_held_to_one_thread_and_released() -> None:
    from threadpoolctl import threadpool_info

    def threads() -> list[int]:  # of the BLAS under NumPy; others may be loaded at any time
        return [
            library["num_threads"]
            for library in threadpool_info()
            if library["user_api"] == "blas" and "numpy" in library["filepath"]
        ]

    before = threads()
    with one_blas_thread():
        assert set(threads()) <= {1}
    assert threads() == before
