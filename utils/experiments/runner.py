"""Running experiments one after the other, so that nothing computed is ever lost."""

from __future__ import annotations

import shutil
import textwrap
import time
import traceback
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from threadpoolctl import threadpool_limits

import config
from utils.errors import DISK, UserError, WriteError
from utils.experiments import lock, machine, results
from utils.experiments.budget import Budget
from utils.experiments.forecast import expected_time
from utils.experiments.registry import Experiment
from utils.experiments.results import Result, command
from utils.experiments.run import Run, Settings

OK, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130  # exit codes
MEANING = {
    "quick": "to see that everything works",
    "hybrid": "real data, several seeds where runs are short: the numbers to learn from",
    "full": "the longest budgets: the numbers to report",
}


@dataclass
class Outcome:
    """What became of one experiment: a result, new or kept, or an error."""

    experiment: Experiment
    result: Result | None = None
    error: str = ""
    code: int = OK
    note: str = ""


def run_all(
    experiments: list[Experiment],
    budgets: dict[str, Budget],
    settings: Settings,
    *,
    force: bool = False,
    forecast: bool = False,
) -> int:
    """Run, save and draw each experiment, print a summary, and return the exit code.

    With `forecast` it is said first how long the new ones will take, by the times in `config.py`.

    An experiment that fails is recorded and the rest goes on. Results of a costlier mode
    are kept unless `force`; with `settings.resume` so is what was done with the same settings.
    Raises UserError where the results folder cannot be written to, or another run writes to it.
    """
    if machine.processes() > 1:
        experiments = in_several_processes(experiments)
    if not machine.writes():
        return run_each(experiments, budgets, settings, force)
    with lock.held(settings.results):
        check_writable(settings.results)
        results.sweep(settings.results)
        if forecast:
            runs = [Run(e, settings, budgets[e.name]) for e in experiments]
            if new := [run.experiment for run in runs if force or not kept(run)]:
                print(f"{expected_time(new, settings.mode, settings.threads)}\n", flush=True)
        return run_each(experiments, budgets, settings, force)


def run_each(
    experiments: list[Experiment], budgets: dict[str, Budget], settings: Settings, force: bool
) -> int:
    outcomes: list[Outcome] = []
    interrupted = False
    try:
        for position, experiment in enumerate(experiments, start=1):
            print(f"[{position}/{len(experiments)}] {experiment.name}: {experiment.question}")
            outcomes.append(attempt(Run(experiment, settings, budgets[experiment.name]), force))
            print(f"      {outcomes[-1].error or outcomes[-1].note}", flush=True)
            if outcomes[-1].error and machine.processes() > 1:
                if not machine.writes():
                    machine.complain(outcomes[-1].error)
                break  # the other processes wait for this one, until it ends
    except KeyboardInterrupt:
        interrupted = True
    finally:
        publish(settings)
        print_summary(outcomes)
    if interrupted:
        print(f"\nStopped; {len(outcomes)} finished. Go on with the same command and --resume.")
        return INTERRUPTED
    print(f"\n{what_next(settings)}")
    return max((outcome.code for outcome in outcomes), default=OK)


def in_several_processes(experiments: list[Experiment]) -> list[Experiment]:
    """Those of section 4; the others run in one process, where they use every core."""
    modern = [experiment for experiment in experiments if experiment.section == 4]
    if not modern:
        raise UserError("torchrun is for section 4 alone: start the other sections without it")
    return modern


def check_writable(folder: Path) -> None:
    probe = folder / ".writable"
    results.write_file(probe, b"yes")
    probe.unlink()


def kept(run: Run) -> tuple[Result, str] | None:
    """The saved result where it is to be kept instead of running again, and why; else None."""
    try:
        saved = results.load(run.settings.folder(run.experiment))
    except UserError:
        return None
    if run.settings.resume and saved.info.get("settings") == run.identity():
        return saved, "done before with the same settings: kept"
    mode = saved.info.get("settings", {}).get("mode")
    if mode in config.MODES and config.MODES.index(mode) > config.MODES.index(run.settings.mode):
        return saved, f"kept the result of mode {mode.upper()}; --force replaces it"
    return None


def attempt(run: Run, force: bool) -> Outcome:
    """Compute, save and draw, or keep what is there; with `force` nothing is kept.

    An error is recorded beside the earlier result, if any. Raises UserError where the disk is full.
    """
    folder = run.settings.folder(run.experiment)
    try:
        found = None if force else kept(run)
        if found is None:
            result = compute(run)
            if machine.writes():
                results.save(result, folder)
            found = result, result.answer
        result, note = found
        if machine.writes() and result.info["settings"] == run.identity():
            (folder / "failure.json").unlink(missing_ok=True)
            if not all((folder / name).exists() for name in result.info.get("figures", ["none"])):
                draw(run.experiment, result, folder)
    except BrokenPipeError:  # nobody reads what is printed any more
        raise
    except Exception as error:
        refuse_full_disk(error)
        return failure(run, error)
    return Outcome(run.experiment, result, note=note)


def refuse_full_disk(error: Exception) -> None:
    """Raise UserError where the disk was to blame: all other experiments would fail as well."""
    cause = error.__cause__ or error
    if isinstance(cause, OSError) and cause.errno in DISK:
        raise UserError(
            f"the disk takes no more ({cause.strerror}); what was done before is kept: make room, "
            "and go on with the same command and --resume"
        ) from error


def compute(run: Run) -> Result:
    """The experiment's result, with the account of how it came about in `info`."""
    machine.reset_peak_memory()
    start = time.perf_counter()
    with threadpool_limits(1, "blas"):  # numbers must not depend on how BLAS splits its work
        result = run.experiment.module().compute(run)
    result.info = {
        "experiment": run.experiment.name,
        "section": run.experiment.section,
        "question": run.experiment.question,
        "settings": run.identity(),
        "data": run.data_used,
        "threads": run.settings.threads,
        "processes": machine.processes(),
        "engine": run.engine,
        "seconds": round(time.perf_counter() - start, 3),
        "resumed": run.resumed,
        "peak_memory_mb": machine.peak_memory_mb(),
        "finished": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": machine.versions(),
        "code": machine.git_state(),
        "machine": machine.describe(run.engine),
    }
    return result


def draw(experiment: Experiment, result: Result, folder: Path) -> None:
    """Replace the figures in `folder` by those that the experiment draws from its result.

    Their names, in order, go into the result last: so it tells whether all have been drawn.
    """
    from utils.output import plots

    with plots.style():
        figures = experiment.module().draw(result)
        written = [
            plots.save(figure, folder / name, subtitle(result)) for name, figure in figures.items()
        ]
    new = {*written, *(path.with_suffix(".pdf") for path in written)}
    for old in {path for kind in ("png", "gif", "pdf") for path in folder.glob(f"*.{kind}")} - new:
        old.unlink()
    names = [path.name for path in written]
    if result.info.get("figures") != names:
        results.add_info(folder, figures=names)


def subtitle(result: Result) -> str:
    """The data and settings that stand under the title of every figure."""
    settings = result.info["settings"]
    data = "; ".join(result.data)
    words = [data, settings["mode"].upper(), f"seed {settings['seed']}", result.info.get("engine")]
    return " · ".join(filter(None, words))


def failure(run: Run, error: Exception) -> Outcome:
    """Record an error in `failure.json`; the result that was there before stays."""
    said, code = told(error)
    path = run.settings.folder(run.experiment) / "failure.json"
    trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    record = {
        "question": run.experiment.question,
        "error": str(error),
        "traceback": trace.splitlines(),
        "settings": run.identity(),
    }
    if machine.writes():
        try:
            results.write_file(path, results.to_json(record))
            said += "" if isinstance(error, UserError) else f" (details: {path})"
        except WriteError as another:
            refuse_full_disk(another)
    return Outcome(run.experiment, error=f"FAILED: {said}", code=code)


def told(error: Exception) -> tuple[str, int]:
    """What to say of an error in an experiment, and its exit code."""
    if isinstance(error, UserError):
        return str(error), FAILED if isinstance(error, WriteError) else BAD_INPUT
    return f"{type(error).__name__}: {error}", FAILED


def replot(experiments: list[Experiment], settings: Settings) -> int:
    """Draw the figures again from saved results, without computing anything; the exit code.

    Where one cannot be drawn, the rest goes on.
    """
    folders = {experiment: settings.folder(experiment) for experiment in experiments}
    saved = {e: folder for e, folder in folders.items() if (folder / "result.json").exists()}
    if not saved:
        raise UserError(f"there are no results of these experiments in {settings.results} to draw")
    code = OK
    with lock.held(settings.results):
        for experiment, folder in saved.items():
            try:
                draw(experiment, results.load(folder), folder)
                print(f"drew {folder}")
            except Exception as error:
                refuse_full_disk(error)
                said, its_code = told(error)
                more = "" if isinstance(error, UserError) else " (a new run says more)"
                print(f"FAILED to draw {folder}: {said}{more}")
                code = max(code, its_code)
        publish(settings)
    return code


def publish(settings: Settings) -> None:
    """Make `index.html` and what report.tex reads, of all saved results.

    Whatever prevents it, the results are there.
    """
    if not machine.writes():
        return
    from utils.output import latex, page

    for name, write in (("page of results", page.write), ("report", latex.write)):
        try:
            write(settings.results)
        except Exception as error:
            print(f"the {name} was not made: {type(error).__name__}: {error}")


def what_next(settings: Settings) -> str:
    """The page to open, and the commands to go on with."""
    place = settings.results
    mode = config.MODES[min(config.MODES.index(settings.mode) + 1, len(config.MODES) - 1)]
    commands = {command("report", place): "the same with all derivations, as a PDF"}
    if (place / "section3" / "mnist_cnn" / "result.json").exists():
        commands[command("draw", place)] = "draw digits for the CNN to read"
    commands[command(f"--all --mode {mode}", place)] = MEANING[mode]
    width = max(map(len, commands))
    lines = [f"  {typed:<{width}}   {words}" for typed, words in commands.items()]
    return "\n".join([f"All results on one page: {place / 'index.html'}", *lines])


def print_summary(outcomes: list[Outcome]) -> None:
    """A table: experiment, headline number, data, time; and the answer beneath."""
    if not outcomes:
        return
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    print(f"\n{'experiment':<26}{'headline':<34}{'time':>8}  data\n{'-' * width}")
    for outcome in outcomes:
        name, result = outcome.experiment.name, outcome.result
        if result is None:
            headline, seconds, data, words = "failed", "", "", outcome.error
        else:
            headline = f"{result.headline} {result.metrics[result.headline]:.4g}"
            seconds = f"{result.info['seconds']:.1f} s"
            data = "; ".join(result.data)
            words = result.answer
        print(f"{name:<26}{headline:<34}{seconds:>8}  {data}")
        print(textwrap.fill(words, width, initial_indent="    ", subsequent_indent="    "))
