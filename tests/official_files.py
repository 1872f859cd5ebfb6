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


def png(path: Path, colour: int = 0) -> Path:
    """A real image file, of one grey value."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), colour).save(path, format="PNG" if path.suffix == ".png" else "JPEG")
    return path


def png_bytes(colour: int = 0) -> bytes:
    from io import BytesIO

    from PIL import Image

    buffer = BytesIO()
    Image.new("L", (4, 4), colour).save(buffer, format="PNG")
    return buffer.getvalue()


def write_parquet(path: Path, rows: list[dict[str, object]], *, names: dict[str, list[str]] | None = None) -> Path:
    """A table as the Hub's are: images as {bytes, path}, names of class labels in the metadata of `datasets`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows)
    features = {key: {"names": labels, "_type": "ClassLabel"} for key, labels in (names or {}).items()}
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})}), path)
    return path


def write_text(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def lavis_captions(images: list[dict[str, object]], *, train: bool) -> list[dict[str, object]]:
    """LAVIS rows of Karpathy images: a row a caption in train, a row an image elsewhere."""
    rows: list[dict[str, object]] = []
    for image in images:
        folder = image.get("filepath", "flickr30k-images")
        raws = [sentence["raw"] for sentence in image["sentences"]]  # type: ignore[attr-defined]
        name = f"{folder}/{image['filename']}"
        rows += (
            [{"image": name, "caption": raw, "image_id": f"coco_{image['imgid']}"} for raw in raws]
            if train
            else [{"image": name, "caption": raws}]
        )
    return rows


def lxmert_vqa(image_id: int, source: str = "val2014", **label: float) -> dict[str, object]:
    return {
        "question_id": image_id * 1000,
        "img_id": f"COCO_{source}_{image_id:012d}",
        "sent": "Is it red?",
        "label": label,
        "answer_type": "yes/no",
        "question_type": "is it",
    }


def hub_vqa(image_id: int, *, answered: bool = True) -> dict[str, object]:
    annotation = vqa_annotation(image_id)
    kept = annotation if answered else {key: None for key in annotation}
    question = vqa_question(image_id)
    return {**kept, **question, "question_id": image_id * 1000, "image": {"bytes": png_bytes(), "path": "x.png"}}


def hub_gqa(key: str, **changes: object) -> dict[str, object]:
    """A row of `lmms-lab/GQA`, where lists of ids are strings."""
    row = {"id": key, **gqa_question()} | changes
    return {
        name: value
        for name, value in (row | {"entailed": "['07333409', '1']", "equivalent": "['07333408']"}).items()
        if name != "annotations"
    }
