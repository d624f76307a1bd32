"""Folders of annotated pictures, in the format of COCO or of PASCAL VOC, read as Scenes.

    VOC                       COCO                               COCO as Roboflow exports it
    Annotations/*.xml         annotations/instances_*.json       _annotations.coco.json
    JPEGImages/*.jpg          train2017/, images/, ...           *.jpg beside it

Annotations made by people have mistakes, and a box that lies wrong spoils a training without a
word. So nothing is repaired in silence: all that is wrong is collected, and said at once.

Source: cocodataset.org/#format-data; Everingham et al., The PASCAL visual object classes challenge
2012 development kit.
"""

from __future__ import annotations

import json
import math
import os
import reprlib
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from section4.detection.scenes import Scenes, padded

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")
MOST_PIXELS = 50_000_000  # of a picture: a small file can claim to be one that fills the memory
SHOWN = 20  # lines of faults
ROUNDING = 0.5  # pixels that a box may reach outside its picture; that part is cut off
GREY = (128, 128, 128)


class AnnotationError(ValueError):
    """A folder cannot be read, or what is in it is not right: a line for each fault."""


class Box(NamedTuple):
    """What one annotation says. entry: where it stands; written: its numbers in the file."""

    entry: str
    written: tuple[float, ...]
    corners: tuple[float, float, float, float]  # x1, y1, x2, y2
    kind: str


class Picture(NamedTuple):
    """What annotations say of one picture. entry: where; size: (width, height) in pixels."""

    entry: str
    path: Path
    size: tuple[float, float]
    boxes: list[Box]


Annotated = tuple[list[Picture], tuple[str, ...]]  # and the names of the classes


def read(folder: str | Path, side: int) -> Scenes:
    """The pictures of a folder, or of a COCO annotation file where a folder has several.

    Each picture is scaled, in its proportions, until its longer side has `side` pixels; it lies at
    the top left of a square, the rest of which is grey, as is what was transparent. Its boxes go
    with it. Left out are what COCO calls crowds (iscrowd 1) and VOC difficult.

    Raises AnnotationError for a folder of neither format, and for all faults of the annotations
    and the pictures together.
    """
    folder, faults = Path(folder), list[str]()
    pictures, classes = list[Picture](), tuple[str, ...]()
    with noted(faults, str(folder)):
        if any((folder / "Annotations").glob("*.xml")):
            pictures, classes = read_voc(folder, faults)
        else:
            pictures, classes = read_coco(*coco_paths(folder), faults)
        if not pictures and not faults:
            raise ValueError("its annotations name no picture")
    images, truths = [], []
    for picture in pictures:
        with noted(faults, picture.entry):
            image, factors = fitted(picture, side)
            truth = np.zeros((len(picture.boxes), 5), np.float32)
            for row, box in zip(truth, picture.boxes):
                with noted(faults, box.entry):
                    row[:] = *scaled(box, picture.size, factors), classes.index(box.kind)
            images.append(image)
            truths.append(truth)
    if faults:
        more = [f"and {len(faults) - SHOWN} more"] if len(faults) > SHOWN else []
        raise AnnotationError("\n".join(faults[:SHOWN] + more))
    return Scenes(np.stack(images), padded(truths), classes)


@contextmanager
def noted(faults: list[str], entry: str) -> Iterator[None]:
    """What goes wrong in here, in reading one entry, becomes a line of `faults`."""
    try:
        yield
    except (ValueError, OSError, SyntaxError, LookupError, OverflowError, RecursionError) as fault:
        faults.append(f"{entry}: " + " ".join(str(fault).split()))


def coco_paths(folder: Path) -> tuple[Path, list[Path]]:
    """COCO's annotation file in a folder, and the folders in which its pictures may lie."""
    if not folder.exists():
        raise ValueError("there is no such folder")
    files = [folder] if folder.is_file() else []
    for pattern in ("_annotations.coco.json", "instances_*.json", "*.json"):
        files = files or sorted([*folder.glob(pattern), *folder.glob(f"annotations/{pattern}")])
    if not files:
        raise ValueError("neither Annotations/*.xml (VOC) nor *.json or annotations/*.json (COCO)")
    if len(files) > 1:
        raise ValueError(f"there are several, name one: {', '.join(map(str, files))}")
    split = files[0].stem.removeprefix("instances_")
    parts = ("", split, "images", f"images/{split}")
    places = (files[0].parent, files[0].parent.parent)
    return files[0], [place / part for place in places for part in parts]


def read_coco(file: Path, folders: Sequence[Path], faults: list[str]) -> Annotated:
    """What a COCO file says of pictures, which lie in the first of the folders that has them.

    An entry that is wrong is left out, and a line about it added to `faults`. COCO's box is (left,
    top, width, height).
    """
    whole = json.loads(file.read_bytes())
    kinds: dict[int | str, str] = {}
    boxes: dict[int | str, list[Box]] = {}
    pictures = []
    for place, entry in enumerate(field(whole, "categories", list)):
        with noted(faults, named(file, "category", place, entry)):
            kinds[new_id(entry, kinds)] = field(entry, "name", str)
    for place, entry in enumerate(field(whole, "images", list)):
        with noted(faults, where := named(file, "image", place, entry)):
            boxes[own := new_id(entry, boxes)] = []
            paths = [folder / field(entry, "file_name", str) for folder in folders]
            path = next(filter(os.path.isfile, paths), paths[0])
            size = number(field(entry, "width")), number(field(entry, "height"))
            pictures.append(Picture(where, path, size, boxes[own]))
    for place, entry in enumerate(field(whole, "annotations", list)):
        with noted(faults, where := named(file, "annotation", place, entry)):
            image, kind = (field(entry, key, (int, str)) for key in ("image_id", "category_id"))
            if image not in boxes:
                raise ValueError(f"there is no image {reprlib.repr(image)}")
            if kind not in kinds:
                raise ValueError(f"there is no category {reprlib.repr(kind)}")
            written = tuple(map(number, field(entry, "bbox", list)))
            if len(written) != 4:
                raise ValueError(f"its box has {len(written)} numbers instead of 4")
            x, y, w, h = written
            if entry.get("iscrowd") != 1:
                boxes[image].append(Box(where, written, (x, y, x + w, y + h), kinds[kind]))
    return pictures, tuple(dict.fromkeys(kinds.values()))


def read_voc(folder: Path, faults: list[str]) -> Annotated:
    """What the XML files of a VOC folder say, one for each picture; its classes are those in them.

    What is wrong is left out, and a line about it added to `faults`. VOC counts pixels from 1, and
    its box is (first column, first row, last column, last row): x1 and y1 become 1 less.
    """
    pictures = []
    for file in sorted((folder / "Annotations").glob("*.xml")):
        with noted(faults, file.name):
            root, boxes = parsed(file), list[Box]()
            path = folder / "JPEGImages" / text(root, "filename")
            size = float(text(root, "size/width")), float(text(root, "size/height"))
            pictures.append(Picture(file.name, path, size, boxes))
            for place, entry in enumerate(root.iterfind("object"), 1):
                with noted(faults, where := f"{file.name}, object {place}"):
                    edges = [f"bndbox/{edge}" for edge in ("xmin", "ymin", "xmax", "ymax")]
                    x1, y1, x2, y2 = written = tuple(number(float(text(entry, e))) for e in edges)
                    kind = text(entry, "name")
                    if entry.findtext("difficult", "").strip() != "1":
                        boxes.append(Box(where, written, (x1 - 1, y1 - 1, x2, y2), kind))
    return pictures, tuple(sorted({box.kind for picture in pictures for box in picture.boxes}))


def named(file: Path, what: str, place: int, entry: Any) -> str:
    """An entry of a JSON list by its id or, if it has none, its place."""
    own = entry.get("id") if isinstance(entry, dict) else None
    which = reprlib.repr(own) if isinstance(own, int | str) else f"at place {place} of the list"
    return f"{file.name}, {what} {which}"


def field(entry: Any, key: str, kind: Any = object) -> Any:
    """What stands in a JSON object under a key, if it is of the right type."""
    value = entry.get(key) if isinstance(entry, dict) else None
    if not isinstance(value, kind):
        raise ValueError(f"its {key} is missing or of a wrong type: {reprlib.repr(value)}")
    return value


def new_id(entry: Any, taken: dict) -> int | str:
    """The id of a JSON object, which no other may have."""
    own = field(entry, "id", (int, str))
    if own in taken:
        raise ValueError("there are several with this id")
    return own


def text(entry: ElementTree.Element, path: str) -> str:
    """What stands in an XML element, which must be there and not empty."""
    found = entry.findtext(path, "").strip()
    if not found:
        raise ValueError(f"its {path} is missing or empty")
    return found


def number(value: Any) -> float:
    """A number, if it is one and finite."""
    if type(value) not in (int, float) or not math.isfinite(value):
        raise ValueError(f"{reprlib.repr(value)} is not a finite number")
    return float(value)


def parsed(file: Path) -> ElementTree.Element:
    """The root of an XML file without entities, as nested ones can fill the memory."""
    content = file.read_bytes()
    if b"<!ENTITY" in content.replace(b"\0", b""):  # zeros: it may be in UTF-16
        raise ValueError("it declares entities (<!ENTITY), which are refused")
    return ElementTree.fromstring(content)


def fitted(picture: Picture, side: int) -> tuple[np.ndarray, np.ndarray]:
    """The picture in a square (side, side, 3), and what its x and y are multiplied by."""
    image = decoded(picture.path)
    if image.size != picture.size:
        w, h = picture.size
        raise ValueError(f"is given as {w:.12g} x {h:.12g}, but is {image.size} pixels")
    w, h = (max(1, round(length * side / max(image.size))) for length in image.size)
    square = Image.new("RGB", (side, side), GREY)
    square.paste(image.resize((w, h), Image.Resampling.BILINEAR), (0, 0))
    return np.asarray(square), np.array([w / image.width, h / image.height] * 2)


def decoded(path: Path) -> Image.Image:
    """A picture in red, green and blue."""
    if not os.path.isfile(path):
        raise ValueError(f"there is no picture {str(path)!r}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path, formats=FORMATS) as image:
                if math.prod(image.size) > MOST_PIXELS:
                    raise ValueError(f"{image.width} x {image.height} pixels are too many")
                if image.mode.startswith("I"):
                    raise ValueError(f"its pixels are {image.mode}: save it with 8 bits a channel")
                if "A" in image.getbands() or "transparency" in image.info:
                    ground = Image.new("RGBA", image.size, GREY)
                    return Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")
                return image.convert("RGB")
    except Exception as error:  # a broken file makes Pillow raise errors of many types
        raise ValueError(f"the picture {str(path)!r} cannot be read: {error}") from error


def scaled(box: Box, size: tuple[float, float], factors: np.ndarray) -> np.ndarray:
    """The corners of a box, (4,) float32, in the scaled picture."""
    told = "the box (" + ", ".join(f"{value:.12g}" for value in box.written) + ")"
    inside = np.clip(box.corners, 0, size * 2)
    if np.abs(box.corners - inside).max() > ROUNDING:
        w, h = size
        raise ValueError(f"{told} reaches outside its picture of {w:.12g} x {h:.12g} pixels")
    corners = (inside * factors).astype(np.float32)
    if not (corners[2:] > corners[:2]).all():
        raise ValueError(f"{told} has no area")
    return corners
