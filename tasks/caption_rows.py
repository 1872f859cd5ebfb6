"""Captioned images out of every format in which Flickr30k and MSCOCO are handed around.

Handed found tables; hands on, for one split, each image with its captions in file order, whether the file has a row an
image (Karpathy, nlphuji, yerevann, LAVIS val and test) or a row a caption (LAVIS train, bitmind, Kaggle, `.token`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from tasks.discovery import Found, Shape, split_of
from tasks.embedded import Embedded
from tasks.errors import DatasetError
from tasks.examples import Example
from tasks.files import Record, read_text, valid_text
from tasks.paths import relative_image

PARTS = ("train", "restval", "val", "test")
LISTED = "(split lists)"

KARPATHY = Shape("Karpathy JSON", ("filename", "sentences", "split"), envelope="images", split_key="split")
HUB = Shape("Hub table with Karpathy's split", ("filename", "split", "sentences|caption"), split_key="split")
LAVIS = Shape("LAVIS/ALBEF JSON", ("image", "caption"), without=("split", "filename", "sentids"))
RAW = Shape("captions without a split", ("image_name", "comment"), split_key=LISTED)
HUB_RAW = Shape("Hub table without a split", ("filename", "caption"), without=("split",), split_key=LISTED)
SHAPES = (KARPATHY, HUB, LAVIS, RAW, HUB_RAW)


def captioned_images(tables: Sequence[Found], wanted: Sequence[str], *, flat: bool) -> Iterator[list[Example]]:
    """The images of these splits, each as its captions.

    Args:
        tables: shards of one file.
        wanted: official splits, such as ("train", "restval").
        flat: whether images lie in one folder, so that their names alone count (Flickr30k).
    """
    if tables[0].shape in (KARPATHY, HUB) and not _row_a_caption(tables[0]):
        for record in _rows(tables, wanted):
            yield _captions(record, tables[0].shape, flat=flat)
        return
    images: dict[str, list[Example]] = {}
    for record in _rows(tables, wanted):
        for example in _captions(record, tables[0].shape, flat=flat):
            images.setdefault(example.image, []).append(example)
    numbered = tables[0].shape in (KARPATHY, HUB)
    for image, examples in images.items():
        if not numbered:
            examples = [_renamed(example, f"{image}#{number}") for number, example in enumerate(examples)]
        yield examples


def _renamed(example: Example, key: str) -> Example:
    return Example(id=key, image=example.image, text=example.text, extra=example.extra)


def _row_a_caption(found: Found) -> bool:
    first = found.table.first()
    return first is not None and isinstance(first.fields.get("sentences"), dict)


def _rows(tables: Sequence[Found], wanted: Sequence[str]) -> Iterator[Record]:
    """Rows of the wanted splits."""
    shape = tables[0].shape
    if shape.split_key == LISTED:
        yield from _listed_rows(tables, _listed_images(tables[0].file.parent, wanted))
        return
    for found in tables:
        for record in found.table.rows():
            if shape.split_key is not None:
                if split_of(record, shape.split_key, PARTS) in wanted:
                    yield record
            elif wanted != ("restval",) or "val2014/" in record.text("image"):
                yield record


def _listed_rows(tables: Sequence[Found], listed: Sequence[str]) -> Iterator[Record]:
    """Rows of these images. Raises DatasetError where an image has none."""
    missing = dict.fromkeys(listed)
    known = frozenset(listed)
    for found in tables:
        for record in found.table.rows():
            name = PurePosixPath(record.text("image_name" if "image_name" in record.fields else "filename")).stem
            if name in known:
                missing.pop(name, None)
                yield record
    if missing:
        problem = f"has no captions of {len(missing)} of {len(known)} listed images, such as {next(iter(missing))!r}"
        raise DatasetError(problem, file=tables[0].file)


def _listed_images(folder: Path, wanted: Sequence[str]) -> list[str]:
    """Image names, without extension, from `train.txt` and so on, one a line."""
    found: list[str] = []
    for part in wanted:
        files = [folder / f"{part}.txt", folder / "splits" / f"{part}.txt"]
        present = [file for file in files if file.is_file()]
        if present:
            found += [PurePosixPath(line.strip()).stem for line in read_text(present[0]).split("\n") if line.strip()]
    if not found:
        problem = (
            f"holds captions without a split: put Karpathy's dataset JSON beside them, or {wanted[0]}.txt with an image"
            " name a line"
        )
        raise DatasetError(problem, file=folder)
    return found


def _captions(record: Record, shape: Shape, *, flat: bool) -> list[Example]:
    """A row's captions with their ids, where it has any."""
    image = _image(record, flat=flat)
    texts, keys = _texts(record, shape)
    if not texts:
        raise record.error("an image without captions")
    if len(keys) not in (0, len(texts)):
        raise record.error(f"has {len(texts)} captions but {len(keys)} sentids")
    extra = {} if record.row is None else {"embedded": Embedded(record.file, record.row)}
    return [
        Example(id=keys[k] if keys else f"{image}#{k}", image=image, text=text, extra=extra)
        for k, text in enumerate(texts)
    ]


def _texts(record: Record, shape: Shape) -> tuple[list[str], list[str]]:
    """Captions and sentids (none where the format has none)."""
    key = record.present("sentences", "caption", "comment")
    if key is None:
        raise record.error("has no captions")
    if shape is KARPATHY:
        return _sentences(record, key)
    value = record.get(key)
    if isinstance(value, str) and key != "sentences":  # there one caption is a record
        return [record.text(key)], []
    if isinstance(value, dict):
        sentence = record.record(key)
        return [sentence.text("raw")], [sentence.identifier("sentid")]
    items = record.items(key)
    if items and isinstance(items[0], dict):
        return _sentences(record, key)
    texts = [valid_text(item, what=f"an item of {key!r}", file=record.file, record=record.name) for item in items]
    return texts, _sentids(record) if record.present("sentids") else []


def _sentences(record: Record, key: str) -> tuple[list[str], list[str]]:
    sentences = record.records(key)
    return [s.text("raw") for s in sentences], [s.identifier("sentid") for s in sentences]


def _sentids(record: Record) -> list[str]:
    keys = []
    for item in record.items("sentids"):
        if isinstance(item, bool) or not isinstance(item, (int, str)):
            raise record.error(f"'sentids' must hold ids, not {type(item).__name__}")
        keys.append(valid_text(str(item), what="a sentid", file=record.file, record=record.name))
    return keys


def _image(record: Record, *, flat: bool) -> str:
    key = record.present("filename", "image_name", "image")
    if key is None:
        raise record.error("names no image")
    name = record.text(key)
    if record.present("filepath"):
        name = f"{record.text('filepath')}/{name}"
    image = relative_image(name, file=record.file, record=record.name)
    return PurePosixPath(image).name if flat else image
