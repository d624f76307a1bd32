"""The training loop of section 4: PyTorch's steps bit for bit, and what it promises beyond them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from section2.schedules import cosine
from section4 import checkpoint
from section4.engine import Setting, cross_entropy
from section4.images import device_seed
from section4.training import History, averaged, evaluate, fit, load_weights, predict

CPU = torch.device("cpu")
ROWS, SEED = 90, 5
DRAWS = torch.Generator().manual_seed(7)
X = torch.randn(ROWS, 6, generator=DRAWS)
Y = (X @ torch.randn(6, 3, generator=DRAWS)).argmax(1)
OBJECTIVE = cross_entropy()

Pair = tuple[torch.Tensor, torch.Tensor]


def batches(epoch: int, size: int = 40) -> Iterator[Pair]:
    """40, 40 and 10 rows, in another order in every epoch."""
    order = torch.randperm(ROWS, generator=torch.Generator().manual_seed(epoch))
    for rows in order.split(size):
        yield X[rows], Y[rows]


def whole(epoch: int) -> Iterator[Pair]:
    yield X, Y


def net(seed: int = 0, dropout: float = 0.3, norm: bool = True, hidden: int = 12) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Linear(6, hidden), nn.BatchNorm1d(hidden) if norm else nn.Identity()]
        return nn.Sequential(*layers, nn.Tanh(), nn.Dropout(dropout), nn.Linear(hidden, 3))


def momentum(model: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=1e-3)


def adam(model: nn.Module, lr: float = 0.01) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr)


def descent(model: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr)


def learn(model: nn.Module, optimizer: torch.optim.Optimizer | None = None, **options: Any) -> Any:
    given: dict[str, Any] = {"data": batches, "epochs": 2, "seed": SEED, "objective": OBJECTIVE}
    given |= options
    optimizer = momentum(model) if optimizer is None else optimizer
    return fit(model, given.pop("objective"), optimizer, given.pop("data"), **given)


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def without_time(history: History) -> dict:
    return {name: numbers for name, numbers in vars(history).items() if name != "seconds"}


# --- learning -------------------------------------------------------------------------------


def test_fit_learns() -> None:
    model = net(dropout=0.0)
    history = learn(model, epochs=30, validate=lambda m: evaluate(m, OBJECTIVE, whole))
    assert history.loss[-1] < 0.3 * history.loss[0] and history.val_metric[-1] > 0.95
    assert len(history.step_loss) == 3 * 30 and history.parts == 1
    for column in (history.loss, history.metric, history.val_loss, history.seconds):
        assert len(column) == 30
    assert history.seconds == sorted(history.seconds)


@pytest.mark.parametrize("kind", [descent, momentum, adam])
@pytest.mark.parametrize("clip", [None, 0.2])
def test_steps_are_those_of_a_plain_loop(
    kind: Callable[..., torch.optim.Optimizer], clip: float | None
) -> None:
    model = net()
    twin, schedule, losses = copy.deepcopy(model), cosine(0.2, 9), list[float]()
    optimizer = kind(twin)
    with torch.random.fork_rng():
        for epoch in range(3):
            torch.manual_seed(device_seed(SEED, epoch, 0))
            for number, (x, y) in enumerate(batches(epoch)):
                for group in optimizer.param_groups:
                    group["lr"] = schedule(3 * epoch + number)
                optimizer.zero_grad()
                loss = nn.functional.cross_entropy(twin(x), y)
                loss.backward()
                if clip is not None:
                    nn.utils.clip_grad_norm_(twin.parameters(), clip)
                optimizer.step()
                losses.append(loss.item())
    history = learn(model, kind(model), epochs=3, schedule=schedule, clip=clip)
    assert_same(state(model), state(twin))
    assert history.step_loss == pytest.approx(losses, rel=1e-6)


def test_schedule_sees_every_step_and_groups_take_their_multiple_of_it() -> None:
    asked, rates = list[int](), list[list[float]]()
    model = net()
    first, *rest = model.parameters()
    groups: list[dict[str, Any]] = [{"params": [first], "scale": 0.1}, {"params": rest}]
    optimizer = torch.optim.SGD(groups, 9.0)

    def schedule(step: int) -> float:
        asked.append(step)
        return 1 / (step + 1)

    def look(step: int) -> None:
        rates.append([group["lr"] for group in optimizer.param_groups])

    learn(model, optimizer, schedule=schedule, on_gradients=look)
    assert asked == list(range(6))
    assert [rate for _, rate in rates] == [1 / (step + 1) for step in range(6)]
    assert [rate for rate, _ in rates] == [0.1 * rate for _, rate in rates]


def test_a_rate_of_zero_changes_no_weight() -> None:
    model = net()
    before = [p.clone() for p in model.parameters()]
    learn(model, schedule=lambda step: 0.0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), before))


def test_on_gradients_comes_between_backward_and_update() -> None:
    model, seen = net(dropout=0.0, norm=False), []
    before = state(model)
    expected = torch.autograd.grad(OBJECTIVE(model, (X, Y))[0], list(model.parameters()))

    def look(step: int) -> None:
        seen.append(step)
        if step == 0:
            assert_same(state(model), before)
            for parameter, gradient in zip(model.parameters(), expected):
                assert torch.equal(parameter.grad, gradient)  # type: ignore[arg-type]

    learn(model, data=whole, on_gradients=look, clip=1e-3)
    assert seen == [0, 1]


def test_clipping_bounds_the_step() -> None:
    model = net(dropout=0.0)
    before = torch.cat([p.detach().flatten() for p in model.parameters()])
    learn(model, descent(model, 0.5), data=whole, epochs=1, clip=0.01)
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert (after - before).norm() == pytest.approx(0.5 * 0.01, rel=1e-3)


def test_the_mean_of_the_weights_follows_its_formula_and_is_what_is_measured() -> None:
    model, decay = net(), 0.6
    mean, expected, measured = averaged(model, decay), dict[str, torch.Tensor](), []

    def follow(history: History) -> None:
        number = len(history.loss) - 1  # an epoch is one step here
        share = min(decay, (1 + number) / (10 + number)) if number else 0.0
        for name, value in state(model).items():
            if number and value.is_floating_point():
                value = share * expected[name] + (1 - share) * value
            expected[name] = value

    def validate(judged: nn.Module) -> tuple[float, float]:
        measured.append(judged)
        return evaluate(judged, OBJECTIVE, whole)

    options: dict[str, Any] = {"data": whole, "average": mean, "validate": validate}
    history = learn(model, momentum(model, 0.3), epochs=15, on_epoch=follow, **options)
    for name, value in state(mean.module).items():
        torch.testing.assert_close(value, expected[name], msg=name)
    assert len(measured) == 15 and all(judged is mean.module for judged in measured)
    assert history.val_loss[-1] == evaluate(mean.module, OBJECTIVE, whole)[0]
    assert history.val_loss[-1] != evaluate(model, OBJECTIVE, whole)[0]


def test_means_over_an_epoch_count_every_row_once() -> None:
    model = net(dropout=0.0, norm=False)
    history = learn(model, schedule=lambda step: 0.0)
    loss, right = evaluate(model, OBJECTIVE, whole)
    assert history.loss == pytest.approx([loss, loss], rel=1e-6)
    assert history.metric == pytest.approx([right, right], rel=1e-6)
    assert sum(history.step_loss[:3]) / 3 != pytest.approx(loss, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_learns_and_shows_its_true_gradients(dtype: torch.dtype) -> None:
    lengths = list[list[float]]()
    for setting in (Setting(CPU), Setting(CPU, dtype)):
        model, seen = net(dropout=0.0, norm=False), list[float]()

        def look(step: int, model: nn.Module = model, seen: list[float] = seen) -> None:
            squares = [p.grad.square().sum() for p in model.parameters() if p.grad is not None]
            seen.append(math.sqrt(sum(squares)))

        history = learn(model, setting=setting, on_gradients=look, epochs=10)
        assert history.metric[-1] > 0.9
        lengths.append(seen)
    assert lengths[1][:5] == pytest.approx(lengths[0][:5], rel=0.05), "not unscaled"


def test_a_compiled_network_is_what_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled, plain, other = list[nn.Module](), net(), net()

    def compile(network: nn.Module) -> nn.Module:
        compiled.append(network)
        return network

    monkeypatch.setattr(torch, "compile", compile)
    learn(plain)
    learn(other, setting=Setting(CPU, compiled=True))
    assert compiled == [other]
    assert_same(state(other), state(plain))


# --- random numbers -------------------------------------------------------------------------


def test_random_numbers_of_the_caller_stay_as_they_were() -> None:
    before = torch.random.get_rng_state()
    model = net(dropout=0.5)
    learn(model)
    evaluate(model, OBJECTIVE, whole)
    predict(model, whole)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_seed_decides_and_nothing_else_does() -> None:
    ends = []
    for seed, noise in ((1, 3), (1, 4), (2, 3)):
        with torch.random.fork_rng():
            torch.manual_seed(noise)
            model = net()
            learn(model, seed=seed)
            ends.append(nn.utils.parameters_to_vector(model.parameters()))
    assert torch.equal(ends[0], ends[1]) and not torch.equal(ends[0], ends[2])


# --- memory ---------------------------------------------------------------------------------


def scarce(fitting: int, seen: list[int]) -> Any:
    """Cross-entropy on a GPU that has memory for so many rows."""

    def objective(model: nn.Module, batch: Any) -> Pair:
        seen.append(len(batch[0]))
        if len(batch[0]) > fitting:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")
        return OBJECTIVE(model, batch)

    return objective


@pytest.mark.parametrize(
    ("fitting", "parts", "sizes"), [(90, 1, {90}), (45, 2, {45}), (44, 4, {22, 23}), (1, 128, {1})]
)
def test_a_batch_too_large_is_cut_and_its_gradients_are_those_of_the_whole(
    fitting: int, parts: int, sizes: set[int]
) -> None:
    ends, seen = list[dict[str, torch.Tensor]](), list[int]()
    for objective in (OBJECTIVE, scarce(fitting, seen)):
        model = net(dropout=0.0, norm=False)
        history = learn(model, objective=objective, data=whole, epochs=3)
        ends.append(state(model))
    assert history.parts == parts
    kept = [size for size in seen if size <= fitting]
    assert set(kept) == sizes and sum(kept) == 3 * ROWS
    assert len(seen) - len(kept) == math.log2(parts), "once found, the cut is kept"
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-5, atol=1e-6)
    loss = learn(net(dropout=0.0, norm=False), data=whole, epochs=3).step_loss
    assert history.step_loss == pytest.approx(loss, rel=1e-5)


def test_a_smaller_last_batch_is_cut_too() -> None:
    seen = list[int]()
    model = net(dropout=0.0, norm=False)
    history = learn(model, objective=scarce(6, seen))
    assert history.parts == 8 and max(size for size in seen if size <= 6) == 5
    assert sum(size for size in seen if size <= 6) == 2 * ROWS


def test_a_row_that_does_not_fit_is_an_error_in_one_sentence() -> None:
    seen = list[int]()
    with pytest.raises(MemoryError, match="no memory for 1 row at once: take smaller") as caught:
        learn(net(), objective=scarce(0, seen))
    assert "\n" not in str(caught.value) and seen[:4] == [40, 20, 10, 5] and seen[-1] == 1


# --- checkpoints ----------------------------------------------------------------------------


class Killed(Exception):
    pass


@pytest.mark.parametrize("kind", [descent, momentum, adam])
@pytest.mark.parametrize("decay", [0.0, 0.9], ids=["weights", "mean"])
@pytest.mark.parametrize("killed_after", [1, 3])
def test_a_resumed_run_ends_as_the_uninterrupted_one(
    tmp_path: Path, kind: Callable[..., Any], decay: float, killed_after: int
) -> None:
    def start(seed: int, **options: Any) -> tuple[dict, dict, dict]:
        model = net(seed)
        optimizer, mean = kind(model), averaged(model, decay) if decay else None
        history = learn(
            model, optimizer, epochs=4, schedule=cosine(0.05, 12), clip=1.0, average=mean,
            validate=lambda judged: evaluate(judged, OBJECTIVE, whole), **options,
        )  # fmt: skip
        states = {} if mean is None else state(mean)
        memory = {
            f"{name} of {number}": torch.as_tensor(value)
            for number, kept in optimizer.state_dict()["state"].items()
            for name, value in kept.items()
            if value is not None
        }
        assert history.seconds == sorted(history.seconds)
        return state(model) | memory, states, without_time(history)

    def kill(history: History) -> None:
        if len(history.loss) == killed_after:
            raise Killed

    expected = start(0)
    with pytest.raises(Killed):
        start(0, on_epoch=kill, checkpoints=tmp_path)
    again = start(3, checkpoints=tmp_path, resume=True)  # other weights: all is in the checkpoint
    assert_same(again[0], expected[0])
    assert_same(again[1], expected[1])
    assert again[2] == expected[2]


def test_a_run_that_is_finished_is_not_repeated(tmp_path: Path) -> None:
    model = net()
    history = learn(model, checkpoints=tmp_path, resume=True)  # nothing there yet
    before = state(model)
    other = net(1)
    assert vars(learn(other, checkpoints=tmp_path, resume=True)) == vars(history)
    assert_same(state(other), before)
    learn(other, checkpoints=tmp_path)  # without `resume` it starts anew
    assert any(not torch.equal(tensor, before[name]) for name, tensor in state(other).items())


def test_best_is_the_model_as_validated_in_the_best_epoch(tmp_path: Path) -> None:
    scores, judged = iter([0.5, 0.9, 0.7]), list[dict[str, torch.Tensor]]()

    def validate(model: nn.Module) -> tuple[float, float]:
        judged.append(state(model))
        return 1.0, next(scores)

    model = net()
    learn(model, epochs=3, average=averaged(model, 0.5), validate=validate, checkpoints=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.pt", "last.pt"]
    found = net(4)
    load_weights(tmp_path / "best.pt", found)
    assert_same(state(found), judged[1])
    load_weights(tmp_path / "last.pt", found)
    assert_same(state(found), state(model))


def test_without_validation_there_is_no_best(tmp_path: Path) -> None:
    learn(net(), checkpoints=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["last.pt"]


@pytest.mark.parametrize(
    ("model", "kind", "sentence"),
    [
        (net(hidden=11), momentum, "size mismatch"),
        (net(norm=False), momentum, "Unexpected key"),
        (nn.Linear(6, 3), momentum, "Missing key"),
        (net(), adam, "its optimizer is SGD, here AdamW"),
    ],
    ids=["width", "layers", "class", "optimizer"],
)
def test_a_checkpoint_of_another_training_is_refused(
    tmp_path: Path, model: nn.Module, kind: Any, sentence: str
) -> None:
    learn(net(), checkpoints=tmp_path)
    with pytest.raises(ValueError, match=rf"last\.pt is a checkpoint of another.*{sentence}") as e:
        learn(model, kind(model), checkpoints=tmp_path, resume=True)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("before", [False, True])
def test_a_mean_of_the_weights_cannot_come_or_go(tmp_path: Path, before: bool) -> None:
    model = net()
    learn(model, checkpoints=tmp_path, average=averaged(model, 0.9) if before else None)
    with pytest.raises(ValueError, match="another training"):
        average = None if before else averaged(model, 0.9)
        learn(model, checkpoints=tmp_path, average=average, resume=True)


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    learn(net(), checkpoints=tmp_path, validate=lambda m: (1.0, 1.0))
    for name in ("last.pt", "best.pt"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:-200])
        with pytest.raises(ValueError, match=rf"{name} is not a checkpoint that can be read"):
            load_weights(path, net())
    with pytest.raises(ValueError, match=r"last\.pt is not a checkpoint"):
        learn(net(), checkpoints=tmp_path, resume=True)
    with pytest.raises(FileNotFoundError):
        load_weights(tmp_path / "none.pt", net())


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "a.pt", {"model": net().state_dict()})
    checkpoint.save(tmp_path / "b.pt", {"weights": {}})
    for name in ("a.pt", "b.pt"):
        with pytest.raises(ValueError, match=f"{name} holds the weights of another model"):
            load_weights(tmp_path / name, net(hidden=5))


# --- what goes wrong ------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_keeps_the_checkpoint_of_the_good_epoch(tmp_path: Path) -> None:
    model = net()
    learn(model, epochs=1, checkpoints=tmp_path)
    good = (tmp_path / "last.pt").read_bytes()

    def spoilt(epoch: int) -> Iterator[Pair]:
        for number, (x, y) in enumerate(batches(epoch)):
            yield (x * math.nan if number == 1 else x), y

    with pytest.raises(FloatingPointError, match=r"nan in epoch 2, step 5, at learning rate 0\.1:"):
        learn(model, data=spoilt, checkpoints=tmp_path, resume=True)
    assert (tmp_path / "last.pt").read_bytes() == good and len(list(tmp_path.iterdir())) == 1


def test_a_rate_far_too_high_stops_the_run() -> None:
    with pytest.raises(FloatingPointError, match="try a smaller one"):
        model = net(norm=False)
        learn(model, momentum(model, 1e30), epochs=9)


def test_weights_that_are_not_numbers_are_not_saved(tmp_path: Path) -> None:
    model = net()
    learn(model, epochs=1, checkpoints=tmp_path)
    good = (tmp_path / "last.pt").read_bytes()

    def spoil(step: int) -> None:  # after the last step of the epoch no loss will tell
        if step == 5:
            next(model.parameters()).grad[0, 0] = math.inf  # type: ignore[index]

    with pytest.raises(FloatingPointError, match=r"last\.pt was left as it was"):
        learn(model, checkpoints=tmp_path, resume=True, on_gradients=spoil)
    assert (tmp_path / "last.pt").read_bytes() == good


def test_random_numbers_are_given_back_after_an_error() -> None:
    before = torch.random.get_rng_state()
    with pytest.raises(MemoryError):
        learn(net(), objective=scarce(0, []))
    assert torch.equal(torch.random.get_rng_state(), before)


# --- measuring ------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("setting", [Setting(CPU), Setting(CPU, torch.bfloat16)], ids=str)
def test_evaluate_and_predict(mode: bool, setting: Setting) -> None:
    model = net(dropout=0.5).train(mode)
    before = state(model)
    twin = copy.deepcopy(model).eval()
    expected, right = OBJECTIVE(twin, (X, Y))
    tolerance = 1e-6 if setting.dtype == torch.float32 else 0.02

    def in_order(epoch: int) -> Iterator[Pair]:
        return iter(zip(X.split(40), Y.split(40)))

    loss, score = evaluate(model, OBJECTIVE, in_order, setting)
    assert loss == pytest.approx(expected.item(), rel=tolerance)
    assert score == pytest.approx(right.item(), abs=tolerance)
    scores = predict(model, in_order, setting)
    assert scores.dtype == torch.float32 and scores.shape == (ROWS, 3) and scores.device == CPU
    torch.testing.assert_close(scores, twin(X).detach(), rtol=tolerance, atol=tolerance)
    assert all(module.training == mode for module in model.modules())
    assert_same(state(model), before)
    learn(model)  # what was evaluated can be trained


def test_an_error_in_evaluation_leaves_the_mode_as_it_was() -> None:
    model = net()

    def broken(epoch: int) -> Iterator[Pair]:
        raise KeyError("no data")
        yield

    with pytest.raises(KeyError):
        evaluate(model, OBJECTIVE, broken)
    with pytest.raises(KeyError):
        predict(model, broken)
    assert model.training


def test_a_share_without_rows_does_not_spoil_the_mean() -> None:
    """With several processes the last batch may have fewer rows than there are processes."""

    def data(epoch: int) -> Iterator[Pair]:
        yield X, Y
        yield X[:0], Y[:0]

    model = net()
    assert evaluate(model, OBJECTIVE, data) == evaluate(model, OBJECTIVE, whole)
