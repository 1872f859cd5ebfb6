"""How an extraction runs its passes: one decoding for all encoders, batches of any size, copies behind the work."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from encoders_folders import hf_folder, open_clip_folder, pictures, timm_folder
from extraction_workers import PLAIN, Told, numbered
from PIL import Image
from torch import Tensor

from encoders import decoding as encoders_decoding
from encoders import load_encoder
from encoders.base import Encoder
from encoders.decoding import AHEAD, ANNOUNCED, batches_ahead
from encoders.extract import extract
from encoders.memory import (
    LARGEST,
    PROBE,
    USUAL,
    fitting_batch,
    free_bytes,
    group_rooms,
    pass_bytes,
    waiting_bytes,
)
from encoders.module import tokens_together
from encoders.store import TYPES, FeatureStore
from encoders.transfer import as_stored, batches_behind, delayed, place_of, start_to_memory


def content(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """One encoder of each backend, with preprocessing of its own."""
    root = tmp_path_factory.mktemp("checkpoints")
    timm_folder(root / "vit")
    timm_folder(root / "net", kind="convnext", crop_pct=1.0)
    open_clip_folder(root / "clip")
    hf_folder(root / "dino")
    return [f"timm:{root}/vit", f"timm:{root}/net", f"open_clip:{root}/clip", f"hf:{root}/dino"]


def test_several_encoders_share_one_decoding(
    specs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five encoders, four descriptions of pixels, two views: each file is opened for its pixels once."""
    encoders = [load_encoder(f"e{n}={spec}") for n, spec in enumerate([*specs, f"{specs[0]}?pool=2x2&views=2"])]
    paths = pictures(tmp_path / "images", 7)
    opened: list[Any] = []
    right = Image.open

    def counted(file: Any, *more: Any) -> Image.Image:
        opened.append(file)
        return right(file, *more)

    monkeypatch.setattr("encoders.images.Image.open", counted)
    extract(paths, encoders, root=tmp_path / "root", batch_size=3, progress="none")
    looked_ahead = [file for file in opened if getattr(file, "name", None)]  # headers alone, of files on disk
    assert len(looked_ahead) == 7 and len(opened) - len(looked_ahead) == 7


def test_batches_decoded_ahead_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As beside a GPU: three batches in work; images of a later batch may fail first."""
    paths = numbered(tmp_path / "images", 30)
    whole = paths[20].read_bytes()
    data = whole.index(b"IDAT") + 4
    paths[20].write_bytes(whole[:data] + bytes(8) + whole[data + 8 :])
    given: list[int] = []

    def told(folder: str, ahead: int) -> dict[str, bytes]:
        monkeypatch.setattr("encoders.decoding.batches_ahead", lambda _place: ahead)
        encoder, root = Told("told", log=tmp_path / f"{folder}.log"), tmp_path / folder
        found = extract(paths, [encoder], root=root, batch_size=4, progress="none", undecodable="exclude")
        given.append(len((tmp_path / f"{folder}.log").read_text().splitlines()))
        assert paths[20] not in found and len(found) == 29
        return content(root)

    assert told("ahead", 3) == told("in-turn", 1)
    assert given == [29, 29]


def test_a_gpu_that_no_encoder_uses_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--device cpu` beside a GPU: no pinned memory, which would set up CUDA, and one batch after the other."""
    asked: list[bool] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: asked.append(True) or True)
    right, pinned, order = torch.empty, [], []

    def empty(*size: Any, pin_memory: bool = False, **more: Any) -> Tensor:
        pinned.append(pin_memory)
        return right(*size, **more)

    class InTurn(Told):
        def tokens(self, images: Tensor) -> Tensor:
            order.append("computed")
            return super().tokens(images)

    monkeypatch.setattr(torch, "empty", empty)
    decode = encoders_decoding._decode
    monkeypatch.setattr(encoders_decoding, "_decode", lambda *given: order.append("decoded") or decode(*given))
    extract(numbered(tmp_path / "images", 9), [InTurn("told")], root=tmp_path / "root", batch_size=3, progress="none")
    assert order == [*["decoded"] * 3, "computed"] * 3
    assert pinned and not any(pinned) and not asked


def test_weights_say_where_an_encoder_computes() -> None:
    """A stand-in for a GPU's tensor: there may be none here."""

    class Placed(Told):
        def weights(self) -> Any:
            return {"a": torch.ones(1), "b": SimpleNamespace(is_cuda=self.alias == "there")}

    here, there = Placed("here"), Placed("there")
    assert [place_of(one) for one in ([], [Told("bare")], [here], [here, there])] == [*["processor"] * 3, "gpu"]
    assert (batches_ahead("processor"), batches_behind("processor")) == (1, 0)
    assert (batches_ahead("gpu"), batches_behind("gpu")) == (AHEAD, 1)


def test_the_system_is_asked_for_files_of_later_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not hasattr(os, "posix_fadvise"):
        pytest.skip("this system takes no advice")
    paths, asked, right = numbered(tmp_path / "images", 12), [], os.posix_fadvise

    def counted(descriptor: int, start: int, length: int, advice: int) -> None:
        asked.append((os.fstat(descriptor).st_ino, advice))
        right(descriptor, start, length, advice)

    monkeypatch.setattr("encoders.decoding.os.posix_fadvise", counted)
    extract(paths, [Told("told")], root=tmp_path / "root", batch_size=3, progress="none")
    later = {path.stat().st_ino for path in paths[3 * ANNOUNCED :]}
    assert {inode for inode, advice in asked if advice == os.POSIX_FADV_WILLNEED} == later and len(asked) == len(later)


def worst(one: Tensor, other: Tensor) -> float:
    """The largest difference of a token, in shares of its norm."""
    return float(((one - other).norm(dim=2) / other.norm(dim=2)).max())


@pytest.mark.parametrize(
    ("number", "dtype", "allowed"),
    [*((number, "fp32", 1e-3) for number in range(4)), (0, "fp16", 1e-3), *((n, "bf16", 3e-2) for n in range(4))],
)
def test_other_batch_sizes_and_thread_counts_agree(
    specs: list[str], tmp_path: Path, number: int, dtype: str, allowed: float
) -> None:
    """Equal settings give equal bytes; others give features within a thousandth of the norm, of each token."""
    paths = pictures(tmp_path / "images", 13)
    encoder = load_encoder(f"a={specs[number]}?dtype={dtype}")
    read, bytes_of = {}, {}
    threads = torch.get_num_threads()
    try:
        for name, size, count in (("a", 4, 1), ("b", 4, 1), ("one", 1, 1), ("all", 13, 1), ("two threads", 4, 2)):
            torch.set_num_threads(count)
            root = tmp_path / name
            digests = list(extract(paths, [encoder], root=root, batch_size=size, progress="none").values())
            read[name], bytes_of[name] = FeatureStore(root, encoder).read(digests).tokens, content(root)
    finally:
        torch.set_num_threads(threads)
    assert bytes_of["a"] == bytes_of["b"]
    for name in ("one", "all", "two threads"):
        assert worst(read[name], read["a"]) < allowed


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("number", range(4))
def test_a_store_filled_on_a_gpu_agrees_with_one_filled_on_a_processor(
    specs: list[str], tmp_path: Path, number: int
) -> None:
    """One fingerprint, so each may be read in place of the other.

    Inputs of convolutions rounded to TF32 would move these tokens by 4e-4 to 8e-4: a thousandth would not show it.
    """
    paths = pictures(tmp_path / "images", 13)
    read = {}
    for device in ("cpu", "cuda"):
        encoder = load_encoder(f"a={specs[number]}?dtype=fp32", device=device)
        digests = list(extract(paths, [encoder], root=tmp_path / device, batch_size=4, progress="none").values())
        read[device] = FeatureStore(tmp_path / device, encoder).read(digests).tokens
    assert [store.name for store in (tmp_path / "cpu").iterdir()] == [s.name for s in (tmp_path / "cuda").iterdir()]
    assert worst(read["cuda"], read["cpu"]) < 1e-4


def test_features_looked_at_one_batch_later_are_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: the next batch is queued before the features of this one are collected, across blocks too."""
    paths, log = numbered(tmp_path / "a", 45), tmp_path / "log"
    order: list[str] = []

    class Queued(Told):
        def tokens(self, images: Tensor) -> Tensor:
            order.append("queued")
            return super().tokens(images)

    right = FeatureStore.encode
    monkeypatch.setattr(FeatureStore, "encode", lambda store, tokens: order.append("collected") or right(store, tokens))
    for behind in (0, 1):
        monkeypatch.setattr("encoders.extract.batches_behind", lambda _place, behind=behind: behind)
        order.clear()
        encoders: list[Encoder] = [Queued("small", log=log), Queued("large", grid=(8, 8))]
        options = {"root": tmp_path / str(behind), "batch_size": 4, "part_images": 16, "progress": "none"}
        extract(paths, encoders, **options)  # type: ignore[arg-type]
        assert order[:4] == (["queued"] * 2 + ["collected"] * 2, ["queued"] * 4)[behind]
    assert content(tmp_path / "0") == content(tmp_path / "1")
    assert not list(tmp_path.rglob(".lock*"))


def test_items_are_delayed_in_order() -> None:
    made: list[int] = []

    def source() -> Iterator[int]:
        for number in range(4):
            made.append(number)
            yield number

    seen = [(item, len(made)) for item in delayed(source(), by=1)]
    assert seen == [(0, 2), (1, 3), (2, 4), (3, 4)]
    assert list(delayed([], by=1)) == [] and list(delayed([1], by=3)) == [1]
    tensor = torch.ones(2)
    assert start_to_memory(tensor).wait() is tensor  # nothing to copy on a processor


class Hungry(Encoder):
    """Takes so many MiB an image for the time of a pass."""

    alias, name, width, grid, num_prefix, num_params = "hungry", "test:hungry", 2, (1, 1), 0, 0
    dtype, preprocess, fingerprint = "fp32", PLAIN, "ab" * 32

    def __init__(self, mebibytes: int) -> None:
        self._values = mebibytes * 2**18

    def tokens(self, images: Tensor) -> Tensor:
        return torch.ones(len(images), self._values).sum(1)[:, None, None].expand(-1, 1, 2).contiguous()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is read from Linux")
def test_batches_fit_the_memory() -> None:
    """32 MiB an image, half of 2,600 MiB: 40 images, so 32; a second encoder that takes less changes nothing."""
    assert pass_bytes(Hungry(32)) == pytest.approx(PROBE * 32 * 2**20, rel=0.1)
    assert fitting_batch([Hungry(32), Told("small")], room=2600 * 2**20) == 32
    assert fitting_batch([Hungry(32)], room=2**20) == 1
    assert fitting_batch([Told("small")], room=2**40) == LARGEST["cpu"] == USUAL
    assert fitting_batch([]) == USUAL


def test_batches_fit_the_memory_beside_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pinned beside the GPU, an image: 4 batches of 4x4 pixels of 12 bytes and 2 of 1,500 fp16 values, 6,768 bytes; in
    blocks of powers of two 4 x 256 and 2 x 4,096, 9,216 bytes.

    Half of 1 MB of memory holds 54 of them, so 32, however much the GPU holds; half of 32 kB of a GPU 16 of 1,000.
    """
    encoder = Hungry(0)
    encoder.dtype, encoder.width = "fp16", 1500
    encoder.preprocess = replace(PLAIN, size=(4, 4))
    room = {"cuda": 2**40, "cpu": 1_000_000}
    monkeypatch.setattr("encoders.memory.free_bytes", room.get)
    monkeypatch.setattr("encoders.memory.pass_bytes", lambda _encoder, device: 1000 * PROBE)
    monkeypatch.setattr("encoders.memory.place_of", lambda _encoders: "gpu")
    assert waiting_bytes([encoder]) == 4 * 16 * 12 + 2 * 1500 * 2 == 6768
    assert waiting_bytes([encoder], pinned=True) == 9216
    assert fitting_batch([encoder], device="cuda") == 32
    room["cuda"] = 32_768
    assert fitting_batch([encoder], device="cuda") == 16
    room.update(cuda=2**40, cpu=2**40)
    assert fitting_batch([encoder], device="cuda") == LARGEST["cuda"]


def _group(folder: Path, limit: str, used: int, stat: str, *, names: tuple[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in ((names[0], limit), (names[1], str(used)), ("memory.stat", stat)):
        (folder / name).write_text(f"{content}\n")


def test_limits_of_control_groups_count(tmp_path: Path) -> None:
    """A job of 1,000 bytes, 900 used of which files' pages can give up 300, in a step without a limit of its own."""
    mount, groups = tmp_path / "cgroup", tmp_path / "self"
    second = ("memory.max", "memory.current")
    stat = "anon 600\ninactive_file 200\nactive_file 100"
    _group(mount / "slurm" / "job" / "step", "max", 900, stat, names=second)
    _group(mount / "slurm" / "job", "1000", 900, stat, names=second)
    _group(mount / "slurm", "5000", 4800, stat, names=second)
    groups.write_text("0::/slurm/job/step\n")
    assert group_rooms(groups, mount) == [400, 500]
    groups.write_text("0::/\n")
    assert group_rooms(groups, mount) == []
    groups.write_text("0::/slurm/job\n12:cpu,cpuacct:/docker/ab\n4:hugetlb,memory:/docker/ab\n")
    first = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    total = "inactive_file 1\ntotal_inactive_file 30\ntotal_active_file 3"
    _group(mount / "memory", "2000", 1500, total, names=first)  # a container sees its own group as the first
    assert group_rooms(groups, mount) == [400, 500, 533]
    assert group_rooms(tmp_path / "nowhere", mount) == []


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="memory is read from Linux")
def test_free_memory_is_what_limits_leave_to_each_process_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("encoders.memory.group_rooms", lambda: [2**40, 4096])
    assert free_bytes("cpu") == 4096
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert free_bytes("cpu") == 512
    monkeypatch.setattr("encoders.memory.group_rooms", lambda: [])
    assert 2**20 < (free_bytes("cpu") or 0) < 2**45


class Elsewhere(Hungry):
    """Gives tokens on another device, as a GPU's encoder does."""

    def tokens(self, images: Tensor) -> Tensor:
        return torch.zeros(len(images), 1, 2, device=self.place)


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_tokens_of_a_gpu_are_rounded_there(dtype: str) -> None:
    """What is copied has the bytes of what is stored; a processor's tokens are left to the store."""
    encoder = Elsewhere(0)
    encoder.dtype = dtype
    for place, kind in (("meta", TYPES[dtype][0]), ("cpu", torch.float32)):
        encoder.place = place
        [tokens] = tokens_together([encoder], torch.zeros(3, 3, 8, 8))
        assert tokens.dtype is kind


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_rounding_on_a_gpu_gives_the_stored_bytes(tmp_path: Path, dtype: str) -> None:
    encoder = Hungry(0)
    encoder.dtype = dtype
    store = FeatureStore(tmp_path, encoder)
    scales = 10.0 ** torch.arange(-9, 5)
    tokens = torch.randn(4096, 14, generator=torch.Generator().manual_seed(0)) * scales
    values = tokens.clamp(-65000, 65000).reshape(-1, 1, 2)
    there = start_to_memory(as_stored(values.cuda(), dtype=dtype)).wait()
    assert not there.is_pinned()
    assert store.encode(there).tobytes() == store.encode(values).tobytes()


def test_the_batch_is_chosen_for_encoders_that_lack_features(tmp_path: Path) -> None:
    paths, asked = numbered(tmp_path / "a", 9), []
    encoders: list[Encoder] = [Told("first"), Told("second")]

    def choose(lacking: Sequence[Encoder]) -> int:
        asked.append([encoder.alias for encoder in lacking])
        return 4

    extract(paths, encoders[:1], root=tmp_path / "root", batch_size=4, progress="none")
    for _ in range(2):
        extract(paths, encoders, root=tmp_path / "root", batch_size=choose, progress="none")
    assert asked == [["second"], []]
    extract(paths, encoders, root=tmp_path / "fixed", batch_size=4, progress="none")
    assert content(tmp_path / "fixed") == content(tmp_path / "root")
