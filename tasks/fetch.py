"""`python -m tasks.fetch DATASET FOLDER --repo REPO`: a Hub mirror as local Parquet, through `datasets`.

Needs the `datasets` package and a reachable hub (or a local folder in the place of REPO). Each split of each
configuration becomes one Parquet file, which the readers then read like a mirror that was downloaded by hand; official
splits that `datasets` would merge (dev_seen and dev_unseen into `validation`) stay apart. Mirrors that rely on a
loading script are refused by `datasets` 4 and later.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

MIRRORS = {
    "flickr30k": "nlphuji/flickr30k",
    "coco": "yerevann/coco-karpathy",
    "vqa": "lmms-lab/VQAv2",
    "gqa": "lmms-lab/GQA",
    "snli_ve": "HuggingFaceM4/SNLI-VE",
    "hateful_memes": "neuralcatcher/hateful_memes",
}


def parser() -> argparse.ArgumentParser:
    """The command's flags."""
    made = argparse.ArgumentParser(prog="python -m tasks.fetch", description=__doc__)
    made.add_argument("dataset", help="flickr30k coco vqa gqa snli_ve hateful_memes, or any name with --repo")
    made.add_argument("folder", type=Path, help="where to put the Parquet files")
    made.add_argument("--repo", help="a Hub dataset or a local folder; default: the usual mirror")
    made.add_argument("--configs", nargs="+", help="only these configurations (default: all)")
    made.add_argument("--splits", nargs="+", help="only these splits (default: all)")
    return made


def fetch(
    repo: str,
    folder: Path,
    *,
    configs: Sequence[str] | None = None,
    splits: Sequence[str] | None = None,
    official: Sequence[str] = (),
) -> list[Path]:
    """Writes `[CONFIG/]SPLIT-00000-of-00001.parquet` files and returns them.

    Args:
        official: names of splits that stay apart where the mirror has a file for each.

    Raises:
        TaskError: `datasets` is not installed, the mirror cannot be reached, or it has no such configuration or split.
    """
    from tasks.errors import TaskError

    try:
        import datasets  # type: ignore[import-untyped]
    except ImportError as error:
        raise TaskError(f"fetching {repo} needs the package `datasets`: pip install datasets") from error
    try:
        present = datasets.get_dataset_config_names(repo)
        written = []
        for config in _chosen(configs, present, f"configuration of {repo}"):
            builder = datasets.load_dataset_builder(repo, config)
            files = {str(split): list(map(str, urls)) for split, urls in (builder.config.data_files or {}).items()}
            parts = {
                name: {split: apart}
                for split in datasets.get_dataset_split_names(repo, config)
                for name, apart in _parts(split, files.get(split, []), official).items()
            }
            for name in _chosen(splits, list(parts), f"split of {repo} {config}"):
                safe = [re.sub(r"[^A-Za-z0-9_.-]", "_", part) for part in (config, name)]
                place = folder if len(present) == 1 else folder / safe[0]
                path = place / f"{safe[1]}-00000-of-00001.parquet"
                if not path.exists():
                    place.mkdir(parents=True, exist_ok=True)
                    partial = path.with_name(f"{path.name}.part")
                    ((split, apart),) = parts[name].items()
                    only = {"data_files": {split: apart}, "features": builder.info.features} if apart else {}
                    datasets.load_dataset(repo, config, split=split, **only).to_parquet(str(partial))
                    partial.replace(path)
                written.append(path)
    except TaskError:
        raise
    except Exception as error:  # `datasets` has no common error: connections, missing repositories, scripts
        raise TaskError(f"{repo} cannot be fetched: {type(error).__name__}: {str(error).splitlines()[0]}") from error
    return written


def _parts(split: str, files: Sequence[str], official: Sequence[str]) -> dict[str, list[str]]:
    """What is written of a split, by name: all of it, or its files where they bear names of several official splits."""
    from tasks.discovery import shard_of

    named: dict[str, list[str]] = {}
    for file in files:
        named.setdefault(shard_of(PurePosixPath(file))[1], []).append(file)
    return named if len(named) > 1 and named.keys() <= set(official) else {split: []}


def _chosen(wanted: Sequence[str] | None, present: Sequence[str], what: str) -> Sequence[str]:
    from tasks.errors import TaskError

    for name in wanted or ():
        if name not in present:
            near = get_close_matches(name, present, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise TaskError(f"{name!r} is no {what}: {hint}there are {', '.join(present)}")
    return wanted or present


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; the exit status."""
    flags = parser().parse_args(arguments)
    from tasks import load_task
    from tasks.errors import TaskError

    try:
        repo = flags.repo or MIRRORS.get(flags.dataset)
        if repo is None:
            raise TaskError(f"{flags.dataset!r} has no usual mirror: name one with --repo")
        official = load_task(flags.dataset).official if flags.dataset in MIRRORS else ()
        for path in fetch(repo, flags.folder, configs=flags.configs, splits=flags.splits, official=official):
            print(path)
    except (TaskError, OSError) as error:
        print(f"tasks.fetch: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
