"""Readers return what the official files hold, oddities included, and refuse what is not of their shape in
one way.
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import official_files as official
import pytest

from tasks import TASKS, load_task
from tasks.errors import DatasetError, TaskError
from tasks.gqa import read_choices, read_questions
from tasks.paths import resolve_image


def test_karpathy_restval_is_train_and_every_caption_is_kept(tmp_path: Path) -> None:
    official.write_json(tmp_path / "dataset_coco.json", official.coco())
    task = load_task("coco")
    train = task.read(tmp_path, "train")
    assert [example.image for example in train.examples[::5]] == [
        "train2014/COCO_train2014_000000000001.jpg",
        "val2014/COCO_val2014_000000000002.jpg",
    ]
    assert len(train.examples) == 10
    assert [example.id for example in task.read(tmp_path, "restval").examples] == [
        "200",
        "201",
        "202",
        "203",
        "204",
    ]
    assert len(task.read(tmp_path, "select").examples) == 5
    test = task.read(tmp_path, "test").examples
    assert len(test) == 12
    assert (test[6].id, test[6].text, test[6].target) == ("406", "A cup 4 6.", None)
    assert len(task.read(tmp_path, "test", limit=1).examples) == 7


@pytest.mark.parametrize(
    ("sentences", "said"),
    [
        ("A cup.", r"'sentences' must be a list, not str"),
        (["A cup."] * 5, r"images\[1\]: expected a JSON object, found str"),
        ({"raw": "A cup.", "sentid": 1}, r"'sentences' must be a list, not dict"),
    ],
)
def test_what_is_no_list_of_sentences_is_no_caption(tmp_path: Path, sentences: object, said: str) -> None:
    images = [official.karpathy_image(4, "test"), official.karpathy_image(5, "test") | {"sentences": sentences}]
    official.write_json(tmp_path / "dataset_coco.json", {"images": images, "dataset": "coco"})
    with pytest.raises(DatasetError, match=rf"dataset_coco\.json.*{said}"):
        load_task("coco").read(tmp_path, "test")


def test_flickr_images_have_no_folder_in_their_names(tmp_path: Path) -> None:
    official.write_json(tmp_path / "dataset_flickr30k.json", official.flickr())
    official.touch(tmp_path / "flickr30k-images" / "12.jpg")
    split = load_task("flickr30k").read(tmp_path, "test")
    assert split.image_root == tmp_path / "flickr30k-images"
    assert split.images() == ["12.jpg", "13.jpg"]
    assert split.image_path(split.examples[0]).is_file()
    assert split.check_images("list") == ["13.jpg"]
    with pytest.raises(DatasetError, match=r"flickr30k-images: 1 of 2 images .* missing: 13\.jpg"):
        split.check_images()


def test_vqa_holds_out_the_last_tenth_of_images_in_order_of_first_appearance(tmp_path: Path) -> None:
    image_ids = [50 - k for k in range(20)]
    official.write_vqa(tmp_path, "train2014", image_ids, questions_each=3)
    official.write_vqa(tmp_path, "val2014", [7])
    task = load_task("vqa")
    train, select = task.read(tmp_path, "train"), task.read(tmp_path, "select")
    assert [example.id for example in select.examples] == [f"{i}00{k}" for i in (32, 31) for k in range(3)]
    assert len(train.examples) == 54
    assert len(task.read(tmp_path, "train2014").examples) == 60
    example = task.read(tmp_path, "test").examples[0]
    assert (example.id, example.image) == ("7000", "val2014/COCO_val2014_000000000007.jpg")
    assert example.target == ("yes",) * 10
    assert example.slices == {"answer_type": "yes/no", "question_type": "is it"}
    assert example.extra == {"consensus": "yes"}


def test_vqa_test_split_has_no_answers(tmp_path: Path) -> None:
    questions, _ = official.vqa_files([5])
    official.write_json(tmp_path / "v2_OpenEnded_mscoco_test-dev2015_questions.json", questions)
    (example,) = load_task("vqa").read(tmp_path, "test-dev2015").examples
    assert (example.target, example.image) == (None, "test2015/COCO_test2015_000000000005.jpg")


@pytest.mark.parametrize("which", ["questions", "annotations"])
def test_vqa_question_without_annotation_and_the_other_way(tmp_path: Path, which: str) -> None:
    official.write_vqa(tmp_path, "val2014", [7, 8])
    name = {"questions": "OpenEnded_mscoco_val2014_questions", "annotations": "mscoco_val2014_annotations"}[
        which
    ]
    path = tmp_path / f"v2_{name}.json"
    content = json.loads(path.read_text())
    content[which].pop(0)
    official.write_json(path, content)
    with pytest.raises(DatasetError, match="no question|no annotation"):
        load_task("vqa").read(tmp_path, "test")


def test_vqa_pairs_lists_and_a_macs_files_are_no_questions(tmp_path: Path) -> None:
    """The release's complementary pairs bear the split's name; an archive made on a Mac adds `._` files."""
    for part, number in (("train2014", 5), ("val2014", 7)):
        official.write_vqa(tmp_path, part, [number])
        official.write_json(tmp_path / f"v2_mscoco_{part}_complementary_pairs.json", [[number * 1000, 9000]])
        questions = f"v2_OpenEnded_mscoco_{part}_questions.json"
        for place in (tmp_path, tmp_path / "__MACOSX"):
            place.mkdir(exist_ok=True)
            (place / f"._{questions}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X\xff")
        official.write_json(tmp_path / "__MACOSX" / questions, [])
    task = load_task("vqa")
    assert [e.id for e in task.read(tmp_path, "train2014").examples] == ["5000"]
    assert [e.id for e in task.read(tmp_path, "test").examples] == ["7000"]


def test_unreadable_files_matter_where_nothing_else_fits_or_a_shard_would_be_lost(tmp_path: Path) -> None:
    task = load_task("snli_ve")
    notes = official.write_text(tmp_path / "notes_test.json", "[[1, 2]]")
    with pytest.raises(DatasetError, match=r"notes_test\.json, record \[0\]: expected a JSON object, found list"):
        task.read(tmp_path, "test")
    row = {"filename": "1.jpg", "premise": "A man sits.", "hypothesis": "He is tired.", "label": 0}
    official.write_parquet(tmp_path / "test-00000-of-00002.parquet", [row])
    assert notes.exists() and len(task.read(tmp_path, "test").examples) == 1
    (tmp_path / "test-00001-of-00002.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(DatasetError, match=r"test-00001-of-00002\.parquet: is not readable Parquet"):
        task.read(tmp_path, "test")
    official.write_text(tmp_path / "snli_ve_dev.jsonl", "{")
    official.write_parquet(tmp_path / "validation-00000-of-00001.parquet", [row])
    with pytest.raises(DatasetError, match=r"snli_ve_dev\.jsonl, record line 1: is not JSON"):
        task.read(tmp_path, "dev")


@pytest.mark.parametrize(
    ("questions", "annotations"),
    [("Questions", "Annotations"), ("v2_Questions_Val_mscoco", "v2_Annotations_Val_mscoco"), ("a/b", "c")],
)
def test_vqa_annotations_are_found_in_folders_of_their_own(tmp_path: Path, questions: str, annotations: str) -> None:
    official.write_vqa(tmp_path / questions, "val2014", [7])
    name = "v2_mscoco_val2014_annotations.json"
    (tmp_path / annotations).mkdir()
    (tmp_path / questions / name).rename(tmp_path / annotations / name)
    task = load_task("vqa")
    assert [e.target for e in task.read(tmp_path, "test").examples] == [("yes",) * 10]
    far = json.loads((tmp_path / annotations / name).read_text())
    official.write_json(tmp_path / "old" / "copies" / "of" / name, far | {"annotations": []})
    assert len(task.read(tmp_path, "test").examples) == 1
    official.write_json(tmp_path / f"{annotations}_2" / name, far)
    with pytest.raises(DatasetError, match=rf"{name} is there more than once: keep one of "):
        task.read(tmp_path, "test")
    (tmp_path / f"{annotations}_2" / name).unlink()
    (tmp_path / annotations / name).unlink()
    (tmp_path / "old" / "copies" / "of" / name).unlink()
    with pytest.raises(DatasetError, match=rf"holds no {name}, which belongs to v2_OpenEnded"):
        task.read(tmp_path, "test")


def test_gqa_ids_stay_strings(tmp_path: Path) -> None:
    official.write_json(tmp_path / "questions1.2" / "testdev_balanced_questions.json", official.gqa())
    official.touch(tmp_path / "images" / "0012.jpg")
    split = load_task("gqa").read(tmp_path, "test")
    assert [(example.id, example.image, example.target) for example in split.examples] == [
        ("07333408", "n161313.jpg", "red"),
        ("07333409", "0012.jpg", "blue"),
    ]
    assert split.image_root == tmp_path / "images"
    assert split.examples[0].slices == {"structural": "query", "semantic": "attr"}


def test_gqa_train_all_is_a_folder_read_in_numeric_order(tmp_path: Path) -> None:
    for number in (0, 2, 10):
        name = tmp_path / "train_all_questions" / f"train_all_questions_{number}.json"
        official.write_json(name, {f"q{number}": official.gqa_question(group=None)})
    examples = load_task("gqa").read(tmp_path, "train_all").examples
    assert [example.id for example in examples] == ["q0", "q2", "q10"]
    assert read_questions(tmp_path, "train_all")["q2"].group is None


def test_gqa_test_split_has_no_answers_and_repeated_ids_are_not_lost(tmp_path: Path) -> None:
    bare = '{"1": {"imageId": "3", "question": "Who?", "isBalanced": true}%s}'
    path = tmp_path / "test_balanced_questions.json"
    path.write_text(bare % "")
    assert load_task("gqa").read(tmp_path, "test_balanced").examples[0].target is None
    path.write_text(bare % ', "1": {"imageId": "4", "question": "Where?", "isBalanced": true}')
    with pytest.raises(DatasetError, match="twice"):
        load_task("gqa").read(tmp_path, "test_balanced")


def test_gqa_choices(tmp_path: Path) -> None:
    assert read_choices(tmp_path, "val") is None
    official.write_json(
        tmp_path / "eval" / "val_choices.json", {"1": {"valid": ["a", "b"], "plausible": ["a"]}}
    )
    choices = read_choices(tmp_path, "val")
    assert choices is not None and choices["1"].valid == {"a", "b"} and choices["1"].plausible == {"a"}
    inner = tmp_path / "questions1.2"
    official.write_json(inner / "eval" / "val_choices.json", {"1": {"valid": ["c"], "plausible": ["c"]}})
    found = read_choices(tmp_path, "val", of=inner / "val_balanced_questions.json")
    assert found is not None and found["1"].valid == {"c"}
    (tmp_path / "eval" / "val_choices.json").unlink()
    assert read_choices(tmp_path, "val") == found


def test_snli_ve_takes_three_spellings_and_the_sibling_images(tmp_path: Path) -> None:
    records = [
        official.snli_record("Flickr30K_ID", "11", 0),
        official.snli_record("Flikr30kID", "12.jpg", 1),
        official.snli_record("Flickr30kID", "13.jpg", 2),
    ]
    official.write_lines(tmp_path / "snli_ve" / "snli_ve_dev.jsonl", records)
    official.touch(tmp_path / "flickr30k" / "flickr30k-images" / "12.jpg")
    split = load_task("snli_ve").read(tmp_path / "snli_ve", "select")
    assert [example.image for example in split.examples] == ["11.jpg", "12.jpg", "13.jpg"]
    assert [example.target for example in split.examples] == ["contradiction", "neutral", "entailment"]
    assert {example.text for example in split.examples} == {"A tired man sits."}
    assert split.image_root.resolve() == (tmp_path / "flickr30k" / "flickr30k-images").resolve()


def test_memes_use_img_and_fall_back_to_phase_one(tmp_path: Path) -> None:
    official.write_lines(
        tmp_path / "dev.jsonl", [official.meme(8291, 0), official.meme(5, img="img/00005.png")]
    )
    split = load_task("hateful_memes").read(tmp_path, "select")
    assert [(e.id, e.image, e.target) for e in split.examples] == [
        ("8291", "img/08291.png", "0"),
        ("5", "img/00005.png", "1"),
    ]
    official.write_lines(tmp_path / "dev_seen.jsonl", [official.meme(1)])
    assert load_task("hateful_memes").read(tmp_path, "select").examples[0].id == "1"
    official.write_lines(tmp_path / "test.jsonl", [official.meme(2, None)])
    assert load_task("hateful_memes").read(tmp_path, "test").examples[0].target is None


def test_factors_become_slices(tmp_path: Path) -> None:
    official.write_lines(tmp_path / "train.jsonl", [official.meme(1), official.meme(2)])
    official.write_json(tmp_path / "factors.json", {"2": {"factor": "colour"}, "other": {"factor": "shape"}})
    first, second = load_task("hateful_memes").read(tmp_path, "train").examples
    assert (dict(first.slices), dict(second.slices)) == ({}, {"factor": "colour"})
    official.write_json(tmp_path / "factors.json", {"2": {"factor": 3}})
    with pytest.raises(DatasetError, match=r"factors\.json, record 2: 'factor' must be a string"):
        load_task("hateful_memes").read(tmp_path, "train")


@pytest.mark.parametrize(
    "path", ["../x.png", "/etc/passwd", "a/../../b.png", "C:\\x.png", "..\\x.png", "", "a\0b", "."]
)
def test_paths_that_leave_the_image_root_are_refused(tmp_path: Path, path: str) -> None:
    official.write_lines(tmp_path / "train.jsonl", [official.meme(1, img=path)])
    with pytest.raises(DatasetError, match=r"train\.jsonl, record line 1: image path"):
        load_task("hateful_memes").read(tmp_path, "train")
    with pytest.raises(DatasetError):
        resolve_image(tmp_path, path)


def test_one_image_has_one_spelling(tmp_path: Path) -> None:
    official.write_lines(tmp_path / "train.jsonl", [official.meme(1, img="img//./1.png")])
    assert load_task("hateful_memes").read(tmp_path, "train").examples[0].image == "img/1.png"


def test_images_given_by_the_user(tmp_path: Path) -> None:
    official.write_vqa(tmp_path / "vqa", "val2014", [7])
    official.touch(tmp_path / "elsewhere" / "images" / "val2014" / "COCO_val2014_000000000007.jpg")
    task = load_task("vqa")
    split = task.read(tmp_path / "vqa", "test", images=tmp_path / "elsewhere")
    assert split.check_images() == []
    with pytest.raises(DatasetError, match="no such image folder"):
        task.read(tmp_path / "vqa", "test", images=tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="1 of 1 images"):
        task.read(tmp_path / "vqa", "test").check_images()


@pytest.mark.parametrize(
    ("task", "place", "image"),
    [
        ("flickr30k", "flickr30k/flickr30k_images/flickr30k_images", "12.jpg"),
        ("snli_ve", "flickr30k/flickr30k_images/flickr30k_images", "1000001.jpg"),
        ("snli_ve", "snli_ve/images/images/images", "1000001.jpg"),
        ("vqa", "vqa/val2014", "val2014/COCO_val2014_000000000007.jpg"),
    ],
)
def test_images_in_a_folder_that_lies_in_one_of_its_own_name(
    tmp_path: Path, task: str, place: str, image: str
) -> None:
    official.write_json(tmp_path / "flickr30k" / "dataset_flickr30k.json", official.flickr())
    official.write_lines(tmp_path / "snli_ve" / "snli_ve_test.jsonl", [official.snli_record(image="1000001")])
    official.write_vqa(tmp_path / "vqa", "val2014", [7])
    official.touch(tmp_path / place / image)
    split = load_task(task).read(tmp_path / task, "test", limit=1)
    assert split.image_path(split.examples[0]).resolve() == (tmp_path / place / image).resolve()
    assert split.check_images() == []


def test_missing_images_name_the_places_that_were_tried(tmp_path: Path) -> None:
    official.write_vqa(tmp_path / "vqa", "val2014", [7])
    split = load_task("vqa").read(tmp_path / "vqa", "test")
    message = rf"^{tmp_path}/vqa: 1 of 1 .*\(looked in \., images, \.\./coco, .*\); put them there, .* images=FOLDER$"
    with pytest.raises(DatasetError, match=message):
        split.check_images()
    (tmp_path / "elsewhere").mkdir()
    split = load_task("vqa").read(tmp_path / "vqa", "test", images=tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match=r"elsewhere: 1 of 1 .*\(looked in \., images, unpacked_images\)"):
        split.check_images()


def test_an_image_name_that_no_file_system_holds_is_missing(tmp_path: Path) -> None:
    official.write_lines(tmp_path / "train.jsonl", [official.meme(1, img="x" * 5000)])
    assert len(load_task("hateful_memes").read(tmp_path, "train").check_images("list")) == 1


def test_errors_name_file_record_and_choices(tmp_path: Path) -> None:
    task = load_task("hateful_memes")
    with pytest.raises(DatasetError, match="holds none of train.jsonl"):
        task.read(tmp_path, "train")
    with pytest.raises(DatasetError, match="no such folder"):
        task.read(tmp_path / "absent", "train")
    with pytest.raises(TaskError, match="did you mean 'dev_seen'"):
        task.read(tmp_path, "dev_sen")
    with pytest.raises(TaskError, match="limit 0"):
        task.read(tmp_path, "train", limit=0)
    (tmp_path / "train.jsonl").write_text("\n")
    with pytest.raises(DatasetError, match="holds no examples"):
        task.read(tmp_path, "train")
    official.write_lines(tmp_path / "train.jsonl", [official.meme(1), official.meme(1)])
    with pytest.raises(DatasetError, match=r"train\.jsonl, record 1: the id is used twice"):
        task.read(tmp_path, "train")
    with pytest.raises(DatasetError) as caught:
        official.write_lines(tmp_path / "train.jsonl", [official.meme(1), official.meme(2, text=7)])
        task.read(tmp_path, "train")
    assert (caught.value.file, caught.value.record) == (tmp_path / "train.jsonl", "line 2")


@pytest.mark.parametrize(
    "content", [b"{", b"\xff\xfe", b"[" * 100_000, b'{"id": ' + b"9" * 5000 + b"}", b'"\\ud800"']
)
def test_files_that_are_not_json(tmp_path: Path, content: bytes) -> None:
    for name in ("train.jsonl", "dataset_coco.json", "train_balanced_questions.json", "snli_ve_train.jsonl"):
        (tmp_path / name).write_bytes(content)
    for task in ("hateful_memes", "coco", "gqa", "snli_ve"):
        with pytest.raises(DatasetError):
            load_task(task).read(tmp_path, "train")


def test_a_folder_in_the_place_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").mkdir()
    with pytest.raises(DatasetError, match="cannot be read"):
        load_task("hateful_memes").read(tmp_path, "train")


def test_half_a_surrogate_pair_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"id": 1, "img": "a.png", "label": 0, "text": "\\ud800"}\n')
    with pytest.raises(DatasetError, match="surrogate"):
        load_task("hateful_memes").read(tmp_path, "train")


def test_names_and_options() -> None:
    assert [load_task(name).name for name in TASKS] == list(TASKS)
    with pytest.raises(TaskError, match="did you mean 'snli_ve'"):
        load_task("snlive")
    with pytest.raises(TaskError, match="did you mean 'min_count'"):
        load_task("vqa", min_cout=3)
    assert load_task("vqa", min_count=3) == load_task("vqa", min_count=3) != load_task("vqa")


def test_examples_travel_between_processes(tmp_path: Path) -> None:
    official.write_vqa(tmp_path, "val2014", [7])
    split = load_task("vqa").read(tmp_path, "test")
    assert pickle.loads(pickle.dumps(split)) == split
