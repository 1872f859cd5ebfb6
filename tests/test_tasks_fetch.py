"""Hub mirrors through `datasets`: a local folder stands for the hub, the code is the same."""

from __future__ import annotations

from pathlib import Path

import official_files as official
import pytest

from tasks import load_task
from tasks.errors import TaskError
from tasks.fetch import fetch, main


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def test_a_fetched_mirror_is_read_like_a_downloaded_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`datasets` writes images as {bytes, path} and names of class labels into the metadata; both are used."""
    import datasets

    features = datasets.Features(
        {
            "image": datasets.Image(),
            "filename": datasets.Value("string"),
            "premise": datasets.Value("string"),
            "hypothesis": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["neutral", "entailment", "contradiction"]),
        }
    )
    rows = {
        "image": [{"bytes": official.png_bytes(k), "path": None} for k in range(3)],
        "filename": [f"{k}.jpg" for k in range(3)],
        "premise": ["A man sits."] * 3,
        "hypothesis": ["He is tired."] * 3,
        "label": [0, 1, 2],
    }
    hub = tmp_path / "hub"
    hub.mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(str(hub / "test-00000-of-00001.parquet"))
    assert main(["snli_ve", str(tmp_path / "data"), "--repo", str(hub)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "data" / "test-00000-of-00001.parquet")
    split = load_task("snli_ve").read(tmp_path / "data", "test")
    assert [example.target for example in split.examples] == ["neutral", "entailment", "contradiction"]
    assert split.check_images() == []
    assert split.image_path(split.examples[2]).read_bytes() == official.png_bytes(2)
    with pytest.raises(TaskError, match="'tset' is no split of .*: did you mean 'test'"):
        fetch(str(hub), tmp_path / "again", splits=["tset"])


def test_a_mirror_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(TaskError, match="cannot be fetched"):
        fetch(str(tmp_path / "empty"), tmp_path / "data")
    assert main(["pets", str(tmp_path)]) == 2
    assert "has no usual mirror" in capsys.readouterr().err


def test_official_splits_that_datasets_would_merge_stay_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`datasets` calls both dev files `validation` and both test files `test`; dev_seen and dev_unseen share ids."""
    numbers = {"train": (1, 2), "dev_seen": (3, 4), "dev_unseen": (4, 5), "test_seen": (6,), "test_unseen": (7, 8)}
    hub, data = tmp_path / "hub", tmp_path / "data"
    for part, ids in numbers.items():
        official.write_lines(hub / f"{part}.jsonl", [official.meme(k, k % 2) for k in ids])
        for k in ids:
            official.png(hub / "img" / f"{k:05d}.png")
    assert main(["hateful_memes", str(data), "--repo", str(hub)]) == 0
    written = [Path(line).name for line in capsys.readouterr().out.split()]
    assert sorted(written) == sorted(f"{part}-00000-of-00001.parquet" for part in numbers)
    task = load_task("hateful_memes")
    for part, ids in numbers.items():
        assert [e.id for e in task.read(data, part).examples] == [str(k) for k in ids]
    assert task.read(data, "select").examples == task.read(hub, "dev_seen").examples
    assert main(["hateful_memes", str(tmp_path / "one"), "--repo", str(hub), "--splits", "dev_unseen"]) == 0
    assert [file.name for file in (tmp_path / "one").iterdir()] == ["dev_unseen-00000-of-00001.parquet"]
