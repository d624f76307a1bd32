"""What an experiment is handed: its budget, its randomness, its data."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

import config
from utils.data import Dataset, TextData
from utils.data import load as load_data
from utils.experiments.budget import Budget
from utils.experiments.progress import Progress
from utils.experiments.registry import ROOT, Experiment


@dataclass(frozen=True)
class Settings:
    """What the command line and `config.py` decide for all experiments of one call."""

    mode: str
    seed: int
    data: Literal["auto", "real", "embedded"]
    results: Path
    threads: int | None = None  # None: every core
    resume: bool = False  # keep what is done, go on with what was stopped half-way

    def folder(self, experiment: Experiment) -> Path:
        return self.results / f"section{experiment.section}" / experiment.name


@dataclass
class Run:
    """One run of one experiment; the argument of its `compute`."""

    experiment: Experiment
    settings: Settings
    budget: Budget
    data_used: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def threads(self) -> int | None:
        return self.settings.threads

    @property
    def checkpoints(self) -> Path:
        """The folder for checkpoints; whoever writes the first makes it."""
        return self.settings.folder(self.experiment) / "checkpoints"

    def rng(self, *key: int) -> np.random.Generator:
        """A generator of its own for this seed, this experiment and `key`.

        `run.rng(3)` for the fourth repetition is independent of all others, whatever runs
        before it, and the same at every call.
        """
        name = zlib.crc32(self.experiment.name.encode())
        # Seeds are padded with zeros, so (0,) and (0, 0) differ only by their lengths.
        return np.random.default_rng([self.settings.seed, name, len(key), *key])

    def load(self, name: str) -> Any:
        """The data set `name` by the policy of this run; it is noted in the result.

        QUICK never downloads. See `utils.data.load` for what is raised.
        """
        data: Dataset | TextData = load_data(
            name,
            policy=self.settings.data,
            download=self.settings.mode != "quick" or self.settings.data == "real",
            root=os.environ.get("COURSE_DATA_DIR") or ROOT / config.DATA_DIR,
        )
        self.note_data(name, data.description, data.provenance)
        return data

    def note_data(self, name: str, description: str, provenance: str = "generated") -> None:
        """Record what data a result rests on; needed only for data made on the spot."""
        self.data_used[name] = {"description": description, "provenance": provenance}

    def progress(self, total: int) -> Progress:
        return Progress(self.experiment.name, total)
