"""Flickr30k and MSCOCO of the world: scenes and captions as Karpathy's JSON; SNLI-VE on the Flickr30k pictures."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.world.captions import FACTORS, draw_caption
from experiments.world.files import write_json, write_json_lines, write_pictures
from experiments.world.hypotheses import draw_hypothesis
from experiments.world.scene import DENSE, OPEN, Scene, draw_scene

CAPTIONED = (*FACTORS, "count", "relation", "background")
FLICKR = replace(OPEN, curtain=0.5)
FIRST_PHOTO = 1_000_000


def flickr_scenes(seed: int, split: int, count: int) -> list[Scene]:
    """The pictures of one split; half of them have a curtain, for SNLI-VE's sake."""
    return [draw_scene(np.random.default_rng([seed, 1, split, k]), FLICKR) for k in range(count)]


def flickr_photo(split: int, index: int) -> str:
    """The number that names a picture, as a string."""
    return str(FIRST_PHOTO + 1_000_000 * split + index)


def write_flickr30k(folder: Path, sizes: Mapping[str, int], *, seed: int, pool: Executor) -> None:
    """`dataset_flickr30k.json`, `flickr30k-images/` and the factors of each caption."""
    images: list[dict[str, Any]] = []
    factors: dict[str, dict[str, str]] = {}
    named = []
    for number, split in enumerate(("train", "val", "test")):
        for k, scene in enumerate(flickr_scenes(seed, number, sizes[split])):
            name = f"{flickr_photo(number, k)}.jpg"
            named.append((f"flickr30k-images/{name}", scene))
            rng = np.random.default_rng([seed, 11, number, k])
            images.append(_karpathy_image(rng, scene, images, factors, {"filename": name, "split": split}))
    write_pictures(folder, named, pool=pool)
    write_json(folder / "dataset_flickr30k.json", {"images": images, "dataset": "flickr30k"})
    write_json(folder / "factors.json", factors)


def write_coco(folder: Path, sizes: Mapping[str, int], *, seed: int, pool: Executor) -> None:
    """`dataset_coco.json`, `{train,val}2014/` and the factors of each caption, in the denser domain."""
    images: list[dict[str, Any]] = []
    factors: dict[str, dict[str, str]] = {}
    named = []
    for number, split in enumerate(("train", "restval", "val", "test")):
        place = "train2014" if split == "train" else "val2014"
        for k in range(sizes[split]):
            scene = draw_scene(np.random.default_rng([seed, 2, number, k]), DENSE)
            ident = 100_000 * (number + 1) + k
            name = f"COCO_{place}_{ident:012d}.jpg"
            named.append((f"{place}/{name}", scene))
            rng = np.random.default_rng([seed, 12, number, k])
            head = {"filepath": place, "filename": name, "cocoid": ident, "split": split}
            images.append(_karpathy_image(rng, scene, images, factors, head))
    write_pictures(folder, named, pool=pool)
    write_json(folder / "dataset_coco.json", {"images": images, "dataset": "coco"})
    write_json(folder / "factors.json", factors)


def _karpathy_image(
    rng: np.random.Generator,
    scene: Scene,
    before: list[dict[str, Any]],
    factors: dict[str, dict[str, str]],
    head: dict[str, Any],
) -> dict[str, Any]:
    imgid = len(before)
    sentences = []
    for k in range(5):
        caption = draw_caption(rng, scene, background=0.4)
        sentid = imgid * 5 + k
        factors[str(sentid)] = {f"mentions_{f}": "yes" if f in caption.factors else "no" for f in CAPTIONED}
        raw = caption.text.capitalize() + "."
        sentences.append({"tokens": caption.text.split(), "raw": raw, "imgid": imgid, "sentid": sentid})
    return {**head, "imgid": imgid, "sentids": [s["sentid"] for s in sentences], "sentences": sentences}


def write_snli_ve(folder: Path, sizes: Mapping[str, int], *, seed: int, hypotheses: int) -> None:
    """`snli_ve_{train,dev,test}.jsonl` about the pictures of the Flickr30k folder beside this one."""
    factors: dict[str, dict[str, str]] = {}
    for number, (split, images) in enumerate(zip(("train", "dev", "test"), ("train", "val", "test"), strict=True)):
        records = []
        for k, scene in enumerate(flickr_scenes(seed, number, sizes[images])):
            records += _entailment_records(
                np.random.default_rng([seed, 13, number, k]), scene, flickr_photo(number, k), hypotheses
            )
        for record in records:
            factors[record["pairID"]] = record.pop("decided_by")
        write_json_lines(folder / f"snli_ve_{split}.jsonl", records)
    write_json(folder / "factors.json", factors)


def _entailment_records(rng: np.random.Generator, scene: Scene, photo: str, count: int) -> list[dict[str, Any]]:
    records = []
    for k in range(count):
        hypothesis = draw_hypothesis(rng, scene)
        caption = f"{photo}.jpg#{k % 5}"
        premise = draw_caption(rng, scene, background=0.4).text
        records.append(
            {
                "annotator_labels": [hypothesis.label],
                "captionID": caption,
                "gold_label": hypothesis.label,
                "pairID": f"{caption}r{k}{hypothesis.label[0]}",
                "sentence1": premise,
                "sentence1_binary_parse": "",
                "sentence1_parse": "",
                "sentence2": hypothesis.text,
                "sentence2_binary_parse": "",
                "sentence2_parse": "",
                "Flickr30K_ID": photo,
                "decided_by": {
                    "factor": hypothesis.factor,
                    "facts": str(hypothesis.facts),
                    "curtain": "yes" if scene.curtain else "no",
                },
            }
        )
    return records
