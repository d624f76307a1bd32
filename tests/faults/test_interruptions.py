"""What is promised to a run of hours on a machine that is also used for other things.

However a run ends (the power, a killed process, Ctrl-C, a full disk), what it had finished can be
read, what it had begun goes on with --resume, and the end is the same bit for bit as that of a run
that nothing stopped. Nobody else writes to its results folder meanwhile.
"""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import config
from tests.faults import TIMES, killed
from tests.runs import assert_same_result
from utils.errors import WriteError
from utils.experiments import machine, results, runner
from utils.experiments.progress import Progress
from utils.experiments.registry import ROOT

Course = Callable[..., int]
Record = Callable[[str, object], None]

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signals")
FIXED = ("--mode", "quick", "--data", "embedded", "--threads", "1")
NUMPY = (
    "xor", "mnist_cnn", *FIXED, "--epochs", "8", "--samples", "500", "--set", "seeds=2",
    "--set", "hidden=8", "--set", "filters=8,8", "--batch-size", "25",
)  # fmt: skip
TORCH = (
    "yolo_detection", *FIXED, "--device", "cpu", "--precision", "float32", "--epochs", "4",
    "--batch-size", "10", "--set", "width=8", "--set", "scenes=20", "--set", "validated=10",
    "--set", "tested=20",
)  # fmt: skip


START = """
import signal, sys
import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test may run where it is ignored
if "yolo_detection" in sys.argv:  # timing would not choose alike every time
    from section4 import engine
    engine.settings = lambda *_, **__: [engine.PLAIN]
sys.exit(main.main())
"""


class Process:
    """`python main.py WORDS` as a person would start it, until it is told or made to end."""

    def __init__(self, folder: Path, *words: str):
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-c", START, *words, "--results", str(folder)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )
        self.said = list[str]()

    def hear(self, words: str) -> None:
        """Wait for a line with these words, or the end."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line)
            if words in line:
                return

    def end(self, number: int | None = None) -> tuple[int, str, str]:
        """(exit status, what it said, its complaints), after a signal or by itself."""
        if number is not None:
            self.process.send_signal(number)
        out, err = self.process.communicate(timeout=600)
        return self.process.returncode, "".join(self.said) + out, err


def run(folder: Path, *words: str) -> tuple[int, str, str]:
    return Process(folder, *words).end()


def assert_same(folder: Path, reference: Path) -> None:
    """The same results, figures and checkpoints as those in `reference`, and nothing else."""
    found, expected = (
        {path.relative_to(place) for path in place.rglob("*") if path.is_file()}
        for place in (folder, reference)
    )
    assert found == expected
    assert not killed.unreadable(folder)
    records = [path for path in expected if path.name == "result.json"]
    assert records
    for record in records:
        ours, theirs = (results.load((place / record).parent) for place in (folder, reference))
        assert_same_result(ours, theirs)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, float]]:
    """(results, seconds from the first experiment to the end) of a run that nothing stops."""
    known = dict[tuple[str, ...], tuple[Path, float]]()

    def get(*words: str) -> tuple[Path, float]:
        if words not in known:
            folder = tmp_path_factory.mktemp("reference")
            process = Process(folder, *words)
            process.hear("[1/")
            start = time.monotonic()
            code, _, err = process.end()
            assert code == 0, err
            known[words] = folder, time.monotonic() - start
        return known[words]

    return get


# --- kill -9 ---------------------------------------------------------------------------------


@posix
@pytest.mark.parametrize(("words", "kills"), [(NUMPY, 3 * TIMES), (TORCH, 1 * TIMES)])
def test_killed_at_random_moments(
    words: tuple[str, ...],
    kills: int,
    reference: Callable[..., tuple[Path, float]],
    tmp_path: Path,
    record_property: Record,
) -> None:
    """Killed again and again, with --resume it ends as if nothing had been."""
    expected, seconds = reference(*words)
    moments, folder, injected = random.Random(0), tmp_path / "out", 0
    for _ in range(4 * kills):  # some come too late
        process = Process(folder, *words, "--resume")
        process.hear("[1/")
        time.sleep(moments.uniform(0, 0.7 * seconds))
        code, _, err = process.end(signal.SIGKILL)
        assert code in (0, -signal.SIGKILL), err
        assert not killed.unreadable(folder)
        injected += code != 0
        if injected == kills:
            break
        if code == 0:  # it had ended
            assert_same(folder, expected)
            shutil.rmtree(folder)
    record_property("faults injected", injected)
    assert injected == kills
    for path in killed.temporary(folder):
        os.utime(path, (0, 0))  # as if a while had passed
    code, _, err = run(folder, *words, "--resume")
    assert code == 0, err
    assert_same(folder, expected)


@posix
def test_killed_before_any_change_of_a_file(tmp_path: Path, record_property: Record) -> None:
    """With FAULTS_TIMES=20 before every one of them. The result of an earlier run is there until
    the new one is, whole; between the renaming of its two files it is refused, never mixed.
    """
    changes = 95  # about; there is nothing before one that is not reached
    numbers = sorted(random.Random(1).sample(range(1, changes + 1), min(5 * TIMES, changes)))
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.killed", str(tmp_path), *map(str, numbers)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert abs(answer["changes"] - changes) < 10, "sample from as many as there are"
    for found in answer["runs"]:
        assert found["status"] == (-signal.SIGKILL if found["number"] <= answer["changes"] else 0)
        mixed = ["section9/learns/result.json"]
        assert [place.split(":")[0] for place in found["unreadable"]] in ([], mixed), found
        assert all("of another run" in place for place in found["unreadable"])
        assert found["resumed"] == 0
        assert_same(tmp_path / str(found["number"]), tmp_path / "whole")
    assert sum(bool(found["unreadable"]) for found in answer["runs"]) <= 1
    record_property("faults injected", sum(found["status"] != 0 for found in answer["runs"]))


def test_what_a_killed_writer_left_is_swept_but_not_that_of_a_live_one(tmp_path: Path) -> None:
    old, own, new = [
        tmp_path / name
        for name in (
            "report/.figures.tex.ab_d3fgh.tmp",
            "section3/mnist_cnn/checkpoints/quick/seed0/last.npzab_d3fgh.part",
            "report/.figures.tex.zb_d3fgh.tmp",
        )
    ]
    others = [tmp_path / name for name in (".notes.tmp", "report/a.tmp", "section1/tables.tex")]
    for path in (old, own, new, *others):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("half")
        os.utime(path, (0, 0))
    os.utime(new)
    results.sweep(tmp_path)
    assert not old.exists() and not own.exists()
    assert all(path.exists() for path in (new, *others))


# --- Ctrl-C ----------------------------------------------------------------------------------


@posix
def test_ctrl_c(
    reference: Callable[..., tuple[Path, float]], tmp_path: Path, record_property: Record
) -> None:
    expected, _ = reference(*NUMPY)
    moments = random.Random(2)
    for number in range(TIMES):
        folder = tmp_path / str(number)
        process = Process(folder, *NUMPY)
        while not list(folder.rglob("last.npz")) and process.process.poll() is None:
            time.sleep(0.01)  # before, while modules are imported, Python itself may lose a Ctrl-C
        time.sleep(moments.uniform(0, 0.1))
        code, out, err = process.end(signal.SIGINT)
        assert (code, err) == (130, "")
        assert "Stopped; 1 finished. Go on with the same command and --resume." in out
        assert not killed.unreadable(folder) and not killed.temporary(folder)
    record_property("faults injected", TIMES)
    code, out, err = run(folder, *NUMPY, "--resume")
    assert code == 0, err
    assert "kept" in out
    assert_same(folder, expected)


# --- the disk, and the folder ----------------------------------------------------------------


@pytest.fixture
def learns(course: Course, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Course:
    """`learns("--seed", "1")`: main.py on two experiments that keep checkpoints."""
    names = ("earlier", "learns")
    for name in names:
        (tmp_path / "section9" / "experiments" / f"{name}.py").write_text(killed.LEARNS)
    monkeypatch.setattr(config, "BUDGETS", {9: dict.fromkeys(names, killed.BUDGET)})
    return lambda *words: course(*names, "--mode", "quick", *words)


@pytest.fixture
def whole(learns: Course, tmp_path: Path) -> Path:
    """The results of a run to which nothing happened."""
    assert learns("--results", str(tmp_path / "whole")) == 0
    return tmp_path / "whole"


def one_sentence(capsys: pytest.CaptureFixture) -> str:
    err = capsys.readouterr().err
    assert err.startswith("main.py: ") and err.count("\n") == 1 and "Traceback" not in err
    return err


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 2 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(place)]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a small disk")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk(
    learns: Course,
    whole: Path,
    small_disk: Path,
    capsys: pytest.CaptureFixture,
    record_property: Record,
) -> None:
    """It ends with one sentence; when there is room, --resume ends as if nothing had been."""
    place, moments = ("--results", str(small_disk / "out")), random.Random(3)
    injected = 0
    rooms = [8_000, 48_000, *(moments.randrange(4_000, 200_000) for _ in range(2 * TIMES - 2))]
    for room in rooms:  # bytes: for no checkpoint, for no figure, ...
        with (small_disk / "filler").open("wb", 0) as filler:
            with pytest.raises(OSError, match="No space"):
                while True:
                    filler.write(bytes(4096))
            filler.truncate((small_disk / "filler").stat().st_size - room)
        capsys.readouterr()
        code = learns(*place)
        if code == 2:
            assert "No space left" in one_sentence(capsys)
            injected += 1
        else:
            assert code == 0 and room > 48_000, "the disk was not full"
        assert not killed.unreadable(small_disk / "out")
        (small_disk / "filler").unlink()
        assert learns(*place, "--resume") == 0
        assert_same(small_disk / "out", whole)
        shutil.rmtree(small_disk / "out")
    record_property("faults injected", injected)


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EROFS])
def test_a_disk_that_takes_no_more(
    learns: Course,
    whole: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Record,
    reason: int,
) -> None:
    """From some moment on, whatever is then being written: a result, a checkpoint, a figure."""
    fsync = os.fsync
    moments = random.Random(reason).sample(range(1, 21), min(2 * TIMES, 20))
    for moment in moments:
        folder, left = tmp_path / f"out{moment}", moment

        def fail(descriptor: int) -> None:
            nonlocal left
            left -= 1
            if left <= 0:
                raise OSError(reason, os.strerror(reason))
            fsync(descriptor)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fail)
            capsys.readouterr()
            assert learns("--results", str(folder)) == 2, moment
        assert os.strerror(reason) in one_sentence(capsys)
        assert not killed.unreadable(folder) and not killed.temporary(folder)
        assert learns("--results", str(folder), "--resume") == 0
        assert_same(folder, whole)
    record_property("faults injected", len(moments))


def test_no_training_is_lost_where_its_result_could_not_be_saved(
    learns: Course, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise WriteError("could not write") from OSError(errno.ENOSPC, "No space left on device")

    epochs = sys.modules["section9.experiments.earlier"].EPOCHS
    with monkeypatch.context() as patch:
        patch.setattr(results, "save", full)
        assert learns() == 2
    epochs.clear()
    assert learns("--resume") == 0
    assert epochs == []
    assert_same(tmp_path / "out", whole)
    assert learns() == 0
    assert epochs == [1, 2, 3, 4], "without --resume it starts anew"


def test_a_folder_that_cannot_be_written_to(
    learns: Course, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A folder lies where a file should: root may do all else."""
    (tmp_path / "out" / ".lock").mkdir(parents=True)
    assert learns() == 2
    assert "could not write" in one_sentence(capsys)


def test_an_experiment_whose_folder_cannot_be_written_to_fails_alone(
    learns: Course, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = tmp_path / "out/section9/earlier"
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    assert learns() == 1
    said = capsys.readouterr()
    assert "FAILED: could not write" in said.out and not said.err
    assert path.read_text() == "mine" and results.load(path.with_name("learns"))


def test_a_results_folder_deleted_while_a_run_goes_on(
    learns: Course,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    record_property: Record,
) -> None:
    """What comes after is written all the same: the run makes the folder again."""
    advance = Progress.advance

    def delete(bar: Progress, note: str = "") -> None:
        if bar.done == 2:
            shutil.rmtree(tmp_path / "out")
        advance(bar, note)

    monkeypatch.setattr(Progress, "advance", delete)
    assert learns() == 0
    record_property("faults injected", 1)
    name = Path("section9") / "learns"
    assert_same_result(results.load(tmp_path / "out" / name), results.load(whole / name))
    assert not killed.unreadable(tmp_path / "out")


def test_a_record_of_failure_goes_when_its_experiment_is_done(
    learns: Course, tmp_path: Path
) -> None:
    """Also where the run was killed in between."""
    assert learns() == 0
    failure = tmp_path / "out" / "section9" / "learns" / "failure.json"
    failure.write_text('{"error": "of the run before"}')
    assert learns("--resume") == 0
    assert not failure.exists()


def test_a_figure_that_cannot_be_drawn_stops_nothing_when_resuming(
    learns: Course, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert learns() == 0
    folder = tmp_path / "out" / "section9"
    for figure in folder.glob("*/loss.png"):
        figure.unlink()
    module = sys.modules["section9.experiments.earlier"]
    monkeypatch.setattr(module, "draw", lambda result: 1 / 0)
    assert learns("--resume") == 1
    assert (folder / "earlier" / "failure.json").exists()
    assert (folder / "learns" / "loss.png").exists()


# --- two at once -----------------------------------------------------------------------------

HOLDER = """
import sys
from pathlib import Path
from utils.experiments import lock
with lock.held(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other_run(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """Another process that holds the lock of tmp_path/out until it is killed."""
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "out")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout is not None and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_run_is_refused_until_the_first_has_ended(
    learns: Course,
    whole: Path,
    tmp_path: Path,
    other_run: subprocess.Popen,
    capsys: pytest.CaptureFixture,
) -> None:
    capsys.readouterr()
    assert learns() == 2
    assert "another run is writing to" in one_sentence(capsys)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]
    other_run.kill()  # it cleans up nothing
    other_run.wait()
    assert learns() == 0
    assert_same(tmp_path / "out", whole)


def test_while_a_run_goes_on_nothing_is_drawn_again(
    learns: Course, tmp_path: Path, other_run: subprocess.Popen, capsys: pytest.CaptureFixture
) -> None:
    """For a figure belongs to a result; elsewhere one may run and draw meanwhile."""
    assert learns("--results", str(tmp_path / "elsewhere")) == 0
    assert learns("--results", str(tmp_path / "elsewhere"), "--replot") == 0
    shutil.copytree(tmp_path / "elsewhere" / "section9", tmp_path / "out" / "section9")
    capsys.readouterr()
    assert learns("--replot") == 2
    assert "another run is writing to" in one_sentence(capsys)


def test_of_several_processes_the_first_holds_the_lock(
    learns: Course, tmp_path: Path, other_run: subprocess.Popen, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others write nothing, so they need none."""
    monkeypatch.setattr(runner, "in_several_processes", lambda experiments: experiments)
    monkeypatch.setattr(machine, "PATIENCE", 0.0)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, code in ((0, 2), (1, 0)):
        monkeypatch.setenv("RANK", str(rank))
        assert learns() == code


@posix
def test_a_real_run_keeps_a_second_one_out(tmp_path: Path, record_property: Record) -> None:
    folder = tmp_path / "out"
    first = Process(folder, *NUMPY)
    first.hear("[1/")
    os.kill(first.process.pid, signal.SIGSTOP)
    code, _, err = run(folder, *NUMPY)
    assert code == 2
    assert err == (
        f"main.py: another run is writing to {folder}: wait until it has ended, or choose another "
        "folder with --results\n"
    )
    first.end(signal.SIGKILL)
    record_property("faults injected", 1)
