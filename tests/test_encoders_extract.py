"""What an extraction computes and what it leaves: growth, sharing, images that do not decode, several writers."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from encoders_folders import open_clip_folder, picture, pictures, timm_folder
from extraction_workers import PLAIN, Told, numbered
from PIL import Image
from PIL import features as pil
from test_encoders_store import META
from torch import Tensor

from encoders import load_encoder
from encoders.base import Encoder, FileEncoder, Rows
from encoders.durable import PATIENCE
from encoders.errors import EncoderError, ImageError, StoreError, UndecodableError
from encoders.extract import Shard, extract
from encoders.images import Undecodable, decode, image_digest
from encoders.plan import Plan
from encoders.preprocess import Preprocess
from encoders.space import rooms
from encoders.store import FeatureStore
from experiments.errors import user_errors


def encoded(log: Path) -> list[int]:
    return [int(line.split()[1]) for line in log.read_text().splitlines()] if log.exists() else []


def test_a_grown_dataset_and_another_one_extract_only_what_is_new(tmp_path: Path) -> None:
    log, root = tmp_path / "log", tmp_path / "root"
    encoder, paths = Told("told", log=log), numbered(tmp_path / "a", 40)
    options = {"root": root, "batch_size": 4, "part_images": 8, "progress": "none"}
    extract(paths[:20], [encoder], **options)  # type: ignore[arg-type]
    assert encoded(log) == list(range(20))
    extract(paths[:30], [encoder], **options)  # type: ignore[arg-type]
    assert encoded(log) == list(range(30))
    other = numbered(tmp_path / "b", 15, first=20)  # images 20 to 34 in other files: ten of them are stored
    found = extract([*other, *paths[35:]], [encoder], **options)  # type: ignore[arg-type]
    assert encoded(log) == list(range(40)) and found[other[0]] == image_digest(paths[20])
    store = FeatureStore(root, encoder)
    assert len(store) == 40 and store.read([found[other[-1]]]).tokens[0, 0, 0] == 34
    assert store.part_list.num_parts == 3 + 2 + 2  # 8 + 8 + 4, 8 + 2, 8 + 2: each growth in parts of its own


def test_shards_are_disjoint_and_together_everything(tmp_path: Path) -> None:
    log, root = tmp_path / "log", tmp_path / "root"
    encoder, paths = Told("told", log=log), numbered(tmp_path / "a", 50)
    for text, expected in (("3/3", [*range(16, 24), *range(40, 48)]), ("1/3", [*range(8), *range(24, 32), 48, 49])):
        before = len(encoded(log))
        extract(
            paths, [encoder], root=root, batch_size=4, part_images=8, progress="none", shard=Shard.parse(text)
        )
        assert encoded(log)[before:] == expected
    extract(paths, [encoder], root=root, batch_size=4, part_images=8, progress="none", shard=Shard.parse("2/3"))
    assert sorted(encoded(log)) == list(range(50)) and len(FeatureStore(root, encoder)) == 50


def test_shards_that_start_apart_are_together_everything_too(tmp_path: Path) -> None:
    """Between the first and the second another dataset is extracted that has some of the images."""
    root, encoder, paths = tmp_path / "root", Told("told"), numbered(tmp_path / "a", 16)
    options = {"root": root, "batch_size": 4, "part_images": 4, "progress": "none"}
    extract(paths, [encoder], shard=Shard.parse("1/2"), **options)  # type: ignore[arg-type]
    extract(numbered(tmp_path / "b", 2), [encoder], **options)  # type: ignore[arg-type]
    extract(numbered(tmp_path / "b", 2, first=5), [encoder], **options)  # type: ignore[arg-type]
    extract(paths, [encoder], shard=Shard.parse("2/2"), **options)  # type: ignore[arg-type]
    assert FeatureStore(root, encoder).missing([image_digest(path) for path in paths]) == []


def test_a_file_that_cannot_be_read_is_not_called_undecodable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a disk may fail for a moment: the run stops, and nothing is put on record for good."""
    root, encoder, paths = tmp_path / "root", Told("told"), numbered(tmp_path / "a", 4)
    opened, whole = Counter[Path](), Path.open

    def failing(path: Path, *args: Any, **more: Any) -> Any:
        opened[path] += 1
        if path == paths[2] and opened[path] > 1:  # the first time is for its digest
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return whole(path, *args, **more)

    options = {"root": root, "progress": "none", "undecodable": "exclude"}
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", failing)
        with pytest.raises(ImageError, match=f"{paths[2].name} .*Input/output error"):
            extract(paths, [encoder], **options)  # type: ignore[arg-type]
    extract(paths, [encoder], **options)  # type: ignore[arg-type]
    assert len(FeatureStore(root, encoder)) == 4


def test_shards_as_people_write_them() -> None:
    assert Shard.parse("2/4") == Shard(1, 4) and Shard(1, 4).within(2, 3) == Shard(9, 12)
    shares = [Shard(machine, 2).within(process, 3) for machine in range(2) for process in range(3)]
    assert sorted((s.index, s.count) for s in shares) == [(n, 6) for n in range(6)]
    for text in ("0/4", "5/4", "1", "1/0", "a/b", "-1/4", "1/4/2"):
        with pytest.raises(StoreError, match="must be one of n, such as 1/4"):
            Shard.parse(text)


def test_parts_of_unequal_encoders_nest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Widths 5 in fp32: 4 tokens are 80 bytes, 64 tokens 1,280; parts of 5,120 bytes hold 32 (the cap) and 4."""
    monkeypatch.setattr("encoders.plan.PART_BYTES", 5120)
    stores = [FeatureStore(tmp_path, encoder) for encoder in (Told("small"), Told("large", grid=(8, 8)))]
    digests = [hashlib.sha256(bytes([n])).hexdigest() for n in range(70)]
    plan = Plan.of(digests, stores, batch_size=4, part_images=60)
    assert [len(block.digests) for block in plan.blocks] == [32, 32, 6]
    assert [plan.part_size(store) for store in stores] == [32, 4]
    assert Plan.of(digests, stores[:1], batch_size=4, part_images=60).blocks[0].digests == plan.blocks[0].digests


@pytest.mark.parametrize("batch_size", [3, 8, 16, 20])
def test_the_number_of_shares_changes_neither_blocks_nor_batches(tmp_path: Path, batch_size: int) -> None:
    """Parts of at most 16 images: blocks of 12 where a batch is 3, of 16 where it is 8 or 16, of 20 where it is 20."""
    stores = [FeatureStore(tmp_path, encoder) for encoder in (Told("small"), Told("large", grid=(8, 8)))]
    digests = [hashlib.sha256(bytes([n])).hexdigest() for n in range(101)]

    def blocks(count: int) -> list[tuple[str, ...]]:
        shards = [Shard(index, count) for index in range(count)]
        plans = [Plan.of(digests, stores, batch_size=batch_size, part_images=16, shard=shard) for shard in shards]
        assert len({plan.name for plan in plans}) == 1
        return sorted((block.digests for plan in plans for block in plan.blocks), key=lambda own: digests.index(own[0]))

    whole = blocks(1)
    assert [len(block) for block in whole[:-1]] == [{3: 12}.get(batch_size, max(16, batch_size))] * (len(whole) - 1)
    assert [digest for block in whole for digest in block] == digests
    assert blocks(2) == blocks(3) == whole


def test_shares_with_other_batches_that_divide_a_part_are_together_everything(tmp_path: Path) -> None:
    digests = [hashlib.sha256(bytes([n])).hexdigest() for n in range(101)]
    stores = [FeatureStore(tmp_path, Told("small"))]
    plans = [
        Plan.of(digests, stores, batch_size=size, part_images=16, shard=Shard(index, 3))
        for index, size in enumerate((2, 16, 4))
    ]
    assert sorted(digest for plan in plans for block in plan.blocks for digest in block.digests) == sorted(digests)


def test_two_writers_of_one_part_are_told_apart(tmp_path: Path) -> None:
    """While one extraction is within a block, a second one of the same images is refused, and harms nothing."""
    entered, leave = threading.Event(), threading.Event()

    class Waiting(Told):
        def tokens(self, images: Tensor) -> Tensor:
            entered.set()
            assert leave.wait(30)
            return super().tokens(images)

    paths, root, log = numbered(tmp_path / "a", 4), tmp_path / "root", tmp_path / "log"
    where = {"root": root, "progress": "none"}
    first = threading.Thread(target=extract, args=(paths, [Waiting("told")]), kwargs=where)
    first.start()
    assert entered.wait(30)
    said = r"is being extended by process .* give each process its own --shard"
    with pytest.raises(StoreError, match=said) as caught:
        extract(paths, [Told("told", log=log)], root=root, progress="none")
    assert "\n" not in str(caught.value)
    second = threading.Thread(
        target=extract, args=(paths, [Told("told", log=log)]), kwargs={**where, "waits": True}
    )
    second.start()
    second.join(2 * PATIENCE)
    assert second.is_alive()  # a run waits, and finds the features there
    leave.set()
    first.join(30)
    second.join(30)
    assert not second.is_alive()
    assert encoded(log) == [] and FeatureStore(root, Told("told")).verify() == 1


def test_images_deleted_or_changed_meanwhile_are_named_and_the_others_stored(tmp_path: Path) -> None:
    paths, root = numbered(tmp_path / "a", 12), tmp_path / "root"
    digests = [image_digest(path) for path in paths]

    class Deleting(Told):
        def tokens(self, images: Tensor) -> Tensor:
            paths[10].unlink(missing_ok=True)
            paths[11].write_bytes(paths[0].read_bytes())
            return super().tokens(images)

    for mode in ("refuse", "exclude"):
        with pytest.raises(ImageError) as caught:
            extract(
                paths,
                [Deleting("told")],
                root=root / mode,
                batch_size=1,
                progress="none",
                undecodable=mode,  # type: ignore[arg-type]
            )
        assert set(caught.value.problems) == {str(paths[10]), str(paths[11])} and "\n" not in str(caught.value)
        assert "there is no such file" in str(caught.value) and "changed while" in str(caught.value)
        assert FeatureStore(root / mode, Told("told")).missing(digests) == digests[10:]
        assert not Undecodable(root / mode).reasons()
        numbered(tmp_path / "a", 12)


def test_undecodable_images_are_left_out_on_request_and_put_on_record(tmp_path: Path) -> None:
    """One is seen to be cut short before anything is computed, one only in decoding."""
    paths, root, log = pictures(tmp_path / "a", 9), tmp_path / "root", tmp_path / "log"
    cut, damaged = paths[2], paths[5].with_suffix(".png")
    cut.write_bytes(cut.read_bytes()[:-300])
    picture(5).save(damaged)
    data = damaged.read_bytes()
    damaged.write_bytes(data[:900] + bytes([data[900] ^ 255]) + data[901:])
    paths[5] = damaged
    for _ in range(2):
        found = extract(
            paths,
            [Told("told", log=log)],
            root=root,
            batch_size=4,
            part_images=4,
            progress="none",
            undecodable="exclude",
        )
        assert list(found) == [path for path in paths if path not in (cut, damaged)]
        assert len(encoded(log)) == 7  # the second time nothing is computed, nor tried
        assert FeatureStore(root, Told("told")).missing(list(found.values())) == []
    reasons = Undecodable(root).reasons()
    assert set(reasons) == {image_digest(cut), image_digest(damaged)}
    assert reasons[image_digest(cut)].startswith("0002.jpg (")
    with pytest.raises(ImageError, match="0002.jpg"):
        extract(paths, [Told("told")], root=root, progress="none")


def damaged_files(folder: Path) -> dict[str, Path]:
    """Files at whose decoding PIL raises what it raises for no JPEG or PNG."""
    folder.mkdir()
    found = {kind: folder / f"image.{kind}" for kind in ("dds", "pcx", *(["avif"] if pil.check("avif") else []))}
    for kind, path in found.items():
        picture(1, mode={"dds": "RGBA", "pcx": "P", "avif": "RGB"}[kind]).save(path)
        whole = path.read_bytes()
        if kind == "dds":
            path.write_bytes(whole[:80] + b"\x04\0\0\0XXXX" + whole[88:])  # an unknown FourCC
        elif kind == "pcx":
            path.write_bytes(whole[:300])  # too short for a palette
        else:
            data = whole.index(b"mdat") + 4
            path.write_bytes(whole[:data] + bytes(36) + whole[data + 36 :])
    return found


def test_whatever_a_decoder_raises_the_image_is_named(tmp_path: Path) -> None:
    raised = {"dds": NotImplementedError, "pcx": OSError, "avif": RuntimeError}
    for kind, path in damaged_files(tmp_path / "images").items():
        with pytest.raises(raised[kind]), Image.open(path) as image:
            image.load()
        good = numbered(tmp_path / "images", 2)
        with pytest.raises(ImageError, match=f"image.{kind}"):
            extract([*good, path], [Told("told")], root=tmp_path / "refused", progress="none")
        options: dict[str, Any] = {"root": tmp_path / kind, "progress": "none", "undecodable": "exclude"}
        assert list(extract([*good, path], [Told("told")], **options)) == good
        with pytest.raises(UndecodableError, match=f"image.{kind}"):
            decode(path, image_digest(path), [], [])


def test_errors_of_preprocessing_are_not_the_images(tmp_path: Path) -> None:
    class Failing(Preprocess):
        def __call__(self, image: Image.Image) -> Tensor:
            raise RuntimeError("no such kernel")

    encoder = Told("told")
    encoder.preprocess = Failing(**asdict(PLAIN))
    options: dict[str, Any] = {"root": tmp_path / "root", "progress": "none", "undecodable": "exclude"}
    with pytest.raises(RuntimeError, match="no such kernel"):
        extract(numbered(tmp_path / "a", 2), [encoder], **options)
    assert not Undecodable(tmp_path / "root").reasons()


def test_a_strip_that_would_be_enlarged_beyond_all_measure_is_named(tmp_path: Path) -> None:
    """A file of 268 bytes; by hand: 65,000 x 224 across, 224 down, of which 224 x 224 would be cut."""
    good, strip = numbered(tmp_path / "a", 2), tmp_path / "a" / "strip.png"
    Image.new("RGB", (65000, 1)).save(strip)
    encoder = Told("told")
    encoder.preprocess = replace(PLAIN, resize="shortest", size=(224, 224), crop=(224, 224))
    options: dict[str, Any] = {"root": tmp_path / "root", "progress": "none"}
    words = "strip.png .its 65000x1 pixels would become 14560000x224 before they are cut, more than 178956970"
    with pytest.raises(ImageError, match=words):
        extract([*good, strip], [encoder], **options)
    assert list(extract([*good, strip], [encoder], undecodable="exclude", **options)) == good
    long = Image.new("RGB", (600, 1))  # 134,400 x 224 pixels are fine
    assert encoder.preprocess(long).shape == (3, 224, 224)


def test_of_many_images_that_do_not_decode_the_command_that_lists_them_is_named(tmp_path: Path) -> None:
    paths = numbered(tmp_path / "a", 11)
    for path in paths[:10]:
        path.write_text(f"no image {path}")
    with pytest.raises(ImageError, match=r"and 2 more: python -m tasks.check DATASET FOLDER --exclude FILE writes"):
        extract(paths, [Told("told")], root=tmp_path / "root", progress="none")


def test_other_weights_or_another_resolution_never_see_old_features(tmp_path: Path) -> None:
    paths, root = pictures(tmp_path / "images", 3), tmp_path / "root"
    timm_folder(tmp_path / "1" / "vit", seed=0)
    timm_folder(tmp_path / "2" / "vit", seed=1)
    timm_folder(tmp_path / "3" / "vit", seed=0, crop_pct=0.5)
    encoders = [load_encoder(f"vit=timm:{tmp_path}/{number}/vit") for number in (1, 2, 3)]
    assert len({encoder.name for encoder in encoders}) == 1
    digests = list(extract(paths, encoders[:1], root=root, progress="none").values())
    for encoder in encoders[1:]:
        assert FeatureStore(root, encoder).missing(digests) == digests
        with pytest.raises(StoreError, match="3 of 3 images are not in"):
            FeatureStore(root, encoder).read(digests)
    moved = FeatureStore(root, encoders[0]).folder
    moved.rename(FeatureStore(root, encoders[1]).folder)
    with pytest.raises(StoreError, match="has fingerprint"):
        extract(paths, encoders[1:2], root=root, progress="none")


def test_one_encoder_under_two_names_fills_both_stores_in_one_pass(tmp_path: Path) -> None:
    """As two copies of a checkpoint's folder are: a store is named after its encoder."""
    log, root, paths = tmp_path / "log", tmp_path / "root", numbered(tmp_path / "a", 5)
    one, other = Told("told", log=log), Told("told", log=log)
    other.name = "told:copy"
    assert one.fingerprint == other.fingerprint
    digests = list(extract(paths, [one, other], root=root, batch_size=4, progress="none").values())
    assert encoded(log) == list(range(5))
    first, second = (FeatureStore(root, encoder) for encoder in (one, other))
    assert first.folder != second.folder and len(first) == len(second) == 5
    assert torch.equal(first.read(digests).tokens, second.read(digests).tokens)
    extract(paths, [other, one, one], root=root, batch_size=4, progress="none")
    assert encoded(log) == list(range(5))


def test_variants_of_one_model_share_a_pass_and_views_have_their_own_entries(tmp_path: Path) -> None:
    open_clip_folder(tmp_path / "clip")
    specs = [f"clip=open_clip:{tmp_path}/clip?dtype=fp32", f"pooled=open_clip:{tmp_path}/clip?pool=2x2&dtype=fp32"]
    full, pooled = (load_encoder(spec) for spec in specs)
    views = load_encoder(f"views=open_clip:{tmp_path}/clip?pool=1x1&dtype=fp32&views=2")
    paths, calls = pictures(tmp_path / "images", 5), []
    pixels = torch.stack([full.preprocess(Image.open(path)) for path in paths])
    expected = [encoder.tokens(pixels) for encoder in (full, pooled)]
    forward = full._forward  # type: ignore[attr-defined]
    pooled._forward = None  # type: ignore[attr-defined]  # were it called, the extraction would fail
    full._forward = lambda *args: (calls.append(1), forward(*args))[1]  # type: ignore[attr-defined]
    digests = list(extract(paths, [full, pooled], root=tmp_path / "root", batch_size=5, progress="none").values())
    assert len(calls) == 1
    for encoder, tokens in zip((full, pooled), expected, strict=True):
        assert torch.equal(FeatureStore(tmp_path / "root", encoder).read(digests).tokens, tokens)
    extract(paths, [views], root=tmp_path / "root", progress="none")
    second = views.view(1)
    own = torch.stack([second.preprocess(Image.open(path)) for path in paths])
    read = FeatureStore(tmp_path / "root", second).read(digests)
    assert torch.allclose(read.tokens, second.tokens(own), atol=1e-5)
    assert read.boxes[0].tolist() == second.boxes.tolist() != views.boxes.tolist()


class Looked(FileEncoder):
    """Regions of an image numbered n: n % 4 of them, with n and boxes of their own."""

    alias, name, width, grid, num_prefix, num_params = "regions", "test:regions", 2, (1, 3), 0, 0
    dtype, preprocess, fingerprint = "fp16", PLAIN, "cd" * 32

    def images(self) -> list[str]:
        return [f"{number:05d}" for number in range(10)]

    def rows(self, paths: Sequence[Path]) -> Rows:
        numbers = torch.tensor([int(path.stem) for path in paths])
        lengths = numbers % 4
        tokens = numbers.repeat_interleave(lengths)[:, None].expand(-1, 2).float()
        return Rows(tokens, tokens.repeat(1, 2) / 100, lengths)


def test_features_that_are_looked_up_keep_their_boxes(tmp_path: Path) -> None:
    paths, encoders = numbered(tmp_path / "a", 10), [Looked(), Told("told")]
    digests = list(extract(paths, encoders, root=tmp_path / "root", batch_size=4, progress="none").values())
    folder = tmp_path / "root" / f"test-regions-{'cd' * 8}"
    for opened in (FeatureStore(tmp_path / "root", encoders[0]), FeatureStore.open(folder)):
        read = opened.read([digests[n] for n in (9, 8, 7)])
        assert read.valid.tolist() == [[True, False, False], [False] * 3, [True] * 3]
        assert read.tokens[:, :, 1].tolist() == [[9, 0, 0], [0, 0, 0], [7, 7, 7]]
        assert torch.equal(read.boxes[2], torch.full((3, 4), 0.07)) and not read.boxes[1].any()
        assert opened.bytes_per_image == 3 * (2 * 2 + 4 * 4)
    assert len(FeatureStore(tmp_path / "root", encoders[1])) == 10


def test_a_disk_that_fills_up_ends_the_extraction_and_keeps_what_was_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[int] = []

    def fsync(handle: int) -> None:
        """Two calls a file, one for it and one for its folder: meta.json, two parts, then the disk is full."""
        flushed.append(handle)
        if len(flushed) > 6:
            raise OSError(28, "No space left on device")

    paths, root = numbered(tmp_path / "a", 40), tmp_path / "root"
    encoder: Encoder = Told("told")
    monkeypatch.setattr("encoders.durable.os.fsync", fsync)
    with pytest.raises(StoreError, match="cannot write .*No space left on device"):
        extract(paths, [encoder], root=root, batch_size=4, part_images=8, progress="none")
    monkeypatch.undo()
    store = FeatureStore(root, encoder)
    assert store.verify() == 2
    assert not list(store.folder.glob(".*"))
    extract(paths, [encoder], root=root, batch_size=4, part_images=8, progress="none")
    assert FeatureStore(root, encoder).verify() == 5


def test_a_disk_too_small_for_all_stores_together_is_seen_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten images of 80 and of 1,280 bytes are 13,600, of which a share computes half: one byte fewer is free."""
    paths, root, log = numbered(tmp_path / "a", 10), tmp_path / "root", tmp_path / "log"
    encoders = [Told("small", log=log), Told("large", log=log, grid=(8, 8))]
    free = {"bytes": 13_599}
    monkeypatch.setattr("encoders.space.shutil.disk_usage", lambda _: SimpleNamespace(free=free["bytes"]))
    options = {"root": root, "progress": "none", "batch_size": 4, "part_images": 4}
    for shard in (Shard(0, 1), Shard(1, 2)):
        with pytest.raises(StoreError, match=f"{root} needs 0.00 GB more, but 0.00 GB are free: pool the tokens"):
            extract(paths, encoders, shard=shard, **options)  # type: ignore[arg-type]
    assert not encoded(log) and not root.exists()
    free["bytes"] += 1
    extract(paths, encoders, **options)  # type: ignore[arg-type]
    free["bytes"] = 0
    extract(paths, encoders, **options)  # type: ignore[arg-type]  # nothing more is needed


def test_room_is_counted_by_file_system(tmp_path: Path) -> None:
    """Three stores of 24 bytes an image, one of them where nothing is free; regions are certain of nothing."""
    own = replace(META, boxes=(), grid=(1, 5), name="test:regions")
    here = [FeatureStore(tmp_path, replace(META, name=name)) for name in ("test:a", "test:b")]
    there, regions = FeatureStore(Path("/proc"), META), FeatureStore(tmp_path, own)
    disk, none = rooms([(here[0], 10), (there, 7), (here[1], 5), (regions, 2)])
    assert disk[:3] == (tmp_path, 15 * 24, 2 * 5 * (12 + 16)) and disk.enough
    assert none == (Path("/proc"), 7 * 24, 0, 0) and not none.enough
    assert "0.00 GB and at most 0.00 GB of regions to store in" in str(disk)


def test_a_batch_too_large_for_the_gpu_is_one_line(tmp_path: Path) -> None:
    class Full(Told):
        def tokens(self, images: Tensor) -> Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 2 GiB")

    paths, root = numbered(tmp_path / "a", 2), tmp_path / "root"
    with pytest.raises(EncoderError, match=r"^48 images a pass of told do not fit .* --batch-size 24 takes") as caught:
        extract(paths, [Full("told")], root=root, batch_size=48, progress="none")
    assert "\n" not in str(caught.value)
    assert torch.OutOfMemoryError in user_errors()


@pytest.mark.parametrize("waits", [False, True])
def test_a_store_that_may_only_be_read_says_so_when_the_dataset_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], waits: bool
) -> None:
    paths, root, encoder, opened = numbered(tmp_path / "a", 4), tmp_path / "root", Told("told"), os.open
    options = {"root": root, "progress": "none", "waits": waits}
    extract(paths[:2], [encoder], **options)  # type: ignore[arg-type]

    def read_only(file: Any, flags: int, *more: int, **others: Any) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(file))
        return opened(file, flags, *more, **others)

    monkeypatch.setattr("encoders.durable.os.open", read_only)
    extract(paths[:2], [encoder], **options)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match=f"cannot write {FeatureStore(root, encoder).folder}/.lock-.*: Read-only"):
        extract(paths, [encoder], **options)  # type: ignore[arg-type]
    assert "waiting" not in capsys.readouterr().err


def test_a_torn_part_of_a_store_that_lacks_nothing_is_refused(tmp_path: Path) -> None:
    paths, root = numbered(tmp_path / "a", 3), tmp_path / "root"
    extract(paths, [Told("told")], root=root, progress="none")
    (part,) = root.glob("*/part-*")
    part.write_bytes(part.read_bytes()[:-1])
    with pytest.raises(StoreError, match=f"{part.name} is torn: it has .* bytes instead of"):
        extract(paths, [Told("told")], root=root, progress="none")


def test_features_that_cannot_be_looked_up_are_refused_in_one_line(tmp_path: Path) -> None:
    class Lacking(Looked):
        def rows(self, paths: Sequence[Path]) -> Rows:
            raise EncoderError(f"no features for {paths[0].name}")

    with pytest.raises(EncoderError, match="no features for 00000.png"):
        extract(numbered(tmp_path / "a", 2), [Lacking()], root=tmp_path / "root", progress="none")
