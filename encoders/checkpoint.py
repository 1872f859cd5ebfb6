"""Local checkpoint folders: what must lie in one, checked before a library is asked to load it.

Only safetensors are loaded: a pickled checkpoint can run code, so it is refused by name rather than tried.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from encoders.errors import EncoderError, nearest
from encoders.spec import EncoderSpec


def local_files(
    spec: EncoderSpec, folder: Path, *, config: str, weights: str, needs: Sequence[str] = ()
) -> dict[str, Any]:
    """The folder's config as a dictionary, once its files are known to be there and readable.

    Args:
        config: file name of the JSON description.
        weights: file name of the safetensors.
        needs: keys that the config must have.

    Raises:
        EncoderError: the folder or a file is absent, not JSON, not safetensors, or lacks a key.
    """
    if not folder.is_dir():
        siblings = sorted(path.name for path in folder.parent.iterdir()) if folder.parent.is_dir() else []
        raise EncoderError(f"encoder {spec}: there is no folder {folder}; {nearest(folder.name, siblings)}")
    for name in (config, weights):
        if not (folder / name).is_file():
            pickles = sorted(path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth", ".ckpt"))
            why = f"; pickled weights ({', '.join(pickles)}) are not loaded, convert them" if pickles else ""
            raise EncoderError(f"encoder {spec}: {folder} has no {name}{why}")
    settings = read_json(spec, folder / config)
    for key in needs:
        if key not in settings:
            raise EncoderError(f"encoder {spec}: {folder / config} lacks {key!r}")
    try:
        with safe_open(folder / weights, framework="pt"):
            pass
    except (SafetensorError, OSError) as error:
        raise EncoderError(f"encoder {spec}: {folder / weights} is no whole safetensors file: {error}") from error
    return settings


def read_json(spec: EncoderSpec, file: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        EncoderError: it is no JSON object.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EncoderError(f"encoder {spec}: {file} is not readable JSON: {error}") from error
    if not isinstance(value, dict):
        raise EncoderError(f"encoder {spec}: {file} must hold a JSON object")
    return value


def no_revision(spec: EncoderSpec) -> None:
    """Refuses `revision` where it would be ignored.

    Raises:
        EncoderError: the spec has the option, but names no hub repository.
    """
    if revision := spec.settings().revision:
        raise EncoderError(f"revision={revision} in encoder {spec}: only a hub repository, such as org/name, has one")


def whole_patches(spec: EncoderSpec, patch: Any) -> None:
    """Refuses an input size whose last rows or columns no patch would see.

    Args:
        patch: the patch's edge, or height and width; None where the model has no patches.

    Raises:
        EncoderError: the size that the spec asks for is no multiple of the patch.
    """
    size = spec.settings().size
    if size is None or patch is None:
        return
    edges = (int(patch), int(patch)) if isinstance(patch, int) else (int(patch[0]), int(patch[1]))
    if any(length % edge for length, edge in zip(size, edges, strict=True)):
        near = "x".join(str(max(1, round(length / edge)) * edge) for length, edge in zip(size, edges, strict=True))
        given, patches = (f"{height}x{width}" for height, width in (size, edges))
        raise EncoderError(f"size {given} in encoder {spec} is not made of patches of {patches}; the nearest is {near}")
