"""Reading annotation files so that every defect becomes one `DatasetError` that names the file and the
record.

Handed paths; hands on decoded JSON behind `Record`, whose accessors check presence and type. `factors.json`,
an optional side file of any dataset folder, is read here too: {"<record id>": {"<slice>": "<part>"}}.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path

from tasks.errors import DatasetError

FACTORS = "factors.json"


def existing_folder(folder: Path) -> Path:
    """The folder. Raises DatasetError if it is none, with the nearest name beside it."""
    beside: list[str] = []
    with suppress(OSError):
        if folder.is_dir():
            return folder
        beside = sorted(place.name for place in folder.absolute().parent.iterdir() if place.is_dir())
    close = get_close_matches(folder.name, beside, n=1)
    hint = f", did you mean {close[0]!r}?" if close else ""
    raise DatasetError(f"there is no such folder{hint}", file=folder)


def valid_text(value: object, *, what: str, file: Path, record: str | None) -> str:
    """A string that UTF-8 can hold."""
    if not isinstance(value, str):
        raise DatasetError(f"{what} must be a string, not {type(value).__name__}", file=file, record=record)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise DatasetError(f"{what} holds half of a surrogate pair", file=file, record=record) from None
    return value


class Record:
    """One JSON object of a file, with accessors that check.

    Attributes:
        fields: the decoded object.
        file: the file it is from.
        name: its id or position, for errors.
        row: its number in a Parquet file, where an embedded image is to be found; else None.
    """

    __slots__ = ("fields", "file", "name", "row")

    def __init__(self, fields: object, *, file: Path, name: str | None, row: int | None = None) -> None:
        if not isinstance(fields, dict):
            raise DatasetError(
                f"expected a JSON object, found {type(fields).__name__}", file=file, record=name
            )
        self.fields: dict[str, object] = fields
        self.file = file
        self.name = name
        self.row = row

    def error(self, problem: str) -> DatasetError:
        """A DatasetError that names this record."""
        return DatasetError(problem, file=self.file, record=self.name)

    def get(self, key: str) -> object:
        """The value. Raises DatasetError if the key is missing."""
        try:
            return self.fields[key]
        except KeyError:
            raise self.error(f"key {key!r} is missing") from None

    def text(self, key: str) -> str:
        """A string."""
        value = self.get(key)
        if isinstance(value, str) and value.isascii():  # the usual case, millions of times
            return value
        return valid_text(value, what=repr(key), file=self.file, record=self.name)

    def integer(self, key: str) -> int:
        """An integer of at least 0."""
        value = self.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
            raise self.error(f"{key!r} must be an integer of at least 0, not {_show(value)}")
        return value

    def identifier(self, key: str) -> str:
        """An id: a non-empty string, or an integer, as a string."""
        value = self.get(key)
        if isinstance(value, str) and value:
            return valid_text(value, what=repr(key), file=self.file, record=self.name)
        return str(self.integer(key))

    def present(self, *keys: str) -> str | None:
        """The first of the keys that the record has with a value other than null and "" (an empty cell of CSV)."""
        return next((key for key in keys if self.fields.get(key) not in (None, "")), None)

    def texts(self, key: str) -> list[str]:
        """A list of strings."""
        return [
            valid_text(item, what=f"an item of {key!r}", file=self.file, record=self.name) for item in self.items(key)
        ]

    def items(self, key: str) -> list[object]:
        """A list."""
        value = self.get(key)
        if not isinstance(value, list):
            raise self.error(f"{key!r} must be a list, not {type(value).__name__}")
        return value

    def record(self, key: str) -> Record:
        """An object inside this one; errors name the outer record."""
        value = self.get(key)
        if not isinstance(value, dict):
            raise self.error(f"{key!r} must be an object, not {type(value).__name__}")
        return Record(value, file=self.file, name=self.name)

    def records(self, key: str) -> list[Record]:
        """A list of objects inside this one; errors name the outer record."""
        return [Record(item, file=self.file, name=self.name) for item in self.items(key)]


def load_json(file: Path, *, repeated_keys: str = "last wins") -> object:
    """Decodes a JSON file.

    Args:
        repeated_keys: "refuse" where keys are record ids, since plain decoding would lose records in silence.

    Raises:
        DatasetError: the file cannot be read or is not JSON.
    """

    def refuse(pairs: list[tuple[str, object]]) -> dict[str, object]:
        decoded = dict(pairs)
        if len(decoded) < len(pairs):
            twice, _ = Counter(key for key, _ in pairs).most_common(1)[0]
            raise DatasetError("the key is used twice in one object", file=file, record=ascii(twice))
        return decoded

    return decode(
        read_text(file), file=file, record=None, hook=refuse if repeated_keys == "refuse" else None
    )


def read_text(file: Path) -> str:
    """The file as UTF-8 text (a byte-order mark is dropped)."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DatasetError(f"cannot be read: {error.strerror}", file=file) from error
    except UnicodeDecodeError as error:
        raise DatasetError(f"is not UTF-8 at byte {error.start}", file=file) from error


def read_factors(folder: Path) -> Mapping[str, Mapping[str, str]]:
    """Slices by record id from `factors.json`; empty where the folder has none."""
    file = folder / FACTORS
    if not file.exists():
        return {}
    outer = Record(load_json(file), file=file, name=None)
    factors: dict[str, dict[str, str]] = {}
    for key in outer.fields:
        valid_text(key, what="an id", file=file, record=None)
        inner = Record(outer.fields[key], file=file, name=key)
        for name in inner.fields:
            valid_text(name, what="a slice name", file=file, record=key)
        factors[key] = {name: inner.text(name) for name in inner.fields}
    return factors


def decode(text: str, *, file: Path, record: str | None, hook: object = None) -> object:
    """Decodes JSON text. Raises DatasetError naming file and record."""
    try:
        decoded: object = json.loads(text, object_pairs_hook=hook)  # type: ignore[arg-type]
    except json.JSONDecodeError as error:
        raise DatasetError(f"is not JSON: {error}", file=file, record=record) from error
    except RecursionError as error:
        raise DatasetError(
            "is nested too deeply to be an annotation file", file=file, record=record
        ) from error
    except DatasetError:
        raise
    except ValueError as error:  # an integer of thousands of digits
        raise DatasetError(f"is not usable JSON: {error}", file=file, record=record) from error
    return decoded


def _show(value: object) -> str:
    return ascii(value)[:60] if isinstance(value, (int, float, str, bool)) else type(value).__name__
