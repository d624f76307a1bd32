"""What an experiment is handed: its budget, its randomness, its data."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

import config
from utils.data import Dataset, TextData, data_folder
from utils.data import load as load_data
from utils.experiments.budget import Budget
from utils.experiments.machine import processes, writes
from utils.experiments.progress import Progress
from utils.experiments.registry import ROOT, Experiment
from utils.experiments.results import to_json, to_plain, write_file


@dataclass(frozen=True)
class Settings:
    """What the command line and `config.py` decide for all experiments of one call."""

    mode: str
    seed: int
    data: Literal["auto", "real", "embedded"]
    results: Path
    threads: int | None = None  # None: every core
    resume: bool = False  # keep what is done, go on with what was stopped half-way
    device: str = "auto"  # of section 4
    precision: str = "auto"  # of section 4

    def folder(self, experiment: Experiment) -> Path:
        return self.results / f"section{experiment.section}" / experiment.name


@dataclass
class Run:
    """One run of one experiment; the argument of its `compute`."""

    experiment: Experiment
    settings: Settings
    budget: Budget
    data_used: dict[str, dict[str, str]] = field(default_factory=dict)
    engine: str = ""  # the device and precision that section 4 settled on
    resumed: bool = False  # it goes on with what was stopped, so its time is that of a part

    @property
    def threads(self) -> int | None:
        return self.settings.threads

    def checkpoints_of(self, name: str) -> Path:
        """Where an experiment of this section keeps its checkpoints of this mode."""
        other = Experiment(self.experiment.section, 0, name, "")
        return self.settings.folder(other) / "checkpoints" / self.settings.mode

    @property
    def data_folder(self) -> Path:
        """Where data sets lie, or are downloaded to; see `utils.data.sets.data_folder`."""
        return data_folder(None if os.environ.get("COURSE_DATA_DIR") else ROOT / config.DATA_DIR)

    def rng(self, *key: int) -> np.random.Generator:
        """A generator of its own for this seed, this experiment and `key`.

        `run.rng(3)` for the fourth repetition is independent of all others, whatever runs
        before it, and the same at every call.
        """
        name = zlib.crc32(self.experiment.name.encode())
        # Seeds are padded with zeros, so (0,) and (0, 0) differ only by their lengths.
        return np.random.default_rng([self.settings.seed, name, len(key), *key])

    def seed(self, *key: int) -> int:
        """A number that seeds other generators, such as PyTorch's, as independently."""
        return int(self.rng(*key).integers(2**63))

    def identity(self) -> dict:
        """What decides the numbers of a run (in sections 1 to 3 the number of threads does not)."""
        settings = self.settings
        named = {"mode": settings.mode, "seed": settings.seed, "data": settings.data}
        if self.experiment.section == 4:
            named |= {"device": settings.device, "precision": settings.precision}
            named |= {"processes": processes()}  # batch norm sees the rows of one of them
        return to_plain({**named, "budget": dict(self.budget)})

    @contextmanager
    def resumable(self) -> Iterator[Path]:
        """A folder for checkpoints: new or, with --resume, that of a stopped run like this one.

        What decides the numbers lies in `unfinished.json` until the run is done, and then in
        `finished.json`. So what was stopped goes on from its last epoch, with the same numbers as
        if it had not been, also where it was stopped between training and saving the result. What
        was finished starts anew without --resume, and until then its weights are there to be used.
        """
        folder = self.checkpoints_of(self.experiment.name)
        if not writes():
            yield folder
            return
        unfinished, finished = folder / "unfinished.json", folder / "finished.json"
        identity = to_json(self.identity() | {"data used": self.data_used})
        stamps = [stamp for stamp in (unfinished, finished) if stamp.is_file()]
        known = any(stamp.read_bytes() == identity for stamp in stamps)
        self.resumed = self.settings.resume and known
        if not self.resumed:
            for stamp in stamps:  # first: a folder half deleted is not to be gone on with
                stamp.unlink()
            if folder.exists():
                shutil.rmtree(folder)
        write_file(unfinished, identity)
        yield folder
        write_file(finished, identity)
        unfinished.unlink(missing_ok=True)

    def load(self, name: str) -> Any:
        """The data set `name` by the policy of this run; it is noted in the result.

        QUICK downloads by the policy "real" alone. See `utils.data.load` for what is raised.
        """
        data: Dataset | TextData = load_data(
            name,
            policy=self.settings.data,
            download=self.settings.mode != "quick" or self.settings.data == "real",
            root=self.data_folder,
        )
        self.note_data(name, data.description, data.provenance)
        return data

    def note_data(self, name: str, description: str, provenance: str = "generated") -> None:
        """Record what data a result rests on; needed only for data made on the spot."""
        self.data_used[name] = {"description": description, "provenance": provenance}

    def progress(self, total: int) -> Progress:
        return Progress(self.experiment.name, total)
