"""What a run is handed is refused before anything slow is done: folders, split files, answers, images.

And which tasks' images the command embeds into the report of a finished run.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import official_files as official
import pytest
from illustrated_run import illustrated_run

from experiments.config import RunConfig
from experiments.data import check_data, find_data, read_tasks
from experiments.errors import ConfigError
from experiments.presets import tiny
from experiments.report import main as report
from tasks.errors import DatasetError


def _config(data: Path, *tasks: str, **changes: object) -> RunConfig:
    return replace(tiny(), data=str(data), tasks=tasks, **changes)  # type: ignore[arg-type]


def _snli_ve(data: Path) -> Path:
    """Three splits with ten examples each, all images in `images/`."""
    for start, part in enumerate(("train", "dev", "test")):
        records = [official.snli_record(image=str(10 * start + k), number=k) for k in range(10)]
        official.write_lines(data / "snli_ve" / f"snli_ve_{part}.jsonl", records)
    for number in range(30):
        official.png(data / "snli_ve" / "images" / f"{number}.jpg")
    return data / "snli_ve"


@pytest.mark.parametrize("part", ["dev", "test"])
def test_a_training_file_under_another_splits_name_is_refused(tmp_path: Path, part: str) -> None:
    folder = _snli_ve(tmp_path)
    assert len(read_tasks(_config(tmp_path, "snli_ve"), tmp_path)["snli_ve"].splits["test"].examples) == 10
    shutil.copy(folder / "snli_ve_train.jsonl", folder / f"snli_ve_{part}.jsonl")
    message = rf"_{part}\.jsonl: 10 of 10 examples of split .* in split 'train' .*snli_ve_train\.jsonl.*'0\.jpg#0r1n'"
    with pytest.raises(DatasetError, match=message):
        read_tasks(_config(tmp_path, "snli_ve"), tmp_path)


def test_vqas_training_questions_are_known_though_their_images_bear_the_other_splits_name(tmp_path: Path) -> None:
    official.write_vqa(tmp_path / "vqa", "train2014", list(range(1, 11)), 2)
    official.write_vqa(tmp_path / "vqa", "val2014", [1, 20])
    with pytest.raises(DatasetError, match=r"1 of 2 examples of split 'test' .* such as id '1000': put .*'val2014'"):
        read_tasks(_config(tmp_path, "vqa"), tmp_path)


def test_row_numbers_that_recur_are_no_shared_examples(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        rows: list[dict[str, object]] = [{"image": f"{part}/{k}.png", "label": "ab"[k]} for k in range(2)]
        official.write_lines(tmp_path / "pets" / f"{part}.jsonl", rows)
        for k in range(2):
            official.png(tmp_path / "pets" / part / f"{k}.png")
    config = _config(tmp_path, "pets", own_tasks={"pets": "classification"})
    assert [e.id for e in read_tasks(config, tmp_path)["pets"].splits["test"].examples] == ["0", "1"]


@pytest.mark.parametrize("labelled", [0, 3])
def test_a_test_split_without_answers_is_refused_before_it_is_trained_for(tmp_path: Path, labelled: int) -> None:
    folder = tmp_path / "hateful_memes"
    for start, part in enumerate(("train", "dev", "test")):
        numbers = range(10 * start, 10 * start + 4)
        memes = [official.meme(k, k % 2 if part != "test" or k % 10 < labelled else None) for k in numbers]
        official.write_lines(folder / f"{part}.jsonl", memes)
        for k in numbers:
            official.png(folder / "img" / f"{k:05d}.png")
    message = rf"test\.jsonl: {4 - labelled} of 4 examples of split 'test' of 'hateful_memes' .*'test_seen' with"
    with pytest.raises(DatasetError, match=message):
        read_tasks(_config(tmp_path, "hateful_memes"), tmp_path)
    official.write_lines(folder / "test_seen.jsonl", [official.meme(20, 1), official.meme(21, 0)])
    assert len(read_tasks(_config(tmp_path, "hateful_memes"), tmp_path)["hateful_memes"].splits["test"].examples) == 2


@pytest.mark.parametrize(("held", "task"), [("vqav2", "vqa"), ("SNLI-VE", "snli_ve"), ("mscoco", "coco")])
def test_a_folder_of_another_name_is_told_with_the_nearest(tmp_path: Path, held: str, task: str) -> None:
    (tmp_path / held).mkdir()
    with pytest.raises(ConfigError, match=rf"holds {held}: .* must be called '{task}' \(did you mean '{held}'\?"):
        check_data(_config(tmp_path, task))
    (tmp_path / task).mkdir()
    check_data(_config(tmp_path, task))


def test_a_datasets_own_folder_and_an_empty_one_are_no_data_folders(tmp_path: Path) -> None:
    (tmp_path / "vqa").mkdir()
    with pytest.raises(ConfigError, match=rf"name the folder above, --data {tmp_path}$"):
        check_data(_config(tmp_path / "vqa", "vqa"))
    with pytest.raises(ConfigError, match=r"holds no folder: a dataset's folder must be called 'gqa'$"):
        check_data(_config(tmp_path / "vqa", "gqa"))


def test_an_own_task_needs_a_data_folder() -> None:
    config = replace(tiny(), tasks=("vqa", "pets"), own_tasks={"pets": "classification"})
    for refuse in (check_data, find_data):
        with pytest.raises(ConfigError, match=r"^'pets' is not in the embedded world: name --data"):
            refuse(config)
    with pytest.raises(ConfigError, match=r"--images names task 'gqaa', .* did you mean 'gqa'\?"):
        check_data(replace(tiny(), images={"gqaa": "/nowhere"}))


def test_missing_images_name_the_places_and_the_flag(tmp_path: Path) -> None:
    folder = _snli_ve(tmp_path)
    (folder / "images").rename(tmp_path / "elsewhere")
    (folder / "flickr30k-images").mkdir()
    message = r"snli_ve: 10 of 10 images .* \(looked in flickr30k-images, .*\.\./flickr30k, .*--images snli_ve=FOLDER$"
    with pytest.raises(DatasetError, match=message):
        read_tasks(_config(tmp_path, "snli_ve"), tmp_path)
    config = _config(tmp_path, "snli_ve", images={"snli_ve": str(tmp_path / "elsewhere")})
    assert read_tasks(config, tmp_path)["snli_ve"].splits["test"].image_root == tmp_path / "elsewhere"


def test_a_page_to_be_shared_holds_no_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = illustrated_run(tmp_path / "run", tasks=("gqa",), num_rows=100)
    assert report([str(run)]) == 0 and "data:image/jpeg" in (run / "report.html").read_text(encoding="utf-8")
    (run / "report.html").unlink()
    assert report([str(run), "--images", "gqaa=/nowhere"]) == 1 and not (run / "report.html").exists()
    assert report([str(run), "--images", "gqa=/nowhere", "--no-images"]) == 1 and not (run / "report.html").exists()
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and "exclude each other" in said[1]
    assert said[0] == "error: --images names task 'gqaa', which is in none of the runs; did you mean 'gqa'? valid: gqa"
    for flags in (["--no-images"], ["--images", "gqa=/nowhere"]):
        assert report([str(run), *flags]) == 0
        page = (run / "report.html").read_text(encoding="utf-8")
        assert "data:image/jpeg" not in page and "no picture: images/" in page
