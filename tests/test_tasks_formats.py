"""The common alternative formats give the examples that the official files give, whatever the files are called."""

from __future__ import annotations

import json
from pathlib import Path

import official_files as official
import pytest

from tasks import caption_rows, gqa_rows, hateful_memes, load_task, snli_ve, vqa_rows
from tasks.base import Example
from tasks.errors import DatasetError
from tasks.gqa_rows import read_questions
from tasks.tables import open_table


def pairs(examples: list[Example]) -> list[tuple[str, str]]:
    return [(example.image, example.text) for example in examples]


def images_of(content: dict[str, object], *splits: str) -> list[dict[str, object]]:
    return [image for image in content["images"] if image["split"] in splits]  # type: ignore[attr-defined]


def test_lavis_coco_is_karpathy_coco(tmp_path: Path) -> None:
    content = official.coco()
    official.write_json(tmp_path / "karpathy" / "dataset_coco.json", content)
    for split, parts in {"train": ("train", "restval"), "val": ("val",), "test": ("test",)}.items():
        rows = official.lavis_captions(images_of(content, *parts), train=split == "train")
        official.write_json(tmp_path / "lavis" / f"coco_karpathy_{split}.json", rows)
    task = load_task("coco")
    for split in ("train", "restval", "select", "test"):
        expected = task.read(tmp_path / "karpathy", split)
        found = task.read(tmp_path / "lavis", split)
        assert pairs(found.examples) == pairs(expected.examples)
    assert found.examples[6].id == "val2014/COCO_val2014_000000000004.jpg#6"
    assert len(task.read(tmp_path / "lavis", "test", limit=1).examples) == 7


def test_hub_tables_with_karpathys_split(tmp_path: Path) -> None:
    """nlphuji holds all splits in hub split test; yerevann has restval and validation; bitmind a row a caption."""
    content = official.flickr()
    official.write_json(tmp_path / "karpathy" / "dataset_flickr30k.json", content)
    rows = [
        {
            "image": {"bytes": official.png_bytes(k), "path": "tmp.png"},
            "caption": [sentence["raw"] for sentence in image["sentences"]],  # type: ignore[attr-defined]
            "sentids": [str(key) for key in image["sentids"]],  # type: ignore[attr-defined]
            "split": image["split"],
            "filename": image["filename"],
        }
        for k, image in enumerate(images_of(content, "train", "val", "test"))
    ]
    official.write_parquet(tmp_path / "hub" / "data" / "test-00000-of-00002.parquet", rows[:3])
    official.write_parquet(tmp_path / "hub" / "data" / "test-00001-of-00002.parquet", rows[3:])
    task = load_task("flickr30k")
    for split in ("train", "select", "test"):
        found, expected = task.read(tmp_path / "hub", split), task.read(tmp_path / "karpathy", split)
        assert [(e.id, e.image, e.text, e.extra) for e in found.examples] == [
            (e.id, e.image, e.text, {}) for e in expected.examples
        ]
        assert found.check_images() == []
    assert (found.image_root / "13.jpg").read_bytes() == official.png_bytes(3)

    coco = images_of(official.coco(), "test")
    by_caption = [
        {"filepath": image["filepath"], "filename": image["filename"], "split": "test", "sentences": sentence}
        for number in range(5)
        for image in coco
        for sentence in [image["sentences"][number]]  # type: ignore[index]
    ]
    official.write_parquet(tmp_path / "bitmind" / "train-00000-of-00001.parquet", by_caption)
    found = load_task("coco").read(tmp_path / "bitmind", "test")
    assert [example.id for example in found.examples] == [f"{k}0{n}" for k in (4, 5) for n in range(5)]
    yerevann = [
        {
            "filepath": "val2014",
            "filename": f"{k}.jpg",
            "split": split,
            "sentids": [k],
            "sentences": [f"A cup {k}."],
            "cocoid": k,
        }
        for k, split in enumerate(("train", "restval", "validation", "test"))
    ]
    for row in yerevann:
        official.write_parquet(tmp_path / "yerevann" / f"{row['split']}-00000-of-00001.parquet", [row])
    for split, ids in {"train": ["0", "1"], "select": ["2"], "test": ["3"]}.items():
        assert [e.id for e in load_task("coco").read(tmp_path / "yerevann", split).examples] == ids


KAGGLE = """image_name| comment_number| comment
12.jpg| 0| A cup | with a bar .
12.jpg| 1| A "cup" .
2199200615.jpg| 4   A dog runs across the grass .
9.jpg| 0| Of another split .
"""


def test_raw_captions_take_their_split_from_lists(tmp_path: Path) -> None:
    official.write_text(tmp_path / "results.csv", KAGGLE)
    task = load_task("flickr30k")
    with pytest.raises(DatasetError, match=r"captions without a split: .* test\.txt"):
        task.read(tmp_path, "test")
    official.write_text(tmp_path / "test.txt", "12\n2199200615.jpg\n")
    expected = [
        ("12.jpg", "A cup | with a bar ."),
        ("12.jpg", 'A "cup" .'),
        ("2199200615.jpg", "A dog runs across the grass ."),
    ]
    found = task.read(tmp_path, "test").examples
    assert pairs(found) == expected and [e.id for e in found] == ["12.jpg#0", "12.jpg#1", "2199200615.jpg#0"]
    tokens = tmp_path / "token"
    official.write_text(tokens / "test.txt", "12\n2199200615\n")
    official.write_text(
        tokens / "results_20130124.token",
        '12.jpg#0\tA cup | with a bar .\n12.jpg#1\tA "cup" .\n'
        "2199200615.jpg#4\tA dog runs across the grass .\n7.jpg#0\tNo\n",
    )
    assert pairs(task.read(tokens, "test").examples) == expected
    official.write_text(tmp_path / "test.txt", "5\n12\n7.jpg\n")
    with pytest.raises(DatasetError, match=r"results\.csv: has no captions of 2 of 3 listed images, such as '5'"):
        task.read(tmp_path, "test")
    official.write_text(tmp_path / "results.csv", KAGGLE + "3.jpg| no number nor separator\n")
    with pytest.raises(DatasetError, match=r"results\.csv, record line 6: has 2 fields for 3 columns"):
        task.read(tmp_path, "test")


def test_formats_are_told_by_content_and_not_by_name(tmp_path: Path) -> None:
    """JSON lines called .json, a list with a byte-order mark, commas or tabs, an empty cell for null."""
    record = {"id": 1, "img": "img/00001.png", "label": 0, "text": "look"}
    lines = "".join(json.dumps(record | {"id": k}) + "\n" for k in (1, 2))
    for name, text in {
        "train.json": lines,
        "dev_seen.json": json.dumps([record]),
        "test_seen.json": "\ufeff" + json.dumps([record], indent=1),
        "dev_unseen.csv": "id,img,label,text\n1,img/00001.png,0,look\n",
        "test_unseen.tsv": "id\timg\tlabel\ttext\n1\timg/00001.png\t\tlook\n",
    }.items():
        official.write_text(tmp_path / name, text)
    task = load_task("hateful_memes")
    assert [e.id for e in task.read(tmp_path, "train").examples] == ["1", "2"]
    for split, target in {"dev_seen": "0", "test_seen": "0", "dev_unseen": "0", "test_unseen": None}.items():
        (example,) = task.read(tmp_path, split).examples
        assert (example.id, example.image, example.text, example.target) == ("1", "img/00001.png", "look", target)
    assert open_table(tmp_path / "train.json").container == "lines"
    assert open_table(tmp_path / "dev_seen.json").container == "list"
    with pytest.raises(
        DatasetError, match=r"x\.json, record \[0\]: is of no known format: .* fits none of official JSONL"
    ):
        official.write_json(tmp_path / "other" / "train_x.json", [{"id": 1, "picture": "x"}])
        task.read(tmp_path / "other", "train")


def test_memes_from_the_hub(tmp_path: Path) -> None:
    rows = [{"id": 7, "img": "img/00007.png", "label": 1, "text": "look"}]
    official.write_parquet(tmp_path / "data" / "validation-00000-of-00001.parquet", rows)
    (example,) = load_task("hateful_memes").read(tmp_path, "select").examples
    assert (example.id, example.image, example.target) == ("7", "img/00007.png", "1")


@pytest.mark.parametrize(("split", "name", "size"), [("select", "validation", 500), ("test", "test", 1000)])
def test_memes_that_cannot_stand_for_the_seen_split(tmp_path: Path, split: str, name: str, size: int) -> None:
    """Mirrors merge seen and unseen, or mean the unseen; phase 1's files have as many records as the seen splits."""
    rows = [{"id": k, "img": f"img/{k:05d}.png", "label": k % 2, "text": "look"} for k in range(size + 1)]
    file = official.write_parquet(tmp_path / f"{name}-00000-of-00001.parquet", rows[:size])  # type: ignore[arg-type]
    task = load_task("hateful_memes")
    assert len(task.read(tmp_path, split).examples) == size
    official.write_parquet(file, rows)  # type: ignore[arg-type]
    with pytest.raises(DatasetError, match=rf"holds {size + 1} records, more than the {size} of \w+_seen"):
        task.read(tmp_path, split)
    seen = {"select": "dev_seen", "test": "test_seen"}[split]
    official.write_parquet(tmp_path / f"{seen}-00000-of-00001.parquet", rows[:3])  # type: ignore[arg-type]
    assert len(task.read(tmp_path, split).examples) == 3


def test_two_containers_of_one_split_are_not_read_as_shards(tmp_path: Path) -> None:
    rows = [{"image": f"{k}.png", "label": "ab"[k]} for k in range(2)]
    official.write_lines(tmp_path / "train.jsonl", rows)  # type: ignore[arg-type]
    official.write_text(tmp_path / "train.csv", "image,label\n0.png,a\n1.png,b\n")
    assert len(load_task("classification").read(tmp_path, "train").examples) == 2


def test_two_files_of_one_split_are_not_guessed_between(tmp_path: Path) -> None:
    for name in ("train_a.jsonl", "train_b.jsonl"):
        official.write_lines(tmp_path / name, [official.meme(1)])
    with pytest.raises(DatasetError, match=r"keep one of .*train_a\.jsonl, .*train_b\.jsonl"):
        load_task("hateful_memes").read(tmp_path, "train")
    official.write_lines(tmp_path / "train.jsonl", [official.meme(2)])
    assert load_task("hateful_memes").read(tmp_path, "train").examples[0].id == "2"


def test_lxmert_vqa_halves_are_val2014(tmp_path: Path) -> None:
    official.write_json(tmp_path / "nominival.json", [official.lxmert_vqa(7, yes=1, no=0.3)])
    official.write_json(tmp_path / "minival.json", [official.lxmert_vqa(8)])
    official.write_json(
        tmp_path / "test.json", [{k: v for k, v in official.lxmert_vqa(9, "test2015").items() if k != "label"}]
    )
    task = load_task("vqa")
    first, second = task.read(tmp_path, "test").examples
    assert (first.id, first.image, first.text) == ("7000", "val2014/COCO_val2014_000000000007.jpg", "Is it red?")
    assert first.extra == {"consensus": "yes", "weights": {"yes": 1.0, "no": 0.3}}
    assert (second.target, second.extra["weights"]) == ((), {})
    assert [e.id for e in task.read(tmp_path, "minival").examples] == ["8000"]
    (bare,) = task.read(tmp_path, "test2015").examples
    assert (bare.target, bare.image) == (None, "test2015/COCO_test2015_000000000009.jpg")
    official.write_json(tmp_path / "minival.json", [official.lxmert_vqa(8, yes=1.5)])
    with pytest.raises(DatasetError, match=r"minival\.json, record \[0\]: .* weight 1\.5, not one in \[0, 1\]"):
        task.read(tmp_path, "test")


def test_vqa_from_the_hub_and_lavis_is_the_official(tmp_path: Path) -> None:
    official.write_vqa(tmp_path / "official", "val2014", [7, 8])
    official.write_parquet(
        tmp_path / "hub" / "data" / "validation-00000-of-00001.parquet", [official.hub_vqa(7), official.hub_vqa(8)]
    )
    official.write_parquet(
        tmp_path / "hub" / "data" / "testdev-00000-of-00001.parquet", [official.hub_vqa(9, answered=False)]
    )
    lavis = [
        {
            "image": f"val2014/COCO_val2014_{k:012d}.jpg",
            "question": "Is it red?",
            "question_id": 1000 * k,
            "answer": ["yes"] * 10,
            "dataset": "vqa",
        }
        for k in (7, 8)
    ]
    official.write_json(tmp_path / "lavis" / "vqa_val.json", lavis)
    graphcore = [
        {
            "question": "Is it red?",
            "question_type": "is it",
            "question_id": 7000,
            "image_id": "/images/COCO_val2014_000000000007.jpg",
            "answer_type": "yes/no",
            "label": {"ids": ["yes", "no"], "weights": [1.0, 0.3]},
        }
    ]
    official.write_parquet(tmp_path / "graphcore" / "validation-00000-of-00001.parquet", graphcore)  # type: ignore[arg-type]
    task = load_task("vqa")
    expected = task.read(tmp_path / "official", "test")
    found = task.read(tmp_path / "hub", "test")
    assert found.examples == expected.examples and found.check_images() == []
    (bare,) = task.read(tmp_path / "hub", "test-dev2015").examples
    assert (bare.id, bare.target, bare.image) == ("9000", None, "test2015/COCO_test2015_000000000009.jpg")
    for example, other in zip(task.read(tmp_path / "lavis", "test").examples, expected.examples, strict=True):
        assert (example.id, example.image, example.text, example.target) == (
            other.id, other.image, other.text, other.target,
        )  # fmt: skip
        assert example.extra == other.extra
    (weighted,) = task.read(tmp_path / "graphcore", "test").examples
    assert weighted.extra["weights"] == {"yes": 1.0, "no": 0.3}
    assert weighted.image == "val2014/COCO_val2014_000000000007.jpg"


def test_tables_that_the_hub_converted(tmp_path: Path) -> None:
    """refs/convert/parquet has CONFIG/SPLIT/0000.parquet: the folder names the split, all numbers belong together."""
    rows = [
        {"filename": f"{k}.jpg", "split": ("test", "train")[k % 2], "sentids": [str(k)], "caption": [f"A cup {k}."]}
        for k in range(6)
    ]
    for number in range(3):
        file = tmp_path / "flickr" / "TEST" / "test" / f"000{number}.parquet"
        official.write_parquet(file, rows[2 * number : 2 * number + 2])  # type: ignore[arg-type]
    assert [e.id for e in load_task("flickr30k").read(tmp_path / "flickr", "test").examples] == ["0", "2", "4"]
    for number in (1, 2):  # two folders of one configuration, each row with its split
        file = tmp_path / "coco" / "default" / ("train", "validation")[number - 1] / "0000.parquet"
        split = ("train", "validation")[number - 1]
        row = {"filepath": "val2014", "filename": f"{number}.jpg", "split": split, "sentids": [number]}
        official.write_parquet(file, [row | {"sentences": [f"A cup {number}."]}])
    assert [e.id for e in load_task("coco").read(tmp_path / "coco", "select").examples] == ["2"]
    official.write_parquet(tmp_path / "vqa" / "default" / "validation" / "0000.parquet", [official.hub_vqa(7)])
    official.write_parquet(tmp_path / "vqa" / "default" / "validation" / "0001.parquet", [official.hub_vqa(8)])
    official.write_parquet(tmp_path / "vqa" / "default" / "testdev" / "0000.parquet", [official.hub_vqa(9)])
    assert [e.id for e in load_task("vqa").read(tmp_path / "vqa", "test").examples] == ["7000", "8000"]
    memes: list[dict[str, object]] = [official.meme(3)]
    official.write_parquet(tmp_path / "memes" / "default" / "validation" / "0000.parquet", memes)
    assert [e.id for e in load_task("hateful_memes").read(tmp_path / "memes", "select").examples] == ["3"]
    snli = {"filename": "1.jpg", "premise": "A man sits.", "hypothesis": "He is tired.", "label": 0}
    official.write_parquet(tmp_path / "snli" / "default" / "validation" / "0000.parquet", [snli])
    assert [e.target for e in load_task("snli_ve").read(tmp_path / "snli", "select").examples] == ["entailment"]


def test_gqa_from_the_hub_and_lxmert(tmp_path: Path) -> None:
    questions = {"07333408": official.gqa_question("n161313", entailed=("07333409", "1"))}
    official.write_json(tmp_path / "official" / "testdev_balanced_questions.json", questions)
    row = official.hub_gqa("07333408", imageId="n161313")
    official.write_parquet(
        tmp_path / "hub" / "testdev_balanced_instructions" / "testdev-00000-of-00001.parquet", [row]
    )
    pictures = [{"id": "n161313", "image": {"bytes": official.png_bytes(5), "path": None}}]
    official.write_parquet(tmp_path / "hub" / "testdev_balanced_images" / "testdev-00000-of-00001.parquet", pictures)
    challenge = [{"id": "5", "imageId": "3", "question": "Who?", "isBalanced": True}]
    official.write_parquet(
        tmp_path / "hub" / "challenge_all_instructions" / "challenge-00000-of-00001.parquet", challenge
    )
    task = load_task("gqa")
    found, expected = task.read(tmp_path / "hub", "test"), task.read(tmp_path / "official", "test")
    assert found.examples == expected.examples
    assert found.check_images() == [] and found.image_path(found.examples[0]).read_bytes() == official.png_bytes(5)
    assert read_questions(tmp_path / "hub", "testdev_balanced") == read_questions(
        tmp_path / "official", "testdev_balanced"
    )
    assert task.read(tmp_path / "hub", "challenge_all").examples[0].target is None
    lxmert = {"img_id": "n161313", "question_id": "07333408", "sent": "What color is the cup?", "label": {"red": 1.0}}
    official.write_json(tmp_path / "lxmert" / "testdev.json", [lxmert])
    (example,) = task.read(tmp_path / "lxmert", "test").examples
    other = expected.examples[0]
    assert (example.id, example.image, example.text, example.target) == (
        other.id,
        other.image,
        other.text,
        other.target,
    )


def test_snli_ve_label_ids_are_mapped_by_name(tmp_path: Path) -> None:
    """The Hub counts entailment 0, METER and ALBEF contradiction 0; names in the metadata beat both."""
    rows = [
        {"image": {"bytes": None, "path": None}, "filename": f"{k}.jpg", "premise": "A man sits.",
         "hypothesis": "He is tired.", "label": k}
        for k in range(3)
    ]  # fmt: skip
    order = ["neutral", "contradiction", "entailment"]
    official.write_parquet(tmp_path / "hub" / "test-00000-of-00001.parquet", rows)
    official.write_parquet(tmp_path / "named" / "test-00000-of-00001.parquet", rows, names={"label": order})
    lavis = [{"image": f"flickr30k-images/{k}.jpg", "sentence": "He is tired.", "label": k} for k in range(3)]
    official.write_json(tmp_path / "albef" / "ve_test.json", lavis)
    task = load_task("snli_ve")
    for folder, targets in {
        "hub": ["entailment", "neutral", "contradiction"],
        "named": order,
        "albef": ["contradiction", "neutral", "entailment"],
    }.items():
        found = task.read(tmp_path / folder, "test").examples
        assert [example.target for example in found] == targets
        assert pairs(found) == [(f"{k}.jpg", "He is tired.") for k in range(3)]
    official.write_json(tmp_path / "albef" / "ve_test.json", [*lavis, lavis[0] | {"label": 3}])
    with pytest.raises(DatasetError, match=r"ve_test\.json, record \[3\]: label '3' is none of contradiction"):
        task.read(tmp_path / "albef", "test")


def test_the_page_names_every_format() -> None:
    page = (Path(__file__).parent.parent / "docs" / "datasets.md").read_text()
    modules = (caption_rows, vqa_rows, gqa_rows, hateful_memes)
    names = {shape.name for module in modules for shape in module.SHAPES}
    names |= {shape.name for shape in (snli_ve.OFFICIAL, snli_ve.HUB, snli_ve.LAVIS)}
    assert len(names) == 10
    assert [name for name in names if name not in page] == []
