"""python -m benchmarks [NAME ...]: time this code against PyTorch and write what was measured."""

from __future__ import annotations

import argparse
import importlib.util
import pkgutil
import statistics
import sys
from dataclasses import asdict
from pathlib import Path

import benchmarks
import config
from benchmarks.timing import gemm_peak
from section1.parallel import available_threads
from utils.experiments import machine
from utils.experiments.results import to_json, write_file

HELPERS = {"__main__", "timing", "torch_conv"}


def main() -> int:
    names = sorted({m.name for m in pkgutil.iter_modules(benchmarks.__path__)} - HELPERS)
    p = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    p.add_argument("names", nargs="*", metavar="NAME", help=", ".join(names))
    chosen = p.parse_args().names or names
    if unknown := [name for name in chosen if name not in names]:
        p.error(f"there is no benchmark {unknown[0]!r}: choose from {', '.join(names)}")
    if importlib.util.find_spec("torch") is None:
        p.error("PyTorch, which this code is timed against, is not installed")
    for name in chosen:
        module = importlib.import_module(f"benchmarks.{name}")
        print(f"\n{name}: {module.__doc__}")
        print(f"NumPy's matrix products: {machine.blas()}")
        table, peaks, memory = [], {}, {}
        for threads in sorted({1, available_threads()}):
            rows = module.run(threads)
            width = max(map(len, rows))
            peaks[threads] = gemm_peak(threads)
            print(
                f"{'threads':>7}  {'case':<{width}}{'ours ms':>9}{'torch ms':>10}{'ratio':>7}"
                f"{'quartiles':>12}  GFLOP/s (peak {peaks[threads]:.0f})"
            )
            for case, c in rows.items():
                speed = c.gflop_per_second
                share = f"{speed:9.0f} {speed / peaks[threads]:5.0%}" if c.gflop else ""
                print(
                    f"{threads:>7}  {case:<{width}}{c.ours_ms:>9.3f}{c.torch_ms:>10.3f}"
                    f"{c.ratio:>7.2f}   {c.low:.2f}-{c.high:.2f}{share}"
                )
                table.append({"threads": threads, "case": case, **asdict(c)})
            median = statistics.median(c.ratio for c in rows.values())
            print(f"{threads:>7}  {'median ratio':<{width + 19}}{median:>7.2f}", flush=True)
            if hasattr(module, "memory"):
                memory[threads] = module.memory(threads)
                for case, (ours, theirs) in memory[threads].items():
                    print(
                        f"{threads:>7}  {case:<{width}}"
                        f"peak memory {ours:.0f} MB, torch {theirs:.0f} MB"
                    )
        record = {"benchmark": name, "rows": table, "gemm_peak_gflops": peaks, "memory_mb": memory}
        record |= {"blas": machine.blas(), "machine": machine.describe()}
        record |= {"versions": machine.versions(), "code": machine.git_state()}
        write_file(Path(config.RESULTS_DIR) / "benchmarks" / f"{name}.json", to_json(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
