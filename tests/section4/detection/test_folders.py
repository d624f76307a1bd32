"""Folders in COCO's and in VOC's format: boxes go with the pictures, and every fault is named."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from section4.detection.folders import AnnotationError, read
from section4.detection.scenes import Scenes

PICTURES = {"wide.png": (80, 40), "tall.jpg": (30, 60), "square.png": (48, 48)}  # width, height
# Of a picture: left, top, width, height, class; in this picture a red area on black.
INSIDE: dict[str, list[tuple[int, int, int, int, str]]] = {
    "wide.png": [(20, 10, 40, 20, "cat"), (0, 0, 80, 40, "dog")],
    "tall.jpg": [(10, 20, 10, 20, "dog")],
    "square.png": [],
}
WEIRD: list[Any] = [
    None, True, -1, 0, 7, 0.5, 1e308, float("inf"), float("nan"), 10**400, "", "x", "17", "\0",
    "\ud800", "../..", "x" * 300, [], [1], {}, {"id": 1}, [[[]]],
]  # fmt: skip


def draw(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, size in PICTURES.items():
        image = Image.new("RGB", size)
        for x, y, w, h, _ in INSIDE[name][:1]:
            image.paste((255, 0, 0), (x, y, x + w, y + h))
        image.save(folder / name)


def coco() -> dict[str, Any]:
    """Ids as they are in the wild: not in order, not from 0."""
    images: list[dict] = []
    annotations: list[dict] = []
    for k, (name, (w, h)) in enumerate(PICTURES.items()):
        images.append({"id": 40 + k, "file_name": name, "width": w, "height": h})
        for *box, kind in INSIDE[name]:
            category = {"cat": 18, "dog": 3}[kind]
            entry = {"id": 7 + len(annotations), "image_id": 40 + k, "category_id": category}
            annotations.append({**entry, "bbox": box, "iscrowd": 0})
    categories = [{"id": 18, "name": "cat"}, {"id": 3, "name": "dog"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def coco_folder(
    root: Path,
    content: Any = None,
    file: str = "annotations/instances_val2017.json",
    pictures: str = "val2017",
) -> Path:
    draw(root / pictures)
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(json.dumps(coco() if content is None else content))
    return root


def voc_text(name: str) -> str:
    objects = "".join(
        f"<object><name>{kind}</name><difficult>0</difficult><bndbox><xmin>{x + 1}</xmin>"
        f"<ymin>{y + 1}</ymin><xmax>{x + w}</xmax><ymax>{y + h}</ymax></bndbox></object>"
        for x, y, w, h, kind in INSIDE[name]
    )
    w, h = PICTURES[name]
    size = f"<size><width>{w}</width><height>{h}</height><depth>3</depth></size>"
    return f"<annotation><filename>{name}</filename>{size}{objects}</annotation>"


def voc_folder(root: Path) -> Path:
    draw(root / "JPEGImages")
    (root / "Annotations").mkdir(exist_ok=True)
    for name in PICTURES:
        (root / "Annotations" / name).with_suffix(".xml").write_text(voc_text(name))
    return root


def message(folder: Path) -> list[str]:
    with pytest.raises(AnnotationError) as caught:
        read(folder, 32)
    return str(caught.value).splitlines()


def told(folder: Path, change: Callable[[dict[str, Any]], object]) -> list[str]:
    """The lines about a COCO folder whose JSON was changed."""
    content = coco()
    change(content)
    return message(coco_folder(folder, content))


def check(scenes: Scenes, names: list[str]) -> None:
    """That the scenes, 20 x 20, are those of INSIDE, in the order of the names."""
    assert scenes.images.shape == (3, 20, 20, 3)
    assert scenes.images.dtype == np.uint8
    assert scenes.truths.shape == (3, 2, 5)
    assert scenes.classes == ("cat", "dog")
    expected: dict[str, list[tuple[float, ...]]] = {
        "wide.png": [(5, 2.5, 15, 7.5, 0), (0, 0, 20, 10, 1)],
        "tall.jpg": [(10 / 3, 20 / 3, 20 / 3, 40 / 3, 1), (0, 0, 0, 0, -1)],
        "square.png": [(0, 0, 0, 0, -1)] * 2,
    }
    np.testing.assert_allclose(scenes.truths, [expected[name] for name in names], rtol=1e-6)
    wide, tall, square = (scenes.images[names.index(name)] for name in expected)
    assert (wide[10:] == 128).all() and (tall[:, 10:] == 128).all()
    assert (wide[3:7, 6:14] == [255, 0, 0]).all()
    assert (tall[8:12, 4:6, 0] > 200).all()
    assert not square.any()


@pytest.mark.parametrize(
    ("file", "pictures"),
    [
        ("annotations/instances_val2017.json", "val2017"),
        ("annotations/instances_val2017.json", "images/val2017"),
        ("annotations/instances_default.json", "images"),
        ("_annotations.coco.json", "."),
        ("labels.json", "images"),
    ],
)
def test_coco(tmp_path: Path, file: str, pictures: str) -> None:
    check(read(coco_folder(tmp_path, None, file, pictures), 20), list(PICTURES))


def test_voc(tmp_path: Path) -> None:
    check(read(voc_folder(tmp_path), 20), sorted(PICTURES))


def test_one_of_several_coco_files_can_be_named(tmp_path: Path) -> None:
    coco_folder(tmp_path)
    train = coco_folder(tmp_path, None, "annotations/instances_train2017.json", "train2017")
    (tmp_path / "annotations/captions_val2017.json").write_text("{}")
    (line,) = message(train)
    assert "instances_train2017.json" in line and "instances_val2017.json" in line
    assert "captions" not in line
    check(read(tmp_path / "annotations/instances_val2017.json", 20), list(PICTURES))


def test_crowds_and_difficult_objects_are_left_out(tmp_path: Path) -> None:
    content = coco()
    content["annotations"][0]["iscrowd"] = 1
    truths = read(coco_folder(tmp_path / "coco", content), 20).truths
    assert (truths[..., 4] >= 0).sum(1).tolist() == [1, 1, 0]
    file = voc_folder(tmp_path / "voc") / "Annotations/wide.xml"
    file.write_text(file.read_text().replace("<difficult>0", "<difficult>1", 1))
    scenes = read(tmp_path / "voc", 20)
    assert scenes.classes == ("dog",)
    assert (scenes.truths[..., 4] >= 0).sum(1).tolist() == [0, 1, 1]


def test_a_box_that_rounding_took_outside_is_cut_off(tmp_path: Path) -> None:
    content = coco()
    content["annotations"][1]["bbox"] = [-0.25, 0, 80.5, 40]
    assert read(coco_folder(tmp_path, content), 20).truths[0, 1].tolist() == [0, 0, 20, 10, 1]


def test_a_box_outside_is_named_with_its_file_and_numbers(tmp_path: Path) -> None:
    lines = told(tmp_path, lambda content: content["annotations"][0].update(bbox=[70, 10, 20, 20]))
    assert lines == [
        "instances_val2017.json, annotation 7: the box (70, 10, 20, 20) reaches outside its "
        "picture of 80 x 40 pixels"
    ]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("bbox", [10, 10, -5, 5], "the box (10, 10, -5, 5) has no area"),
        ("bbox", [10, 10, 0, 5], "has no area"),
        ("bbox", [10, 10, 1e-9, 5], "has no area"),
        ("bbox", [-1, 10, 20, 5], "reaches outside"),
        ("bbox", [1e308, 10, 1e308, 5], "reaches outside"),
        ("bbox", [10, 10, float("inf"), 5], "inf is not a finite number"),
        ("bbox", [10, float("nan"), 5, 5], "nan is not a finite number"),
        ("bbox", [10, 10, "5", 5], "'5' is not a finite number"),
        ("bbox", [10, 10, True, 5], "True is not a finite number"),
        ("bbox", [10, 10, 5], "its box has 3 numbers instead of 4"),
        ("bbox", "1234", "its bbox is missing or of a wrong type: '1234'"),
        ("bbox", None, "its bbox is missing or of a wrong type: None"),
        ("category_id", 5, "there is no category 5"),
        ("category_id", [3], "its category_id is missing or of a wrong type: [3]"),
        ("image_id", 5, "there is no image 5"),
        ("image_id", None, "its image_id is missing or of a wrong type: None"),
    ],
)
def test_a_wrong_annotation_is_named(tmp_path: Path, key: str, value: Any, words: str) -> None:
    (line,) = told(tmp_path, lambda content: content["annotations"][2].update({key: value}))
    assert line.startswith("instances_val2017.json, annotation 9: ")
    assert words in line


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["images"][1].update(file_name="no.jpg"), "image 41: there is no picture"),
        (lambda c: c["images"][1].update(file_name=3), "image 41: its file_name is missing"),
        (lambda c: c["images"][1].update(width=60, height=30), "image 41: is given as 60 x 30"),
        (lambda c: c["images"][1].update(width="30"), "image 41: '30' is not a finite number"),
        (lambda c: c["images"].append(c["images"][0]), "image 40: there are several with this id"),
        (lambda c: c["categories"].append({"id": 9}), "category 9: its name is missing"),
        (lambda c: c["annotations"].append(3), "annotation at place 3 of the list: its image_id"),
        (lambda c: c.pop("annotations"), "its annotations is missing"),
        (lambda c: c.update(images={}), "its images is missing or of a wrong type: {}"),
        (lambda c: c.update(images=[], annotations=[]), "its annotations name no picture"),
    ],
)
def test_a_wrong_entry_is_named(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    (line,) = told(tmp_path, change)
    assert words in line


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("<xmin>21<", "<xmin>0<", "wide.xml, object 1: the box (0, 11, 60, 30) reaches outside"),
        ("<xmin>21<", "<xmin>61<", "wide.xml, object 1: the box (61, 11, 60, 30) has no area"),
        ("<xmin>21<", "<xmin>x<", "wide.xml, object 1: could not convert string to float: 'x'"),
        ("<xmin>21<", "<xmin>nan<", "wide.xml, object 1: nan is not a finite number"),
        ("<xmin>21</xmin>", "", "wide.xml, object 1: its bndbox/xmin is missing"),
        ("<name>cat<", "<name> <", "wide.xml, object 1: its name is missing or empty"),
        ("wide.png", "no.png", "wide.xml: there is no picture"),
        ("<width>80<", "<width>90<", "wide.xml: is given as 90 x 40, but is (80, 40) pixels"),
        ("<size>", "<other>", "wide.xml: mismatched tag"),
        ("<annotation>", "<?xml version='1.0' encoding='x'?><annotation>", "unknown encoding"),
        ("<annotation>", "<!DOCTYPE a [<!ENTITY l 'x'>]><annotation>", "declares entities"),
    ],
)
def test_a_wrong_voc_file_is_named(tmp_path: Path, old: str, new: str, words: str) -> None:
    file = voc_folder(tmp_path) / "Annotations/wide.xml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))
    (line,) = message(tmp_path)
    assert line.startswith("wide.xml") and words in line


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_billion_laughs_are_refused_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    file = voc_folder(tmp_path) / "Annotations/wide.xml"
    laughs = "".join(f'<!ENTITY l{k} "{f"&l{k - 1};" * 10}">' for k in range(1, 10))
    bomb = f'<!DOCTYPE a [<!ENTITY l0 "ha">{laughs}]><annotation>&l9;</annotation>'
    file.write_bytes(bomb.encode(encoding))
    assert message(tmp_path) == ["wide.xml: it declares entities (<!ENTITY), which are refused"]


def test_all_faults_are_named_at_once(tmp_path: Path) -> None:
    content = coco()
    content["annotations"][0]["category_id"] = 99
    content["annotations"][1]["bbox"] = [0, 0, 81, 40]
    content["annotations"][2]["bbox"] = [0, 0, 0, 0]
    coco_folder(tmp_path, content)
    file = tmp_path / "val2017/square.png"
    file.write_bytes(file.read_bytes()[:60])
    lines = message(tmp_path)
    assert len(lines) == 4
    for words in ("annotation 7", "annotation 8", "annotation 9", "image 42"):
        assert sum(words in line for line in lines) == 1


def test_many_faults_are_counted(tmp_path: Path) -> None:
    content = coco()
    content["annotations"] += [{"id": k} for k in range(100, 130)]
    lines = message(coco_folder(tmp_path, content))
    assert len(lines) == 21
    assert lines[-1] == "and 10 more"


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "{}", "[" * 100_000, "\ufeff{}"])
def test_what_is_no_coco_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "some.json").write_text(content)
    (line,) = message(tmp_path)
    assert str(tmp_path) in line


def test_a_folder_of_neither_format(tmp_path: Path) -> None:
    (line,) = message(tmp_path)
    assert "neither Annotations/*.xml (VOC) nor *.json or annotations/*.json (COCO)" in line
    (line,) = message(tmp_path / "absent")
    assert "there is no such folder" in line


def png_header(width: int, height: int) -> bytes:
    """A PNG file of a few bytes that claims to be of any size."""
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    end = struct.pack(">I", zlib.crc32(chunk)) + struct.pack(">I", 0) + b"IDAT" + b"\0" * 4
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + end


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "cannot identify"),
        (b"GIF89a", "cannot identify"),
        (png_header(8000, 8000), "8000 x 8000 pixels are too many"),
        (png_header(11_000, 11_000), "11000 x 11000 pixels are too many"),  # Pillow warns
        (png_header(60_000, 60_000), "decompression bomb"),
    ],
)
def test_a_picture_that_is_none_or_a_bomb(tmp_path: Path, content: bytes, words: str) -> None:
    (coco_folder(tmp_path) / "val2017/tall.jpg").write_bytes(content)
    (line,) = message(tmp_path)
    assert line.startswith("instances_val2017.json, image 41: the picture '")
    assert words in line


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_pictures_in_other_modes_have_three_channels(tmp_path: Path, mode: str) -> None:
    coco_folder(tmp_path)
    Image.new("RGB", (48, 48)).convert(mode).save(tmp_path / "val2017/square.png")
    assert not read(tmp_path, 20).images[2].any()


@pytest.mark.parametrize("mode", ["L", "P", "LA", "RGBA"])
def test_what_is_transparent_is_grey(tmp_path: Path, mode: str) -> None:
    coco_folder(tmp_path)
    options: dict[str, Any] = {} if mode.endswith("A") else {"transparency": 0}
    Image.new(mode, (48, 48)).save(tmp_path / "val2017/square.png", **options)
    assert (read(tmp_path, 20).images[2] == 128).all()


def test_pixels_of_16_bits_are_refused(tmp_path: Path) -> None:
    coco_folder(tmp_path)
    Image.new("I;16", (48, 48), 300).save(tmp_path / "val2017/square.png")
    (line,) = message(tmp_path)
    assert line.startswith("instances_val2017.json, image 42: the picture '")
    assert line.endswith("save it with 8 bits a channel")


def outcome(folder: Path) -> bool:
    """Whether a folder could be read; it must give scenes that are sound, or an AnnotationError."""
    try:
        scenes = read(folder, 16)
    except AnnotationError as error:
        assert 1 <= len(str(error).splitlines()) <= 21
        return False
    boxes = scenes.truths[scenes.truths[..., 4] >= 0]
    assert ((boxes[:, :4] >= 0) & (boxes[:, :4] <= 16)).all()
    assert (boxes[:, 2:4] > boxes[:, :2]).all()
    assert (boxes[:, 4] < len(scenes.classes)).all()
    return True


def places(value: Any) -> list[tuple[Any, Any]]:
    """All (container, key) in nested lists and dictionaries."""
    keys = list(value) if isinstance(value, dict) else range(len(value))
    inner = [place for key in keys if isinstance(value[key], dict | list)
             for place in places(value[key])]  # fmt: skip
    return [(value, key) for key in keys] + inner


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Cut short, a part left out, or a byte replaced."""
    first, second = sorted(rng.integers(0, len(content), 2))
    replaced = bytes([rng.integers(256)]) + content[first + 1 :]
    return content[:first] + (b"", content[second:], replaced)[rng.integers(3)]


def test_changed_json_gives_scenes_or_an_annotation_error(tmp_path: Path) -> None:
    file = coco_folder(tmp_path) / "annotations/instances_val2017.json"
    rng, read_well = np.random.default_rng(0), 0
    for trial in range(300):
        content = coco()
        container, key = places(content)[rng.integers(len(places(content)))]
        if trial % 3 == 0:
            del container[key]
        else:
            container[key] = WEIRD[rng.integers(len(WEIRD))]
        file.write_text(json.dumps(content))
        read_well += outcome(tmp_path)
    assert 0 < read_well < 200


@pytest.mark.parametrize(
    "name",
    ["coco/annotations/instances_val2017.json", "voc/Annotations/wide.xml",
     "coco/val2017/tall.jpg", "coco/val2017/wide.png"],
)  # fmt: skip
def test_damaged_files_give_scenes_or_an_annotation_error(tmp_path: Path, name: str) -> None:
    coco_folder(tmp_path / "coco")
    voc_folder(tmp_path / "voc")
    file, folder = tmp_path / name, tmp_path / Path(name).parts[0]
    good, rng = file.read_bytes(), np.random.default_rng(1)
    assert outcome(folder)
    failed = 0
    for _ in range(200):
        file.write_bytes(damaged(good, rng))
        failed += not outcome(folder)
    assert failed > 50
