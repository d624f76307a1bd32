"""Two processes, started by torchrun, train what one process trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import main
from section4 import distributed
from tests.section4 import distributed_worker
from utils.experiments.registry import ROOT

TWO = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
TINY = (
    "--mode", "quick", "--data", "embedded", "--samples", "400", "--epochs", "1",
    "--precision", "float32",
)  # fmt: skip


def start(*words: str, limit: float = 120) -> subprocess.CompletedProcess:
    """`python words`, which must end by itself within `limit` seconds."""
    kept = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=limit, cwd=ROOT,
        env={**kept, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


Found = dict[str, Any]


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Found]]:
    """The folder that two processes wrote to, and what each found."""
    folder = tmp_path_factory.mktemp("two")
    done = start(*TWO, "-m", "tests.section4.distributed_worker", str(folder))
    assert done.returncode == 0, done.stderr
    return folder, [torch.load(folder / f"rank{k}.pt", weights_only=True) for k in (0, 1)]


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Found:
    """What a single process finds."""
    folder = tmp_path_factory.mktemp("one")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["worker", str(folder)])
        distributed_worker.main()
    return torch.load(folder / "rank0.pt", weights_only=True)


def assert_close(ours: Any, theirs: Any, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


def test_without_torchrun_there_is_one_process() -> None:
    assert (distributed.rank(), distributed.count(), distributed.local_rank()) == (0, 1, 0)
    distributed.join(torch.device("cpu"))
    assert not torch.distributed.is_initialized()
    model = torch.nn.Linear(2, 2)
    assert distributed.wrap(model) is model
    distributed.same_buffers(model)
    distributed.same_weights(model)
    assert distributed.share([1, 2, 3]) == [1, 2, 3]
    assert distributed.total([1, 2.5]) == distributed.highest([1, 2.5]) == [1, 2.5]
    assert [distributed.of_first(answer) for answer in (True, False)] == [True, False]


@pytest.mark.parametrize(("device", "over"), [("cuda:1", "cpu:gloo,cuda:nccl"), ("cpu", "gloo")])
def test_a_process_waits_for_hours_and_not_on_its_gpu(
    monkeypatch: pytest.MonkeyPatch, device: str, over: str
) -> None:
    begun, places = list[tuple[str, float]](), list[str]()
    group = torch.distributed
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(distributed.atexit, "register", lambda function: None)
    monkeypatch.setattr(
        group, "init_process_group",
        lambda backend, timeout: begun.append((backend, timeout.total_seconds())),
    )  # fmt: skip
    distributed.join(torch.device(device))
    ((backend, patience),) = begun
    assert backend == over and patience > 24 * 3600
    monkeypatch.setattr(group, "is_initialized", lambda: True)
    monkeypatch.setattr(group, "get_backend", lambda: "nccl")
    monkeypatch.setattr(group, "all_reduce", lambda table, how: places.append(str(table.device)))
    assert distributed.total([1, 2]) == [1, 2] and places == ["cpu"]


def test_processes_share_rows_and_sum_numbers(two: Any) -> None:
    (_, (first, second)) = two
    assert first["count"] == second["count"] == 2
    assert first["share"] == [0, 2, 4, 6] and second["share"] == [1, 3, 5]
    for found in (first, second):
        assert found["total"] == [3.0, 1.0] and found["highest"] == [1.0, 0.0]
        assert found["of first"] == [True, False]
        assert set(found["same buffers"]) == {5.0}


def test_gradients_and_weights_are_those_of_one_process_on_the_whole_batch(
    one: Found, two: Any
) -> None:
    (_, (first, second)) = two
    assert len(first["gradients"]) == 6
    assert_close(first["gradients"], one["gradients"])
    assert_close(first["weights"], one["weights"])
    assert_close(first["mean"], one["mean"])
    for key in ("gradients", "weights", "mean", "buffers"):
        assert_close(first[key], second[key], tolerance=0)


def test_measurements_are_those_of_one_process(one: Found, two: Any) -> None:
    (_, (first, second)) = two
    expected = one["history"]
    for found in (first["history"], second["history"]):
        for name in ("loss", "metric", "val_loss", "val_metric"):
            assert found[name] == pytest.approx(expected[name], rel=1e-5), name
    # the loss of single steps is that of the own rows
    means = [sum(both) / 2 for both in zip(*(f["history"]["step_loss"] for f in (first, second)))]
    assert means == pytest.approx(expected["step_loss"], rel=1e-4)


def test_only_the_first_process_writes_checkpoints(two: Any) -> None:
    folder, _ = two
    assert {path.name for path in (folder / "files of 0").iterdir()} == {"last.pt", "best.pt"}
    assert not (folder / "files of 1").exists()


def test_a_model_can_be_trained_again(one: Found, two: Any) -> None:
    (_, (first, second)) = two
    assert_close(first["twice"], one["twice"])
    assert_close(first["twice"], second["twice"], tolerance=0)


def test_processes_draw_different_numbers_and_choose_the_same_setting(two: Any) -> None:
    (_, (first, second)) = two
    assert first["drawn"] != second["drawn"]
    assert first["chosen"] == second["chosen"] == str(distributed_worker.FIRST_SLOWER)


def test_two_networks_play_the_same_game_in_all_processes(two: Any) -> None:
    (_, (first, second)) = two
    for mine, its in zip(first["adversarial"]["weights"], second["adversarial"]["weights"]):
        assert_close(mine, its, tolerance=0)
    assert first["adversarial"]["loss"] != second["adversarial"]["loss"]


def test_a_batch_is_not_cut_in_one_process_alone(one: Found, two: Any) -> None:
    (_, (first, second)) = two
    assert "no memory for 8 rows" in first["out of memory"] == second["out of memory"]
    assert "no memory for 1 row " in one["out of memory"]


def test_an_error_in_one_process_ends_all(tmp_path: Path) -> None:
    begin = time.monotonic()
    done = start(*TWO, "-m", "tests.section4.distributed_worker", str(tmp_path), "fail")
    assert done.returncode != 0 and "a planted fault" in done.stderr
    assert time.monotonic() - begin < 60


# --- main.py ----------------------------------------------------------------------------------


def test_the_numpy_sections_are_refused_in_a_sentence(tmp_path: Path) -> None:
    done = start(*TWO, "main.py", "1", "--results", str(tmp_path))
    assert done.returncode != 0 and not done.stdout.strip()
    said = [line for line in done.stderr.splitlines() if line.startswith("main.py: ")]
    assert said == ["main.py: torchrun is for section 4 alone: start the other sections without it"]
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_experiment_in_two_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    accuracy = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        words = ["main.py", "resnet18_cifar10", *TINY, "--results", str(folder)]
        if processes == 1:
            monkeypatch.setattr(sys, "argv", words)
            assert main.main() == 0
            said = capfd.readouterr().out
        else:
            done = start(*TWO, *words)
            assert done.returncode == 0, done.stderr
            said = done.stdout
        assert said.count("resnet18_cifar10") == 2  # when it began, and in the summary
        assert said.count("headline") == 1
        place = folder / "section4" / "resnet18_cifar10"
        result = json.loads((place / "result.json").read_text())
        assert result["info"]["processes"] == processes
        assert {path.name for path in place.glob("*.png")} == set(result["info"]["figures"])
        assert not list(folder.rglob("unfinished.json"))
        accuracy.append(result["metrics"]["test_accuracy"])
    assert accuracy[1] == pytest.approx(accuracy[0], abs=0.12), accuracy
