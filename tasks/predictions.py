"""Predictions files in the official submission formats, read and written.

Handed a path; hands on predictions by record id, or similarities. Every defect is one `PredictionError` that names the
file and the entry. NumPy files are read without pickle.
"""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tasks.errors import DatasetError, PredictionError
from tasks.examples import Answer, Example
from tasks.exports import write_text
from tasks.files import Record, load_json, read_text
from tasks.tables import Table

if TYPE_CHECKING:
    import numpy as np


class Prediction(NamedTuple):
    """An answer, and its probability where the format has one (Hateful Memes: P(hateful))."""

    text: str
    probability: float | None = None


def read_entries(path: Path, *, key: str, value: str) -> dict[str, Prediction]:
    """A JSON list of objects with an id and an answer, or JSON lines of them.

    Raises:
        PredictionError: the file is not of that shape, or an id comes twice.
    """
    try:
        if read_text(path).lstrip()[:1] == "[":
            content = load_json(path)
            assert isinstance(content, list)
            records = [Record(item, file=path, name=f"[{k}]") for k, item in enumerate(content)]
        else:
            records = list(Table(path, "lines").rows())
        return _by_id((record, record.identifier(key), Prediction(record.text(value))) for record in records)
    except DatasetError as error:
        raise PredictionError(f"{error} (expected entries with {key!r} and {value!r})") from error


def read_json_lines(path: Path) -> dict[str, Prediction]:
    """The toolkit's own format, for tasks without an official one: {"id", "prediction", "probability"?} a line."""
    try:
        rows = []
        for record in Table(path, "lines").rows():
            probability = record.fields.get("probability")
            shown = None if probability is None else _probability(record, str(probability))
            rows.append((record, record.identifier("id"), Prediction(record.text("prediction"), shown)))
        return _by_id(rows)
    except DatasetError as error:
        raise PredictionError(f"{error} (expected lines with 'id' and 'prediction')") from error


def write_json_lines(answers: Sequence[Answer], path: Path) -> None:
    """What `read_json_lines` reads."""
    rows: list[dict[str, object]] = [
        {"id": answer.id, "prediction": answer.prediction, "probability": answer.probability} for answer in answers
    ]
    write_text(path, "".join(f"{json.dumps(row)}\n" for row in rows))


def read_meme_csv(path: Path) -> dict[str, Prediction]:
    """The Hateful Memes submission: id, proba, label."""
    try:
        rows = []
        for record in Table(path, "csv").rows():
            label = record.identifier("label")
            if label not in ("0", "1"):
                raise record.error(f"label {ascii(label)[:40]} is neither 0 nor 1")
            proba = _probability(record, record.text("proba"))
            rows.append((record, record.identifier("id"), Prediction(label, proba)))
        return _by_id(rows)
    except DatasetError as error:
        raise PredictionError(f"{error} (expected columns id, proba, label)") from error


def write_meme_csv(answers: Sequence[Answer], path: Path) -> None:
    """What `read_meme_csv` reads."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(("id", "proba", "label"))
    for answer in answers:
        writer.writerow((answer.id, repr(answer.probability), answer.prediction))
    write_text(path, buffer.getvalue())


def _probability(record: Record, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not isfinite(value):
        raise record.error(f"probability {ascii(text)[:40]} is no finite number")
    return value


def _by_id(rows: Iterable[tuple[Record, str, Prediction]]) -> dict[str, Prediction]:
    found: dict[str, Prediction] = {}
    for record, key, prediction in rows:
        if key in found:
            raise record.error(f"id {key!r} has a second prediction")
        found[key] = prediction
    if not found:
        raise PredictionError("the predictions file holds no predictions")
    return found


def matched(
    examples: Sequence[Example], predictions: Mapping[str, Prediction], *, path: Path, surplus: str = "refuse"
) -> list[tuple[Example, Prediction]]:
    """Each example with its prediction.

    Args:
        surplus: "refuse" predictions of no example, as the official VQA script does, or "ignore" them, as GQA's.

    Raises:
        PredictionError: an example has none, or a prediction has no example.
    """
    missing = [example.id for example in examples if example.id not in predictions]
    if missing:
        raise PredictionError(
            f"{path}: {len(missing)} of {len(examples)} records have no prediction, such as {missing[0]!r}"
        )
    if surplus == "refuse" and len(predictions) > len(examples):
        known = {example.id for example in examples}
        foreign = [key for key in predictions if key not in known]
        raise PredictionError(
            f"{path}: {len(foreign)} predictions are of no record of the split, such as {foreign[0]!r}"
        )
    return [(example, predictions[example.id]) for example in examples]


def write_similarity(
    path: Path, similarity: np.ndarray, images: Sequence[str], captions: Sequence[str]
) -> None:
    """Similarities (images x captions) with the names of rows and columns, as an .npz without pickle."""
    import numpy as np

    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.part")
    with partial.open("wb") as stream:
        np.savez(stream, similarity=similarity, images=np.array(images), captions=np.array(captions))
    partial.replace(path)


def read_similarity(
    path: Path, images: Sequence[str], captions: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Similarities for image-to-text and text-to-image, both images x captions in the order of the split.

    Takes an .npy of images x captions in the split's order; an .npz of `write_similarity`, in any order; or an .npz
    with `i2t` (images x captions) and `t2i` (captions x images), as the LAVIS scorer takes after re-ranking.

    Raises:
        PredictionError: the file is none of these, or does not fit the split.
    """
    import numpy as np

    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            loaded = {"similarity": loaded}
        arrays = {key: loaded[key] for key in loaded}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise PredictionError(f"{path} is no .npy or .npz of similarities without pickle: {error}") from error
    if {"i2t", "t2i"} <= arrays.keys():
        pair = arrays["i2t"], arrays["t2i"].T
    elif "similarity" in arrays:
        pair = arrays["similarity"], arrays["similarity"]
    else:
        raise PredictionError(f"{path} holds {', '.join(arrays)}: expected similarity, or i2t and t2i")
    expected = (len(images), len(captions))
    for matrix in pair:
        if matrix.shape != expected or matrix.dtype.kind not in "fiu":
            raise PredictionError(
                f"{path} holds {matrix.dtype} of shape {matrix.shape}, not numbers of (images, captions) {expected}"
            )
    if {"images", "captions"} <= arrays.keys():
        rows = _order(path, arrays["images"].tolist(), images, "images")
        columns = _order(path, arrays["captions"].tolist(), captions, "captions")
        pair = pair[0][rows][:, columns], pair[1][rows][:, columns]
    return _unrounded(pair[0]), _unrounded(pair[1])


def _unrounded(matrix: np.ndarray) -> np.ndarray:
    """In single precision where that holds the values, else in double: rounding makes ties, which count as misses."""
    import numpy as np

    return matrix.astype(np.float32 if matrix.dtype in (np.float16, np.float32) else np.float64, copy=False)


def _order(path: Path, found: Sequence[object], wanted: Sequence[str], what: str) -> list[int]:
    place = {str(name): position for position, name in enumerate(found)}
    missing = [name for name in wanted if name not in place]
    if missing or len(place) != len(wanted):
        first = missing[0] if missing else next(iter(place))
        raise PredictionError(f"{path}: its {what} are not those of the split, such as {first!r}")
    return [place[name] for name in wanted]
