"""Where a number was measured: the machine, the packages, the version of the code."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from utils.experiments.budget import whole_number
from utils.experiments.registry import ROOT

PACKAGES = ("numpy", "matplotlib", "scikit-learn", "torch", "torchvision")
PATIENCE = 5.0  # seconds in which the first of several processes can say what went wrong


def versions() -> dict[str, str]:
    """Python's version, and those of the installed packages that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def git_state() -> dict[str, str | bool | None]:
    """The commit of the code and whether files differ from it; None outside a checkout."""

    def git(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=10
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    changes = git("status", "--porcelain", "--untracked-files=no")
    return {"commit": git("rev-parse", "HEAD"), "dirty": None if changes is None else changes != ""}


def code_version(code: dict[str, Any]) -> str:
    """What `git_state` found, in words: 1a2b3c4, with changes or without."""
    commit = str(code["commit"] or "unknown")[:7]
    return f"{commit} with changes" if code["dirty"] else commit


def processes() -> int:
    """How many processes torchrun has started to do this together; 1 without it.

    Raises UserError where the environment variable that tells it is no such number.
    """
    return whole_number("WORLD_SIZE", os.environ.get("WORLD_SIZE", "1"), 1)


def writes() -> bool:
    """Whether this process is the one that writes files and speaks: of several, the first."""
    return os.environ.get("RANK", "0") == "0"


def complain(words: str) -> None:
    """Say what went wrong, just before this process ends because of it.

    torchrun ends all processes as soon as one has failed. An error that all have met is told by
    the first of them, while the others wait here to be ended; one that waits in vain has met an
    error of its own.
    """
    if not writes():
        time.sleep(PATIENCE)
        words = f"process {os.environ['RANK']}: {words}"
    print(words, file=sys.stderr, flush=True)


def processor() -> str:
    """The name of the CPU, as far as the system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def describe(engine: str = "") -> dict[str, object]:
    """CPU, number of cores, GPU (None where `engine`, a `Run`'s, names none) and system."""
    devices, gpu = re.findall(r"\w+", engine), None
    if "cuda" in devices:
        gpu = sys.modules["torch"].cuda.get_device_name()  # which computed on it
    elif "mps" in devices:
        gpu = "Apple GPU"
    return {
        "cpu": processor(),
        "cores": os.cpu_count(),
        "gpu": gpu,
        "system": f"{platform.system()} {platform.release()}",
    }


def blas() -> str:
    """The library behind NumPy's matrix products, and for which processor its code was written.

    That need not be this one: an unknown processor gets what runs everywhere, and the
    environment variable OPENBLAS_CORETYPE decides over both.
    """
    import numpy  # loads the library that is looked for
    from threadpoolctl import threadpool_info

    libraries = [lib for lib in threadpool_info() if lib["user_api"] == "blas"]
    if not libraries:
        built = numpy.show_config(mode="dicts")["Build Dependencies"]["blas"]
        return str(built["name"])  # of a kind that cannot be asked, such as Apple's Accelerate
    library = min(libraries, key=lambda lib: "numpy" not in lib["filepath"])
    text = f"{library['internal_api']} {library['version']}"
    if "architecture" in library:
        text += f", code for {library['architecture']}"
    forced = os.environ.get("OPENBLAS_CORETYPE")
    return text + (f", as OPENBLAS_CORETYPE={forced} demands" if forced else "")


def reset_peak_memory() -> None:
    """Start measuring the peak anew. Linux only; elsewhere the peak is of the whole process."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pass


def peak_memory_mb() -> float | None:
    """The most memory this process has held since `reset_peak_memory`, in MB."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS, kibibytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
