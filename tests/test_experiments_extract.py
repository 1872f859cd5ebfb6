"""The extraction command: what it estimates, and that its processes share the work and agree."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_encoders_store import META

from encoders import load_encoder
from encoders.errors import ImageError
from encoders.extract import Shard
from encoders.images import Undecodable
from encoders.store import FeatureStore
from experiments.config import RunConfig, demo
from experiments.data import fill_stores, read_tasks
from experiments.estimate import choices, estimate, size_lines
from experiments.extract import main
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
    lines = size_lines(stores, dict.fromkeys("abcd", 1), 164_062 + 31_783)
    assert lines[0] == "195,845 image files, 4 encoders"
    assert "577 tokens   1,181,696 B     231.43 GB  as named, 0 images stored already" in lines[1]
    assert "50 tokens     102,400 B      20.05 GB  with ?pool=7x7" in lines[3]
    assert "in all    925.72 GB, free" in lines[-1] and ("NOT ENOUGH" in lines[-1]) == (_free(tmp_path) < 925.72e9)


def _free(folder: Path) -> int:
    import shutil

    return shutil.disk_usage(folder).free


def test_estimating_writes_nothing(world: Path, tmp_path: Path) -> None:
    here = config(world, tmp_path / "cache")
    images = list(read_tasks(here, world)["snli_ve"].paths("train").values())
    encoders = {alias: load_encoder(f"{alias}=demo:vit{pool}") for alias, pool in (("vit", ""), ("two", "?pool=2x2"))}
    lines = estimate(encoders, images, root=tmp_path / "cache", processes=2)
    tokens, width = encoders["vit"].num_tokens, encoders["vit"].width
    assert f"{tokens} tokens  {tokens * width * 2:>10,} B" in lines[1] and "with ?pool=2x2" in "".join(lines)
    assert "time: about" in lines[-1] and "2 processes like this one" in lines[-1]
    assert not (tmp_path / "cache").exists()


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
    places = ["--cache", str(tmp_path / "launched"), "--batch-size", "16"]
    done = subprocess.run([*start, *line, *places], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("vit: ") == 1  # the main process alone says what is there
    encoders = {"vit": load_encoder("vit=demo:vit")}
    here = config(world, tmp_path / "sharded")
    data = read_tasks(here, world)
    for text in ("2/2", "1/2"):
        fill_stores(here, data, encoders, shard=Shard.parse(text), batch_size=16, progress="none")
    assert content(tmp_path / "sharded") == content(tmp_path / "launched")
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
    [(["--shard", "0/4"], "shard '0/4' must be one of n"), (["--batch-size", "0"], "--batch-size 0 must be auto")],
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
