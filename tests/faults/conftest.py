"""The counts at the end: `record_property("faults injected", 3)` in any test adds to them."""

from __future__ import annotations

from collections import Counter

import pytest

KINDS = ("faults injected", "inputs tried")


@pytest.hookimpl(tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    stats = terminalreporter.stats
    counts: Counter[str] = Counter(dict.fromkeys((*KINDS, "failures"), 0))
    for outcome in ("passed", "failed"):
        for report in stats.get(outcome, []):
            if "tests/faults/" in report.nodeid and report.when == "call":
                counts.update({k: n for k, n in report.user_properties if k in KINDS})
                counts["failures"] += outcome == "failed"
    if sum(counts.values()):
        terminalreporter.write_sep("-", ", ".join(f"{k} {n:,}" for k, n in counts.items()))
