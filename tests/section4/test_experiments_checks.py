"""The tables of what is checked in section 4: the gradients are right, and no fault is accepted."""

from __future__ import annotations

import numpy as np
import pytest

from section2.experiments._account import changes, check, check_mistake, check_whole, places
from section2.faults import FAULTS
from section4.experiments._checks import EXAMPLES, MISTAKES, MODELS


@pytest.mark.parametrize("cls", EXAMPLES, ids=lambda cls: cls.__name__)
def test_examples_are_right_and_every_fault_is_refused(cls: type) -> None:
    for example in EXAMPLES[cls]:
        report = check(example, np.random.default_rng(1))
        assert report.passed and not any(row.kinks for row in report.rows), f"\n{report}"
        planted = 0
        for number, gradient in places(example, np.random.default_rng(1)):
            for name, fault in FAULTS.items():
                if changes(fault, gradient):
                    wrong = check(example, np.random.default_rng(1), fault, number)
                    assert not wrong.passed, f"{name}, {number}\n{wrong}"
                    planted += 1
        assert planted >= 5


@pytest.mark.parametrize("name", MODELS)
def test_models_are_right_and_every_fault_is_refused(name: str) -> None:
    report = check_whole(MODELS[name], np.random.default_rng(1))
    assert report.passed, f"\n{report}"
    for fault in FAULTS.values():
        assert not check_whole(MODELS[name], np.random.default_rng(1), fault).passed


@pytest.mark.parametrize("name", MISTAKES)
def test_every_mistake_is_refused_where_it_is_one(name: str) -> None:
    layers, mistake = MISTAKES[name]
    reports = [
        check_mistake(example, np.random.default_rng(1), mistake)
        for cls in layers
        for example in EXAMPLES[cls]
    ]
    seen = [report for report in reports if report is not None]
    assert seen and not any(report.passed for report in seen)
    assert min(report.worst for report in seen) > 1e-3
