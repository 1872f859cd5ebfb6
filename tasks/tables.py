"""Annotation files of any container as one thing: a `Table` of `Record`s.

A container is told by the file's content, not by its name: JSON lines, a JSON list, a JSON object keyed by id or with
its records under one key, CSV, the pipe-separated captions of Kaggle's Flickr30k, the tab-separated `.token` file,
Parquet. Hands on rows as `Record`s; images embedded in Parquet stay in the file until `embedded_images` is asked.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tasks.errors import DatasetError
from tasks.files import Record, decode
from tasks.json_stream import find_envelope, open_stream, stream_records

Container = Literal["lines", "list", "keyed", "enveloped", "csv", "kaggle", "token", "parquet"]
HEAD = 1 << 16
TOKEN_LINE = re.compile(r"(\S+)#(\d+)\t(.*)")
KAGGLE_LINE = re.compile(r"\s*(\d+)\s+(.*)")  # one row of the published file lacks its second separator
SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".token", ".parquet")
KEY = "__key__"  # the key of a record in an object keyed by id


@dataclass(frozen=True)
class Table:
    """A file and how its records are packed.

    Attributes:
        envelope: the key that holds the records, where the container is "enveloped".
    """

    file: Path
    container: Container
    envelope: str | None = None

    def rows(self) -> Iterator[Record]:
        """Records in file order. Raises DatasetError at the first that cannot be decoded."""
        if self.container == "parquet":
            yield from _parquet_rows(self.file)
        elif self.container in ("list", "keyed", "enveloped"):
            for name, value in stream_records(self.file, envelope=self.envelope):
                yield Record(value, file=self.file, name=name)
        else:
            readers = {"csv": _csv_rows, "kaggle": _kaggle_rows, "token": _token_rows, "lines": _line_rows}
            yield from readers[self.container](self.file)

    def first(self) -> Record | None:
        """The first record; None where there is none."""
        return next(self.rows(), None)


def open_table(file: Path) -> Table:
    """Tells the container by the content. Raises DatasetError if the file cannot be read."""
    try:
        with file.open("rb") as stream:
            raw = stream.read(HEAD)
    except OSError as error:
        raise DatasetError(f"cannot be read: {error.strerror}", file=file) from error
    if raw[:4] == b"PAR1":
        return Table(file, "parquet")
    head = raw.decode("utf-8-sig", errors="replace").lstrip()
    if file.suffix == ".jsonl" or not head:
        return Table(file, "lines")
    if head[0] == "[":
        return Table(file, "list")
    if head[0] == "{":
        return _open_object(file, head)
    line = head.split("\n", 1)[0]
    if TOKEN_LINE.match(line):
        return Table(file, "token")
    if line.count("|") >= 2:
        return Table(file, "kaggle")
    if file.suffix == ".json":
        raise DatasetError("is not JSON: it begins with neither { nor [", file=file)
    return Table(file, "csv")


def _open_object(file: Path, head: str) -> Table:
    """Lines if the first line is an object and another follows, else one object: of records, or one record."""
    line, _, rest = head.partition("\n")
    try:
        several = isinstance(json.loads(line), dict) and rest.lstrip()[:1] == "{"
    except (ValueError, RecursionError):
        several = False
    if several:
        return Table(file, "lines")
    envelope, first = find_envelope(file)
    if envelope is not None:
        return Table(file, "enveloped", envelope)
    return Table(file, "keyed" if isinstance(first, dict) or first is None else "lines")


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    with open_stream(file) as stream:
        try:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield number, line.rstrip("\n")
        except UnicodeDecodeError as error:
            raise DatasetError(f"is not UTF-8 at byte {error.start} of a chunk", file=file) from error
        except OSError as error:
            raise DatasetError(f"cannot be read: {error.strerror}", file=file) from error


def _line_rows(file: Path) -> Iterator[Record]:
    for number, line in _lines(file):
        name = f"line {number}"
        yield Record(decode(line, file=file, record=name), file=file, name=name)


def _csv_rows(file: Path) -> Iterator[Record]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            sample = stream.readline()
            stream.seek(0)
            reader = csv.reader(stream, delimiter="\t" if "\t" in sample else ",", strict=True)
            header = [name.strip() for name in next(reader, [])]
            if len(set(header)) < len(header):
                raise DatasetError("a column name is used twice", file=file, record="line 1")
            for row in reader:
                name = f"line {reader.line_num}"
                if not row:
                    continue
                if len(row) != len(header):
                    raise DatasetError(f"has {len(row)} fields for {len(header)} columns", file=file, record=name)
                yield Record(dict(zip(header, row, strict=True)), file=file, name=name)
    except UnicodeDecodeError as error:
        raise DatasetError(f"is not UTF-8 at byte {error.start} of a chunk", file=file) from error
    except OSError as error:
        raise DatasetError(f"cannot be read: {error.strerror}", file=file) from error
    except csv.Error as error:
        raise DatasetError(f"is not CSV: {error}", file=file, record=f"line {reader.line_num}") from error


def _kaggle_rows(file: Path) -> Iterator[Record]:
    """`image_name| comment_number| comment`, unquoted; the row that lacks its second separator is mended."""
    header: list[str] | None = None
    for number, line in _lines(file):
        parts = [part.strip() for part in line.split("|", 2)]
        if header is None:
            header = parts
            continue
        if len(parts) == 2 and (mended := KAGGLE_LINE.fullmatch(parts[1])):
            parts = [parts[0], mended[1], mended[2].strip()]
        if len(parts) != len(header):
            problem = f"has {len(parts)} fields for {len(header)} columns"
            raise DatasetError(problem, file=file, record=f"line {number}")
        yield Record(dict(zip(header, parts, strict=True)), file=file, name=f"line {number}")


def _token_rows(file: Path) -> Iterator[Record]:
    for number, line in _lines(file):
        found = TOKEN_LINE.fullmatch(line)
        if found is None:
            raise DatasetError("is not IMAGE#NUMBER<tab>CAPTION", file=file, record=f"line {number}")
        fields: dict[str, object] = {"image_name": found[1], "comment_number": found[2], "comment": found[3]}
        yield Record(fields, file=file, name=f"line {number}")


def _parquet_rows(file: Path) -> Iterator[Record]:
    """Rows without the bytes of embedded images; class labels as names where the file's metadata has them."""
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    try:
        opened = pq.ParquetFile(file)
        names = _class_names(opened.schema_arrow.metadata)
        columns = []
        for field in opened.schema_arrow:
            if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
                columns += [f"{field.name}.path"] if field.type.get_field_index("path") >= 0 else []
            elif not pa.types.is_binary(field.type):
                columns.append(field.name)
        row = 0
        for batch in opened.iter_batches(batch_size=4096, columns=columns):
            for fields in batch.to_pylist():
                for key, labels in names.items():
                    if isinstance(fields.get(key), int) and 0 <= fields[key] < len(labels):
                        fields[key] = labels[fields[key]]
                yield Record(fields, file=file, name=f"row {row}", row=row)
                row += 1
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"is not readable Parquet: {error}", file=file) from error


def _class_names(metadata: dict[bytes, bytes] | None) -> dict[str, list[str]]:
    """Names of the integer labels, from the metadata that `datasets` writes."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        named = {key: item["names"] for key, item in features.items() if isinstance(item, dict) and "names" in item}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}
    return {key: [str(name) for name in found] for key, found in named.items() if isinstance(found, list)}


def embedded_images(file: Path) -> Iterator[bytes | None]:
    """Bytes of each row's embedded image, None where a row has none; nothing where the file embeds no images."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        opened = pq.ParquetFile(file)
        column = None
        for field in opened.schema_arrow:
            if pa.types.is_struct(field.type) and field.type.get_field_index("bytes") >= 0:
                column = f"{field.name}.bytes"
            elif pa.types.is_binary(field.type):
                column = field.name
        if column is None:
            return
        for batch in opened.iter_batches(batch_size=64, columns=[column]):
            for value in batch.column(0).to_pylist():
                yield value["bytes"] if isinstance(value, dict) else value
    except (pa.ArrowException, OSError) as error:
        raise DatasetError(f"is not readable Parquet: {error}", file=file) from error
