"""`python -m tasks.check DATASET FOLDER`: what a dataset folder holds, before anything is trained on it.

Tells, for every split that is there: the files and their format, the numbers of records and images beside the published
ones, and which images are missing or cannot be decoded. Exits with 1 where images are at fault, unless `--exclude FILE`
takes their list, which `tasks.score --exclude` and `tasks.check.read_exclusions` read and every result then records;
and where a run could not be scored for want of answers. Held-out splits that share examples with train are refused.
"""

from __future__ import annotations

import argparse
import json
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tasks.base import Task
    from tasks.examples import Example
    from tasks.run_splits import HeldOut

SHOWN = 20


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    made = argparse.ArgumentParser(prog="python -m tasks.check", description=__doc__)
    made.add_argument("dataset", help="flickr30k coco vqa gqa snli_ve hateful_memes, NAME=SPEC, or FILE.py")
    made.add_argument("folder", type=Path, help="the dataset's folder")
    made.add_argument("--images", type=Path, help="where its images lie, if elsewhere")
    made.add_argument("--splits", nargs="+", help="only these splits")
    made.add_argument(
        "--look", choices=("decode", "exist", "none"), default="decode", help="at images: decode (default), exist, none"
    )
    made.add_argument("--exclude", type=Path, metavar="FILE", help="write images at fault to FILE and exit with 0")
    made.add_argument("--json", action="store_true", help="print JSON in the place of a table")
    return made


def check(
    task: Task,
    folder: Path,
    *,
    images: Path | None = None,
    splits: Sequence[str] | None = None,
    look: str = "decode",
    progress: bool = False,
) -> dict[str, Any]:
    """What the folder holds; see the keys below.

    Returns:
        {"task", "folder", "licence", "splits": {name: {"files", "format", "records", "images", "published", "note",
        "answers", "scoring", "missing", "undecodable", "searched"}}, "absent": {name: why}, "unanswered": {split of a
        run: why it cannot be scored}, "notes"}

    Raises:
        DatasetError: a file of a split is not of its format, a split is in two files, the folder holds none, or a
            split that a run holds out has examples of its training split.
    """
    from tasks.errors import AbsentError, DatasetError, TaskError
    from tasks.files import existing_folder
    from tasks.published import LICENCES
    from tasks.run_splits import shared_images, unanswered

    existing_folder(folder)
    sources: dict[str, Path] = {}
    absent: dict[str, str] = {}
    for split in splits or dict.fromkeys(name for name in task.official if name != "restval"):
        if split not in task.splits:
            raise TaskError(f"task {task.name!r} has no split {split!r}: splits are {', '.join(task.splits)}")
        try:
            sources[split] = task.source(folder, split)
        except AbsentError as error:
            absent[split] = error.problem
    used = _used(task, folder, whole=splits is None)
    if splits is None:  # a file that stands in for an official one, such as phase 1's test of Hateful Memes
        sources |= {part: file for part, file in used.items() if file not in sources.values()}
    if not sources:
        raise DatasetError(f"holds no split of {task.name!r}: {next(iter(absent.values()))}", file=folder)
    held_out = _held_out(task, folder, [part for part, file in used.items() if file in sources.values()])
    found = {split: _split(task, folder, split, images, look=look, progress=progress) for split in sources}
    return {
        "task": task.name,
        "folder": str(folder),
        "licence": LICENCES.get(task.name, "not known: look it up before you use the data"),
        "splits": found,
        "absent": absent,
        "unanswered": unanswered(task, held_out),
        "notes": shared_images(held_out),
    }


def _used(task: Task, folder: Path, *, whole: bool) -> dict[str, Path]:
    """The splits that a run would use and their files, of those that are there.

    Args:
        whole: whether the whole folder is checked, so that a file at fault matters.
    """
    from tasks.errors import AbsentError, DatasetError

    found: dict[str, Path] = {}
    for part in task.logical:
        with suppress(AbsentError if whole else DatasetError):
            found[part] = task.source(folder, part)
    return found


def _held_out(task: Task, folder: Path, parts: Sequence[str]) -> dict[str, HeldOut]:
    """The splits that a run holds out, beside the one that it trains on. Raises DatasetError if they share examples."""
    from tasks.run_splits import check_apart, compare_with_train

    others = {part: _examples(task, folder, part) for part in parts if part != "train"}
    found = compare_with_train(_examples(task, folder, "train") if "train" in parts else (), others)
    check_apart(task, folder, found)
    return found


def _split(
    task: Task, folder: Path, split: str, images: Path | None, *, look: str, progress: bool
) -> dict[str, Any]:
    """One split; records are streamed, so that millions need little memory."""
    import numpy as np

    from tasks.errors import DatasetError, TaskError
    from tasks.published import OTHER_VERSIONS, SIZES

    try:
        tables = task.tables(folder, split)
        files, form = [str(table.file) for table in tables], tables[0].shape.name
    except TaskError:
        files, form = [str(task.source(folder, split))], "of its own"
    hashes, names, answered = array("q"), dict[str, None](), 0
    for example in _examples(task, folder, split):
        hashes.append(hash(example.id))
        names[example.image] = None
        answered += example.target is not None
    if len(np.unique(np.asarray(hashes))) < len(hashes):
        raise DatasetError("an id is used twice", file=Path(files[0]))
    missing: list[str] = []
    undecodable: list[str] = []
    searched: tuple[str, ...] = ()
    if look != "none":
        missing, undecodable, searched = _look(
            task, folder, split, names, files=files, images=images, look=look, progress=progress
        )
    return {
        "files": files,
        "format": form,
        "records": len(hashes),
        "images": len(names),
        "published": list(SIZES.get(task.name, {}).get(split, (None, None))),
        "note": OTHER_VERSIONS.get((task.name, split, len(hashes)), ""),
        "answers": answered,
        "scoring": task.scoring,
        "missing": missing,
        "undecodable": undecodable,
        "searched": searched,
    }


def _examples(task: Task, folder: Path, split: str) -> Iterator[Example]:
    return chain.from_iterable(task.records(folder, split))


def _look(
    task: Task,
    folder: Path,
    split: str,
    names: Iterable[str],
    *,
    files: Sequence[str],
    images: Path | None,
    look: str,
    progress: bool,
) -> tuple[list[str], list[str], tuple[str, ...]]:
    """Images that are missing, those that Pillow cannot decode whole, and where they were looked for.

    Those inside Parquet are written out.
    """
    from tqdm import tqdm  # type: ignore[import-untyped]

    from tasks.paths import resolve_image

    inside = any(file.endswith(".parquet") for file in files)
    read = task.read(folder, split, images=images, limit=None if inside else 50)
    root = read.image_root
    missing, undecodable = [], []
    listed = list(names)
    for name in tqdm(listed, unit="image", desc=f"images of {split}", disable=not progress):
        path = resolve_image(root, name, file=folder)
        try:
            present = path.is_file()
        except OSError:
            present = False
        if not present:
            missing.append(name)
        elif look == "decode" and not _decodes(path):
            undecodable.append(name)
    searched = read.searched[1] if read.searched is not None and len(missing) == len(listed) else (str(root),)
    return missing, undecodable, searched


def _decodes(path: Path) -> bool:
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.convert("RGB").load()
    except Exception:  # noqa: BLE001 - PIL's decoders raise errors of any kind for damaged files
        return False
    return True


def write_exclusions(images: Iterable[str], path: Path) -> None:
    """A list of images to leave out, as JSON."""
    from tasks.exports import write_text

    write_text(path, json.dumps(sorted(set(images)), indent=0) + "\n")


def read_exclusions(path: Path) -> tuple[str, ...]:
    """What `write_exclusions` wrote. Raises DatasetError if the file is no list of image paths."""
    from tasks.errors import DatasetError
    from tasks.files import load_json, valid_text

    content = load_json(path)
    if not isinstance(content, list):
        raise DatasetError("is no list of images", file=path)
    return tuple(valid_text(item, what="an image", file=path, record=f"[{k}]") for k, item in enumerate(content))


def _lines(result: dict[str, Any]) -> Iterator[str]:
    yield f"{result['task']} in {result['folder']}"
    for name, split in result["splits"].items():
        records, images = split["published"]
        yield f"{name}: {split['format']}, {', '.join(split['files'])}"
        yield f"  records {split['records']:,}{_beside(split['records'], records)}"
        yield f"  images  {split['images']:,}{_beside(split['images'], images)}"
        if split["note"]:
            yield f"  {split['note']}"
        if not split["answers"] and split["scoring"] == "answers":
            yield "  no public answers: it can be predicted, not scored"
        for what in ("missing", "undecodable"):
            if split[what]:
                more = ", ..." if len(split[what]) > SHOWN else ""
                yield f"  {len(split[what]):,} images {what}: {', '.join(split[what][:SHOWN])}{more}"
        if split["missing"]:
            places = ", ".join(split["searched"])
            yield f"  looked in {places}: put them there, or name their folder with --images FOLDER"
    yield from (f"note: {note}" for note in result["notes"])
    yield from (f"at fault: {why}" for why in result["unanswered"].values())
    if result["absent"]:
        yield f"not there: {', '.join(result['absent'])}"
    yield f"licence: {result['licence']}"


def _beside(number: int, published: int | None) -> str:
    if published is None:
        return ""
    return " as published" if number == published else f", published {published:,} ({number - published:+,})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; the exit status."""
    flags = parser().parse_args(arguments)
    from tasks import load_task
    from tasks.errors import DatasetError, TaskError

    try:
        task = load_task(flags.dataset)
        result = check(
            task, flags.folder, images=flags.images, splits=flags.splits, look=flags.look, progress=not flags.json
        )
        faults = [image for split in result["splits"].values() for image in split["missing"] + split["undecodable"]]
        if flags.exclude:
            write_exclusions(faults, flags.exclude)
    except (DatasetError, TaskError, OSError) as error:
        print(f"tasks.check: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result, indent=1) if flags.json else "\n".join(_lines(result)))
    if flags.exclude:
        print(f"{len(set(faults))} images to be excluded: {flags.exclude}", file=sys.stderr)
    elif faults:
        print("images are at fault: mend them, or write their list with --exclude FILE", file=sys.stderr)
    return 1 if result["unanswered"] or (faults and not flags.exclude) else 0


if __name__ == "__main__":
    sys.exit(main())
