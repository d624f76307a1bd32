"""Saved results that no experiment made, for tests of what is made from results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image, PngImagePlugin

from utils.experiments import results
from utils.experiments.results import Curve, Result, Table

HOSTILE = "</script><script>document.title='got in'</script><img src=x onerror=alert(1)>\"'{{7*7}}"


def save_result(
    folder: Path, *, mode: str = "quick", seed: int = 0, figures: tuple[str, ...] = (), **parts: Any
) -> Result:
    """Save a small result, with `parts` instead of its own, into results/sectionN/NAME."""
    given: dict[str, Any] = {
        "answer": f"The answer of {folder.name} is 42. It took 1.5 s.",
        "headline": "test_accuracy",
        "metrics": {"test_accuracy": 0.987654321, "parameters": 421642, "lost": float("nan")},
        "curves": {
            "training": Curve([1, 2, 3], [0.9, 0.5, 0.25], [0.1, 0.05, 0.02], 3, "epoch", "loss"),
            "validation": Curve([1, 2, 3], [1.0, 0.75, float("nan")], None, 1, "epoch", "loss"),
        },
        "tables": {"classes": Table(["true_class", "images"], [["cat", 12345], ["dog", 2]])},
    }
    result = Result(**(given | parts))
    result.info = {
        "experiment": folder.name,
        "section": int(folder.parent.name.removeprefix("section")),
        "question": f"What is {folder.name}?",
        "settings": {
            "mode": mode,
            "seed": seed,
            "data": "auto",
            "budget": {"epochs": 3, "hidden": [2, 4], "lr": 0.5},
        },
        "data": {"mnist": {"description": "MNIST (official files)", "provenance": "official"}},
        "threads": None,
        "processes": 1,
        "engine": "",
        "seconds": 166.655,
        "peak_memory_mb": 834.6,
        "finished": "2026-01-02T03:04:05+00:00",
        "versions": {"python": "3.11.7", "numpy": "2.4.6"},
        "code": {"commit": "0123456789abcdef", "dirty": True},
        "machine": {"cpu": "A processor", "cores": 2, "gpu": None, "system": "Linux"},
        "figures": list(figures),
    } | parts.get("info", {})
    results.save(result, folder)
    for name in figures:
        save_figure(folder / name)
    return result


def save_figure(path: Path, title: str = "What was found") -> None:
    """An image of 300 x 200 pixels, blue like the sky."""
    text = PngImagePlugin.PngInfo()
    text.add_text("Title", title)
    Image.new("RGB", (300, 200), "#56B4E9").save(path, pnginfo=text)
