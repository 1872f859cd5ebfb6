"""`python -m encoders.features list|verify|repair FOLDER`: what lies in a folder of stored features.

`list` says what is there, `verify` reads every byte and names what is damaged, `repair` removes what is damaged
and what killed processes left, so that the next extraction computes exactly that again. A store of another format, or
under another name than its own, is named and left as it is. FOLDER is a store, or a folder of stores such as
cache/features.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from tqdm import tqdm  # type: ignore[import-untyped,unused-ignore]

from encoders.durable import sweep
from encoders.errors import ForeignError, StoreError, UnreadableError
from encoders.index import INDEX
from encoders.part_list import PartList, part_sizes
from encoders.parts import Part
from encoders.store_meta import META, StoreMeta


def find_stores(folder: Path) -> list[Path]:
    """The stores in a folder, or the folder itself where it is one.

    Raises:
        StoreError: there are none.
    """
    candidates = [folder, *sorted(path for path in folder.glob("*") if path.is_dir())]
    found = [path for path in candidates if (path / META).exists() or part_sizes(path)]
    if not found:
        raise StoreError(f"{folder} holds no stored features: name a store, or the folder of stores")
    return found


def damaged_files(folder: Path, *, progress: bool = False) -> Iterator[tuple[Path, str]]:
    """Each damaged file of a store, and what is wrong with it; every byte is read.

    Raises:
        ForeignError: the store is of another format, or under another name.
        UnreadableError: a file cannot be read, which says nothing of what it holds.
    """
    known = True
    try:
        StoreMeta.read(folder / META)
    except (ForeignError, UnreadableError):
        raise
    except StoreError as error:
        known = False
        yield folder / META, str(error)
    sizes, whole = part_sizes(folder), True
    with tqdm(total=sum(sizes.values()), unit="B", unit_scale=True, desc=folder.name, disable=not progress) as bar:
        for name, size in sorted(sizes.items()):
            try:
                Part(folder / name).verify()
            except UnreadableError:
                raise
            except StoreError as error:
                if isinstance(error, ForeignError) and not known:  # else the store is this version's, and a byte is not
                    raise
                whole = False
                yield folder / name, str(error)
            bar.update(size)
    try:
        if whole:  # else the index goes with the damaged parts
            PartList(folder).verify_index()
    except UnreadableError:
        raise
    except StoreError as error:
        yield folder / INDEX, str(error)


def repair(folder: Path, *, progress: bool = False) -> list[Path]:
    """Removes damaged files and leftovers, and writes the index again; returns the damaged files.

    Raises:
        StoreError: the folder cannot be written, a file in it cannot be read, or the store is of another format or
            under another name; nothing is removed then.
    """
    damaged = [file for file, _ in damaged_files(folder, progress=progress)]
    try:
        for file in damaged:
            file.unlink(missing_ok=True)
        sweep(folder)
    except OSError as error:
        raise StoreError(f"cannot repair {folder}: {error}") from error
    part_list = PartList(folder)
    if part_list.num_parts:
        part_list.write_index()
    else:
        (folder / INDEX).unlink(missing_ok=True)
    return damaged


def describe(folder: Path) -> str:
    """One line about a store."""
    meta, part_list = StoreMeta.read(folder / META), PartList(folder)
    tokens = f"{len(meta.boxes)} tokens" if meta.boxes else f"up to {meta.grid[0] * meta.grid[1]} tokens"
    size = part_list.num_bytes / 1e9
    return (
        f"{folder.name}: {len(part_list)} images, {tokens} of width {meta.width} in {meta.dtype}, "
        f"{part_list.num_parts} parts, {size:.3f} GB"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status 0; 1 where something is damaged and stays so, cannot be read, or is of another format or name."""
    parser = argparse.ArgumentParser(
        prog="python -m encoders.features", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("list", "verify", "repair"))
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    args = parser.parse_args(argv)
    try:
        stores = find_stores(args.folder)
        return sum(_each(args.action, store) for store in stores) and 1
    except (StoreError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1


def _each(action: str, folder: Path) -> int:
    """As `_act`; a store of which that cannot be said or done is named, and does not keep it from the others."""
    try:
        return _act(action, folder)
    except StoreError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1


def _act(action: str, folder: Path) -> int:
    """Prints what one store is, or what was wrong with it; returns how many damaged files stay."""
    if action == "list":
        print(describe(folder))
        return 0
    if action == "verify":
        damaged = list(damaged_files(folder, progress=True))
        for _, problem in damaged:
            print(f"damaged: {problem}")
        print(f"{folder}: {len(part_sizes(folder))} parts read, {len(damaged)} files damaged")
        return len(damaged)
    removed = repair(folder, progress=True)
    for file in removed:
        print(f"removed: {file}")
    left = f"{len(PartList(folder))} images left; the same extraction adds what is missing"
    print(f"{folder}: {len(removed)} damaged files removed, {left}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
