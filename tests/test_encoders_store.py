"""The feature store and the extraction: what is read is what was computed, and damage is never a feature."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from encoders_folders import open_clip_folder, picture, pictures, timm_folder
from PIL import Image, ImageFile
from torch import Tensor

from encoders import load_encoder
from encoders.base import Encoder
from encoders.errors import ImageError, StoreError
from encoders.extract import extract, image_digest
from encoders.store import FeatureStore, StoreMeta

META = StoreMeta(
    name="test:one",
    fingerprint="ab" * 32,
    width=3,
    grid=(1, 2),
    num_prefix=0,
    dtype="fp32",
    boxes=((0.25, 0.5, 0.5, 1.0), (0.75, 0.5, 0.5, 1.0)),
    preprocess={},
)
A, B, C, D = (letter * 64 for letter in "0123")


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> list[Encoder]:
    folder = tmp_path_factory.mktemp("checkpoints")
    timm_folder(folder / "vit")
    open_clip_folder(folder / "clip")
    return [
        load_encoder(f"vit=timm:{folder}/vit"),
        load_encoder(f"clip=open_clip:{folder}/clip?pool=2x2&dtype=fp32"),
    ]


class Counting(Encoder):
    """Passes on to an encoder and counts the images that it sees."""

    def __init__(self, encoder: Encoder) -> None:
        self.__dict__.update(encoder.__dict__)
        self._wrapped = encoder
        self.seen = 0

    def tokens(self, images: Tensor) -> Tensor:
        self.seen += len(images)
        return self._wrapped.tokens(images)


@pytest.mark.parametrize(("dtype", "error"), [("fp32", 0.0), ("fp16", 1e-3), ("bf16", 8e-3)])
def test_round_trip(tmp_path: Path, dtype: str, error: float) -> None:
    meta = replace(META, dtype=dtype)
    tokens = torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(0))
    store = FeatureStore(tmp_path, meta)
    assert store.missing([A, B, A]) == [A, B] and not (tmp_path / meta.folder).exists()
    store.write_part([A, B], tokens[:2])
    store.write_part([C], tokens[2:])
    for opened in (store, FeatureStore(tmp_path, meta), FeatureStore.open(tmp_path / meta.folder)):
        assert opened.missing([D, C, B, A]) == [D] and len(opened) == 3
        read = opened.read([C, A, C, B])
        assert read.tokens.dtype is torch.float32 and bool(read.valid.all())
        assert torch.allclose(read.tokens, tokens[[2, 0, 2, 1]], rtol=error, atol=0)
        assert read.boxes.shape == (4, 2, 4) and read.boxes[3].tolist() == [list(row) for row in META.boxes]
        assert opened.verify() == 2


def test_entries_of_different_lengths_are_padded(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, META)
    store.write_part([A, B], torch.arange(9.0).reshape(3, 3), lengths=torch.tensor([1, 2]))
    read = store.read([B, A])
    assert read.tokens.tolist() == [[[3, 4, 5], [6, 7, 8]], [[0, 1, 2], [0, 0, 0]]]
    assert read.valid.tolist() == [[True, True], [True, False]]


def test_batches_of_every_size_have_their_own_boxes_and_values(tmp_path: Path) -> None:
    tokens = torch.arange(9.0).reshape(3, 1, 3)
    shared = FeatureStore(tmp_path, replace(META, grid=(1, 1), boxes=META.boxes[:1]))
    shared.write_part([A, B, C], tokens)
    boxes = torch.rand(3, 4, generator=torch.Generator().manual_seed(0))
    own = FeatureStore(tmp_path, replace(META, name="test:own", grid=(1, 1), boxes=()))
    own.write_part([A, B, C], tokens, boxes=boxes)
    place = {A: 0, B: 1, C: 2}
    for digests in ([A], [B], [A, B], [C, B], [A], [B, A, C, A], []):
        rows = [place[digest] for digest in digests]
        for store, expected in ((shared, torch.tensor(META.boxes[:1]).expand(3, 4)), (own, boxes)):
            read = store.read(digests)
            assert read.valid.shape == read.tokens.shape[:2] == read.boxes.shape[:2] and bool(read.valid.all())
            assert torch.equal(read.boxes, expected[rows][:, None][:, : read.boxes.shape[1]])
            assert torch.equal(read.tokens, tokens[rows][:, : read.tokens.shape[1]])
            read.tokens.zero_()  # the reader's own memory


def test_missing_entry_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=D):
        FeatureStore(tmp_path, META).read([D])


def test_torn_part_is_refused(tmp_path: Path) -> None:
    part = FeatureStore(tmp_path, META).write_part([A, B], torch.ones(2, 2, 3))
    whole = part.read_bytes()
    for kept in (0, 5, 40, len(whole) - 1):
        part.write_bytes(whole[:kept])
        with pytest.raises(StoreError, match="torn") as caught:
            FeatureStore(tmp_path, META)
        assert part.name in str(caught.value) and "\n" not in str(caught.value)


def test_flipped_byte_is_found_by_verify(tmp_path: Path) -> None:
    part = FeatureStore(tmp_path, META).write_part([A, B], torch.ones(2, 2, 3))
    whole = part.read_bytes()
    start = 8 + int.from_bytes(whole[:8], "little")
    for place in range(start, len(whole), 7):
        part.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        with pytest.raises(StoreError, match=f"{part.name} is altered"):
            FeatureStore(tmp_path, META).verify()


def test_other_fingerprint_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    FeatureStore(tmp_path, META).write_part([A], torch.ones(1, 2, 3))
    with pytest.raises(StoreError, match="fingerprint"):
        FeatureStore(tmp_path, replace(META, fingerprint="ab" * 31 + "00"))


def test_values_that_the_precision_cannot_hold_are_refused(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, replace(META, dtype="fp16"))
    with pytest.raises(StoreError, match="not finite in fp16; store them with dtype=bf16"):
        store.write_part([A], torch.full((1, 2, 3), 1e6))
    assert not list(tmp_path.glob("*/part-*"))


@pytest.mark.parametrize("dtype", ["fp16", "fp32", "bf16"])
def test_infinite_values_are_refused_and_the_largest_kept(tmp_path: Path, dtype: str) -> None:
    store = FeatureStore(tmp_path, replace(META, dtype=dtype))
    for value in (float("inf"), float("-inf"), float("nan")):
        with pytest.raises(StoreError, match=f"not finite in {dtype}$"):
            store.write_part([A], torch.tensor([[[1.0, -2.0, value]] * 2]))
    store.write_part([A], torch.full((1, 2, 3), -65280.0))  # a value of all three precisions
    assert store.read([A]).tokens.unique().tolist() == [-65280.0]


def test_shapes_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="do not fit"):
        FeatureStore(tmp_path, META).write_part([A], torch.ones(1, 2, 4))
    assert not list(tmp_path.iterdir())


def test_leftovers_of_killed_writers_are_ignored_and_cleaned(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, META)
    store.write_part([A], torch.ones(1, 2, 3))
    host, namespace = os.uname().nodename, os.stat("/proc/self/ns/pid").st_ino
    dead, living = (store.folder / f".tmp-{host}-{namespace}-{pid}-0000" for pid in (2**22 + 1, os.getpid()))
    elsewhere = store.folder / f".tmp-{host}-{namespace + 1}-{2**22 + 1}-0000"  # a container of the same name
    for file in (dead, living, elsewhere):
        file.write_bytes(b"half")
    again = FeatureStore(tmp_path, META)
    assert again.verify() == 1
    again.write_part([B], torch.ones(1, 2, 3))
    assert not dead.exists() and living.exists() and elsewhere.exists()


def test_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object, **_more: object) -> None:
        raise OSError(28, "No space left on device")

    store = FeatureStore(tmp_path, META)
    store.write_part([A], torch.ones(1, 2, 3))
    monkeypatch.setattr("encoders.durable.os.replace", full)
    with pytest.raises(StoreError, match="No space left"):
        store.write_part([B], torch.ones(1, 2, 3))
    monkeypatch.undo()
    assert not list(store.folder.glob(".tmp-*"))
    assert FeatureStore(tmp_path, META).missing([A, B]) == [B]


def test_extraction_stores_what_the_encoder_gives(tmp_path: Path, encoders: list[Encoder]) -> None:
    paths = pictures(tmp_path / "images", 10)
    digests = extract(paths, encoders, root=tmp_path / "store", batch_size=4, progress="none")
    assert list(digests) == paths and digests[paths[3]] == image_digest(paths[3])
    for encoder, tolerance in zip(encoders, (1e-3, 1e-5), strict=True):
        pixels = torch.stack([encoder.preprocess(Image.open(path)) for path in paths])
        read = FeatureStore(tmp_path / "store", encoder).read([digests[path] for path in paths])
        assert torch.allclose(read.tokens, encoder.tokens(pixels), rtol=tolerance, atol=tolerance)
        assert torch.equal(read.boxes[0], encoder.boxes)


def test_only_what_is_new_is_computed(tmp_path: Path, encoders: list[Encoder]) -> None:
    vit, clip = (Counting(encoder) for encoder in encoders)
    paths = pictures(tmp_path / "images", 6)
    root = tmp_path / "store"
    extract(paths[:4], [vit], root=root, progress="none")
    shutil.copy(paths[0], tmp_path / "images" / "copy.jpg")
    extract([*paths, tmp_path / "images" / "copy.jpg"], [vit, clip, vit], root=root, progress="none")
    assert (vit.seen, clip.seen) == (6, 6)
    extract(paths, [vit, clip], root=root, progress="none")
    assert (vit.seen, clip.seen) == (6, 6)


def test_same_call_gives_the_same_bytes(tmp_path: Path, encoders: list[Encoder]) -> None:
    paths = pictures(tmp_path / "images", 9)
    found = []
    for name, workers in (("one", 1), ("two", 3)):
        extract(paths, encoders, root=tmp_path / name, batch_size=4, progress="none", workers=workers)
        files = sorted((tmp_path / name).rglob("*"))
        found.append({f.relative_to(tmp_path / name): f.read_bytes() for f in files if f.is_file()})
    assert found[0] == found[1] and len(found[0]) == 6


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_files_cut_short_or_missing_are_refused_before_anything_is_written(
    tmp_path: Path, encoders: list[Encoder], suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    paths = pictures(tmp_path / "images", 3)
    cut = tmp_path / "images" / f"cut.{suffix}"
    picture(7).save(cut)
    cut.write_bytes(cut.read_bytes()[:-200])
    text = tmp_path / "images" / "text.jpg"
    text.write_text("not an image")
    with pytest.raises(ImageError, match="2 images cannot be read") as caught:
        extract([*paths, cut, text], encoders, root=tmp_path / "store", progress="none")
    assert set(caught.value.problems) == {str(cut), str(text)} and "\n" not in str(caught.value)
    with pytest.raises(ImageError, match="no such file"):
        extract([*paths, tmp_path / "absent.jpg"], encoders, root=tmp_path / "store", progress="none")
    assert not (tmp_path / "store").exists()
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True


def test_damage_seen_only_in_decoding_costs_the_others_nothing(
    tmp_path: Path, encoders: list[Encoder]
) -> None:
    paths = pictures(tmp_path / "images", 5)
    paths[2] = paths[2].with_suffix(".png")
    picture(2).save(paths[2])
    data = paths[2].read_bytes()
    paths[2].write_bytes(data[:900] + bytes([data[900] ^ 255]) + data[901:])
    vit = Counting(encoders[0])
    with pytest.raises(ImageError, match="0002.png"):
        extract(paths, [vit], root=tmp_path / "store", progress="none", batch_size=2)
    good = [image_digest(path) for path in paths if path != paths[2]]
    store = FeatureStore(tmp_path / "store", vit)
    assert store.missing(good) == [] and store.missing([image_digest(paths[2])]) != []
    assert store.verify() == 1
