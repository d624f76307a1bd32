"""Optimizers against their torch.optim twins, and what all of them promise."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from section1.parallel import Workers
from section1.parameter import Parameter
from section1.sgd import MANY, PIECE, SGD, Optimizer
from section2.muon import Muon, orthogonalized
from section2.optimizers import (
    AdaGrad,
    Adam,
    AdamW,
    Momentum,
    Nesterov,
    RMSprop,
    clip_gradient_norm,
)

SHAPES = [(7, 5), (5,), (PIECE + 3,), (2, 3, 4, 6), ()]
STEPS = 200


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """PyTorch's threads wait for each other long where cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def both(
    shapes: Any = SHAPES, dtype: Any = np.float64, seed: int = 0
) -> tuple[list[Parameter], list[torch.Tensor]]:
    """The same random parameters for either side."""
    rng = np.random.default_rng(seed)
    ours = [Parameter(rng.standard_normal(shape).astype(dtype)) for shape in shapes]
    theirs = [torch.tensor(p.value.copy(), requires_grad=True) for p in ours]
    return ours, theirs


def assert_same_path(
    optimizer: Any,
    reference: Any,
    ours: Any,
    theirs: Any,
    tolerance: float = 1e-12,
    steps: int = STEPS,
) -> None:
    """Both see the same gradients, whose size changes from step to step and weight to weight."""
    rng = np.random.default_rng(1)
    for step in range(steps):
        for parameter, tensor in zip(ours, theirs):
            shape = parameter.value.shape
            grad = rng.standard_normal(shape) * 10.0 ** rng.integers(-4, 2) + 0.1
            parameter.grad = grad
            tensor.grad = torch.tensor(grad, dtype=tensor.dtype)
        if step == steps // 2:  # a schedule changes the learning rate on the way
            optimizer.lr /= 3
            reference.param_groups[0]["lr"] /= 3
        optimizer.step()
        reference.step()
    assert optimizer.steps == steps
    for parameter, tensor in zip(ours, theirs):
        np.testing.assert_allclose(
            parameter.value, tensor.detach().numpy(), rtol=tolerance, atol=tolerance
        )


DECAY = {"weight_decay": 0.03}
BETAS = {"betas": (0.8, 0.97), "eps": 1e-6}
TWINS = {
    "sgd": (SGD, {}, torch.optim.SGD, {}),
    "momentum": (Momentum, {}, torch.optim.SGD, {"momentum": 0.9}),
    "momentum decay": (
        Momentum,
        {"momentum": 0.5, **DECAY},
        torch.optim.SGD,
        {"momentum": 0.5, **DECAY},
    ),
    "nesterov": (Nesterov, {}, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "nesterov decay": (
        Nesterov,
        DECAY,
        torch.optim.SGD,
        {"momentum": 0.9, "nesterov": True, **DECAY},
    ),
    "adagrad": (AdaGrad, {}, torch.optim.Adagrad, {}),
    "adagrad decay": (AdaGrad, DECAY, torch.optim.Adagrad, DECAY),
    "rmsprop": (RMSprop, {}, torch.optim.RMSprop, {}),
    "rmsprop decay": (
        RMSprop,
        {"alpha": 0.8, "eps": 1e-3, **DECAY},
        torch.optim.RMSprop,
        {"alpha": 0.8, "eps": 1e-3, **DECAY},
    ),
    "adam": (Adam, {}, torch.optim.Adam, {}),
    "adam decay": (Adam, BETAS | DECAY, torch.optim.Adam, BETAS | DECAY),
    "amsgrad": (Adam, {"amsgrad": True}, torch.optim.Adam, {"amsgrad": True}),
    "adamw": (AdamW, {}, torch.optim.AdamW, {}),
    "adamw no decay": (AdamW, {"weight_decay": 0}, torch.optim.AdamW, {"weight_decay": 0}),
    "adamw amsgrad": (
        AdamW,
        BETAS | DECAY | {"amsgrad": True},
        torch.optim.AdamW,
        BETAS | DECAY | {"amsgrad": True},
    ),
}
each_twin = pytest.mark.parametrize(
    ("kind", "options", "twin", "their_options"), TWINS.values(), ids=TWINS.keys()
)


@each_twin
def test_equals_its_twin_after_200_steps(
    kind: Any, options: dict, twin: Any, their_options: dict
) -> None:
    ours, theirs = both()
    optimizer = kind(ours, 0.01, **options)
    reference = twin(theirs, lr=0.01, **their_options)
    assert_same_path(optimizer, reference, ours, theirs)


@each_twin
def test_float32_stays_float32(kind: Any, options: dict, twin: Any, their_options: dict) -> None:
    ours, theirs = both([(40, 30)], np.float32)
    optimizer = kind(ours, 0.01, **options)
    reference = twin(theirs, lr=0.01, **their_options)
    assert_same_path(optimizer, reference, ours, theirs, tolerance=2e-4, steps=50)
    assert ours[0].value.dtype == np.float32
    assert all(array.dtype == np.float32 for kind in optimizer.state for array in kind)


ALL = {name: (kind, options) for name, (kind, options, *_) in TWINS.items()} | {"muon": (Muon, {})}
each = pytest.mark.parametrize(("kind", "options"), ALL.values(), ids=ALL.keys())


@each
def test_threads_change_nothing(kind: Any, options: dict) -> None:
    shapes = [(30, 20), (MANY + 17,), (3,)]
    results = []
    for threads in (None, 1, 2, 5):
        parameters, _ = both(shapes, np.float32)
        optimizer = kind(parameters, 0.01, **options)
        rng = np.random.default_rng(2)
        with Workers(threads or 1) as workers:
            for _ in range(3):
                for parameter in parameters:
                    parameter.grad = rng.standard_normal(parameter.value.shape, np.float32)
                optimizer.step(workers if threads else None)
        results.append([p.value for p in parameters] + [a for k in optimizer.state for a in k])
    for other in results[1:]:
        for ours, theirs in zip(results[0], other):
            np.testing.assert_array_equal(ours, theirs)


@each
def test_the_gradient_is_left_alone_and_values_change_in_place(kind: Any, options: dict) -> None:
    parameters, _ = both([(4, 3), (3,)])
    optimizer = kind(parameters, 0.1, **options)
    values = [parameter.value for parameter in parameters]
    for parameter in parameters:
        parameter.grad = np.ones_like(parameter.value)
    optimizer.step()
    for parameter, value in zip(parameters, values):
        assert parameter.value is value
        np.testing.assert_array_equal(parameter.grad, 1)


@each
def test_a_copy_goes_the_same_way_on_its_own(kind: Any, options: dict) -> None:
    parameters, _ = both([(4, 3), (3,)])
    optimizer = kind(parameters, 0.1, **options)
    optimizer.step()
    other = copy.deepcopy(optimizer)
    before = [parameter.value.copy() for parameter in parameters]
    for parameter in other.parameters:
        parameter.grad += 1
    other.step()
    assert all((p.value == value).all() for p, value in zip(parameters, before))
    for parameter in parameters:
        parameter.grad += 1
    optimizer.step()
    for ours, theirs in zip(parameters, other.parameters):
        np.testing.assert_array_equal(ours.value, theirs.value)


@pytest.mark.parametrize("kind", [RMSprop, Adam, AdamW, AdaGrad])
def test_the_size_of_the_gradient_does_not_matter_in_the_first_step(kind: Any) -> None:
    parameters, _ = both([(6,), (6,)])
    before = [parameter.value.copy() for parameter in parameters]
    optimizer = kind(parameters, 0.01, **({"weight_decay": 0} if kind is AdamW else {}))
    parameters[0].grad = np.full(6, 3.0)
    parameters[1].grad = np.full(6, 3e3)
    optimizer.step()
    moved = [b - p.value for p, b in zip(parameters, before)]
    np.testing.assert_allclose(moved[0], moved[1], rtol=1e-6)
    # Without its bias correction the first step of Adam would be sqrt(10) times as long.
    expected = 0.1 if kind is RMSprop else 0.01
    np.testing.assert_allclose(moved[0], expected, rtol=1e-6)


# --- Muon --------------------------------------------------------------------------------

MATRICES = [(8, 5), (5, 8), (6, 6), (1, 4), (3, 1)]


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this PyTorch has no Muon")
@pytest.mark.parametrize("nesterov", [True, False])
@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
def test_muon_equals_its_twin(monkeypatch: pytest.MonkeyPatch, nesterov: bool, adjust: str) -> None:
    """PyTorch rounds to bfloat16 before Newton-Schulz; without that both agree in float64."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda tensor: tensor.clone())
    rng = np.random.default_rng(0)
    ours = [Parameter(rng.standard_normal(shape)) for shape in MATRICES]
    theirs = [torch.tensor(p.value.T.copy(), requires_grad=True) for p in ours]  # (out, in)
    options: dict = {"nesterov": nesterov, "weight_decay": 0.05, "momentum": 0.9}
    optimizer = Muon(ours, 0.02, adjust=adjust, **options)
    reference = torch.optim.Muon(theirs, lr=0.02, adjust_lr_fn=adjust, **options)
    for _ in range(STEPS):
        for parameter, tensor in zip(ours, theirs):
            parameter.grad = rng.standard_normal(parameter.value.shape)
            tensor.grad = torch.tensor(parameter.grad.T.copy())
        optimizer.step()
        reference.step()
    for parameter, tensor in zip(ours, theirs):
        np.testing.assert_allclose(parameter.value, tensor.detach().numpy().T, 1e-12, 1e-12)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this PyTorch has no Muon")
def test_one_step_of_muon_is_that_of_pytorch_within_bfloat16() -> None:
    rng = np.random.default_rng(0)
    ours, before = Parameter(np.zeros((20, 30))), np.zeros((20, 30))
    theirs = torch.tensor(before.T.copy(), requires_grad=True)
    ours.grad = rng.standard_normal((20, 30))
    theirs.grad = torch.tensor(ours.grad.T.copy())
    Muon([ours], 1.0, adjust="original").step()
    torch.optim.Muon([theirs], lr=1.0).step()
    difference = ours.value - theirs.detach().numpy().T
    assert np.linalg.norm(difference) < 0.02 * np.linalg.norm(ours.value)


@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (16, 16)])
def test_orthogonalized_keeps_directions_and_levels_their_sizes(shape: tuple[int, ...]) -> None:
    matrix = np.random.default_rng(0).standard_normal(shape) @ np.diag(
        np.geomspace(1, 0.05, shape[1])
    )
    result = orthogonalized(matrix)
    assert result.shape == shape
    singular = np.linalg.svd(result, compute_uv=False)
    assert singular.min() > 0.3 and singular.max() < 1.3
    u, _, vt = np.linalg.svd(matrix, full_matrices=False)
    rotated = u.T @ result @ vt.T  # diagonal where U and V are the same
    np.testing.assert_allclose(rotated, np.diag(np.diag(rotated)), atol=1e-10)


def test_orthogonalized_of_zeros() -> None:
    np.testing.assert_array_equal(orthogonalized(np.zeros((3, 4), np.float32)), 0)


def test_muon_leaves_vectors_and_chosen_matrices_to_adamw() -> None:
    shapes = [(4,), (6, 5), (6, 5), (2, 2, 3, 4)]
    ours, _ = both(shapes)
    same, _ = both(shapes)
    muon = Muon(ours, 0.01, adamw=[ours[1]])
    adamw = AdamW(same, 0.01, weight_decay=0.1)
    assert muon.is_matrix == [False, False, True, True]
    rng = np.random.default_rng(0)
    for _ in range(5):
        for a, b in zip(ours, same):
            a.grad = b.grad = rng.standard_normal(a.value.shape)
        muon.step()
        adamw.step()
    for k, equal in enumerate([True, True, False, False]):
        assert np.array_equal(ours[k].value, same[k].value) == equal
    # A kernel (KH, KW, C, F) is updated as the matrix (KH*KW*C, F) of its flattened windows.
    flat = Parameter(both(shapes)[0][3].value.reshape(12, 4))
    other = Muon([flat], 0.01)
    rng = np.random.default_rng(0)
    for _ in range(5):
        grads = [rng.standard_normal(shape) for shape in shapes]
        flat.grad = grads[3].reshape(12, 4)
        other.step()
    np.testing.assert_array_equal(ours[3].value.reshape(12, 4), flat.value)


# --- clipping and refusals ---------------------------------------------------------------


@pytest.mark.parametrize("max_norm", [0.0, 0.5, 10.0, 1e9])
def test_clipping_equals_pytorch(max_norm: float) -> None:
    ours, theirs = both()
    rng = np.random.default_rng(3)
    for parameter, tensor in zip(ours, theirs):
        parameter.grad = rng.standard_normal(parameter.value.shape)
        tensor.grad = torch.tensor(parameter.grad.copy())
    norm = clip_gradient_norm(ours, max_norm)
    expected = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
    assert norm == pytest.approx(expected.item(), rel=1e-12)
    for parameter, tensor in zip(ours, theirs):
        assert tensor.grad is not None
        np.testing.assert_allclose(parameter.grad, tensor.grad.numpy(), rtol=1e-12)


def test_what_is_refused() -> None:
    parameters, _ = both([(3,)])
    with pytest.raises(ValueError, match="max_norm must be 0 or more, got -1"):
        clip_gradient_norm(parameters, -1)
    for make, sentence in (
        (lambda: Momentum(parameters, 0.1, momentum=1), "momentum must be at least 0 and below 1"),
        (lambda: Adam(parameters, 0.1, betas=(0.9, 1.0)), "second beta"),
        (lambda: RMSprop(parameters, 0.1, alpha=-0.1), "alpha"),
        (lambda: AdaGrad(parameters, 0.1, eps=-1), "eps must be 0 or more, got -1"),
        (lambda: AdamW(parameters, 0.1, weight_decay=-1), "weight_decay"),
        (lambda: Muon(parameters, 0.1, adjust="own"), "'own'"),
        (lambda: Adam([], 0.1), "no parameters"),
        (lambda: Adam(parameters, -0.1), "learning rate"),
    ):
        with pytest.raises(ValueError, match=sentence):
            make()


def test_a_rule_that_is_missing() -> None:
    with pytest.raises(NotImplementedError):
        Optimizer(both([(3,)])[0], 0.1).step()
