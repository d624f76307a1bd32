"""The experiments on detection: whole, stopped, and what one takes over from another."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from section4.detection.errors import KINDS
from section4.detection.metrics import Detections, Truth
from section4.experiments import (
    _detected,
    _detection,
    detector_comparison,
    region_proposals,
    yolo_detection,
)
from section4.experiments._detection import NAMES
from section4.experiments._recipes import recipe_of
from section4.training import History
from tests.runs import assert_same_result, small_run
from utils.errors import UserError
from utils.experiments import runner
from utils.experiments.results import Curve, Result, Table

SMALL: dict[str, Any] = {
    "scenes": 24, "validated": 6, "tested": 10, "epochs": 2, "batch_size": 8, "width": 4,
}  # fmt: skip
WORDS = ("--mode", "quick", "--data", "embedded", "--device", "cpu", "--threads", "1")
SIZES = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
EXPERIMENTS = ("sliding_window_detection", "faster_rcnn_detection", "yolo_detection")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_each_detector_is_trained_and_measured(name: str, run_tiny: Callable[..., Result]) -> None:
    result = run_tiny(name, *WORDS, *SIZES, "--precision", "float32")
    assert 0 <= result.metrics["map_50_95"] <= result.metrics["map_50"] <= 1
    assert len(result.curves["loss"].y) == 2 * 3 and len(result.curves["validation"].y) == 2
    assert [row[0] for row in result.tables["errors"].rows] == list(KINDS)
    counts = sum(row[1] for row in result.tables["classes"].rows)
    assert 10 <= counts <= 60  # one to six digits in each of ten pictures
    assert result.arrays["pictures"].shape == (8, 96, 96, 3)
    drawn = result.arrays["boxes"]
    real = drawn[drawn[..., 6] >= 0]
    assert (real[:, :4] >= 0).all() and (real[:, :4] <= 96).all()


@pytest.mark.usefixtures("one_setting", "full_bars")
def test_what_one_experiment_has_trained_others_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(name: str, **changes: Any) -> Result:
        return runner.compute(small_run(name, tmp_path, SMALL | changes))

    alone = {name: run(f"{name}_detection") for name in ("sliding_window", "yolo")}
    fit, trained = _detection.fit, list[tuple[str, bool]]()

    def watch(model: Any, *rest: Any, **options: Any) -> Any:
        trained.append((type(model).__name__, (options["checkpoints"] / "last.pt").exists()))
        return fit(model, *rest, **options)

    monkeypatch.setattr(_detection, "fit", watch)
    names = ["sliding_window", "yolo", "torchvision"]
    result = run("detector_comparison", detectors=names)
    assert trained == [("SlidingWindow", True), ("YOLO", True), ("Torchvision", False)]
    assert [row[0] for row in result.tables["detectors"].rows] == [NAMES[name] for name in names]
    for name, own in alone.items():
        for key in ("map_50", "map_50_95", "training_seconds", "parameters"):
            assert result.metrics[f"{name}_{key}"] == own.metrics[key]
    trained.clear()
    run("detector_comparison", detectors=["yolo"], lr=0.001)
    assert trained == [("YOLO", False)]  # that one was trained otherwise


@pytest.mark.usefixtures("one_setting")
def test_what_has_learned_from_other_pictures_of_the_folder_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With fewer test pictures some of them are to learn from, and the other way round."""
    changes = SMALL | {"folder": str(coco_folder(tmp_path / "own", 30)), "side": 64, "epochs": 1}
    changes |= {"scenes": 12, "validated": 4}
    places = list[str]()

    def watch(*_: Any, **options: Any) -> History:
        places.append(options["checkpoints"].parents[2].name)
        return History()

    monkeypatch.setattr(_detection, "fit", watch)
    for name, tested in (("yolo_detection", 4), ("region_proposals", 4), ("region_proposals", 10)):
        run = small_run(name, tmp_path, changes | {"tested": tested})
        with run.progress(1) as bar:
            data, folder = _detection.load_pictures(run), run.checkpoints_of(name)
            _detection.learn(run, "yolo", data, folder, bar)
    assert places == ["yolo_detection", "yolo_detection", "region_proposals"]


@pytest.mark.parametrize(
    "file", ["training.py", "images.py", "engine.py", "checkpoint.py", "_learning.py"]
)
def test_another_loop_is_another_recipe(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, read = small_run("yolo_detection", tmp_path, SMALL), Path.read_bytes
    before = recipe_of(run, SMALL, [], None)
    assert recipe_of(run, SMALL, [], None) == before
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + b"#" * (path.name == file))
    assert recipe_of(run, SMALL, [], None) != before


def test_the_comparison_and_region_proposals_draw_what_they_found(
    run_tiny: Callable[..., Result],
) -> None:
    result = run_tiny("detector_comparison", *WORDS, *SIZES, "--set", "detectors=yolo,torchvision")
    assert [len(row) for row in result.tables["errors"].rows] == [7, 7]
    proposals = run_tiny("region_proposals", *WORDS, *SIZES, "--set", "counts=1,5,100")
    for arm in region_proposals.ARMS:
        shares = [proposals.metrics[f"{arm}_recall_{n}"] for n in (1, 5, 100)]
        assert shares == sorted(shares)


@pytest.mark.usefixtures("one_setting")
def test_more_proposals_than_a_picture_has(tmp_path: Path) -> None:
    changes = SMALL | {"epochs": 1, "tested": 1, "counts": [500]}
    result = runner.compute(small_run("region_proposals", tmp_path, changes))
    assert result.headline == "faster_rcnn_recall_500"
    assert " in 1 test picture are proposed by " in result.answer
    assert region_proposals.draw(result).keys() == {"recall", "proposals"}


@pytest.mark.usefixtures("one_setting")
def test_a_single_test_picture_is_shown(tmp_path: Path) -> None:
    changes = SMALL | {"epochs": 1, "tested": 1}
    result = runner.compute(small_run("yolo_detection", tmp_path, changes))
    assert len(result.arrays["pictures"]) > 0 and " on 1 test picture after " in result.answer
    assert yolo_detection.draw(result).keys() == {"learning", "pictures", "look"}
    scores, rows = result.arrays["scores"], result.arrays["boxes"][0]
    assert (scores < result.arrays["sure"].ravel()).all()  # sure of what it is as well
    drawn = rows[(rows[:, 6] >= 0) & (rows[:, 5] > 0), 5]
    assert all(np.isclose(scores, score, atol=1e-6).any() for score in drawn)
    result.metrics["sure_enough"] = np.sort(scores)[-3]
    (title,) = [text.get_text() for text in yolo_detection.draw_look(result).texts]
    assert title.startswith("One look: 3 of 144 cells have a score that is high enough; ")
    result.metrics["sure_enough"] = scores.max()
    (title,) = [text.get_text() for text in yolo_detection.draw_look(result).texts]
    assert title.startswith("One look: 1 of 144 cells has a score that is high enough; ")


@pytest.mark.usefixtures("one_setting")
def test_a_detector_that_is_stopped_goes_on_and_ends_with_the_same_numbers(
    tmp_path: Path, stop_at: Callable[[int], list[str]]
) -> None:
    changes = SMALL | {"detectors": ["yolo", "faster_rcnn"]}
    whole = runner.compute(small_run("detector_comparison", tmp_path / "whole", changes))
    notes = stop_at(3)  # after the first epoch of the second detector
    with pytest.raises(KeyboardInterrupt):
        runner.compute(small_run("detector_comparison", tmp_path / "cut", changes))
    rest = runner.compute(small_run("detector_comparison", tmp_path / "cut", changes))
    assert len(notes) == 4
    assert_same_result(rest, whole)


def test_unknown_detector(tmp_path: Path) -> None:
    run = small_run("detector_comparison", tmp_path, SMALL | {"detectors": ["yolo", "detr"]})
    with pytest.raises(UserError, match="no detector detr: choose from sliding_window, "):
        runner.compute(run)


def test_a_side_too_small_for_digits(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs at least 40"):
        runner.compute(small_run("yolo_detection", tmp_path, SMALL | {"side": 24}))


def test_too_narrow_or_too_small_to_learn(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="width must be at least 2, got 1"):
        runner.compute(small_run("yolo_detection", tmp_path, SMALL | {"width": 1}))
    changes = SMALL | {"folder": str(coco_folder(tmp_path / "own", 6)), "side": 15}
    with pytest.raises(UserError, match="side must be at least 16, got 15"):
        runner.compute(small_run("region_proposals", tmp_path, changes))


# --- pictures of one's own -------------------------------------------------------------------


def coco_folder(folder: Path, count: int) -> Path:
    """Grey pictures with a white or a black square in each."""
    (folder / "images").mkdir(parents=True)
    (folder / "annotations").mkdir()
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for k in range(count):
        pixels = np.full((60, 80, 3), 128, np.uint8)
        left, top, side = rng.integers(0, 40), rng.integers(0, 25), rng.integers(16, 30)
        pixels[top : top + side, left : left + side] = 255 * (k % 2)
        Image.fromarray(pixels).save(folder / "images" / f"{k}.png")
        images.append({"id": k, "file_name": f"{k}.png", "width": 80, "height": 60})
        box = [int(left), int(top), int(side), int(side)]
        annotations.append({"id": k, "image_id": k, "category_id": 1 + k % 2, "bbox": box})
    kinds = [{"id": 1, "name": "black"}, {"id": 2, "name": "white"}]
    content = {"images": images, "annotations": annotations, "categories": kinds}
    (folder / "annotations" / "instances_all.json").write_text(json.dumps(content))
    return folder


def test_pictures_of_a_folder(tmp_path: Path) -> None:
    folder = coco_folder(tmp_path / "own", 40)
    changes = SMALL | {"folder": str(folder), "side": 64, "epochs": 1}
    result = runner.compute(small_run("yolo_detection", tmp_path / "results", changes))
    assert [row[0] for row in result.tables["classes"].rows] == ["black", "white"]
    assert sum(row[1] for row in result.tables["classes"].rows) == 10
    assert result.info["data"]["pictures"]["provenance"] == "own files"
    assert "mnist" not in result.info["data"]


def test_every_picture_of_a_folder_is_in_one_part_alone(tmp_path: Path) -> None:
    changes: dict[str, Any] = {"scenes": 8, "validated": 4, "tested": 4, "side": 64}
    changes |= {"folder": str(coco_folder(tmp_path / "own", 9))}  # fewer than asked for
    data = _detection.load_pictures(small_run("yolo_detection", tmp_path, SMALL | changes))
    assert (len(data.train), len(data.validation), len(data.test)) == (5, 2, 2)
    everything = np.concatenate([part.images for part in (data.train, data.validation, data.test)])
    assert len({image.tobytes() for image in everything}) == 9


def test_a_broken_folder_is_one_sentence(tmp_path: Path) -> None:
    folder = coco_folder(tmp_path / "own", 4)
    file = folder / "annotations" / "instances_all.json"
    content = json.loads(file.read_text())
    content["annotations"][2]["bbox"] = [70, 10, 20, 20]
    file.write_text(json.dumps(content))
    run = small_run("yolo_detection", tmp_path, SMALL | {"folder": str(folder)})
    with pytest.raises(UserError, match=r"annotation 2.*outside"):
        runner.compute(run)


def test_pictures_without_a_box_are_refused(tmp_path: Path) -> None:
    folder = coco_folder(tmp_path / "own", 6)
    file = folder / "annotations" / "instances_all.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps(content | {"annotations": []}))
    run = small_run("yolo_detection", tmp_path, SMALL | {"folder": str(folder)})
    with pytest.raises(UserError, match=r"none of the \d training pictures has a box"):
        runner.compute(run)


# --- parts -----------------------------------------------------------------------------------


def test_recall_counts_the_true_boxes_that_the_first_proposals_hold() -> None:
    true = [
        Truth(np.array([[0, 0, 10, 10], [20, 0, 30, 10]], float), np.array([0, 1])),
        Truth(np.zeros((0, 4)), np.zeros(0, int)),
        Truth(np.array([[0, 0, 10, 10]], float), np.array([0])),
    ]
    proposals = [
        np.array([[0, 0, 10, 6], [50, 50, 60, 60], [20, 0, 30, 10]], float),
        np.array([[0, 0, 5, 5]], float),
        np.zeros((0, 4)),
    ]
    share = region_proposals.recall(proposals, true, [1, 2, 3, 9])
    np.testing.assert_allclose(share[:, 0], np.array([1, 1, 2, 2]) / 3)
    np.testing.assert_allclose(share[2], [2 / 3] * 3 + [1 / 3] * 7)  # 0.6 fits up to IoU 0.6


def test_windows_lie_inside_the_picture_and_cover_it() -> None:
    windows = region_proposals.all_windows(96)
    assert (windows[:, :2] >= 0).all() and (windows[:, 2:] <= 96).all()
    assert windows[:, :2].max() > 70 and len(np.unique(windows, axis=0)) == len(windows)
    assert windows[:, :2].min() == 0
    sides = (windows[:, 2:] - windows[:, :2]).round(6)
    for shape in np.unique(sides, axis=0):  # each of them reaches the far edges
        same = windows[(sides == shape).all(1)]
        np.testing.assert_allclose(same[:, 2:].max(0), 96)
        for places, size in zip(same.T, shape):
            assert np.diff(np.unique(places)).max() <= size / region_proposals.STEPS + 1e-9


def test_a_window_as_large_as_the_picture_is_proposed() -> None:
    windows = region_proposals.all_windows(40)
    assert (windows == [0, 0, 40, 40]).all(1).sum() == 1
    assert (windows >= 0).all() and (windows <= 40).all()
    assert region_proposals.all_windows(16).tolist() == [[0, 0, 16, 16]]  # the smallest that goes


def test_what_is_drawn_over_a_picture() -> None:
    true = Truth(np.array([[0, 0, 10, 10], [20, 20, 30, 30]], float), np.array([3, 4]))
    found = Detections(
        np.array([[0, 0, 10, 10], [0, 0, 10, 9], [60, 60, 70, 70]], float),
        np.array([0.9, 0.8, 0.1]),
        np.array([3, 3, 3]),
    )
    (rows,) = _detected.drawn([found], [true], 0.5)
    words = [_detected.WORDS[int(kind)] for kind in rows[:, 6]]
    assert words == ["right", "duplicate", "missed"]  # the third is not sure enough
    np.testing.assert_array_equal(rows[2, :5], [20, 20, 30, 30, 4])


# --- words -----------------------------------------------------------------------------------


def test_no_kind_of_error_is_blamed_where_none_costs_anything() -> None:
    errors = dict.fromkeys(KINDS, 0.0) | {"both": 1e-12}
    assert _detected.what_is_lost(errors).startswith("No kind of error costs")
    assert detector_comparison.worst_of(list(errors.values())) == "none"
    errors["missed"] = 0.123
    said = "'missed': without them mAP@0.5 would be 12.3 points higher."
    assert _detected.what_is_lost(errors).endswith(said)
    assert detector_comparison.worst_of(list(errors.values())) == "missed"


@pytest.mark.parametrize(
    ("shares", "most", "words"),
    [
        ([0.5, 0.91, 0.95], 500, "RPN: 90% among the first 100"),
        ([0.5, 0.6, 0.7], 500, "RPN: 70.0% among the first 500"),
        ([0.5, 0.7, 0.7], 100, "RPN: 70.0% among all, at most 100"),
    ],
)
def test_proposals_are_counted_as_far_as_there_are_any(
    shares: list[float], most: int, words: str
) -> None:
    assert region_proposals.in_words("RPN", Curve([10, 100, 500], shares), most) == words


@pytest.mark.parametrize(
    ("good", "words"),
    [
        ([0.5, 0.6, 0.4], "Faster R-CNN finds most (mAP@0.5 60.0%), YOLO is fastest"),
        ([0.6, 0.6, 0.4], "Sliding window and Faster R-CNN find most (mAP@0.5 60.0%), YOLO is"),
        ([0.0, 0.0, 0.0], "Sliding window, Faster R-CNN and YOLO find equally much (mAP@0.5 0.0%)"),
        ([0.5], "Sliding window: mAP@0.5 50.0% (1,010 pictures a second; n = 1)"),
    ],
)
def test_who_finds_most_may_be_several_or_nobody(good: list[float], words: str) -> None:
    names = list(NAMES)[: len(good)]
    metrics = {f"{name}_map_50": value for name, value in zip(names, good)}
    metrics |= {f"{name}_images_per_second": 1010.0 + k for k, name in enumerate(names)}
    assert detector_comparison.leaders(metrics, names).startswith(words)


def test_errors_below_are_those_below() -> None:
    boxes = np.zeros((4, 2, 7))
    boxes[1, 0, 6] = boxes[3, 0, 6] = 1
    arrays = {"pictures": np.zeros((4, 8, 8, 3)), "boxes": boxes}
    tables = {"classes": Table(["class"], [["cat"]])}
    result = Result("", "sure_enough", {"sure_enough": 0.5}, {}, tables, arrays)
    title = _detected.draw_pictures(result, "YOLO").get_suptitle()
    assert "above, the best; below, the worst (1 error)." in title


def test_where_few_proposals_are_counted_no_more_are_drawn() -> None:
    metrics = {f"{arm}_recall_3": 0.5 for arm in region_proposals.ARMS}
    arrays = {f"{arm}_boxes": np.zeros((1, 10, 4)) for arm in region_proposals.ARMS}
    arrays["pictures"] = np.zeros((1, 8, 8, 3))
    curves = {"windows, mean": Curve([1, 3], [0.0, 0.5])}
    result = Result("", "faster_rcnn_recall_3", metrics, curves, {}, arrays)
    title = region_proposals.draw_proposals(result).get_suptitle()
    assert title.startswith("The first proposals in a picture, at most 3; in all test pictures ")
