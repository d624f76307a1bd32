"""Whatever is in a file, reading it gives what is in it or one sentence that refuses it.

Never another error, more than five seconds, a gigabyte of memory, code that runs, or numbers that
pass for those of the file that was there before.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from section1 import checkpoint as numpy_checkpoint
from section2.models import fully_connected_net
from section2.optimizers import Adam
from section4 import checkpoint as torch_checkpoint
from tests.faults import hostile
from tests.faults.hostile import Reader, attack, mutated, mutated_within
from tests.section4.detection.test_folders import (
    WEIRD,
    coco_folder,
    outcome,
    places,
    voc_folder,
)
from tests.section4.test_checkpoint import CONTENT, Code
from tests.utils.data import helpers
from tests.utils.output.saved import save_result
from utils.data import DataError, Dataset, TextData, load
from utils.data.sources import CIFAR10, TINY_SHAKESPEARE, Source
from utils.errors import UserError
from utils.experiments import machine, registry, results, runner

Count = Callable[[str, int], None]
STATM = Path("/proc/self/statm")  # how much memory a process uses; on Linux
TEXT = "Ein Text über π, “quotes” and 😀.\n" * 30


# --- a reader for each kind of file -------------------------------------------------------------


def dataset(root: Path, name: str, source: Source, files: dict[str, bytes], file: str) -> Reader:
    """A data set of which these files are the official ones."""
    official = {other: helpers.md5(content) for other, content in files.items()}
    source = replace(source, official={**source.official, **official})
    folder = helpers.write(root, source, files)

    def read() -> Dataset | TextData:
        return load(name, "real", root=root, sources={name: source})

    good = read()

    def check(found: Any, same: bool) -> None:
        assert found.provenance == ("official" if same else "unverified copy")
        if isinstance(found, TextData):
            assert found.text == (folder / file).read_bytes().decode("utf-8")
            return
        for x, y in ((found.train_x, found.train_y), (found.test_x, found.test_y)):
            assert x.dtype == np.float32 and x.min() >= 0 and x.max() <= 1
            assert len(x) == len(y) and y.min() >= 0 and y.max() < len(found.classes) == 10
        if same or file.endswith(".gz"):  # which has a check sum
            for part in ("train_x", "train_y", "test_x", "test_y"):
                np.testing.assert_array_equal(getattr(found, part), getattr(good, part))

    return Reader(folder / file, read, DataError, check)


def mnist(root: Path, file: str) -> Reader:
    source, packed = helpers.mnist_source(("",), helpers.mnist_files())
    files = packed if file.endswith(".gz") else helpers.mnist_files()
    return dataset(root, "mnist", source, files, file)


def cifar10(root: Path, file: str) -> Reader:
    return dataset(root, "cifar10", CIFAR10, helpers.cifar10_files(), file)


def text(root: Path, file: str) -> Reader:
    return dataset(root, "tinyshakespeare", TINY_SHAKESPEARE, {file: TEXT.encode()}, file)


def npz(root: Path, file: str) -> Reader:
    """A checkpoint of section 1, whose parts have check sums."""
    rng = np.random.default_rng(0)
    model = fully_connected_net((6, 12, 3), "relu", rng=rng, batchnorm=True)
    optimizer = Adam(model.parameters(), 0.05)
    numpy_checkpoint.save(root / file, model, optimizer, rng, {"loss": [0.5, 0.25]})

    def state() -> list[Any]:
        return [*(array.tobytes() for array in arrays), optimizer.steps, optimizer.lr,
                rng.bit_generator.state]  # fmt: skip

    arrays = [p.value for p in model.parameters()] + model.buffers()
    arrays += [array for kind in optimizer.state for array in kind]
    saved = state()

    def read() -> Any:
        for array in arrays:
            array[...] = 7
        optimizer.steps = 99
        rng.random()
        untouched = state()
        try:
            return numpy_checkpoint.load(root / file, model, optimizer, rng)
        except ValueError:
            assert state() == untouched
            raise

    def check(found: Any, same: bool) -> None:
        assert found == {"loss": [0.5, 0.25]} and state() == saved

    return Reader(root / file, read, ValueError, check)


def pt(root: Path, file: str) -> Reader:
    """A checkpoint of section 4, whose parts have check sums, too."""
    torch_checkpoint.save(root / file, CONTENT)

    def check(found: Any, same: bool) -> None:
        assert found.pop("format") == torch_checkpoint.FORMAT
        torch.testing.assert_close(found, CONTENT, rtol=0, atol=0)

    return Reader(root / file, lambda: torch_checkpoint.load(root / file), ValueError, check)


def result(root: Path, file: str) -> Reader:
    """A saved result, whose arrays have a hash. What is read must do for the summary of a run."""
    folder = root / "section1" / "xor"
    arrays = {"weights": np.linspace(0, 1, 30).reshape(5, 6), "seen": np.arange(4)}
    good = save_result(folder, arrays=arrays)
    experiment = registry.Experiment(1, 1, "xor", "?")

    def check(found: Any, same: bool) -> None:
        runner.print_summary([runner.Outcome(experiment, found, note=found.answer)])
        for curve in found.curves.values():
            assert len(curve.x) == len(curve.y) == len(curve.std or curve.y)
        for name, array in found.arrays.items():
            np.testing.assert_array_equal(array, arrays[name])
        if same or file == "arrays.npz":
            assert found.arrays.keys() == arrays.keys() and found.answer == good.answer

    return Reader(folder / file, lambda: results.load(folder), UserError, check)


def annotated(root: Path, file: str) -> Reader:
    """A folder of pictures; `outcome` says whether it could be read, and looks at what was."""
    (coco_folder if file.endswith(".json") else voc_folder)(root)

    def read() -> None:
        if not outcome(root):
            raise UserError(f"{root / file} is refused")

    return Reader(root / file, read, UserError, lambda found, same: None)


READERS: dict[str, Callable[[Path, str], Reader]] = {
    "train-images-idx3-ubyte": mnist,
    "t10k-labels-idx1-ubyte": mnist,
    "train-images-idx3-ubyte.gz": mnist,
    "t10k-labels-idx1-ubyte.gz": mnist,
    "data_batch_3": cifar10,
    "batches.meta": cifar10,
    "input.txt": text,
    "last.npz": npz,
    "last.pt": pt,
    "result.json": result,
    "arrays.npz": result,
    "annotations/instances_val2017.json": annotated,
    "Annotations/wide.xml": annotated,
}
WITHOUT_CHECK_SUM = ("input.txt", "result.json", "train-images-idx3-ubyte")


# --- at random ----------------------------------------------------------------------------------


@pytest.mark.parametrize("file", READERS)
def test_damaged_files_are_read_right_or_refused(
    tmp_path: Path, file: str, times: int, count: Count
) -> None:
    tries = 90 * times
    refused = attack(READERS[file](tmp_path, file), mutated, 0, tries, count)
    assert refused > tries / 4


@pytest.mark.parametrize("file", ["last.npz", "last.pt"])
def test_damage_below_right_check_sums_is_read_or_refused(
    tmp_path: Path, file: str, times: int, count: Count
) -> None:
    """Then only what is no checkpoint at all can be told."""
    reader = READERS[file](tmp_path, file)._replace(check=lambda found, same: None)
    refused = attack(reader, mutated_within, 1, 120 * times, count)
    assert refused > 30 * times


def changed_json(good: bytes, rng: np.random.Generator) -> bytes:
    """A value left out, or something else in its place."""
    content = json.loads(good)
    container, key = places(content)[rng.integers(len(places(content)))]
    if rng.random() < 0.3:
        del container[key]
    else:
        container[key] = WEIRD[rng.integers(len(WEIRD))]
    return json.dumps(content).encode()


def test_a_result_of_which_a_value_is_another_is_read_or_refused(
    tmp_path: Path, times: int, count: Count
) -> None:
    refused = attack(result(tmp_path, "result.json"), changed_json, 2, 250 * times, count)
    assert refused > 50 * times


# --- by design ----------------------------------------------------------------------------------


def npy(content: Any, claim: str = "") -> bytes:
    """An array as a file of NumPy's; `claim` is the shape that its header names instead."""
    file = io.BytesIO()
    np.save(file, content, allow_pickle=True)
    raw = file.getvalue()
    if not claim:
        return raw
    true = str(np.shape(content)).encode()
    return raw.replace(true + b", }" + b" " * (len(claim) - len(true)), claim.encode() + b", }")


def as_torch(content: object, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save({"format": 1, "model": content}, file, **options)
    return file.getvalue()


GUISES: dict[str, Callable[[object], bytes]] = {
    **{f"pickle {k}": partial(pickle.dumps, protocol=k) for k in range(6)},
    "npy": lambda content: npy(np.array([content], object)),
    "npz": lambda content: hostile.zipped({"facts.npy": npy(np.array([content], object))}),
    "torch": as_torch,
    "old torch": partial(as_torch, _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("file", READERS)
def test_code_in_a_file_is_not_run(tmp_path: Path, file: str, count: Count) -> None:
    trace = tmp_path / "code was here"
    reader = READERS[file](tmp_path, file)
    good = reader.path.read_bytes()
    for guise in GUISES.values():
        bad = guise(Code(trace))
        for content in (bad, bad + good, good + bad):
            reader.path.write_bytes(content)
            try:
                reader.read()
            except reader.refusal:
                pass
            assert not trace.exists()
            count("inputs tried", 1)
    pickle.loads(GUISES["pickle 2"](Code(trace)))  # the code does work
    assert trace.exists()


def test_arrays_with_code_and_the_right_hash_are_refused(tmp_path: Path) -> None:
    trace, reader = tmp_path / "code was here", result(tmp_path, "arrays.npz")
    stamp_arrays(reader.path, hostile.zipped({"seen.npy": GUISES["npy"](Code(trace))}))
    with pytest.raises(UserError, match="allow_pickle=False"):
        reader.read()
    assert not trace.exists()


def stamp_arrays(path: Path, content: bytes, shapes: dict[str, list[int]] | None = None) -> None:
    """Other arrays for a result, whose `result.json` has the hash that goes with them."""
    path.write_bytes(content)
    record = json.loads(path.with_name("result.json").read_text())
    record |= {"arrays_sha256": sha256(content).hexdigest(), "arrays": shapes or {"seen": [1]}}
    path.with_name("result.json").write_text(json.dumps(record))


def bombs() -> dict[str, tuple[str, bytes]]:
    """Small files that ask for much: name -> the file they are to replace, and what is in them."""
    doubled = b")" + b"".join(b"q%ch%c\x86" % (k, k) for k in range(60))
    text = b"X" + (2_000_000).to_bytes(4, "little") + b"x" * 2_000_000
    copies = b"c_codecs\nencode\nq\0" + text + b"X\x06\0\0\0latin1\x86q\1" + b"h\0h\1R" * 2000
    key = b"\x80\x02}%bK\x01s."
    zeros = hostile.zipped({"weight 0.npy": npy(np.zeros(2**23))}, zipfile.ZIP_DEFLATED)
    return {
        "IDX of 2^96 bytes": ("train-images-idx3-ubyte", b"\0\0\x08\x03" + b"\xff" * 12),
        "IDX of 1 GB": ("train-images-idx3-ubyte", b"\0\0\x08\x03\0\0\x08\0\0\0\x08\0\0\0\1\0"),
        "a key with 2^60 tuples in it": ("data_batch_3", key % doubled),
        "a key of a million tuples in each other": ("data_batch_3", key % (b")" + b"\x85" * 10**6)),
        "a set of them": ("data_batch_3", b"\x80\x04\x8f(" + doubled + b"\x90."),
        "an encoding with 2^60 tuples": (
            "data_batch_3", b"\x80\x02c_codecs\nencode\nX\1\0\0\0x" + doubled + b"\x86R."
        ),
        "two thousand copies of 2 MB": ("data_batch_3", b"\x80\x02(" + copies + b"l."),
        "twenty million lists": ("data_batch_3", b"\x80\x02(" + b"]" * 20_000_000 + b"l."),
        "an array of a terabyte": (
            "last.npz", hostile.zipped({"weight 0.npy": npy(np.zeros(9), f"({2**40},)")})
        ),
        "zeros that were packed": ("last.npz", zeros),
        "a header of brackets": (
            "last.npz", hostile.zipped({"facts.npy": npy(np.zeros(9), "(" * 5000)})
        ),
        "facts of brackets": (
            "last.npz", hostile.zipped({"facts.npy": npy(np.array("[" * 100_000))})
        ),
        "zeros packed for PyTorch": ("last.pt", zeros),
        "a result of brackets": ("result.json", b"[" * 100_000),
        "a number of a million digits": ("result.json", b'{"metrics": ' + b"9" * 10**6 + b"}"),
    }  # fmt: skip


def test_files_that_ask_for_much_are_refused(tmp_path: Path, count: Count) -> None:
    """In a process of its own, which may take 1 GB of memory and 40 s of the processor."""
    if not STATM.exists():
        pytest.skip("needs Linux, to limit the memory to what is used and 1 GB")
    code = "from tests.faults.test_hostile_files import *; read_bombs(Path(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=machine.ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    count("inputs tried", done.stdout.count("refused"))
    assert done.stdout.splitlines() == [f"refused {name}" for name in [*bombs(), "packed arrays"]]


def read_bombs(folder: Path) -> None:
    import resource

    limit(resource.RLIMIT_CPU, 40)
    results.MOST_BYTES = 2**25
    small = bombs()
    used = int(STATM.read_text().split()[0]) * resource.getpagesize()
    limit(resource.RLIMIT_AS, used + 2**30)
    for number, (name, (file, content)) in enumerate(small.items()):
        (place := folder / str(number)).mkdir()
        refuse(name, READERS[file](place, file), content)
    (place := folder / "packed").mkdir()
    reader = result(place, "arrays.npz")
    stamp_arrays(reader.path, small["zeros that were packed"][1])
    refuse("packed arrays", reader, reader.path.read_bytes())


def limit(what: int, amount: int) -> None:
    import resource

    resource.setrlimit(what, (amount, amount))


def refuse(name: str, reader: Reader, content: bytes) -> None:
    reader.path.write_bytes(content)
    try:
        with hostile.limited(hostile.PATIENCE):
            reader.read()
    except reader.refusal as error:
        assert reader.path.parent.name in str(error) and len(str(error)) < 2000
        print(f"refused {name}", flush=True)
