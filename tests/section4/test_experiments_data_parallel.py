"""The experiment that starts processes of its own, run whole on a tiny budget."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from section3.experiments._cnns import ALONE
from section4 import checkpoint
from section4.engine import PLAIN
from section4.experiments import data_parallel
from section4.experiments._data_parallel_worker import first_step, net
from section4.experiments.data_parallel import launch, plan, reason
from tests.runs import small_run
from utils.errors import UserError
from utils.experiments import registry
from utils.experiments.budget import Budget
from utils.experiments.results import Result
from utils.experiments.run import Run, Settings

TINY = ("--mode", "quick", "--data", "embedded", "--samples", "100", "--epochs", "2",
        "--set", "test_samples=40", "--threads", "2")  # fmt: skip


def small_task(**changes: object) -> dict:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, (12, 3, 8, 8), dtype=torch.uint8, generator=generator)
    y = torch.arange(12) % 4
    task = {
        "device": "cpu", "train": [x, y], "test": [x[:4], y[:4]], "mean": torch.full((3,), 0.5),
        "std": torch.full((3,), 0.3), "classes": 4, "seeds": [5], "depth": 8, "batch_size": 8,
        "lr": 0.1, "epochs": 1,
    }  # fmt: skip
    return {**task, **changes}


@pytest.mark.slow
def test_data_parallel(run_tiny: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process that torchrun started, too: what it told that one is kept from the others."""
    for name, text in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "nowhere.invalid"}.items():
        monkeypatch.setenv(name, text)
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")  # where other programs keep the cores busy
    result = run_tiny("data_parallel", *TINY)
    rows = result.tables["arms"].rows
    assert [row[:2] for row in rows] == [[1, 1], [1, 2], [2, 1]]
    assert result.arrays["accuracy"].shape == (3, 2)
    assert result.arrays["images_per_second"].shape == (3, 2 * 2)
    assert all(0 < row[4] <= row[3] <= row[5] for row in rows)
    assert [row[6] / row[3] for row in rows[:1]] == [1] and rows[1][6] == rows[2][6]
    assert rows[1][8:] == [0, 0], "compared with itself"
    off = result.metrics
    assert 0 < off["weights_off_without_batchnorm"] < 1e-4 < off["weights_off_with_batchnorm"]
    assert off["times_as_fast"] == pytest.approx(rows[2][3] / rows[1][3])
    assert f"{off['times_as_fast']:.2f} times as many" in result.answer


def test_another_process_of_torchrun_starts_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.delattr(data_parallel, "launch")
    (experiment,) = registry.select(["data_parallel"])
    settings = Settings("quick", 0, "embedded", tmp_path)
    assert data_parallel.compute(Run(experiment, settings, Budget())).headline == "times_as_fast"


@pytest.mark.parametrize(
    ("counts", "cores", "gpu", "arms"),
    [
        ([1, 2], 2, False, {1: [1, 2], 2: [1]}),
        ([2], 2, False, {1: [1, 2], 2: [1]}),
        ([1, 2, 4], 8, False, {1: [1, 8], 2: [4], 4: [2]}),
        ([1, 4], 2, False, {1: [1, 2], 4: [1]}),
        ([1, 2], 1, False, {1: [1], 2: [1]}),
        ([1, 2], 3, False, {1: [1, 2], 2: [1]}),
        ([1, 2, 3], 16, False, {1: [1, 12], 2: [6], 3: [4]}),
        ([1, 2], 16, True, {1: [16], 2: [8]}),
    ],
)
def test_all_arms_but_one_have_as_many_threads(
    counts: list[int], cores: int, gpu: bool, arms: dict
) -> None:
    assert plan(counts, cores, gpu) == arms


@pytest.mark.parametrize(
    ("wanted", "device", "there", "gpu"),
    [
        ("auto", "cuda", 2, True), ("auto", "cuda", 1, False), ("auto", "cpu", 2, False),
        ("cpu", "cpu", 2, False), ("cuda", "cuda", 2, True), ("cuda", "cuda", 1, None),
        ("mps", "mps", 0, None), ("cuda", "", 2, None),
    ],
)  # fmt: skip
def test_the_device_that_is_asked_for_is_used_or_refused(
    monkeypatch: pytest.MonkeyPatch, wanted: str, device: str, there: int, gpu: bool | None
) -> None:
    """GPUs may be counted that do not work."""

    def find_device(word: str) -> tuple[torch.device, str]:
        if not device:
            raise ValueError("no cuda: the driver is too old")
        return torch.device(device), ""

    monkeypatch.setattr(data_parallel, "find_device", find_device)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: there)
    if gpu is not None:
        assert data_parallel.on_gpus(wanted, 2) == gpu
        return
    with pytest.raises(UserError, match=r"2 processes need 2 CUDA GPUs, and [01] can be used"):
        data_parallel.on_gpus(wanted, 2)


def test_what_went_wrong_in_a_process_is_told(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "task.pt", small_task(depth=7))
    with pytest.raises(RuntimeError, match=r"in 2 processes failed: .*depth must be 8"):
        launch(2, [1], tmp_path / "task.pt", tmp_path / "answer.pt")
    assert not (tmp_path / "answer.pt").exists()


def test_the_reason_is_the_first_line_that_names_an_error() -> None:
    said = "W warning\nTraceback\n[rank1]: ValueError: bad\n\nChildFailedError: \n=====\n"
    assert reason(said) == "[rank1]: ValueError: bad"
    assert reason("some words\nKilled\n\n") == "Killed"
    assert reason("") == "nothing was said"


def test_the_first_step_moves_every_kind_of_weight() -> None:
    task = small_task()
    for norm in (False, True):
        step = first_step(task, PLAIN, norm)
        assert step["before"].shape == step["after"].shape
        assert ((step["after"] - step["before"]).abs() > 0).float().mean() > 0.5
    kinds = [{type(m) for m in net(task, 5, norm).modules()} for norm in (False, True)]
    assert torch.nn.BatchNorm2d in kinds[1] - kinds[0]
    with_norm, without = (net(task, 5, norm).state_dict() for norm in (True, False))
    assert all(torch.equal(with_norm[name], tensor) for name, tensor in without.items())


def test_one_process_alone_is_compared_with_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="processes must have a number above 1"):
        data_parallel.compute(small_run("data_parallel", tmp_path, {"processes": [1]}))


def accounted(arms: dict[tuple[int, int], list[float]], gpu: bool = False) -> tuple[str, str]:
    """Answer and title for these test accuracies."""
    steps = {
        name: {"before": torch.zeros(2), "after": torch.ones(2)}
        for name in ("without batch norm", "with batch norm")
    }
    found = {
        arm: {"accuracy": shares, "seconds": [[0.5]] * len(shares), "steps": steps}
        for arm, shares in arms.items()
    }
    result = data_parallel.account(found, 100, gpu)
    return result.answer, data_parallel.draw(result)["processes"].get_suptitle()


def test_a_difference_is_never_minus_zero_and_one_epoch_has_no_median() -> None:
    answer, title = accounted({(1, 1): [0.5], (1, 2): [0.5], (2, 1): [0.4999]})
    assert "1 process, 1 thread (one epoch)" in answer
    assert answer.endswith(f"a difference of +0.0 percentage points (n = 1; {ALONE}).")
    assert title.endswith(
        f"as 1 process, 2 threads; test accuracy differs by +0.0 points ({ALONE})"
    )


def test_a_difference_that_noise_explains_is_called_so() -> None:
    answer, title = accounted({(1, 1): [0.9, 0.9], (1, 2): [0.5, 0.51], (2, 1): [0.52, 0.51]})
    assert answer.endswith("of +1.0 percentage points (n = 2; no more than noise).")
    assert title.endswith("test accuracy differs by +1.0 points (no more than noise)")
    answer, title = accounted({(1, 1): [0.5, 0.5], (1, 2): [0.5, 0.51], (2, 1): [0.6, 0.61]})
    assert answer.endswith("of +10.0 percentage points (n = 2).")
    assert title.endswith("test accuracy differs by +10.0 points")


def test_several_gpus_are_compared_with_one() -> None:
    _, title = accounted({(1, 2): [0.5], (2, 1): [0.5]}, gpu=True)
    assert "train 1.00 times as fast as one GPU; test" in title
