"""Small runs of experiments, and what must be the same when one is run again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from utils.experiments import registry
from utils.experiments.budget import Budget
from utils.experiments.results import Result, Table
from utils.experiments.run import Run, Settings

TIME = re.compile("second|time|minute")  # in the names of what no two runs have alike


def small_run(name: str, folder: Path, budget: dict[str, Any], **settings: Any) -> Run:
    """A run on embedded data of the QUICK budget, changed by `budget`; it resumes what it finds."""
    (experiment,) = registry.select([name])
    fixed: dict[str, Any] = {"mode": "quick", "seed": 0, "data": "embedded", "threads": 1}
    fixed |= {"resume": True, "device": "cpu", "precision": "float32"}
    whole = Budget(experiment.settings("quick") | budget)
    return Run(experiment, Settings(results=folder, **(fixed | settings)), whole)


def assert_same_result(first: Result, second: Result) -> None:
    """Every number is the same bit for bit, but for times."""
    for kind in ("metrics", "curves", "tables", "arrays"):
        one, other = getattr(first, kind), getattr(second, kind)
        assert one.keys() == other.keys()
        for name in one:
            if TIME.search(name):
                continue
            if kind == "arrays":
                np.testing.assert_array_equal(one[name], other[name])
            elif kind == "tables":
                rows, same = _without_times(one[name]), _without_times(other[name])
                np.testing.assert_equal(rows, same, name)  # NaN is NaN here
            elif kind == "metrics":
                np.testing.assert_equal(one[name], other[name], name)
            else:
                assert one[name] == other[name], name


def _without_times(table: Table) -> list[list[Any]]:
    kept = [k for k, column in enumerate(table.columns) if not TIME.search(column)]
    return [[row[k] for k in kept] for row in table.rows]
