"""Small encoders that ship with the toolkit, trained on rendered scenes by its own recipe: `demo:vit` and so
on.

Each is a folder here, a checkpoint in its library's own format beside a `demo.json` that names the backend
and default options, such as `{"backend": "timm", "pool": "4x4"}`. Loading goes through the very code that
loads a local path.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from encoders.base import Encoder
    from encoders.spec import EncoderSpec

FOLDER = Path(__file__).parent
CARD = "demo.json"


def demo_names() -> list[str]:
    """The shipped encoders, sorted."""
    return sorted(path.parent.name for path in FOLDER.glob(f"*/{CARD}"))


def load_demo(spec: EncoderSpec, *, device: str) -> Encoder:
    """The shipped encoder that the spec names.

    Raises:
        EncoderError: none has the name, or its `demo.json` names no backend that loads a folder.
    """
    from encoders import BACKENDS, load_encoder
    from encoders.checkpoint import read_json
    from encoders.errors import EncoderError, nearest
    from encoders.options import OPTIONS

    if spec.name not in demo_names():
        raise EncoderError(f"unknown demo encoder {spec.name!r} in {spec}: {nearest(spec.name, demo_names())}")
    folder = FOLDER / spec.name
    card = read_json(spec, folder / CARD)
    backend = card.get("backend")
    if backend not in BACKENDS or backend == "demo":
        raise EncoderError(f"backend {backend!r} in {folder / CARD}: {nearest(str(backend), set(BACKENDS) - {'demo'})}")
    defaults = {key: str(value) for key, value in card.items() if key in OPTIONS}
    encoder = load_encoder(spec.at(str(backend), folder, defaults), device=device)
    encoder.name = f"demo:{spec.name}"
    return encoder
