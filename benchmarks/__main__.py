"""python -m benchmarks [NAME ...]: time this code against PyTorch and write what was measured."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from dataclasses import asdict
from pathlib import Path

import benchmarks
import config
from section1.parallel import available_threads
from utils.experiments import machine
from utils.experiments.results import to_json, write_file

HELPERS = {"__main__", "timing"}


def main() -> int:
    names = sorted({m.name for m in pkgutil.iter_modules(benchmarks.__path__)} - HELPERS)
    p = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    p.add_argument("names", nargs="*", choices=[*names, []], metavar="NAME", help=", ".join(names))
    chosen = p.parse_args().names or names
    for name in chosen:
        module = importlib.import_module(f"benchmarks.{name}")
        print(f"\n{name}: {module.__doc__}")
        print(f"{'threads':>7}  {'case':<24}{'ours ms':>9}{'torch ms':>10}{'ratio':>7}  quartiles")
        table = []
        for threads in sorted({1, available_threads()}):
            for case, c in module.run(threads).items():
                print(
                    f"{threads:>7}  {case:<24}{c.ours_ms:>9.3f}{c.torch_ms:>10.3f}"
                    f"{c.ratio:>7.2f}  {c.low:.2f}-{c.high:.2f}"
                )
                table.append({"threads": threads, "case": case, **asdict(c)})
        record = {"benchmark": name, "rows": table, "machine": machine.describe()}
        record |= {"versions": machine.versions(), "code": machine.git_state()}
        write_file(Path(config.RESULTS_DIR) / "benchmarks" / f"{name}.json", to_json(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
