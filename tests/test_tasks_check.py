"""`python -m tasks.check` tells files, formats, counts, images at fault and licence; what is excluded is recorded."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import official_files as official
import pytest
from PIL import Image

from tasks import TASKS, load_task
from tasks.check import check, main, read_exclusions
from tasks.errors import DatasetError
from tasks.published import LICENCES, SIZES


def _memes(folder: Path) -> Path:
    official.write_lines(folder / "train.jsonl", [official.meme(k, k % 2) for k in range(1, 5)])
    official.write_lines(folder / "test.jsonl", [official.meme(9)])
    for number in (1, 2, 9):
        official.png(folder / "img" / f"{number:05d}.png")
    whole = (folder / "img" / "00001.png").read_bytes()
    (folder / "img" / "00002.png").write_bytes(whole[: len(whole) // 2])
    official.write_text(folder / "img" / "00003.png", "no image")
    return folder


def test_whatever_a_decoder_raises_an_image_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pillow's AVIF decoder raises RuntimeError for damaged files."""
    folder = _memes(tmp_path)

    def load(image: Image.Image) -> None:
        raise RuntimeError("Failed to decode frame 0")

    monkeypatch.setattr(Image.Image, "load", load)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    assert main(["hateful_memes", str(folder), "--json"]) == 1
    assert "img/00001.png" in json.loads(capsys.readouterr().out)["splits"]["train"]["undecodable"]


def test_images_at_fault_are_listed_and_stop(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _memes(tmp_path)
    assert main(["hateful_memes", str(folder), "--json"]) == 1
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    train = found["splits"]["train"]
    assert train["missing"] == ["img/00004.png"]
    assert train["undecodable"] == ["img/00002.png", "img/00003.png"]
    assert (train["records"], train["images"], train["answers"], train["format"]) == (4, 4, 4, "official JSONL")
    assert train["files"] == [str(folder / "train.jsonl")] and train["published"] == [8500, None]
    assert "--exclude FILE" in captured.err
    assert main(["hateful_memes", str(folder), "--look", "exist", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["splits"]["train"]["undecodable"] == []
    assert main(["hateful_memes", str(folder), "--look", "none", "--json"]) == 0


def test_images_at_fault_are_excluded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = _memes(tmp_path)
    assert main(["hateful_memes", str(folder), "--exclude", str(tmp_path / "gone.json")]) == 0
    printed = capsys.readouterr().out
    assert "records 4, published 8,500 (-8,496)" in printed
    assert "2 images undecodable: img/00002.png, img/00003.png" in printed
    assert "licence: Hateful Memes: Meta's research agreement" in printed
    gone = read_exclusions(tmp_path / "gone.json")
    assert gone == ("img/00002.png", "img/00003.png", "img/00004.png")
    left = load_task("hateful_memes").read(folder, "train").without(gone)
    assert [example.id for example in left.examples] == ["1"] and left.excluded == gone
    assert left.check_images() == []
    official.write_json(tmp_path / "gone.json", {"a": 1})
    with pytest.raises(DatasetError, match="is no list of images"):
        read_exclusions(tmp_path / "gone.json")


def test_every_format_is_named_and_absent_splits_are_told(tmp_path: Path) -> None:
    official.write_vqa(tmp_path / "a", "val2014", [7, 8], 2)
    found = check(load_task("vqa"), tmp_path / "a", look="none")
    assert list(found["splits"]) == ["val2014"]
    assert {"train2014", "test2015", "test-dev2015", "nominival", "minival"} == set(found["absent"])
    assert (found["splits"]["val2014"]["records"], found["splits"]["val2014"]["images"]) == (4, 2)
    official.write_json(tmp_path / "b" / "minival.json", [official.lxmert_vqa(7, yes=1)])
    assert check(load_task("vqa"), tmp_path / "b", look="none")["splits"]["minival"]["format"] == "LXMERT JSON"
    official.write_json(tmp_path / "dataset_coco.json", official.coco())
    assert check(load_task("coco"), tmp_path, look="none")["splits"]["test"]["format"] == "Karpathy JSON"


def test_images_elsewhere_and_inside_parquet(tmp_path: Path) -> None:
    official.write_vqa(tmp_path / "vqa", "val2014", [7])
    official.png(tmp_path / "shared" / "val2014" / "COCO_val2014_000000000007.jpg")
    task = load_task("vqa")
    assert check(task, tmp_path / "vqa")["splits"]["val2014"]["missing"] != []
    assert check(task, tmp_path / "vqa", images=tmp_path / "shared")["splits"]["val2014"]["missing"] == []
    official.write_parquet(tmp_path / "hub" / "validation-00000-of-00001.parquet", [official.hub_vqa(7)])
    assert check(task, tmp_path / "hub")["splits"]["val2014"]["missing"] == []


def test_versions_are_told_by_their_counts(tmp_path: Path) -> None:
    records = [official.snli_record(image=str(k), number=k) for k in range(14_339)]
    official.write_lines(tmp_path / "snli_ve_dev.jsonl", records)
    found = check(load_task("snli_ve"), tmp_path, look="none")["splits"]["dev"]
    assert "e-ViL" in found["note"] and found["published"] == [17_858, 1_000]


def test_a_file_at_fault_is_an_error_and_no_absent_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    official.write_text(tmp_path / "train.jsonl", "{")
    assert main(["hateful_memes", str(tmp_path)]) == 2
    assert "train.jsonl, record line 1: is not JSON" in capsys.readouterr().err
    assert main(["hateful_memes", str(tmp_path / "absent")]) == 2
    (tmp_path / "train.jsonl").unlink()
    assert main(["hateful_memes", str(tmp_path)]) == 2
    assert "holds no split of 'hateful_memes'" in capsys.readouterr().err
    assert main(["hateful_memes", str(tmp_path), "--splits", "dev_sen"]) == 2
    official.write_lines(tmp_path / "train.jsonl", [official.meme(1), official.meme(1)])
    assert main(["hateful_memes", str(tmp_path), "--look", "none"]) == 2
    assert "an id is used twice" in capsys.readouterr().err


def test_a_split_in_two_files_is_an_error_and_no_absent_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    official.write_lines(tmp_path / "train.jsonl", [official.meme(1)])
    for name in ("dev_seen_a.jsonl", "dev_seen_b.jsonl"):
        official.write_lines(tmp_path / name, [official.meme(2)])
    assert main(["hateful_memes", str(tmp_path), "--look", "none"]) == 2
    assert re.search(r"'dev_seen' is in more than one file: keep one of .*_a\.jsonl, ", capsys.readouterr().err)
    (tmp_path / "dev_seen_b.jsonl").unlink()
    assert main(["hateful_memes", str(tmp_path), "--look", "none"]) == 0


def test_a_training_file_under_another_splits_name_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for start, part in enumerate(("train", "dev", "test")):
        records = [official.snli_record(image=str(10 * start + k), number=k) for k in range(3)]
        official.write_lines(tmp_path / f"snli_ve_{part}.jsonl", records)
    assert main(["snli_ve", str(tmp_path), "--look", "none"]) == 0
    shutil.copy(tmp_path / "snli_ve_train.jsonl", tmp_path / "snli_ve_dev.jsonl")
    capsys.readouterr()
    assert main(["snli_ve", str(tmp_path), "--look", "none"]) == 2
    said = capsys.readouterr().err
    assert "snli_ve_dev.jsonl: 3 of 3 examples of split 'select' of 'snli_ve' are in split 'train'" in said
    assert "such as id '0.jpg#0r1n': put the file of 'dev' there" in said and said.count("\n") == 1
    assert main(["snli_ve", str(tmp_path), "--look", "none", "--splits", "train", "test"]) == 0


def test_images_alone_that_splits_share_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part, numbers in {"train": (0, 1), "dev": (2, 5), "test": (8,)}.items():
        records = [official.snli_record(image=str(k % 5), number=k) for k in numbers]
        official.write_lines(tmp_path / f"snli_ve_{part}.jsonl", records)
    assert main(["snli_ve", str(tmp_path), "--look", "none"]) == 0
    assert re.findall("^note: .*", capsys.readouterr().out, flags=re.MULTILINE) == [
        "note: 1 of 2 images of split 'select' are in split 'train' too, with other texts or ids"
    ]


def test_a_file_that_stands_in_for_the_test_split_is_listed_and_its_want_of_answers_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    memes = {"train": official.meme(1), "dev": official.meme(2), "test": official.meme(3, None)}
    for part, meme in memes.items():
        official.write_lines(tmp_path / f"{part}.jsonl", [meme])
    assert main(["hateful_memes", str(tmp_path), "--look", "none"]) == 1
    said = capsys.readouterr().out
    assert re.search(rf"^test: official JSONL, {tmp_path}/test\.jsonl\n  records 1", said, flags=re.MULTILINE)
    assert "at fault: 1 of 1 examples of split 'test' of 'hateful_memes' have no answer" in said
    assert "put a file of 'test_seen' with answers there" in said
    assert main(["hateful_memes", str(tmp_path), "--exclude", str(tmp_path / "gone.json")]) == 1
    official.write_vqa(tmp_path / "vqa", "val2014", [7])
    questions, _ = official.vqa_files([9])
    official.write_json(tmp_path / "vqa" / "v2_OpenEnded_mscoco_test2015_questions.json", questions)
    assert main(["vqa", str(tmp_path / "vqa"), "--look", "none"]) == 0  # no run is scored on test2015
    assert "no public answers: it can be predicted" in capsys.readouterr().out


def test_missing_images_come_with_the_places_and_the_flag(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    official.write_lines(tmp_path / "snli_ve" / "snli_ve_dev.jsonl", [official.snli_record(image="1")])
    assert main(["snli_ve", str(tmp_path / "snli_ve")]) == 1
    said = capsys.readouterr().out
    assert re.search(r"looked in flickr30k-images, .*, \.\./flickr30k, .*--images FOLDER", said)
    assert main(["snli_ve", str(tmp_path / "snlive")]) == 2
    assert "snlive: there is no such folder, did you mean 'snli_ve'?" in capsys.readouterr().err


def test_a_task_under_an_alias_is_known_to_need_no_answers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for part in ("train", "val", "test"):
        official.write_lines(tmp_path / f"{part}.jsonl", [{"image": f"{part}.png", "caption": "a cup"}])
    assert main(["mine=pairs", str(tmp_path), "--look", "none"]) == 0
    assert "answers" not in capsys.readouterr().out


def test_published_sizes_are_of_splits_that_exist() -> None:
    for name in TASKS:
        assert set(SIZES[name]) <= set(load_task(name).splits) and name in LICENCES
