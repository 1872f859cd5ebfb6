"""Reading large JSON files record by record, so that memory holds one chunk and not the file.

Handed a file that holds an array, an object keyed by record id, or an object with the array under one key ("envelope");
hands on (name, value) in file order. Every defect is one `DatasetError` that names the file and, once records
have begun, the record.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tasks.errors import DatasetError

CHUNK = 1 << 20  # characters read at a time
LARGEST = 1 << 26  # characters of one value that is not a list of records
SPACE = " \t\n\r"
ENVELOPES = ("images", "questions", "annotations")  # the official files keep their records under these keys


class JsonStream:
    """A cursor over the text of a JSON file, which it reads as needed."""

    def __init__(self, file: Path, stream: IO[str]) -> None:
        self.file = file
        self.record: str | None = None
        self._stream = stream
        self._text = ""
        self._at = 0
        self._ended = False
        self._decoder = json.JSONDecoder()

    def error(self, problem: str) -> DatasetError:
        """A DatasetError that names the file and the present record."""
        return DatasetError(problem, file=self.file, record=self.record)

    def peek(self) -> str:
        """The next character that is not white space; "" at the end."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in SPACE:
                    return self._text[self._at]
                self._at += 1
            if not self._more():
                return ""

    def take(self, wanted: str) -> None:
        """Passes over one of these characters."""
        found = self.peek()
        if not found or found not in wanted:
            raise self.error(f"is not JSON: expected {' or '.join(wanted)}, found {ascii(found) or 'the end'}")
        self._at += 1

    def value(self) -> object:
        """Decodes the next value."""
        self.peek()
        while True:
            try:
                decoded, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if len(self._text) - self._at > LARGEST or not self._more():
                    raise self.error(f"is not JSON: {error.msg}") from error
                continue
            except RecursionError as error:
                raise self.error("is nested too deeply to be an annotation file") from error
            except ValueError as error:  # an integer of thousands of digits
                raise self.error(f"is not usable JSON: {error}") from error
            if end < len(self._text) or not self._more():  # a number may go on in the next chunk
                self._at = end
                value: object = decoded
                return value

    def members(self) -> Iterator[str]:
        """Keys of an object; the caller takes each value before it asks for the next key."""
        self.take("{")
        if self.peek() == "}":
            self.take("}")
            return
        while True:
            key = self.value() if self.peek() == '"' else None
            if not isinstance(key, str):
                raise self.error("is not JSON: expected a key in double quotes")
            self.take(":")
            yield key
            closing = self.peek()
            self.take(",}")
            if closing == "}":
                return

    def elements(self) -> Iterator[object]:
        """Values of an array."""
        self.take("[")
        if self.peek() == "]":
            self.take("]")
            return
        while True:
            yield self.value()
            closing = self.peek()
            self.take(",]")
            if closing == "]":
                return

    def finish(self) -> None:
        """Refuses what follows the outermost value."""
        if rest := self.peek():
            raise self.error(f"is not JSON: {ascii(rest)} after the end")

    def _more(self) -> bool:
        if self._ended:
            return False
        try:
            chunk = self._stream.read(max(CHUNK, len(self._text) - self._at))
        except UnicodeDecodeError as error:
            raise self.error(f"is not UTF-8 at byte {error.start} of a chunk") from error
        except OSError as error:
            raise self.error(f"cannot be read: {error.strerror}") from error
        self._text, self._at = self._text[self._at :] + chunk, 0
        self._ended = not chunk
        return bool(chunk)


def open_stream(file: Path) -> IO[str]:
    """The file as text (a byte-order mark is dropped). Raises DatasetError if it cannot be opened."""
    try:
        return file.open(encoding="utf-8-sig")
    except OSError as error:
        raise DatasetError(f"cannot be read: {error.strerror}", file=file) from error


def stream_records(file: Path, *, envelope: str | None = None) -> Iterator[tuple[str, object]]:
    """(name, value) of each record of an array, of an object keyed by id, or of the array under `envelope`.

    Names are "[3]", the key, or "questions[3]".

    Raises:
        DatasetError: the file is not JSON, holds neither, or lacks the envelope.
    """
    with open_stream(file) as text:
        stream = JsonStream(file, text)
        if envelope is not None:
            yield from _enveloped(stream, envelope)
        elif stream.peek() == "[":
            yield from _numbered(stream, "")
        elif stream.peek() == "{":
            for key in stream.members():
                stream.record = ascii(key)[1:-1]
                yield key, stream.value()
        else:
            stream.value()
            raise stream.error("holds neither a list nor an object")
        stream.record = None
        stream.finish()


def _numbered(stream: JsonStream, prefix: str) -> Iterator[tuple[str, object]]:
    stream.record = f"{prefix}[0]"
    for position, value in enumerate(stream.elements()):
        yield f"{prefix}[{position}]", value
        stream.record = f"{prefix}[{position + 1}]"


def _enveloped(stream: JsonStream, envelope: str) -> Iterator[tuple[str, object]]:
    found = False
    for key in stream.members():
        if key != envelope:
            stream.value()
            continue
        if found:
            raise stream.error(f"key {envelope!r} is used twice")
        found = True
        if stream.peek() != "[":
            raise stream.error(f"{envelope!r} must be a list, not {type(stream.value()).__name__}")
        yield from _numbered(stream, envelope)
        stream.record = None
    if not found:
        raise stream.error(f"key {envelope!r} is missing")


def find_envelope(file: Path) -> tuple[str | None, object]:
    """The envelope of a file that holds an object, if it has one, and otherwise its first value."""
    with open_stream(file) as text:
        stream = JsonStream(file, text)
        first: object = None
        for position, key in enumerate(stream.members()):
            if key in ENVELOPES and stream.peek() == "[":
                return key, None
            value = stream.value()
            first = value if position == 0 else first
            if position == 16:
                break
        return None, first
