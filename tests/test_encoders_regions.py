"""Region features: every form gives the same rows and boxes, by hand; damage and ambiguity are refused by name."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import encoders_regions as made
import h5py
import numpy as np
import pytest
import torch
from encoders_regions import SIZES, boxes, features
from PIL import Image

from encoders import load_encoder
from encoders.base import FileEncoder
from encoders.errors import EncoderError
from encoders.store import FeatureStore

FORMS: dict[str, Callable[[Path], None]] = {
    "bottom-up tsv": lambda folder: made.butd_tsv(folder / "karpathy_train.tsv.0"),
    "lxmert tsv": lambda folder: made.lxmert_tsv(folder / "val2014_obj36.tsv"),
    "uniter npz": made.uniter_npz,
    "torch npz": made.torch_npz,
    "safetensors": made.one_safetensors_each,
    "hdf5 groups": lambda folder: made.hdf5_groups(folder / "obj36.h5"),
    "hdf5 stacked": lambda folder: made.hdf5_stacked(folder / "trainval36.hdf5"),
    "gqa objects": made.gqa_objects,
}
PATHS = {image: Path(f"anywhere/COCO_val2014_{image:012d}.jpg") for image in SIZES}


def load(folder: Path, options: str = "") -> FileEncoder:
    encoder = load_encoder(f"butd=regions:{folder}{options}")
    assert isinstance(encoder, FileEncoder)
    return encoder


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_regions(tmp_path: Path, form: str) -> None:
    FORMS[form](tmp_path / "butd")
    encoder = load(tmp_path / "butd")
    assert (encoder.name, encoder.width, encoder.grid, encoder.num_prefix) == ("regions:butd", 8, (1, 3), 0)
    assert len(encoder.images()) == 3
    found = encoder.rows([PATHS[3], PATHS[1], PATHS[2], PATHS[1]])
    assert found.lengths.tolist() == [3, 1, 2, 1]
    order = (3, 1, 2, 1)
    assert np.array_equal(found.tokens.numpy(), np.concatenate([features(image) for image in order]))
    assert np.allclose(found.boxes.numpy(), np.concatenate([boxes(image) for image in order]), atol=1e-6)
    assert found.boxes[2].tolist() == [0.75, 0.75, 0.5, 0.5]


def test_second_load_reads_only_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made.butd_tsv(tmp_path / "butd" / "a.tsv")
    first = load(tmp_path / "butd")
    monkeypatch.setattr("encoders.region_files.TsvFile.entries", lambda _self: pytest.fail("scanned again"))
    again = load(tmp_path / "butd")
    assert again.fingerprint == first.fingerprint
    assert torch.equal(again.rows([PATHS[2]]).tokens, first.rows([PATHS[2]]).tokens)


def test_fingerprint_follows_the_bytes_and_not_the_place(tmp_path: Path) -> None:
    made.butd_tsv(tmp_path / "butd" / "a.tsv")
    before = load(tmp_path / "butd").fingerprint
    shutil.copytree(tmp_path / "butd", tmp_path / "moved")
    assert load(tmp_path / "moved").fingerprint == before
    assert load(tmp_path / "butd", "?top=2").fingerprint != before
    assert load(tmp_path / "butd", "?dtype=fp32").fingerprint != before
    text = (tmp_path / "butd" / "a.tsv").read_text()
    (tmp_path / "butd" / "a.tsv").write_text(text.replace("AAAA", "AACA", 1))
    assert load(tmp_path / "butd").fingerprint != before


def test_fingerprint_follows_gqas_description_of_its_rows(tmp_path: Path) -> None:
    """Rows of two images exchanged in the JSON file beside the arrays, which stay as they are."""
    made.gqa_objects(tmp_path / "gqa")
    before = load(tmp_path / "gqa")
    file = tmp_path / "gqa" / "gqa_objects_info.json"
    info = json.loads(file.read_text())
    info["1"]["idx"], info["3"]["idx"] = info["3"]["idx"], info["1"]["idx"]
    file.write_text(json.dumps(info))
    after = load(tmp_path / "gqa")
    assert after.fingerprint != before.fingerprint
    assert np.array_equal(after.rows([PATHS[1]]).tokens.numpy(), features(3)[:1])
    with pytest.raises(EncoderError, match="gqa_objects_0.h5 was changed since encoder butd was loaded"):
        before.rows([PATHS[1]])


def test_a_file_that_changes_after_loading_is_refused(tmp_path: Path) -> None:
    """Rewritten, truncated or replaced: never other features under the fingerprint of the first."""
    for change in ("rewritten", "truncated", "gone"):
        folder = tmp_path / change
        made.one_safetensors_each(folder)
        encoder, file = load(folder), folder / "2.safetensors"
        whole, times = file.read_bytes(), file.stat()
        assert encoder.rows([PATHS[2]]).lengths.tolist() == [2]
        if change == "rewritten":
            file.write_bytes(whole[:-4] + np.float32(9).tobytes())
            os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        elif change == "truncated":
            file.write_bytes(whole[:-4])
        else:
            file.unlink()
        with pytest.raises(EncoderError, match="2.safetensors was changed since encoder butd was loaded; load it"):
            encoder.rows([PATHS[2]])
        assert encoder.rows([PATHS[3]]).lengths.tolist() == [3]


def test_bytes_that_change_under_the_same_size_and_time_are_seen(tmp_path: Path) -> None:
    """As `cp -p` and `rsync -t` write: in place, and as another file of the name."""
    made.butd_tsv(tmp_path / "butd" / "a.tsv")
    file = tmp_path / "butd" / "a.tsv"
    times, found = file.stat(), [load(tmp_path / "butd").fingerprint]
    for old, new in (("AAAA", "AACA"), ("AACA", "AADA")):
        text = file.read_text().replace(old, new, 1)
        if new == "AADA":
            file.unlink()
        file.write_text(text)
        os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
        assert (file.stat().st_size, file.stat().st_mtime_ns) == (times.st_size, times.st_mtime_ns)
        found.append(load(tmp_path / "butd").fingerprint)
    assert len(set(found)) == 3


def test_images_of_another_size_are_refused(tmp_path: Path) -> None:
    """The regions are of 640x480 pixels: under a name with that number alone the size must be just that."""

    def drawn(name: str, size: tuple[int, int], *, turned: bool = False) -> Path:
        image, exif = Image.new("RGB", size), Image.Exif()
        exif[0x0112] = 6 if turned else 1
        image.save(tmp_path / name, exif=exif)
        return tmp_path / name

    made.butd_tsv(tmp_path / "butd" / "a.tsv")
    encoder = load(tmp_path / "butd")
    right = [drawn("x_0001.jpg", (640, 480)), drawn("y_0001.jpg", (480, 640), turned=True), drawn("1.jpg", (320, 240))]
    assert encoder.rows(right).lengths.tolist() == [1, 1, 1]
    for name, size in {"COCO_1.jpg": (320, 240), "GQA_1.jpg": (480, 640), "1.png": (500, 333)}.items():
        given = "x".join(map(str, size))
        with pytest.raises(EncoderError, match=f"{name} is {given} pixels, and the regions of 1 are .* of 640x480"):
            encoder.rows([drawn(name, size)])
    made.uniter_npz(tmp_path / "unit")  # which does not say
    assert load(tmp_path / "unit").rows([tmp_path / "GQA_1.jpg"]).lengths.tolist() == [1]


def test_at_most_top_regions(tmp_path: Path) -> None:
    made.one_safetensors_each(tmp_path / "butd")
    encoder = load(tmp_path / "butd", "?top=2")
    found = encoder.rows([PATHS[3], PATHS[1]])
    assert encoder.grid == (1, 2) and found.lengths.tolist() == [2, 1]
    assert np.array_equal(found.tokens.numpy(), np.concatenate([features(3)[:2], features(1)]))


def test_grids_and_plain_rows_of_npy(tmp_path: Path) -> None:
    (tmp_path / "grid").mkdir()
    np.save(tmp_path / "grid" / "5.npy", np.arange(12, dtype=np.float32).reshape(2, 3, 2))
    found = load(tmp_path / "grid").rows([Path("5.jpg")])
    assert found.tokens[:, 0].tolist() == [0, 2, 4, 6, 8, 10]
    assert np.allclose(found.boxes[4].numpy(), [0.5, 0.75, 1 / 3, 0.5])
    (tmp_path / "rows").mkdir()
    np.save(tmp_path / "rows" / "5.npy", np.ones((4, 2), np.float32))
    np.save(tmp_path / "rows" / "5_info.npy", np.array({"pickled": 1}, dtype=object))
    assert load(tmp_path / "rows").rows([Path("5.jpg")]).boxes.tolist() == [[0.5, 0.5, 1, 1]] * 4


def test_images_are_found_by_stem_before_number(tmp_path: Path) -> None:
    (tmp_path / "butd").mkdir()
    for name in ("7", "a_0007", "b_9"):
        np.save(tmp_path / "butd" / f"{name}.npy", np.full((1, 2), len(name), np.float32))
    encoder = load(tmp_path / "butd")
    assert encoder.rows([Path("7.jpg"), Path("a_0007.png"), Path("x/9.jpg")]).tokens[:, 0].tolist() == [1, 6, 3]
    with pytest.raises(EncoderError, match="c_07.jpg could be any of 7, a_0007"):
        encoder.rows([Path("c_07.jpg")])
    with pytest.raises(EncoderError, match="no regions of b_8.jpg; did you mean 'b_9'"):
        encoder.rows([Path("b_8.jpg")])
    with pytest.raises(EncoderError, match="looks features up by file"):
        encoder.tokens(torch.zeros(1, 3, 8, 8))


def test_rows_go_through_the_store(tmp_path: Path) -> None:
    made.butd_tsv(tmp_path / "butd" / "a.tsv")
    encoder = load(tmp_path / "butd", "?dtype=fp32")
    found = encoder.rows([PATHS[3], PATHS[1]])
    store = FeatureStore(tmp_path / "store", encoder)
    store.write_part(["3" * 64, "1" * 64], found.tokens, lengths=found.lengths, boxes=found.boxes)
    read = store.read(["1" * 64, "3" * 64])
    assert torch.equal(torch.cat([read.boxes[1], read.boxes[0, :1]]), found.boxes)
    assert read.valid.tolist() == [[True, False, False], [True, True, True]]
    assert np.array_equal(read.tokens[0, :1].numpy(), features(1))
    assert np.array_equal(read.tokens[1].numpy(), features(3))


def test_what_cannot_be_read_is_refused_in_one_line(tmp_path: Path) -> None:
    def npz(name: str, **arrays: np.ndarray) -> None:
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "1.npz", **arrays)

    ones = np.ones((2, 3), np.float32)
    npz("nothing", something=ones)
    npz("pixels", features=ones, boxes=np.array([[0, 0, 50, 60]] * 2))
    npz("uneven", features=ones, norm_bb=np.zeros((3, 4)))
    npz("none", features=ones, bbox=np.tile([0, 0, 1, 1], (2, 1)), num_bbox=0)
    npz("pickled", features=np.array([{"a": 1}], dtype=object))
    for name, text in {"columns": "1\t2\t3\n", "number": "1\t640\tx\t1\tAAAA\tAAAA\n"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.tsv").write_text(text)
    (tmp_path / "empty").mkdir()
    made.butd_tsv(tmp_path / "twice" / "a.tsv")
    made.butd_tsv(tmp_path / "twice" / "b.tsv")
    made.one_safetensors_each(tmp_path / "widths")
    np.save(tmp_path / "widths" / "4.npy", ones)
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "a.h5").write_bytes(b"\x89HDF\r\n\x1a\n half")
    (tmp_path / "unnamed").mkdir()
    with h5py.File(tmp_path / "unnamed" / "a.h5", "w") as file:
        file["image_features"] = np.zeros((2, 3, 4))
    cases = {
        "nothing": "no features of image 1: it has something",
        "pixels": "boxes of image 1 lie outside it; in pixels they need image_w and image_h",
        "uneven": "are not regions",
        "none": r"features \(2, 3\) and boxes \(2, 4\), 0 of them, of image 1 are not regions",
        "pickled": "allow_pickle=False",
        "columns": "has 3 columns where region files have 6 or 10",
        "number": "at byte 0 is no line of region features",
        "empty": "has no files of region features",
        "twice": "image 1 is in .*a.tsv and in .*b.tsv",
        "widths": "features of widths 3, 8",
        "torn": "cannot read region features .*a.h5",
        "unnamed": "does not say which row is whose image",
        "twic": "did you mean 'twice'",
    }
    for name, words in cases.items():
        with pytest.raises(EncoderError, match=words) as caught:
            load(tmp_path / name)
        assert "\n" not in str(caught.value)
