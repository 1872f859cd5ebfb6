"""The extraction command: what it estimates, and that its processes share the work and agree."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from extraction_workers import Told, numbered
from test_encoders_store import META

from encoders import load_encoder
from encoders.errors import ImageError, StoreError
from encoders.extract import Shard, extract
from encoders.images import Undecodable
from encoders.store import FeatureStore
from experiments.combine import run
from experiments.config import RunConfig
from experiments.data import read_tasks
from experiments.errors import ConfigError
from experiments.estimate import Pace, choices, estimate, seconds_an_image, size_lines
from experiments.extract import main
from experiments.presets import demo
from experiments.share import refuse_one_gpu, use_gpu
from experiments.stores import agreed_batch, fill_stores
from experiments.world.build import build_world

ROOT = Path(__file__).parent.parent
ENCODERS = {"vit": "demo:vit"}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_world(tmp_path_factory.mktemp("world") / "world", seed=0, scale=0.01)


def config(world: Path, cache: Path) -> RunConfig:
    return replace(demo(), encoders=ENCODERS, tasks=("snli_ve",), data=str(world), cache=str(cache), device="cpu")


def content(root: Path) -> dict[str, bytes]:
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.rglob("*")) if file.is_file()}


def test_sizes_of_four_large_encoders_over_coco_and_flickr30k(tmp_path: Path) -> None:
    """ViT-L at 336 px: 1 + 24 x 24 = 577 tokens of width 1024 in fp16, 1,181,696 bytes an image; 164,062 images of COCO
    2014 and 31,783 of Flickr30k; pooled to 7 x 7 they are 50 tokens, 102,400 bytes."""
    large = replace(META, width=1024, grid=(24, 24), num_prefix=1, dtype="fp16", boxes=((0.5,) * 4,) * 577)
    stores = {name: FeatureStore(tmp_path, replace(large, name=name)) for name in "abcd"}
    assert [choice[1:] for choice in choices(stores["a"])][:3] == [(577, 1181696), (197, 403456), (50, 102400)]
    count = 164_062 + 31_783
    lines = size_lines({name: [store] for name, store in stores.items()}, dict.fromkeys("abcd", [count]), count)
    assert "577 tokens   1,181,696 B     231.43 GB  as named, 0 images stored already" in lines[0]
    assert "50 tokens     102,400 B      20.05 GB  with ?pool=7x7" in lines[2]
    assert "in all 925.72 GB: 925.72 GB to store in" in lines[-1]
    assert ("NOT ENOUGH" in lines[-1]) == (shutil.disk_usage(tmp_path).free < 925.72e9)


def test_estimating_writes_nothing(world: Path, tmp_path: Path) -> None:
    here = config(world, tmp_path / "cache")
    images = list(read_tasks(here, world)["snli_ve"].paths("train").values())
    encoders = {alias: load_encoder(f"{alias}=demo:vit{pool}") for alias, pool in (("vit", ""), ("two", "?pool=2x2"))}
    lines = estimate(encoders, images, root=tmp_path / "cache" / "features", processes=2)
    tokens, width = encoders["vit"].num_tokens, encoders["vit"].width
    assert lines[0] == f"{len(images)} image files, 2 encoders"
    assert f"{tokens} tokens  {tokens * width * 2:>10,} B" in lines[1] and "with ?pool=2x2" in "".join(lines)
    assert "time: about" in lines[-1] and "2 processes like this one" in lines[-1]
    assert not (tmp_path / "cache").exists()


def test_only_what_is_lacking_is_estimated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six images of another dataset and two of ten are stored: eight lack, of 4 tokens of 5 numbers in fp32, 80 bytes.

    At a second an image and encoder one lacking encoder takes 8 s; a second one, of which nothing is stored, 2 x 10.
    """
    root, other, paths = tmp_path / "features", numbered(tmp_path / "other", 6, first=50), numbered(tmp_path / "a", 10)
    extract([*other, *paths[:2]], [Told("one")], root=root, progress="none")
    monkeypatch.setattr("experiments.estimate.pace", lambda encoders, images: Pace(0.0, len(encoders)))
    monkeypatch.setattr("experiments.estimate.gigabytes", lambda count: f"{count} B")
    monkeypatch.setattr("encoders.space.gigabytes", lambda count: f"{count} B")
    lines = estimate({"one": Told("one")}, paths, root=root)
    assert "as named, 2 images stored already" in lines[1] and f"in all 800 B: 640 B to store in {root}" in lines[-3]
    assert f"about {8 / 3600:.2g} h of 8 images" in lines[-1]
    lines = estimate({name: Told(name) for name in ("one", "two")}, [*paths, paths[0]], root=root)
    assert "in all 1600 B: 1440 B to store" in lines[-3] and f"about {20 / 3600:.2g} h of 10 images" in lines[-1]
    assert estimate({"one": Told("one")}, paths[:2], root=root)[-1] == "time: none, all is stored"


def test_a_disk_too_small_for_what_is_lacking_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten more images of 80 bytes, of which 700 are free; ten others that are stored count for nothing."""
    root, paths = tmp_path / "features", numbered(tmp_path / "a", 10)
    stored = numbered(tmp_path / "other", 10, first=50)
    extract(stored, [Told("one")], root=root, progress="none")
    monkeypatch.setattr("encoders.space.shutil.disk_usage", lambda _: SimpleNamespace(free=700))
    assert "NOT ENOUGH" in "".join(estimate({"one": Told("one")}, paths, root=root))
    assert "NOT ENOUGH" not in "".join(estimate({"one": Told("one")}, stored, root=root))


def test_each_view_takes_its_time(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a second an image and view, nine images in four views are 36 s, 0.01 h."""
    monkeypatch.setattr("experiments.estimate.pace", lambda encoders, images: Pace(0.0, len(encoders)))
    images = list(read_tasks(config(world, tmp_path), world)["snli_ve"].paths("train").values())[:9]
    lines = estimate({"vit": load_encoder("vit=demo:vit?views=4")}, images, root=tmp_path / "features")
    assert "about 0.01 h of 9 images" in lines[-1]


def test_processes_of_one_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second to decode and two to encode, by one process; 16 cores."""
    monkeypatch.setattr("experiments.estimate.os.cpu_count", lambda: 16)
    monkeypatch.setattr("experiments.estimate.WORKERS", 8)
    monkeypatch.setattr("experiments.estimate.torch.cuda.device_count", lambda: 4)
    for threads, here, seconds in ((16, 1, 3.0), (16, 4, 3.0), (4, 2, 1.5), (4, 8, 0.75)):
        monkeypatch.setattr("experiments.estimate.torch.get_num_threads", lambda threads=threads: threads)
        assert seconds_an_image(Pace(1.0, 2.0), here=here, on_gpu=False) == seconds
    for here, seconds in ((1, 2.0), (2, 1.0), (4, 0.5), (8, 0.5)):  # four GPUs, then cores for two decoders
        assert seconds_an_image(Pace(0.5, 2.0), here=here, on_gpu=True) == seconds
    assert seconds_an_image(Pace(2.0, 0.5), here=4, on_gpu=True) == 1.0


def test_the_batch_size_is_told_and_a_second_call_needs_none(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--data", str(world), "--tasks", "snli_ve", "--encoders", "vit=demo:vit", "--device", "cpu"]
    for called in ("first", "again"):
        assert main([*flags, "--cache", str(tmp_path / "cache")]) == 0
        captured = capsys.readouterr()
        assert ("--batch-size 64" in captured.err) == (called == "first") and "vit: " in captured.out


def test_processes_of_accelerate_and_shards_give_the_same_store(world: Path, tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    start = [*launch, "--main_process_port", "0", "--module", "experiments.extract"]
    line = ["--data", str(world), "--tasks", "snli_ve", "--encoders", "vit=demo:vit"]
    places = ["--cache", str(tmp_path / "launched")]
    done = subprocess.run([*start, *line, *places], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("vit: ") == 1  # the main process alone says what is there
    assert done.stderr.count("--batch-size 64") == 1  # both measured what fits, and one tells
    encoders = {"vit": load_encoder("vit=demo:vit")}
    here = config(world, tmp_path / "sharded")
    data = read_tasks(here, world)
    for text in ("2/2", "1/2"):
        fill_stores(here, data, encoders, shard=Shard.parse(text), progress="none")
    assert content(tmp_path / "sharded" / "features") == content(tmp_path / "launched" / "features")
    assert f"vit: {len(FeatureStore(tmp_path / 'sharded' / 'features', encoders['vit']))} images" in done.stdout


def test_undecodable_images_are_refused_or_left_out(world: Path, tmp_path: Path) -> None:
    here = config(world, tmp_path / "cache")
    data = read_tasks(here, world)
    name, path = next(iter(data["snli_ve"].paths("test").items()))
    whole = path.read_bytes()
    path.write_bytes(whole[:-200])
    try:
        with pytest.raises(ImageError, match=path.name):
            fill_stores(here, data, {"vit": load_encoder("vit=demo:vit")}, progress="none")
        lenient = replace(here, undecodable="exclude")
        bank = fill_stores(lenient, data, {"vit": load_encoder("vit=demo:vit")}, progress="none")
    finally:
        path.write_bytes(whole)
    record = Undecodable(tmp_path / "cache" / "features").reasons()
    assert [reason.split(" (")[0] for reason in record.values()] == [path.name]
    others = [image for image in data["snli_ve"].paths("test") if image != name]
    assert len(bank.features("snli_ve", others, ("vit",))["vit"].tokens) == len(others)
    with pytest.raises(KeyError):
        bank.features("snli_ve", [name], ("vit",))
    assert bank.lacking(data["snli_ve"]) == [name]
    left = data["snli_ve"].without([name]).splits["test"]
    assert left.excluded == (name,) and all(example.image != name for example in left.examples)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--shard", "0/4"], "shard '0/4' must be one of n"),
        (["--batch-size", "0"], "--batch-size 0 must be auto"),
        (["--shard", "1/4", "--batch-size", "48"], "48 with --shard must divide 1024, so that all"),
        (["--shard", "1/4", "--batch-size", "48"], "nearest: 32"),
        (["--shard", "1/4", "--batch-size", "5000"], "nearest: 1024"),
    ],
)
def test_bad_flags_are_one_line(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*flags, "--device", "cpu"]) == 1
    assert said in capsys.readouterr().err


def test_each_image_is_read_in_the_view_asked_for(world: Path, tmp_path: Path) -> None:
    encoders = {"vit": load_encoder("vit=demo:vit?views=3"), "dino": load_encoder("dino=demo:dino")}
    here = config(world, tmp_path / "cache")
    data = read_tasks(here, world)
    bank = fill_stores(here, data, encoders, progress="none")
    images = data["snli_ve"].splits["test"].images()[:5]
    plain = bank.features("snli_ve", images, ("vit", "dino"))
    found = bank.features("snli_ve", images, ("vit", "dino"), views=[4, 0, 2, 1, 3])
    root = tmp_path / "cache" / "features"
    for row, view in enumerate([1, 0, 2, 1, 0]):
        store = FeatureStore(root, encoders["vit"].view(view))
        expected = store.read([bank.digest("snli_ve", images[row])])
        assert torch.equal(found["vit"].tokens[row], expected.tokens[0])
        assert torch.equal(found["vit"].boxes[row], expected.boxes[0])
        assert torch.equal(found["vit"].tokens[row], plain["vit"].tokens[row]) == (view == 0)
    assert torch.equal(found["dino"].tokens, plain["dino"].tokens)
    assert "3 views" in bank.summary()[0] and "views" not in bank.summary()[1]


def test_processes_that_were_launched_together_are_not_put_on_one_gpu() -> None:
    for device, processes in ((None, 8), ("cuda", 8), ("cpu", 2), ("cuda:1", 1)):
        refuse_one_gpu(device, processes=processes)
    with pytest.raises(ConfigError, match="--device cuda:0 puts all 8 processes on one GPU; nearest: --device cuda,"):
        refuse_one_gpu("cuda:0", processes=8)


def test_a_gpu_that_is_named_by_its_number_is_worked_on(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[str] = []
    monkeypatch.setattr("torch.cuda.set_device", chosen.append)
    for device in (None, "cpu", "cuda", "cuda:1"):
        use_gpu(device)
    assert chosen == ["cuda:1"]
    monkeypatch.setattr("experiments.share.use_gpu", lambda device: chosen.append(f"asked: {device}"))
    flags = ["--data", str(world), "--tasks", "snli_ve", "--encoders", "vit=demo:vit", "--device", "cpu"]
    assert main([*flags, "--cache", str(tmp_path / "cache")]) == 0 and chosen[1:] == ["asked: cpu"]


def test_all_processes_take_the_batch_of_the_smallest_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    fitting = iter([64, 16, 32])
    monkeypatch.setattr("experiments.stores.fitting_batch", lambda encoders, device: next(fitting))
    everyone = SimpleNamespace(count=3, map=lambda work, parts: [work(part) for part in parts])
    assert agreed_batch([], processes=everyone, device="cpu") == 16  # type: ignore[arg-type]


def test_what_is_to_be_stored_is_said_first(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = config(world, tmp_path / "cache")
    data = read_tasks(here, world)
    encoder = load_encoder("vit=demo:vit")
    for again in (False, True):
        bank = fill_stores(here, data, {"vit": encoder}, progress="bar")
        count = int(bank.summary()[0].split()[1])
        size = count * encoder.num_tokens * encoder.width * 2
        said = f"features vit: {count} images, {size / 1e9:.2f} GB to store in {tmp_path}/cache/features, "
        assert (said in capsys.readouterr().err) != again


def test_other_settings_and_weights_of_the_same_name_are_noted_by_both_commands(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside them a store that cannot be read, of the same name too, which hinders nobody; and one of another name."""
    flags = ["--data", str(world), "--tasks", "snli_ve", "--device", "cpu", "--cache", str(tmp_path / "cache")]
    root = tmp_path / "cache" / "features"
    for spec in ("vit=demo:vit?pool=2x2", "vit=demo:vit?views=2"):
        assert main([*flags, "--encoders", spec]) == 0
    said = capsys.readouterr().out
    first = next(folder for folder in root.iterdir() if f"note: {folder} has other grid, boxes; " in said)
    assert said.count("note: ") == 1  # its own second view is none
    damaged = first.with_name(f"{first.name[:-16]}{'0' * 16}")
    damaged.mkdir()
    (damaged / "meta.json").write_text('{"format": 1}')
    other = first.with_name(f"{first.name[:-16]}large-{'0' * 16}")
    other.mkdir()
    (other / "meta.json").write_text("{")
    assert main([*flags, "--encoders", "vit=demo:vit"]) == 0
    notes = [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")]
    assert len(notes) == 3 and all(line.endswith("; it is not used for vit") for line in notes)  # the views' plain
    assert any(f"{damaged}/meta.json is of format 1" in line for line in notes)

    class StopError(Exception):
        pass

    def stop(*_args: object, **_more: object) -> int:
        raise StopError

    told: list[str] = []
    monkeypatch.setattr("experiments.pipeline._do_jobs", stop)
    here = config(world, tmp_path / "cache")
    train = replace(here.train, precision="no")  # as all runs in the tests' own process
    with pytest.raises(StopError):
        run(replace(here, train=train, runs=str(tmp_path / "runs")), say=told.append)
    assert [line for line in told if line.startswith("note: ")] == notes


def test_what_other_machines_stored_is_waited_for_a_while(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As over a network file system, whose listing is an old one: the other share appears after the barrier."""
    monkeypatch.setattr("experiments.stores.SIGHT_SECONDS", 3.0)
    here = config(world, tmp_path / "cache")
    data, encoders = read_tasks(here, world), {"vit": load_encoder("vit=demo:vit")}
    asked: list[int] = []
    right = FeatureStore.missing

    def old(store: FeatureStore, digests: list[str]) -> list[str]:
        asked.append(1)
        return list(digests) if len(asked) < 4 else right(store, digests)

    def others(seen: bool) -> None:
        if seen:
            fill_stores(here, data, encoders, shard=Shard(1, 2), progress="none")
            monkeypatch.setattr(FeatureStore, "missing", old)

    bank = fill_stores(
        here, data, encoders, shard=Shard(0, 2), together=2, progress="none", wait=lambda: others(seen=True)
    )
    assert len(asked) == 4 and bank.lacking(data["snli_ve"]) == []
    monkeypatch.undo()
    monkeypatch.setattr("experiments.stores.SIGHT_SECONDS", 0.1)
    apart = replace(here, cache=str(tmp_path / "apart"))
    with pytest.raises(StoreError, match=r"apart/features lacks features that other processes stored .* with --cache"):
        fill_stores(apart, data, encoders, shard=Shard(1, 2), together=2, progress="none")


def test_an_image_that_another_share_put_on_record_is_not_waited_for(world: Path, tmp_path: Path) -> None:
    here = replace(config(world, tmp_path / "cache"), undecodable="exclude")
    data, encoders = read_tasks(here, world), {"vit": load_encoder("vit=demo:vit")}
    path = next(iter(data["snli_ve"].paths("train").values()))  # the first of the first share
    whole = path.read_bytes()
    path.write_bytes(whole[:-200])

    def others(ready: Callable[[], bool]) -> bool:
        assert not ready()
        fill_stores(here, data, encoders, shard=Shard(0, 2), progress="none")
        return ready()

    seen: list[bool] = []
    try:
        options = {"shard": Shard(1, 2), "progress": "none", "complete": lambda ready: seen.append(others(ready))}
        bank = fill_stores(here, data, encoders, **options)  # type: ignore[arg-type]
    finally:
        path.write_bytes(whole)
    assert seen == [True] and len(bank.lacking(data["snli_ve"])) == 1


def test_a_second_run_reads_no_image_for_its_digest(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("encoders.digests.SETTLED", float("-inf"))
    here = config(world, tmp_path / "cache")
    data, encoders = read_tasks(here, world), {"vit": load_encoder("vit=demo:vit")}
    fill_stores(here, data, encoders, progress="none")
    monkeypatch.setattr("encoders.digests.image_digest", None)
    bank = fill_stores(here, data, encoders, progress="none")
    assert bank.lacking(data["snli_ve"]) == []
