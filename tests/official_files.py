"""Writers of small dataset folders of the exact official shapes, with invented records, for the tests of
`tasks`.
"""

from __future__ import annotations

import json
from pathlib import Path


def write_json(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def write_lines(path: Path, records: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))
    return path


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"\xff\xd8\xff")
    return path


def karpathy_image(number: int, split: str, captions: int = 5, *, coco: bool = True) -> dict[str, object]:
    sentences = [
        {"tokens": ["a", "cup"], "raw": f"A cup {number} {k}.", "imgid": number, "sentid": 100 * number + k}
        for k in range(captions)
    ]
    image: dict[str, object] = {
        "filename": f"{number}.jpg",
        "imgid": number,
        "sentids": [100 * number + k for k in range(captions)],
        "split": split,
        "sentences": sentences,
    }
    if coco:
        folder = "train2014" if split == "train" else "val2014"
        image |= {"filepath": folder, "cocoid": number, "filename": f"COCO_{folder}_{number:012d}.jpg"}
    return image


def coco() -> dict[str, object]:
    images = [
        karpathy_image(1, "train"),
        karpathy_image(2, "restval"),
        karpathy_image(3, "val"),
        karpathy_image(4, "test", captions=7),
        karpathy_image(5, "test"),
    ]
    return {"images": images, "dataset": "coco"}


def flickr() -> dict[str, object]:
    splits = ["train", "val", "test", "test"]
    images = [karpathy_image(10 + k, split, coco=False) for k, split in enumerate(splits)]
    return {"images": images, "dataset": "flickr30k"}


def vqa_question(image_id: int, number: int = 0, question: str = "Is it red?") -> dict[str, object]:
    return {"image_id": image_id, "question": question, "question_id": image_id * 1000 + number}


def vqa_annotation(
    image_id: int, number: int = 0, answers: tuple[str, ...] = ("yes",) * 10
) -> dict[str, object]:
    return {
        "question_id": image_id * 1000 + number,
        "image_id": image_id,
        "question_type": "is it",
        "answer_type": "yes/no",
        "multiple_choice_answer": max(answers, key=answers.count),
        "answers": [
            {"answer": answer, "answer_confidence": "yes", "answer_id": k + 1}
            for k, answer in enumerate(answers)
        ],
    }


def vqa_files(image_ids: list[int], questions_each: int = 1) -> tuple[dict[str, object], dict[str, object]]:
    keys = [(image_id, number) for image_id in image_ids for number in range(questions_each)]
    info = {
        "info": {},
        "task_type": "Open-Ended",
        "data_type": "mscoco",
        "data_subtype": "val2014",
        "license": {},
    }
    questions = info | {"questions": [vqa_question(*key) for key in keys]}
    annotations = info | {"annotations": [vqa_annotation(*key) for key in reversed(keys)]}
    return questions, annotations


def write_vqa(folder: Path, source: str, image_ids: list[int], questions_each: int = 1) -> None:
    questions, annotations = vqa_files(image_ids, questions_each)
    write_json(folder / f"v2_OpenEnded_mscoco_{source}_questions.json", questions)
    write_json(folder / f"v2_mscoco_{source}_annotations.json", annotations)


def gqa_question(
    image: str = "2375429",
    answer: str = "red",
    *,
    structural: str = "query",
    detailed: str = "attrQuery",
    group: str | None = "color",
    entailed: tuple[str, ...] = (),
    balanced: bool = True,
) -> dict[str, object]:
    return {
        "imageId": image,
        "question": "What color is the cup?",
        "answer": answer,
        "fullAnswer": f"The cup is {answer}.",
        "isBalanced": balanced,
        "groups": {"global": group, "local": "10-cup_color"},
        "entailed": list(entailed),
        "equivalent": [],
        "types": {"structural": structural, "semantic": "attr", "detailed": detailed},
        "semantic": [{"operation": "select", "argument": "cup (1)", "dependencies": []}],
        "semanticStr": "select: cup (1)",
        "annotations": {"question": {}, "answer": {}, "fullAnswer": {}},
    }


def gqa() -> dict[str, object]:
    return {"07333408": gqa_question("n161313"), "07333409": gqa_question("0012", "blue")}


def snli_record(key: str = "Flickr30K_ID", image: str = "1000001", number: int = 0) -> dict[str, object]:
    return {
        "annotator_labels": ["neutral"],
        "captionID": f"{image}.jpg#2",
        "pairID": f"{image}.jpg#{number}r1n",
        "gold_label": ("contradiction", "neutral", "entailment")[number % 3],
        "sentence1": "A man sits.",
        "sentence2": "A tired man sits.",
        key: image,
    }


def meme(number: int, label: int | None = 1, **changes: object) -> dict[str, object]:
    record: dict[str, object] = {"id": number, "img": f"img/{number:05d}.png", "text": "look"}
    return record | ({} if label is None else {"label": label}) | changes
