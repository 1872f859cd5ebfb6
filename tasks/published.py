"""Published sizes and licences of the datasets, for `tasks.check` to compare with.

Sizes are (records, images) by official split; a record is a question, a hypothesis, a caption or a meme. Sources are
those of the dataset papers and released files; None where no number is published.
"""

from __future__ import annotations

Sizes = dict[str, tuple[int | None, int | None]]

SIZES: dict[str, Sizes] = {
    "flickr30k": {"train": (145_000, 29_000), "val": (5_070, 1_014), "test": (5_000, 1_000)},
    "coco": {"train": (566_747, 113_287), "val": (25_010, 5_000), "test": (25_010, 5_000)},
    "vqa": {
        "train2014": (443_757, 82_783),
        "val2014": (214_354, 40_504),
        "test2015": (447_793, 81_434),
        "test-dev2015": (107_394, 36_807),
    },
    "gqa": {
        "train_balanced": (943_000, 72_140),
        "val_balanced": (132_062, 10_234),
        "testdev_balanced": (12_578, 398),
        "challenge_balanced": (50_726, None),
        "challenge_all": (713_449, None),
    },
    "snli_ve": {"train": (529_527, 29_783), "dev": (17_858, 1_000), "test": (17_901, 1_000)},
    "hateful_memes": {
        "train": (8_500, None),
        "dev_seen": (500, None),
        "test_seen": (1_000, None),
        "dev_unseen": (540, None),
        "test_unseen": (2_000, None),
        "dev": (500, None),
    },
}
OTHER_VERSIONS = {
    ("snli_ve", "dev", 14_339): "e-ViL's corrected set, which is other data than SNLI-VE",
    ("snli_ve", "test", 14_740): "e-ViL's corrected set, which is other data than SNLI-VE",
}
LICENCES = {
    "flickr30k": "Flickr30k: non-commercial research, by form",
    "coco": "COCO captions CC BY 4.0; images under Flickr's terms",
    "vqa": "VQA annotations CC BY 4.0; COCO images under Flickr's terms",
    "gqa": "GQA CC BY 4.0 (not verified)",
    "snli_ve": "SNLI CC BY-SA 4.0, SNLI-VE code BSD-2; Flickr30k images non-commercial research, by form",
    "hateful_memes": "Hateful Memes: Meta's research agreement",
}
