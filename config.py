"""The one page to edit: the mode, the seed, the folders, and what every experiment costs.

    QUICK    seconds an experiment; embedded data will do; to see that everything works
    HYBRID   minutes a section; real data, several seeds; the numbers to learn from
    FULL     up to hours; the numbers to report

The command line wins over this page: `python main.py --mode hybrid --seed 7 xor`.
"""

QUICK_MODE = True
HYBRID_MODE = False  # both False: FULL

SEED = 0
RESULTS_DIR = "results"
DATA_DIR = "data"  # the environment variable COURSE_DATA_DIR wins over this
THREADS = None  # None: every core

MODES = ("quick", "hybrid", "full")


def mode() -> str:
    """The mode that the two switches above select."""
    if QUICK_MODE and HYBRID_MODE:
        raise ValueError(
            "config.py sets both QUICK_MODE and HYBRID_MODE: set one of them, or neither for FULL"
        )
    return "quick" if QUICK_MODE else "hybrid" if HYBRID_MODE else "full"


# For every section its experiments, in the order in which they run. A setting is one value
# for all modes, or three in round brackets: (QUICK, HYBRID, FULL). A list of values is
# written in square brackets. `seconds` is what to expect on two cores; all the other
# settings can be changed for one run: `python main.py xor --epochs 50 --set hidden=4`.
# fmt: off
BUDGETS: dict[int, dict[str, dict]] = {
    1: {
        "xor": {
            "seconds": (2, 5, 5),
            "seeds": (5, 20, 20), "epochs": (400, 1000, 1000), "hidden": [2, 3, 4, 8],
            "batch_size": 4, "lr": 0.5,
        },
    },
}
# fmt: on
