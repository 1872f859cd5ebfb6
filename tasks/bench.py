"""Speed and memory of reading and scoring, on files of the official shapes and sizes with invented records.

`python -m tasks.bench` writes the files to a scratch folder and prints one JSON object a measurement, each made in a
process of its own, so that its peak memory is its own. `bench(scale=...)` does the same at a fraction of the size.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

VQA_QUESTIONS = 443_757
GQA_QUESTIONS = 1_000_000
GALLERY = (5_000, 25_010)
WORDS = ("red", "blue", "cup", "table", "left", "man", "two", "yes", "no", "dog")


def write_vqa(folder: Path, *, scale: float) -> None:
    """Training questions and annotations: about 5.4 questions an image, ten answers each."""
    num = max(10, int(VQA_QUESTIONS * scale))
    with (
        (folder / "v2_OpenEnded_mscoco_train2014_questions.json").open("w") as questions,
        (folder / "v2_mscoco_train2014_annotations.json").open("w") as annotations,
    ):
        questions.write('{"info": {}, "task_type": "Open-Ended", "data_subtype": "train2014", "questions": [')
        annotations.write('{"info": {}, "data_subtype": "train2014", "annotations": [')
        for k in range(num):
            image, key, comma = 1 + k * 10 // 54, (1 + k * 10 // 54) * 1000 + k % 54, ", " if k else ""
            said = [WORDS[(k * (n > 6) + n // 7) % 10] for n in range(10)]
            question = {"image_id": image, "question": f"What is the {WORDS[k % 10]} thing?", "question_id": key}
            annotation = {
                "question_type": f"what {k % 65}",
                "multiple_choice_answer": said[0],
                "answers": [
                    {"answer": answer, "answer_confidence": "maybe", "answer_id": n}
                    for n, answer in enumerate(said, start=1)
                ],
                "image_id": image,
                "answer_type": "other",
                "question_id": key,
            }
            questions.write(comma + json.dumps(question))
            annotations.write(comma + json.dumps(annotation))
        questions.write("]}")
        annotations.write("]}")


def write_gqa(folder: Path, *, scale: float) -> None:
    """Balanced training questions with programs and annotations, about a kilobyte each."""
    with (folder / "train_balanced_questions.json").open("w") as file:
        for k in range(max(10, int(GQA_QUESTIONS * scale))):
            step = {"operation": "select", "argument": f"{WORDS[k % 10]} ({k % 5000})", "dependencies": []}
            record = {
                "semantic": [step, step | {"operation": "relate"}, step | {"operation": "query"}],
                "entailed": [f"{k:08d}", f"{k + 1:08d}"],
                "equivalent": [f"{k:08d}"],
                "question": f"What is the {WORDS[k % 10]} to the left of the {WORDS[k // 10 % 10]} made of?",
                "imageId": f"{2_000_000 + k // 13}",
                "isBalanced": True,
                "groups": {"global": "material", "local": f"13-{WORDS[k % 10]}_material"},
                "answer": WORDS[k % 7],
                "semanticStr": "select: table (1)->relate: cup,to the left of,s (2)->query: material [1]",
                "annotations": {"answer": {"0": "1"}, "question": {"3": "1", "9": "2"}, "fullAnswer": {"1": "1"}},
                "types": {"detailed": "materialQuery", "semantic": "attr", "structural": "query"},
                "fullAnswer": f"The {WORDS[k % 10]} to the left of it is made of {WORDS[k % 7]}.",
            }
            file.write(("{" if k == 0 else ", ") + f'"{k:08d}": {json.dumps(record)}')
        file.write("}")


def read_vqa(folder: Path, scale: float) -> int:
    """Reads the whole training split."""
    from tasks import load_task

    return len(load_task("vqa").read(folder, "train2014").examples)


def stream_gqa(folder: Path, scale: float) -> int:
    """Streams the training split record by record."""
    from tasks import load_task

    return sum(len(record) for record in load_task("gqa").records(folder, "train"))


def recall(folder: Path, scale: float) -> int:
    """The six recalls of a gallery of COCO's size, the similarities being drawn included."""
    import torch

    from tasks.retrieval_metrics import recalls, retrieval_ranks

    num_images, num_captions = (max(20, int(size * scale)) for size in GALLERY)
    similarity = torch.randn(num_images, num_captions, generator=torch.Generator().manual_seed(0))
    owner = torch.arange(num_captions) % num_images
    recalls(retrieval_ranks(similarity, owner))
    return num_captions


PARTS: dict[str, Callable[[Path, float], int]] = {"vqa": read_vqa, "gqa": stream_gqa, "recall": recall}
LIMITS = {"vqa": (15.0, 2.0), "gqa": (60.0, 1.0), "recall": (5.0, 1.5)}
WRITERS = {"vqa": write_vqa, "gqa": write_gqa}


def measure(part: str, folder: Path, *, scale: float) -> dict[str, Any]:
    """Seconds and the process's peak memory; imports are not counted as work.

    `cpu_seconds` is what one core needs, `seconds` what passed, which is more on a machine that does other things too.
    """
    import tasks.base  # noqa: F401

    started, busy = time.perf_counter(), time.process_time()
    records = PARTS[part](folder, scale)
    return {
        "part": part,
        "records": records,
        "cpu_seconds": round(time.process_time() - busy, 2),
        "seconds": round(time.perf_counter() - started, 2),
        "peak_gb": round(_peak_kibibytes() / 2**20, 3),
    }


def _peak_kibibytes() -> int:
    """This program's largest memory. Linux's `ru_maxrss` also counts the process that started it, before `exec`."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM:"))


def bench(*, scale: float = 1.0, parts: Sequence[str] = tuple(PARTS)) -> list[dict[str, Any]]:
    """Each measurement in a process of its own, with the limits that it is held to at full scale."""
    found = []
    with TemporaryDirectory() as scratch:
        for part in parts:
            folder = Path(scratch) / part
            folder.mkdir()
            if part in WRITERS:
                WRITERS[part](folder, scale=scale)
            command = [sys.executable, "-m", "tasks.bench", "--measure", part, str(folder), "--scale", str(scale)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds, memory = LIMITS[part]
            found.append(json.loads(done.stdout) | {"limit_seconds": seconds, "limit_gb": memory})
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; the exit status is 1 where a limit is exceeded at full scale."""
    made = argparse.ArgumentParser(prog="python -m tasks.bench", description=__doc__)
    made.add_argument("--scale", type=float, default=1.0, help="fraction of the official sizes")
    made.add_argument("--parts", nargs="+", choices=tuple(PARTS), default=list(PARTS))
    made.add_argument("--measure", nargs=2, metavar=("PART", "FOLDER"), help=argparse.SUPPRESS)
    flags = made.parse_args(arguments)
    if flags.measure:
        print(json.dumps(measure(flags.measure[0], Path(flags.measure[1]), scale=flags.scale)))
        return 0
    late = False
    for found in bench(scale=flags.scale, parts=flags.parts):
        print(json.dumps(found), flush=True)
        over = found["limit_gb"] is not None and found["peak_gb"] > found["limit_gb"]
        late = late or found["cpu_seconds"] > found["limit_seconds"] or over
    return int(late and flags.scale == 1)


if __name__ == "__main__":
    sys.exit(main())
