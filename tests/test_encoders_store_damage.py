"""Damage to stored features: whatever happens to the files, reading gives what was written or one clear error."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pickle
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from weakref import WeakSet

import numpy as np
import pytest
import torch
from conftest import SOAK
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file
from test_encoders_store import META, A, B, C

from encoders import features, part_list, tensor_file
from encoders.durable import WriterLock
from encoders.errors import ForeignError, StoreError
from encoders.index import INDEX, DigestTable, read_index
from encoders.parts import Part
from encoders.store import FeatureStore, StoreMeta
from encoders.store_meta import META as META_FILE

OWN_BOXES = replace(META, boxes=(), grid=(1, 5))
D = "3" * 64


def name(number: int) -> str:
    """A digest that differs from its neighbours only after the first eight bytes."""
    return f"{number // 3:016x}" + f"{number:048x}"


@given(
    parts=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=6), min_size=1, max_size=5),
    chosen=st.lists(st.integers(0, 29), min_size=1, max_size=12),
    dtype=st.sampled_from(["fp32", "fp16", "bf16"]),
    indexed=st.integers(0, 5),
)
def test_a_store_is_a_dictionary(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[int]], chosen: list[int], dtype: str, indexed: int
) -> None:
    """Entries of all lengths, boxes of their own, over several parts, some of them indexed: as a plain dict has it."""
    root, expected = tmp_path_factory.mktemp("store"), {}
    store = FeatureStore(root, replace(OWN_BOXES, dtype=dtype))
    draw = np.random.default_rng(0)
    for number, lengths in enumerate(parts):
        digests = [name(len(expected) + i) for i in range(len(lengths))]
        tokens = draw.integers(-100, 100, (sum(lengths), 3)).astype(np.float32)
        boxes = draw.random((sum(lengths), 4), dtype=np.float32)
        file = store.write_part(
            digests, torch.from_numpy(tokens), lengths=torch.tensor(lengths), boxes=torch.from_numpy(boxes)
        )
        with safe_open(file, framework="pt") as opened:  # the library's own reader finds the same
            assert torch.equal(opened.get_tensor("tokens").float(), torch.from_numpy(tokens))
            assert torch.equal(opened.get_tensor("boxes"), torch.from_numpy(boxes))
        ends = np.cumsum(lengths)
        expected |= {
            d: (tokens[end - n : end], boxes[end - n : end])
            for d, n, end in zip(digests, lengths, ends, strict=True)
        }
        if number == indexed:
            store.part_list.write_index()
    wanted = [name(i % len(expected)) for i in chosen]
    for opened_store in (store, FeatureStore(root, store.meta), pickle.loads(pickle.dumps(store))):
        assert len(opened_store) == len(expected) and name(99) not in opened_store
        read = opened_store.read(wanted)
        assert read.tokens.shape[1] == max(len(expected[d][0]) for d in wanted)
        for row, digest in enumerate(wanted):
            tokens, boxes = expected[digest]
            assert read.valid[row].tolist() == [i < len(tokens) for i in range(read.tokens.shape[1])]
            assert np.array_equal(read.tokens[row, : len(tokens)].numpy(), tokens)
            assert np.array_equal(read.boxes[row, : len(tokens)].numpy(), boxes)
            assert not read.tokens[row, len(tokens) :].any() and not read.boxes[row, len(tokens) :].any()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of two indexed parts and one that is not: A has ones, B twos, C threes and D fours."""
    root = tmp_path_factory.mktemp("written")
    store = FeatureStore(root, META)
    store.write_part([A, B], torch.tensor([1.0, 2.0])[:, None, None].expand(2, 2, 3))
    store.write_part([C], torch.full((1, 2, 3), 3.0))
    store.part_list.write_index()
    store.write_part([D], torch.full((1, 2, 3), 4.0))
    return store.folder


def read_or_refuse(folder: Path) -> int:
    """Reads every image alone from a store as it lies there; how many are refused, with one line each."""
    refused = 0
    for digest, value in zip((A, B, C, D), (1.0, 2.0, 3.0, 4.0), strict=True):
        try:
            read = FeatureStore(folder.parent, META).read([digest])
        except StoreError as error:
            assert "\n" not in str(error)
            refused += 1
        else:
            assert read.tokens.tolist() == [[[value] * 3] * 2] and read.boxes.tolist() == [[*map(list, META.boxes)]]
    return refused


@settings(max_examples=3000 if SOAK else 150)
@given(seed=st.integers(0, 2**63), count=st.integers(1, 3), truncated=st.booleans())
def test_changed_bytes_never_give_a_wrong_feature(
    tmp_path_factory: pytest.TempPathFactory, written: Path, seed: int, count: int, truncated: bool
) -> None:
    folder = tmp_path_factory.mktemp("copy") / written.name
    shutil.copytree(written, folder)
    draw = np.random.default_rng(seed)
    file = sorted(folder.iterdir())[draw.integers(5)]
    content = bytearray(file.read_bytes())
    for place in draw.integers(len(content), size=count).tolist():
        content[place] ^= int(draw.integers(1, 256))
    file.write_bytes(content[: draw.integers(len(content)) if truncated else None])
    before = read_or_refuse(folder)
    features.repair(folder)
    assert read_or_refuse(folder) <= max(before, 2)  # at worst the part that was damaged is gone
    assert not list(features.damaged_files(folder)) or not (folder / META_FILE).exists()


def test_every_flipped_bit_of_tokens_is_refused_when_it_is_read(written: Path, tmp_path: Path) -> None:
    """And only for the image that it hits: the others of the part are still read."""
    folder = tmp_path / written.name
    shutil.copytree(written, folder)
    part = FeatureStore.open(folder).part_list.part(int(FeatureStore.open(folder).part_list.find([B])[0, 0])).file
    whole = part.read_bytes()
    start = whole.index(np.full(6, 2.0, "<f4").tobytes())
    for place in range(start, start + 24):
        for bit in range(8):
            part.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << bit)]) + whole[place + 1 :])
            with pytest.raises(StoreError, match=f"image {B} fails its checksum"):
                FeatureStore.open(folder).read([A, B])
            assert FeatureStore.open(folder).read([A]).tokens.max() == 1


def test_other_files_swapped_in_are_refused(written: Path, tmp_path: Path) -> None:
    """A whole part under another part's name, as after a bad copy: the index no longer fits it."""
    folder = tmp_path / written.name
    shutil.copytree(written, folder)
    part_list = FeatureStore.open(folder).part_list
    one, three = (part_list.part(int(part_list.find([digest])[0, 0])).file for digest in (C, D))
    shutil.copy(three, one)
    with pytest.raises(StoreError, match="names another image's entry"):
        FeatureStore.open(folder).read([C])
    problems = dict(features.damaged_files(folder))
    assert list(problems) == [one] and "name does not fit" in problems[one]


def test_an_altered_index_never_gives_another_image_s_features(written: Path, tmp_path: Path) -> None:
    """Neither at first nor once the image that it points to was read: A and B change places."""
    folder = tmp_path / written.name
    shutil.copytree(written, folder)
    index = read_index(folder)
    assert index is not None
    one, two = FeatureStore.open(folder).part_list.find([A, B])
    content = bytearray((folder / INDEX).read_bytes())
    start = content.index(index.table.places.tobytes())
    rows = [start + place * 8 + 4 for place in range(len(index.table.keys))]
    first, second = (next(row for row in rows if content[row - 4 : row + 4] == each.tobytes()) for each in (one, two))
    content[first], content[second] = content[second], content[first]
    (folder / INDEX).write_bytes(content)
    with pytest.raises(StoreError, match="names another image's entry"):
        FeatureStore.open(folder).read([A])
    store = FeatureStore.open(folder)
    for part in store.part_list.parts():  # all images were found intact before
        for row in range(part.count):
            part.checked[row] = part.digests[row].tobytes().hex()
    with pytest.raises(StoreError, match="names another image's entry"):
        store.read([A])


@pytest.mark.parametrize("action", ["verify", "repair"])
def test_what_cannot_be_read_at_the_moment_is_not_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], action: str
) -> None:
    """As a network file system says that a file is stale: nothing is removed, and all is there afterwards."""
    store = FeatureStore(tmp_path, META)
    parts = [store.write_part([digest], torch.ones(1, 2, 3)) for digest in (A, B, C)]
    store.part_list.write_index()
    opened = os.open

    def stale(file: Path, flags: int) -> int:
        if file == parts[1]:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(file))
        return opened(file, flags)

    with monkeypatch.context() as patched:
        patched.setattr("encoders.tensor_file.os.open", stale)
        assert features.main([action, str(store.folder)]) == 1
        assert f"error: cannot read {parts[1]}" in capsys.readouterr().err
    assert all(part.exists() for part in parts) and (store.folder / INDEX).exists()
    assert features.main(["verify", str(store.folder)]) == 0


def _a_hundred_parts(root: Path) -> tuple[FeatureStore, list[str]]:
    """Image n, of which each value is n, in a part of its own."""
    store, digests = FeatureStore(root, META), [name(number) for number in range(100)]
    store.prepare()
    for number, digest in enumerate(digests):
        store.write_encoded([digest], [np.full((2, 3), number, "<f4")], np.array([2], "<i4"))
    FeatureStore(root, META).part_list.write_index()
    return FeatureStore(root, META), digests


def test_more_parts_than_files_may_be_open(tmp_path: Path) -> None:
    """A part that was opened holds no file open, so a hard limit of 60 is enough for a hundred."""
    store, digests = _a_hundred_parts(tmp_path)
    code = (
        "import resource, sys, pathlib; from encoders.store import FeatureStore;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60));"
        "store = FeatureStore.open(pathlib.Path(sys.argv[1]));"
        "print(store.read(sys.argv[2:]).tokens[:, 0, 0].tolist())"
    )
    line = [sys.executable, "-c", code, str(store.folder), *digests]
    done = subprocess.run(line, cwd=Path(__file__).parent.parent, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == str([float(number) for number in range(100)]), done.stderr[-2000:]


def test_open_parts_are_limited_over_all_stores_and_no_image_is_checked_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("encoders.open_parts._everywhere", WeakSet())
    (first, digests), (second, _) = (_a_hundred_parts(tmp_path / letter) for letter in "ab")
    monkeypatch.setattr("encoders.open_parts.MOST", 16)
    looked, right = [], Part.check
    monkeypatch.setattr(Part, "check", lambda part, *place: looked.append(part.file) or right(part, *place))
    for _ in range(3):
        for store in (first, second):
            for number in (*range(100), 99, 0, 50):
                assert store.read([digests[number]]).tokens.unique().tolist() == [number]
                assert len(first.part_list.opened) + len(second.part_list.opened) <= 16
    assert len(looked) == len(set(looked)) == 200
    before = store.part_list.part(0)
    assert store.part_list.part(0) is before  # what was asked for last is the last to go
    for number in range(1, 16):
        store.part_list.part(number)
        assert store.part_list.part(0) is before


def test_a_part_that_changed_while_it_was_closed_is_checked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("encoders.open_parts._everywhere", WeakSet())
    store, digests = _a_hundred_parts(tmp_path)
    monkeypatch.setattr("encoders.open_parts.MOST", 1)
    files = [store.part_list.part(int(store.part_list.find([digest])[0, 0])).file for digest in digests[:2]]
    for digest in digests[:2]:
        store.read([digest])
    shutil.copy(files[1], files[0])
    with pytest.raises(StoreError, match="names another image's entry"):
        store.read(digests[:1])


@pytest.mark.parametrize("given", [0, 20])
def test_a_system_that_gives_no_more_mappings_gets_some_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: int
) -> None:
    """Of `given` mappings at a time all hundred images are read; where it gives none, one line says so."""
    monkeypatch.setattr("encoders.open_parts._everywhere", WeakSet())
    store, digests = _a_hundred_parts(tmp_path)
    opened = store.part_list.opened
    right = tensor_file._Mapping

    def counted(descriptor: int, size: int) -> object:
        if len(opened) >= given:
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        return right(descriptor, size)

    monkeypatch.setattr(tensor_file, "_Mapping", counted)
    if not given:
        with pytest.raises(StoreError, match=r"cannot read .*part-.*Cannot allocate memory"):
            store.read(digests)
        return
    for number, digest in enumerate(digests):
        assert store.read([digest]).tokens.unique().tolist() == [number]


def test_a_part_of_another_store_is_refused(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, META)
    store.write_part([A], torch.ones(1, 2, 3))
    other = FeatureStore(tmp_path, replace(META, name="test:two", width=4)).write_part([B], torch.ones(1, 2, 4))
    shutil.copy(other, store.folder)
    with pytest.raises(StoreError, match="width 4, which does not fit its meta.json"):
        FeatureStore(tmp_path, META).read([B])


def test_altered_meta_is_refused(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, META)
    store.write_part([A], torch.ones(1, 2, 3))
    file = store.folder / META_FILE
    values = json.loads(file.read_text())
    file.write_text(json.dumps({**values, "boxes": [[0.5, 0.5, 1, 1]] * 2}))
    for opening in (lambda: FeatureStore.open(store.folder), lambda: FeatureStore(tmp_path, META)):
        with pytest.raises(StoreError, match="altered: its checksum does not fit"):
            opening()
    file.write_text(json.dumps({**values, "format": 1}))
    with pytest.raises(StoreError, match="is of format 1, this version reads 2"):
        FeatureStore.open(store.folder)


def test_digests_that_begin_alike_are_told_apart() -> None:
    """Five digests in two parts, by hand: three share their first eight bytes, one lies in both parts."""
    same, last = bytes(8), bytes([9] * 8)
    rows = [same + bytes([n] * 24) for n in (3, 1, 2)] + [last + bytes(24), same + bytes([1] * 24)]
    table = np.frombuffer(b"".join(rows), np.uint8).reshape(5, 32)
    found = DigestTable.of([(0, table[:2]), (1, table[2:])])
    assert found.places.tolist() == [[0, 1], [1, 0], [0, 0], [1, 1]]
    absent = np.frombuffer(same + bytes([4] * 24) + bytes([255] * 32), np.uint8).reshape(2, 32)
    assert found.find(np.concatenate([table, absent])).tolist() == [
        [0, 0],
        [0, 1],
        [1, 0],
        [1, 1],
        [0, 1],
        [-1, -1],
        [-1, -1],
    ]


def test_an_old_or_absent_index_changes_nothing(written: Path, tmp_path: Path) -> None:
    folder = tmp_path / written.name
    shutil.copytree(written, folder)
    assert read_or_refuse(folder) == 0
    index = read_index(folder)
    assert index is not None and len(index.parts) == 2 and load_file(folder / INDEX)["places"].shape == (3, 2)
    gone = folder / index.parts[0].name
    lost = {d for d in (A, B, C) if FeatureStore.open(folder).part_list.find([d])[0, 0] == 0}
    gone.unlink()
    assert set(FeatureStore.open(folder).missing([A, B, C, D])) == lost and lost
    (folder / INDEX).unlink()
    assert set(FeatureStore.open(folder).missing([A, B, C, D])) == lost


def test_a_torn_part_is_refused_before_more_is_extracted_and_when_it_is_read(written: Path, tmp_path: Path) -> None:
    """One that the index covers: a store opens without a look at it, and the others' images are read."""
    folder = tmp_path / written.name
    shutil.copytree(written, folder)
    part_list = FeatureStore.open(folder).part_list
    file = part_list.part(int(part_list.find([C])[0, 0])).file
    part_list.check_sizes()
    os.truncate(file, 100)
    store = FeatureStore.open(folder)
    assert store.read([A]).tokens.max() == 1
    for refused in (store.part_list.check_sizes, lambda: store.read([C])):
        with pytest.raises(StoreError, match=f"{file.name} is torn"):
            refused()


def test_an_index_written_while_a_store_is_opened_still_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process completes a part and the index between this one's two looks, in whichever order it takes them."""
    writer = FeatureStore(tmp_path, META)
    for digest in (A, B):
        writer.write_part([digest], torch.ones(1, 2, 3))
    writer.part_list.write_index()

    def looks_at(name: str) -> None:
        right = getattr(part_list, name)

        def looking(folder: Path) -> object:
            seen = right(folder)
            monkeypatch.undo()
            writer.write_part([C], torch.ones(1, 2, 3))
            writer.part_list.write_index()
            return seen

        monkeypatch.setattr(part_list, name, looking)

    looks_at("read_index")
    looks_at("part_names")
    opened = FeatureStore(tmp_path, META)
    assert len(opened) == 3 and opened.part_list.num_unindexed == len(opened.part_list.opened) == 1


def test_the_index_is_the_same_whoever_wrote_it(tmp_path: Path) -> None:
    """Parts completed in another order, seen by another process, indexed in several goes."""
    orders = ([A, B, C, D], [D, B, A, C])
    for number, order in enumerate(orders):
        root = tmp_path / str(number)
        for step, digest in enumerate(order):
            store = FeatureStore(root, META)
            store.write_part([digest], torch.ones(1, 2, 3))
            if step in (number, 3):
                store.part_list.write_index()
    first, second = ((tmp_path / str(n) / META.folder / INDEX).read_bytes() for n in (0, 1))
    assert first == second


@contextmanager
def files_no_longer_than(size: int) -> Iterator[None]:
    """The kernel refuses writes beyond this size, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_at_any_byte_leaves_the_store_whole(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, META)
    store.write_part([A], torch.ones(1, 2, 3))
    size = (FeatureStore(tmp_path / "other", META).write_part([B], torch.ones(1, 2, 3))).stat().st_size
    before = sorted(store.folder.iterdir())
    for limit in range(0, size, 1 if SOAK else 13):
        with pytest.raises(StoreError, match="cannot write .*part-.*File too large"), files_no_longer_than(limit):
            store.write_part([B], torch.ones(1, 2, 3))
        assert sorted(store.folder.iterdir()) == before
    assert FeatureStore(tmp_path, META).missing([A, B]) == [B]
    store.write_part([B], torch.ones(1, 2, 3))
    assert FeatureStore(tmp_path, META).verify() == 2


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    for root, reason in ((tmp_path / "file", "Not a directory"), (Path("/proc/features"), "No such file")):
        if root.is_relative_to(tmp_path):
            root.write_text("no folder")
        with pytest.raises(StoreError, match=f"cannot (write|read) .*{reason}"):
            FeatureStore(root, META).write_part([A], torch.ones(1, 2, 3))


def test_a_lock_names_its_holder_and_dies_with_it(tmp_path: Path) -> None:
    file = tmp_path / ".lock-x"
    imports = "from encoders.durable import WriterLock; from pathlib import Path"
    holding = f"{imports}; WriterLock(Path({str(file)!r})).acquire(); print('held', flush=True); input()"
    line = [sys.executable, "-c", holding]
    held = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=Path(__file__).parent.parent)
    assert held.stdout is not None and held.stdout.readline() == b"held\n"
    with pytest.raises(StoreError, match=f"is being extended by process {held.pid} on {os.uname().nodename}"):
        WriterLock(file).acquire(patience=0)
    held.kill()
    held.wait()
    assert file.exists()
    lock = WriterLock(file)
    lock.acquire(patience=0)
    lock.release()
    assert not file.exists()


def test_another_user_s_lock_hinders_nobody_who_needs_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FeatureStore(tmp_path, META)
    store.write_part([A], torch.ones(1, 2, 3))
    theirs, opened = store.folder / ".lock-theirs", os.open
    theirs.write_bytes(b"process 7 on elsewhere")

    def refusing(file: Path, *more: int) -> int:
        if file == theirs:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
        return opened(file, *more)

    monkeypatch.setattr("encoders.durable.os.open", refusing)
    store.write_part([B], torch.ones(1, 2, 3))
    assert theirs.exists() and len(FeatureStore(tmp_path, META)) == 2
    with pytest.raises(StoreError, match=f"cannot write {theirs}: Permission denied; it is another user's"):
        WriterLock(theirs).acquire()


@pytest.mark.parametrize("call", ["open", "pwrite"])
def test_a_lock_that_cannot_be_written_is_named_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_args: object, **_more: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(f"encoders.durable.os.{call}", full)
    for _ in range(2):
        with pytest.raises(StoreError, match=f"^cannot write {tmp_path}/.lock-x: No space left on device$"):
            WriterLock(tmp_path / ".lock-x").acquire()
    assert not list(tmp_path.iterdir())


def test_the_commands_say_what_is_there_and_mend_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = FeatureStore(tmp_path, META)
    parts = [store.write_part([digest], torch.ones(1, 2, 3)) for digest in (A, B, C)]
    FeatureStore(tmp_path, replace(OWN_BOXES, name="test:own")).write_part(
        [A], torch.ones(2, 3), lengths=torch.tensor([2]), boxes=torch.zeros(2, 4)
    )
    store.part_list.write_index()
    assert features.main(["list", str(tmp_path)]) == 0
    listed = capsys.readouterr().out
    assert "3 images, 2 tokens of width 3 in fp32, 3 parts" in listed and "1 images, up to 5 tokens" in listed
    assert features.main(["verify", str(tmp_path)]) == 0
    assert "3 parts read, 0 files damaged" in capsys.readouterr().out
    parts[0].write_bytes(parts[0].read_bytes()[:-1])
    flipped = bytearray(parts[2].read_bytes())
    flipped[-40] ^= 1
    parts[2].write_bytes(flipped)
    host, namespace = os.uname().nodename, os.stat("/proc/self/ns/pid").st_ino
    (store.folder / f".tmp-{host}-{namespace}-{2**22 + 1}-00").write_bytes(b"half")
    other = store.folder / f".tmp-{host}-{namespace}-{2**22 + 1}-37-00"  # of a host whose name begins like ours
    other.write_bytes(b"half")
    assert features.main(["verify", str(store.folder)]) == 1
    said = capsys.readouterr().out
    assert f"damaged: {parts[0]} is torn" in said and f"damaged: {parts[2]} is altered" in said
    assert "3 parts read, 2 files damaged" in said
    assert features.main(["repair", str(store.folder)]) == 0
    assert "2 damaged files removed, 1 images left" in capsys.readouterr().out
    assert FeatureStore(tmp_path, META).missing([A, B, C]) == [A, C]
    assert {file.name for file in store.folder.iterdir()} == {META_FILE, INDEX, parts[1].name, other.name}
    assert features.main(["verify", str(tmp_path)]) == 0
    capsys.readouterr()
    assert features.main(["list", str(tmp_path / "nowhere")]) == 1
    assert "holds no stored features" in capsys.readouterr().err


def as_format(folder: Path, version: int) -> None:
    """The store as another version would write it: its own checksum fits."""
    values = json.loads((folder / META_FILE).read_text())
    del values["sha256"]
    values["format"] = version
    checksum = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    (folder / META_FILE).write_text(json.dumps({**values, "sha256": checksum}))
    for part in folder.glob("part-*"):
        whole = part.read_bytes()
        assert b'"format":"2"' in whole
        part.write_bytes(whole.replace(b'"format":"2"', b'"format":"%d"' % version, 1))


def test_stores_of_another_format_or_name_are_named_and_never_touched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = FeatureStore(tmp_path, META)
    torn = [store.write_part([digest], torch.ones(1, 2, 3)) for digest in (A, B)][0]
    copied, newer, bare = (tmp_path / name for name in ("copied", "newer", "bare"))
    for folder in (copied, newer, bare):
        shutil.copytree(store.folder, folder)
    as_format(newer, 3)
    as_format(bare, 3)
    (bare / META_FILE).unlink()
    torn.write_bytes(torn.read_bytes()[:-1])
    others = {file: file.read_bytes() for folder in (copied, newer, bare) for file in folder.iterdir()}
    assert len(others) == 8
    for action, status in (("verify", 1), ("repair", 1), ("list", 1), ("verify", 1)):
        assert features.main([action, str(tmp_path)]) == status
        said = capsys.readouterr().err
        assert f"{copied / META_FILE} describes {store.folder.name}, which is not its folder's name: give" in said
        assert f"{newer / META_FILE} is of format 3, this version reads 2: move" in said
        assert f"cannot read {bare / META_FILE}" in said or "is not a part of a feature store of format 2" in said
        assert {file: file.read_bytes() for folder in (copied, newer, bare) for file in folder.iterdir()} == others
    assert FeatureStore(tmp_path, META).missing([A, B]) == [A]  # this one's damage is mended all the same
    for folder in (copied, newer, bare):
        with pytest.raises(ForeignError):
            features.repair(folder)
    assert {file: file.read_bytes() for folder in (copied, newer, bare) for file in folder.iterdir()} == others


def test_a_part_whose_format_alone_is_another_is_damaged(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path, META)
    part = [store.write_part([digest], torch.ones(1, 2, 3)) for digest in (A, B)][0]
    part.write_bytes(part.read_bytes().replace(b'"format":"2"', b'"format":"3"', 1))
    assert features.repair(store.folder) == [part]
    assert FeatureStore(tmp_path, META).missing([A, B]) == [A]


def test_the_commands_start_without_torch() -> None:
    line = "import sys, encoders.features; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", line], cwd=Path(__file__).parent.parent, check=True, timeout=60)


def test_meta_is_made_of_what_it_says() -> None:
    assert StoreMeta.differences(META, replace(META, fingerprint="00" * 32, grid=(2, 1))) == ["grid"]
