"""Run the course: everything, a section, or single experiments.

python main.py                     the menu
python main.py --all               every experiment, in the mode of config.py
python main.py 3                   a section
python main.py xor mnist_cnn       experiments by name
python main.py --list              what there is
python main.py draw                draw a digit, and see what a network makes of it
python main.py generate --prompt "..."   go on with a text
python main.py report              results/report.pdf: derivations and results, by LaTeX
torchrun --nproc-per-node=2 main.py 4    section 4 in two processes
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import stat
import sys
import warnings
from pathlib import Path
from typing import NoReturn

import config
from utils.errors import DISK, UserError
from utils.experiments import registry
from utils.experiments.budget import budgets, whole_number
from utils.experiments.machine import complain, processes, writes
from utils.experiments.registry import Experiment

MOST_THREADS = 1024  # OpenMP ends the process where it cannot start as many as it is told to
LONGEST = 1000  # characters of an error
COMMANDS = ("draw", "report", "generate")  # `python main.py NAME ...`, each a file in commands/


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message} (python {self.prog} --help)")


def parser() -> Parser:
    p = Parser(
        prog="main.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    p.add_argument("what", nargs="*", help="sections (3), experiments (xor) or numbers (1.2)")
    p.add_argument("--all", action="store_true", help="every experiment")
    p.add_argument("--list", action="store_true", help="show what there is, run nothing")
    p.add_argument("--mode", choices=config.MODES, help="instead of the mode in config.py")
    p.add_argument("--seed", help="instead of the seed in config.py")
    data = "auto: what is on disk, else (not in QUICK) a download, else embedded (default)"
    p.add_argument("--data", choices=("auto", "real", "embedded"), default="auto", help=data)
    folder = "folder of the results (default: %(default)s)"
    p.add_argument("--results", metavar="DIR", default=config.RESULTS_DIR, help=folder)
    cores = "cores to use (default: all); in sections 1 to 3 the same numbers"
    p.add_argument("--threads", metavar="N", help=cores)
    devices, precisions = ("auto", "cuda", "mps", "cpu"), ("auto", "float32", "bfloat16", "float16")
    first, fastest = "of section 4 (default: the first that works)", "of section 4 (default: timed)"
    p.add_argument("--device", choices=devices, default="auto", help=first)
    p.add_argument("--precision", choices=precisions, default="auto", help=fastest)
    again = p.add_mutually_exclusive_group()
    again.add_argument(
        "--resume",
        action="store_true",
        help="keep what is done with these settings, go on with what was stopped",
    )
    again.add_argument(
        "--force", action="store_true", help="replace results of a costlier mode too"
    )
    again.add_argument("--replot", action="store_true", help="figures from saved results alone")
    for name in ("epochs", "batch-size", "lr", "samples", "resize"):
        p.add_argument(f"--{name}", metavar="X", help="instead of the budget in config.py")
    p.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="any other setting, likewise",
    )
    return p


def changes(arguments: argparse.Namespace) -> dict[str, str]:
    """The settings of the budget that the command line changes, as text."""
    named = ("epochs", "batch_size", "lr", "samples", "resize")
    found = {name: getattr(arguments, name) for name in named}
    for item in arguments.set:
        key, equals, value = item.partition("=")
        if not equals:
            raise UserError(f"--set takes KEY=VALUE, got {item!r}")
        found[key] = value
    return {key: text for key, text in found.items() if text is not None}


def listing(experiments: list[Experiment], mode: str) -> str:
    """Sections and experiments with their questions and the expected time in `mode`."""
    lines = []
    for section, title in registry.SECTIONS.items():
        members = [e for e in experiments if e.section == section]
        if members:
            seconds = sum(e.expected_seconds(mode) for e in members)
            lines.append(
                f"\n{section}  {title}  ({mode.upper()}: about {registry.duration(seconds)})"
            )
        for e in members:
            time = registry.duration(e.expected_seconds(mode))
            lines.append(f"   {e.label:<5}{e.name:<24}{time:>7}  {e.question}")
    return "\n".join(lines).lstrip("\n")


def menu(arguments: argparse.Namespace, mode: str) -> int:
    """Ask a person what to run, run it, and ask again; the worst exit code of all runs."""
    worst = 0
    experiments = registry.all_experiments()
    while True:
        print(f"\n{listing(experiments, mode)}\n")
        print(f"Numbers or names to run; a: all; m: change the mode (now {mode.upper()}); q: quit")
        try:
            words = input("> ").split()
        except EOFError:
            return worst
        if words == ["q"]:
            return worst
        if words == ["m"]:
            mode = config.MODES[(config.MODES.index(mode) + 1) % len(config.MODES)]
            continue
        try:
            chosen = experiments if words == ["a"] else registry.select(words)
            code = execute(arguments, chosen, mode) if chosen else 0
        except UserError as error:
            print(error)
            continue
        if code == 130:
            return code
        worst = max(worst, code)


def execute(arguments: argparse.Namespace, chosen: list[Experiment], mode: str) -> int:
    """Run the chosen experiments, or draw them again, as the flags say; the exit code."""
    budget = budgets(chosen, mode, changes(arguments))
    threads = None
    if arguments.threads is not None or config.THREADS is not None:
        name, threads = decided("--threads", arguments.threads, config.THREADS, 1)
        if threads > MOST_THREADS:
            raise UserError(f"{name} must be at most {MOST_THREADS}, got {threads}")
    _, seed = decided("--seed", arguments.seed, config.SEED, 0)

    # Only now what takes time to import.
    from utils.experiments import runner
    from utils.experiments.run import Settings

    settings = Settings(
        mode=mode,
        seed=seed,
        data=arguments.data,
        results=Path(arguments.results),
        threads=threads,
        resume=arguments.resume,
        device=arguments.device,
        precision=arguments.precision,
    )
    if arguments.replot:
        return runner.replot(chosen, settings)
    usual = not changes(arguments)  # which make an experiment cost more or less than is expected
    return runner.run_all(chosen, budget, settings, force=arguments.force, forecast=usual)


def decided(flag: str, text: str | None, setting: object, least: int) -> tuple[str, int]:
    """Who decides, the flag if it was given or else config.py, and its whole number.

    Raises UserError where that is below `least`.
    """
    name = flag if text is not None else f"{flag[2:].upper()} in config.py"
    return name, whole_number(name, str(setting) if text is None else text, least)


def command(name: str, argv: list[str]) -> int:
    """Run `commands/NAME.py`: its `arguments(parser)`, then its `run(parsed)`; the exit code."""
    module = importlib.import_module(f"commands.{name}")
    p = Parser(prog=f"main.py {name}", description=module.__doc__, allow_abbrev=False)
    module.arguments(p)
    parsed = p.parse_args(argv)
    check_folder(parsed.results)
    return module.run(parsed)


def check_folder(name: str) -> None:
    """Raise UserError where no folder can be; "" would be the folder of this code."""
    if not name:
        raise UserError("--results is empty: give it the name of a folder")
    try:
        if not stat.S_ISDIR(os.stat(name).st_mode):
            raise UserError(f"--results is {name}, which is no folder")
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        raise UserError(f"--results cannot be {name!r}: {error}") from error


def one_line(error: UserError) -> str:
    """Its words, without what a terminal would obey, and no more than can be read."""
    printable = "".join(c if c.isprintable() else " " for c in str(error))
    words = " ".join(printable.split())
    return words if len(words) <= LONGEST else f"{words[:LONGEST]} ..."


def run(argv: list[str]) -> int:
    """Do what the command line asks for; the exit code."""
    if argv and argv[0] in COMMANDS:
        return command(argv[0], argv[1:])
    arguments = parser().parse_args(argv)
    for word in arguments.what:
        if word in COMMANDS:
            raise UserError(f"{word} comes first, before all flags: python main.py {word} ...")
    check_folder(arguments.results)
    try:
        mode = arguments.mode or config.mode()
    except ValueError as error:
        raise UserError(str(error)) from error
    if arguments.list:
        print(listing(registry.select(arguments.what) or registry.all_experiments(), mode))
        return 0
    if arguments.all and arguments.what:
        raise UserError(f"--all runs everything: leave out {' '.join(arguments.what)}, or --all")
    if arguments.all:
        return execute(arguments, registry.all_experiments(), mode)
    if arguments.what:
        return execute(arguments, registry.select(arguments.what), mode)
    if not sys.stdin.isatty() or processes() > 1:
        raise UserError(
            "the menu needs a terminal: use --all, --list or names (python main.py xor)"
        )
    return menu(arguments, mode)


def main() -> int:
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:  # closed by who started this
            setattr(sys, name, Path(os.devnull).open(mode))  # noqa: SIM115 - to the end
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a console without these characters shows "?"
    warnings.formatwarning = lambda message, *_: f"main.py: {message}\n"  # no line of code
    try:
        if writes():
            code = run(sys.argv[1:])
            sys.stdout.flush()  # here, where something can be done if nobody reads it
            return code
        with Path(os.devnull).open("w") as silence, contextlib.redirect_stdout(silence):
            return run(sys.argv[1:])  # of several processes that torchrun started, one speaks
    except UserError as error:
        complain(f"main.py: {one_line(error)}")
        return 2
    except ModuleNotFoundError as error:
        complain(
            f"main.py: {error.name} is not installed for {sys.executable}: activate the "
            "environment of the course, or install requirements.txt"
        )
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # the reader of a pipe (`| head`) has gone: 141, as of SIGPIPE
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0 if {"--list", "--help", "-h"} & set(sys.argv) else 141
    except OSError as error:
        if error.errno not in DISK:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        complain(f"main.py: what is printed cannot be written ({error.strerror})")
        return 2


if __name__ == "__main__":
    sys.exit(main())
