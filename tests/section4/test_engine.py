"""The engine trusts no device that computes wrong numbers, and picks what is measured fastest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import nn

from section4 import engine
from section4.engine import (
    IGNORED,
    PLAIN,
    Setting,
    choose,
    cross_entropy,
    find_device,
    settings,
)
from section4.vision.resnet import thin_resnet

CPU = torch.device("cpu")
FP32, BF16 = torch.float32, torch.bfloat16


def images(rows: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 3, 8, 8, generator=generator)
    return x, torch.randint(0, 10, (rows,), generator=generator)


def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(),
            nn.Linear(8 * 36, 10),
        )  # fmt: skip


# --- the device -----------------------------------------------------------------------------


def test_without_a_gpu_the_cpu_is_used_and_the_reason_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    device, reason = find_device()
    assert device == CPU
    assert reason == "no cuda: no GPU that this PyTorch can use; no mps: not on this system"
    assert find_device("cpu") == (CPU, "")
    with pytest.raises(ValueError, match="the device cuda cannot be used: no cuda: no GPU"):
        find_device("cuda")


@pytest.mark.parametrize("word", ["gpu", "CPU", "", "cuda:0"])
def test_other_words_for_a_device_are_refused(word: str) -> None:
    with pytest.raises(ValueError, match=f"device must be auto, cuda or mps or cpu, got '{word}'"):
        find_device(word)


def test_float32_is_no_tf32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    engine.find_device("cpu")
    assert not torch.backends.cudnn.allow_tf32


def test_a_device_that_computes_wrong_numbers_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine.fault_of(CPU) == ""
    right = nn.functional.conv2d
    monkeypatch.setattr(nn.functional, "conv2d", lambda x, w: 1.1 * right(x, w))
    assert engine.fault_of(CPU) == "a small convolution came out wrong"
    with pytest.raises(ValueError, match="cpu cannot be used: no cpu: a small convolution"):
        find_device("cpu")


def test_a_device_that_cannot_compute_says_so_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise RuntimeError("no kernel image is available\nCompile with TORCH_USE_CUDA_DSA\n")

    monkeypatch.setattr(nn.functional, "conv2d", broken)
    assert engine.fault_of(CPU) == "no kernel image is available"
    monkeypatch.setattr(nn.functional, "conv2d", Mock(side_effect=AssertionError))
    assert engine.fault_of(CPU) == "AssertionError"


@pytest.mark.parametrize(
    ("gpus", "local", "found"),
    [(1, 2, "cpu"), (2, 2, "cuda:1"), (1, 1, "cuda:0"), (3, 4, "cpu"), (8, 2, "cuda:1")],
)
def test_of_several_processes_each_has_a_gpu_or_none_has(
    monkeypatch: pytest.MonkeyPatch, gpus: int, local: int, found: str
) -> None:
    """Four in all, of which `local` run on this machine; this is the last of them."""
    known = {"WORLD_SIZE": 4, "LOCAL_WORLD_SIZE": local, "LOCAL_RANK": min(local, 2) - 1}
    for name, number in known.items():
        monkeypatch.setenv(name, str(number))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    linspace = torch.linspace  # the CPU plays them all
    monkeypatch.setattr(torch, "linspace", lambda *numbers, device=None, **options: linspace(
        *numbers, **options
    ))  # fmt: skip
    device, reason = find_device()
    assert device == torch.device(found)
    if found == "cpu":
        assert reason == (
            f"no cuda: {local} processes need a GPU each, and {gpus} can be used; "
            "no mps: one process alone can train on it"
        )
        with pytest.raises(ValueError, match="the device mps cannot be used: no mps: one process"):
            find_device("mps")


# --- settings -------------------------------------------------------------------------------


def test_settings_are_all_orders_and_precisions_of_the_device() -> None:
    assert settings(CPU) == [
        Setting(CPU, FP32), Setting(CPU, FP32, True), Setting(CPU, BF16), Setting(CPU, BF16, True),
    ]  # fmt: skip
    assert settings(CPU, images=False) == [Setting(CPU, FP32), Setting(CPU, BF16)]
    assert settings(CPU, "float32") == [Setting(CPU, FP32), Setting(CPU, FP32, True)]
    assert settings(CPU, "bfloat16", images=False) == [Setting(CPU, BF16)]
    assert settings(torch.device("mps"), images=False) == [Setting(torch.device("mps"))]
    for word in ("half", "fp32", ""):
        with pytest.raises(ValueError, match="precision must be auto, float32 or bfloat16"):
            settings(CPU, word)


@pytest.mark.parametrize(("supported", "half"), [(True, BF16), (False, torch.float16)])
def test_a_gpu_gets_the_half_precision_that_it_has(
    monkeypatch: pytest.MonkeyPatch, supported: bool, half: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda emulated: supported)
    found = settings(torch.device("cuda"))
    assert {setting.dtype for setting in found} == {FP32, half} and len(found) == 4


def test_a_setting_says_what_it_is() -> None:
    assert str(PLAIN) == "cpu, float32"
    full = Setting(torch.device("cuda", 1), BF16, channels_last=True, compiled=True)
    assert str(full) == "cuda, bfloat16, channels last, compiled"
    assert len({str(setting) for setting in settings(CPU)}) == 4


@pytest.mark.parametrize("last", [False, True])
def test_models_and_images_get_the_order_of_memory_and_keep_their_numbers(last: bool) -> None:
    setting, model = Setting(CPU, channels_last=last), thin_resnet(8).to(CPU)
    x, y = images()
    before = model.conv1.weight.detach().clone()
    prepared = setting.prepare(model)
    assert prepared is model and torch.equal(model.conv1.weight, before)
    placed_x, placed_y = setting.place((x, y))
    assert torch.equal(placed_x, x) and placed_x.shape == x.shape and placed_y is y
    for tensor in (model.conv1.weight, placed_x):
        assert tensor.is_contiguous(memory_format=torch.channels_last) == last
        assert tensor.is_contiguous() != last
    # and back again
    assert PLAIN.prepare(model).conv1.weight.is_contiguous()  # type: ignore[union-attr,operator]


def test_place_reaches_into_lists_and_leaves_the_rest() -> None:
    setting = Setting(CPU, channels_last=True)
    masks, boxes = torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(5, 4)
    targets = [{"boxes": boxes}, "name", 3]
    placed = setting.place([[images()[0]], (masks, boxes), targets])
    assert placed[0][0].is_contiguous(memory_format=torch.channels_last)
    assert isinstance(placed[1], tuple) and placed[1][0].is_contiguous() and placed[1][1] is boxes
    assert placed[2] == targets


@pytest.mark.parametrize("setting", settings(CPU), ids=str)
def test_every_setting_gives_a_float32_loss_and_finite_gradients(setting: Setting) -> None:
    model, seen = setting.prepare(net()), []
    model[0].register_forward_hook(lambda layer, x, y: seen.append(y.dtype))  # type: ignore[index]
    with setting.autocast():
        loss, score = cross_entropy()(model, setting.place(images()))
    loss.backward()
    assert loss.dtype == torch.float32 and loss.ndim == score.ndim == 0
    assert seen == [setting.dtype], "the convolution computed in another precision"
    for weight in model.parameters():
        assert weight.grad is not None and weight.dtype == torch.float32 == weight.grad.dtype
        assert torch.isfinite(weight.grad).all() and weight.grad.abs().sum() > 0


def test_gradients_are_scaled_for_float16_alone() -> None:
    for dtype, scaled in ((FP32, False), (BF16, False), (torch.float16, True)):
        assert Setting(CPU, dtype).scaler().is_enabled() == scaled
    largest = 175.0  # first gradient of a plain network of 56 layers
    scale = Setting(CPU, torch.float16).scaler().get_scale()
    assert largest * scale < torch.finfo(torch.float16).max, "the first steps are skipped"


# --- choosing -------------------------------------------------------------------------------


class Clock:
    """Says how long a step takes in each setting instead of measuring, and counts the steps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **milliseconds: float):
        self.times, self.timed = milliseconds, dict.fromkeys(milliseconds, 0)
        self.real = engine.training_step
        monkeypatch.setattr(engine, "training_step", self.step)
        monkeypatch.setattr(engine, "seconds", self.seconds)

    def step(self, model: Any, batch: Any, objective: Any, setting: Setting) -> Callable[[], None]:
        step = self.real(model, batch, objective, setting)
        step.name = name_of(setting)  # type: ignore[attr-defined]
        return step

    def seconds(self, step: Any, device: torch.device) -> float:
        step()
        self.timed[step.name] += 1
        return self.times[step.name] / 1e3


def name_of(setting: Setting) -> str:
    return ("bf16" if setting.dtype == BF16 else "fp32") + "_last" * setting.channels_last


@pytest.mark.parametrize("best", ["fp32", "fp32_last", "bf16", "bf16_last"])
def test_choose_takes_the_fastest_and_drops_the_hopeless(
    monkeypatch: pytest.MonkeyPatch, best: str
) -> None:
    slow: dict[str, float] = {"fp32": 50, "fp32_last": 12, "bf16": 90, "bf16_last": 14}
    clock = Clock(monkeypatch, **{**slow, best: 10})
    chosen, measured = choose(net(), images(), cross_entropy(), settings(CPU))
    assert name_of(chosen) == best
    assert {name_of(setting): 1e3 * time for setting, time in measured.items()} == pytest.approx(
        clock.times
    )
    for name, count in clock.timed.items():
        near = clock.times[name] <= engine.HOPELESS * 10
        assert count == (engine.ROUNDS if near else 1), name


@pytest.mark.parametrize("training", [False, True])
def test_choosing_leaves_everything_as_it_was(training: bool) -> None:
    model = net().train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.random.get_rng_state()
    chosen, measured = choose(model, images(), cross_entropy(), settings(CPU))
    assert chosen in measured and min(measured.values()) == measured[chosen] > 0
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert model.training == training and all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.random.get_rng_state(), state), "random numbers were drawn"


def test_of_a_single_choice_nothing_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(engine, "training_step")
    assert choose(net(), images(), cross_entropy(), [PLAIN]) == (PLAIN, {})


# --- objectives -----------------------------------------------------------------------------


def test_of_texts_every_token_counts_alike() -> None:
    x, y = torch.randn(2, 3, 5), torch.tensor([[0, 1, 2], [3, 4, 0]])
    loss, right = cross_entropy()(nn.Identity(), (x, y))
    torch.testing.assert_close(loss, nn.functional.cross_entropy(x.reshape(6, 5), y.reshape(6)))
    assert right == (x.argmax(-1) == y).float().mean()


def test_what_is_ignored_does_not_count() -> None:
    x, y = torch.randn(2, 3, 5), torch.tensor([[1, IGNORED, 4], [IGNORED, IGNORED, 0]])
    loss, right = cross_entropy()(nn.Identity(), (x, y))
    kept = y != IGNORED
    torch.testing.assert_close(loss, nn.functional.cross_entropy(x[kept], y[kept]))
    torch.testing.assert_close(right, (x[kept].argmax(1) == y[kept]).float().mean())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_where_all_is_ignored_there_is_nothing_to_learn(smoothing: float) -> None:
    x = torch.randn(2, 3, 5, requires_grad=True)
    loss, right = cross_entropy(smoothing)(nn.Identity(), (x, torch.full((2, 3), IGNORED)))
    loss.backward()
    assert loss == right == 0 and x.grad is not None and not x.grad.any()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_that_of_pytorch(smoothing: float) -> None:
    x, y = torch.randn(12, 5, generator=torch.Generator().manual_seed(3)), torch.arange(12) % 5
    loss, right = cross_entropy(smoothing)(nn.Identity(), (x, y))
    expected = nn.functional.cross_entropy(x, y, label_smoothing=smoothing)
    assert loss == expected and right == (x.argmax(1) == y).float().mean()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_of_mixed_labels_is_the_mixture(smoothing: float) -> None:
    generator = torch.Generator().manual_seed(3)
    x, share = torch.randn(12, 5, generator=generator), 0.7
    a, b = torch.arange(12) % 5, (torch.arange(12) + 2) % 5
    mixed = share * nn.functional.one_hot(a, 5) + (1 - share) * nn.functional.one_hot(b, 5)
    loss, right = cross_entropy(smoothing)(nn.Identity(), (x, mixed))
    losses = [nn.functional.cross_entropy(x, y, label_smoothing=smoothing) for y in (a, b)]
    torch.testing.assert_close(loss, share * losses[0] + (1 - share) * losses[1])
    assert right == (x.argmax(1) == a).float().mean(), "right is who finds the larger share"


def test_scores_of_half_precision_are_widened_first() -> None:
    x = torch.tensor([[300.0, 299.0]], dtype=BF16)
    loss, _ = cross_entropy()(nn.Identity(), (x, torch.tensor([0])))
    expected = nn.functional.cross_entropy(x.float(), torch.tensor([0]))
    assert loss == expected and loss.dtype == torch.float32


def test_parameters_and_gradients_are_counted_as_one_vector() -> None:
    model = nn.Linear(3, 2)
    assert engine.count_parameters(model) == 8
    model.weight.grad = torch.full((2, 3), 2.0)
    assert engine.gradient_norm(model.parameters()) == pytest.approx(24**0.5)
    model.bias.grad = torch.full((2,), 5.0)
    assert engine.gradient_norm(model.parameters()) == pytest.approx(74**0.5)


@pytest.mark.gpu
def test_a_gpu_is_found_and_used() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    device, reason = find_device()
    assert device.type == "cuda" and reason == ""
    chosen, measured = choose(net(), images(64), cross_entropy(), settings(device))
    assert chosen.device == device and len(measured) == 4
