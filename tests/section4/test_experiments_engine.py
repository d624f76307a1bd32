"""How experiments find their setting: with too little memory, compiled, and with a broken GPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from section4 import engine
from section4.engine import Setting
from section4.experiments import _engine
from section4.experiments._vision import Photographs, choose_for
from tests.runs import small_run
from tests.section4.test_training import scarce
from utils.errors import UserError
from utils.experiments.run import Run

X = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0))
BATCH = X, torch.arange(8) % 3


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(8, 3))


def some_run(folder: Path, **settings: Any) -> Run:
    return small_run("resnet18_cifar10", folder, {"samples": 60, "batch_size": 20}, **settings)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that is played by the CPU and takes two seconds for every step."""
    monkeypatch.setattr(engine, "find_device", lambda wanted: (torch.device("cuda"), ""))
    monkeypatch.setattr(engine, "seconds", lambda step, device: step() or 2.0)
    monkeypatch.setattr(Setting, "prepare", lambda setting, model: model)
    monkeypatch.setattr(Setting, "place", lambda setting, batch: batch)
    monkeypatch.setattr(Setting, "autocast", lambda setting: nullcontext())


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """What is compiled, or would be."""
    found = list[nn.Module]()

    def compile(model: nn.Module) -> nn.Module:
        found.append(model)
        return model

    monkeypatch.setattr(torch, "compile", compile)
    return found


# --- memory -----------------------------------------------------------------------------------


def test_settings_are_timed_on_as_many_rows_as_fit_into_memory(tmp_path: Path) -> None:
    seen = list[int]()
    setting = _engine.choose(some_run(tmp_path), net(), BATCH, scarce(3, seen))
    assert setting.dtype == torch.float32
    assert seen[:3] == [8, 4, 2] and set(seen[2:]) == {2}
    with pytest.raises(MemoryError, match="no memory for 1 row at once: take smaller"):
        _engine.choose(some_run(tmp_path), net(), BATCH, scarce(0, []))


def test_of_several_processes_none_takes_fewer_rows_than_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("section4.distributed.count", lambda: 2)
    choices = engine.settings(torch.device("cpu"), "float32")
    with pytest.raises(MemoryError, match="no memory for 8 rows at once"):
        _engine.fastest(net(), BATCH, scarce(4, []), choices, 0)


def test_training_does_not_go_on_where_its_setting_cannot_be_had(tmp_path: Path) -> None:
    _engine.choose(some_run(tmp_path), net(), BATCH, folder=tmp_path)
    kept = (tmp_path / "engine.json").read_text()
    (tmp_path / "engine.json").write_text(kept.replace("cpu", "mps"))
    with pytest.raises(UserError, match=r"begun on mps, .* start it anew, without --resume"):
        _engine.choose(some_run(tmp_path), net(), BATCH, folder=tmp_path)


# --- the compiler -----------------------------------------------------------------------------


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize(("fitting", "steps", "pays"), [(8, 60, 0), (8, 61, 1), (4, 31, 1)])
def test_a_long_training_on_a_gpu_is_compiled(
    tmp_path: Path, compiled: list[nn.Module], fitting: int, steps: int, pays: int
) -> None:
    run, model = some_run(tmp_path), net()
    setting = _engine.choose(run, model, BATCH, scarce(fitting, []), folder=tmp_path, steps=steps)
    assert setting.compiled == pays == len(compiled) and model not in compiled
    assert run.engine == str(setting) and ("compiled" in run.engine) == pays
    kept = json.loads((tmp_path / "engine.json").read_text())
    assert kept["setting"] == str(setting)


@pytest.mark.usefixtures("gpu")
def test_a_resumed_run_is_compiled_if_it_was_before(
    tmp_path: Path, compiled: list[nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = _engine.choose(some_run(tmp_path), net(), BATCH, folder=tmp_path, steps=1000)
    monkeypatch.delattr(engine, "choose")
    again = some_run(tmp_path)
    assert _engine.choose(again, net(), BATCH, folder=tmp_path) == chosen and chosen.compiled
    assert again.engine == str(chosen)


@pytest.mark.usefixtures("gpu")
@pytest.mark.parametrize("words", ["Cannot find a working\ntriton installation", ""])
def test_without_a_compiler_the_reason_is_said(
    tmp_path: Path, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def broken(model: nn.Module) -> Callable[..., None]:
        def forward(x: torch.Tensor) -> None:
            raise RuntimeError(words)  # the work is done when the network is first called

        return forward

    monkeypatch.setattr(torch, "compile", broken)
    model, before = net(), torch.random.get_rng_state()
    assert not _engine.choose(some_run(tmp_path), model, BATCH, steps=1000).compiled
    said = capsys.readouterr().out
    assert f"not compiled: {' '.join(words.split()) or 'RuntimeError'}\n" in said
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_processor_compiles_nothing(tmp_path: Path, compiled: list[nn.Module]) -> None:
    assert not _engine.choose(some_run(tmp_path), net(), BATCH, steps=10**9).compiled
    assert not compiled


def test_of_photographs_the_steps_are_those_of_all_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, steps = some_run(tmp_path), list[int]()  # batches of 20
    images = torch.zeros(54, 3, 8, 8, dtype=torch.uint8), torch.arange(54)
    mean, std = torch.zeros(3), torch.ones(3)
    data = Photographs(images, images, images, np.zeros((54, 8, 8, 3)), ("a",), mean, std)
    chosen = "section4.experiments._vision.choose"
    monkeypatch.setattr(chosen, lambda *_, **options: steps.append(options["steps"]))
    choose_for(run, net(), data, None)
    choose_for(run, net(), data, None, 5)
    assert steps == [0, 15]


# --- the device -------------------------------------------------------------------------------


def test_weights_are_drawn_without_asking_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver of one that is there may be too old: to ask it for its state is an error."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        expected = nn.Linear(4, 5).weight

    def too_old() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old")

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "_lazy_init", too_old)
    before = torch.random.get_rng_state()
    model = _engine.seeded(3, lambda: nn.Linear(4, 5))
    assert torch.equal(model.weight, expected)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_fewer_gpus_than_processes_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("section4.distributed.count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match=r"device cuda cannot be used: .* 2 processes need a GPU e"):
        _engine.find_device(some_run(tmp_path, device="cuda"))


@pytest.mark.parametrize(
    ("device", "other", "small", "flag"),
    [
        ("cpu", "cuda", "batch_size", "--batch-size "),
        ("cuda", "cpu", "batch_size_on_gpu", "--set batch_size_on_gpu="),
    ],
)
def test_a_batch_too_small_for_all_processes_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, other: str, small: str, flag: str
) -> None:
    run = small_run("gpt", tmp_path, {"batch_size": 2, "batch_size_on_gpu": 2, small: 1})
    monkeypatch.setattr("section4.distributed.count", lambda: 2)
    monkeypatch.setattr("section4.distributed.join", lambda device: None)
    monkeypatch.setattr(engine, "find_device", lambda wanted: (torch.device(other), ""))
    _engine.find_device(run)
    monkeypatch.setattr(engine, "find_device", lambda wanted: (torch.device(device), ""))
    words = f"2 processes cannot share a batch of 1 row: take {flag}2 or more"
    with pytest.raises(UserError, match=words):
        _engine.find_device(run)
