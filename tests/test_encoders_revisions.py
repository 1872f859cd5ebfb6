"""`revision` reaches the hub through each library: a cache as the hub's own client keeps it, and no network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from encoders_checkpoints import open_clip_checkpoint
from encoders_folders import hf_folder, open_clip_folder, timm_folder
from safetensors.torch import load_file, save_file

from encoders import torchvision_compat  # noqa: F401  # isort: skip
import timm

from encoders import load_encoder
from encoders.errors import EncoderError

OLD, NEW = "a" * 40, "b" * 40
NAMED = "test_vit.r160_in1k"
TOWER = {"image_size": 64, "layers": 2, "width": 64, "patch_size": 16, "head_width": 32}
SPECS = {
    "timm:org/vit": "timm/{}",
    f"timm:{NAMED}": "named/{}",
    "open_clip:hf-hub:org/clip": "clip/{}",
    "open_clip:ViT-B-32/laion2b_s34b_b79k": "tagged/{}",
    "hf:org/dino": "hf/{}",
}
"""Spec -> the folder of a revision's files."""
LOADED = """
import json, sys
from encoders import torchvision_compat
import open_clip
from encoders import load_encoder
from encoders.errors import EncoderError

open_clip.add_model_config(sys.argv[1])
found = {}
for spec in sys.argv[2:]:
    try:
        encoder = load_encoder(spec)
        found[spec] = [encoder.identity(), encoder._digest, encoder.preprocess.describe()]
    except EncoderError as error:
        found[spec] = str(error)
print(json.dumps(found))
"""


def cached(cache: Path, repository: str, folders: dict[str, Path]) -> None:
    """A repository with a snapshot for each commit; `main` is the new one, and the old one has a tag."""
    own = cache / f"models--{repository.replace('/', '--')}"
    for commit, folder in folders.items():
        shutil.copytree(folder, own / "snapshots" / commit)
    (own / "refs").mkdir()
    (own / "refs" / "main").write_text(NEW)
    (own / "refs" / "v1").write_text(OLD)


def altered(folder: Path, copy: Path) -> None:
    """The same checkpoint, with other weights."""
    shutil.copytree(folder, copy)
    [file] = copy.glob("*.safetensors")
    save_file({name: value + 0.25 for name, value in load_file(file).items()}, file, {"format": "pt"})


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, object]]:
    """Where the revisions lie, and each spec as it loads at each revision in a process without a network."""
    root = tmp_path_factory.mktemp("hub")
    timm_folder(root / "timm" / OLD)
    (root / "named" / OLD).mkdir(parents=True)
    save_file(timm.create_model(NAMED).state_dict(), root / "named" / OLD / "model.safetensors")
    open_clip_folder(root / "clip" / OLD)
    open_clip_checkpoint(root / "tagged" / OLD, TOWER)
    hf_folder(root / "hf" / OLD)
    repositories = {"timm": "org/vit", "named": f"timm/{NAMED}", "clip": "org/clip", "hf": "org/dino"}
    repositories["tagged"] = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"
    for name, repository in repositories.items():
        altered(root / name / OLD, root / name / NEW)
        cached(root / "cache", repository, {commit: root / name / commit for commit in (OLD, NEW)})
    config = json.loads((root / "tagged" / OLD / "open_clip_config.json").read_text())["model_cfg"]
    (root / "ViT-B-32.json").write_text(json.dumps(config))
    specs = [f"{spec}{more}" for spec in SPECS for more in ("", *(f"?revision={r}" for r in (OLD, NEW, "v1", "v2")))]
    env = {**os.environ, "HF_HUB_CACHE": str(root / "cache"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    env["PYTHONPATH"] = str(Path(__file__).parents[1])
    command = [sys.executable, "-c", LOADED, str(root / "ViT-B-32.json"), *specs]
    done = subprocess.run(command, capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return root, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("spec", SPECS)
def test_the_revision_decides_the_weights(loaded: tuple[Path, dict[str, object]], spec: str) -> None:
    _, found = loaded
    plain, old, new, tag, absent = (
        found[f"{spec}{more}"] for more in ("", *(f"?revision={r}" for r in (OLD, NEW, "v1", "v2")))
    )
    assert plain == new and old == tag
    assert isinstance(old, list) and isinstance(new, list)
    assert old[1] != new[1] and old[2] == new[2]
    assert isinstance(absent, str) and "revision=v2: " in absent


@pytest.mark.parametrize("spec", ["timm:org/vit", "open_clip:hf-hub:org/clip", "hf:org/dino"])
@pytest.mark.parametrize("commit", [OLD, NEW])
def test_weights_are_those_of_the_folder(loaded: tuple[Path, dict[str, object]], spec: str, commit: str) -> None:
    root, found = loaded
    backend = spec.partition(":")[0]
    encoder = load_encoder(f"{backend}:{root}/{SPECS[spec].format(commit)}")
    values = found[f"{spec}?revision={commit}"]
    assert isinstance(values, list) and values[1:] == [encoder._digest, encoder.preprocess.describe()]  # type: ignore[attr-defined]


def test_what_has_no_revisions_says_so(tmp_path: Path) -> None:
    timm_folder(tmp_path / "vit")
    open_clip_folder(tmp_path / "clip")
    cases = {
        "timm:legacy_seresnet18.in1k?revision=main": "timm has these weights from no hub repository.*leave it away",
        f"timm:{tmp_path}/vit?revision=main": "only a hub repository, such as org/name, has one",
        f"open_clip:{tmp_path}/clip?revision=main": "only a hub repository, such as org/name, has one",
    }
    for spec, words in cases.items():
        with pytest.raises(EncoderError, match=f"revision=main in encoder .*{words}"):
            load_encoder(spec)
