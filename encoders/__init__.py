"""Vision encoders: image files in, stored token features out.

An encoder is named by a spec string (`encoders.spec`, `encoders.options`), loaded frozen by the library that made
it (one module a library), and brings its own preprocessing as data. `encoders.extract` decodes each image once for
all encoders and fills one `encoders.store` per encoder fingerprint. Nothing here knows which task or which fusion
will use the features. `BACKENDS` names the built-in backends; other packages add theirs through the
entry-point group `multi_encoder_fusion.encoders`: a callable that takes an `EncoderSpec` and the keyword
`device`, and returns an `Encoder`. `encoders.conformance` tells whether it keeps the contract of `encoders.base`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from encoders.base import Encoder
    from encoders.spec import EncoderSpec

BACKENDS: dict[str, str] = {
    "timm": "encoders.timm_encoder:load_timm",
    "open_clip": "encoders.open_clip_encoder:load_open_clip",
    "hf": "encoders.hf_encoder:load_hf",
    "regions": "encoders.regions:load_regions",
    "demo": "encoders.demo:load_demo",
    "file": "encoders.python_file:load_python_file",
}
ENTRY_POINTS = "multi_encoder_fusion.encoders"


def backend_table() -> dict[str, str]:
    """Built-in backends and those of installed packages, as name -> "module:callable".

    Raises:
        EncoderError: two packages, or a package and the toolkit, use one name.
    """
    from importlib.metadata import entry_points

    from encoders.errors import EncoderError

    table = dict(BACKENDS)
    for entry in entry_points(group=ENTRY_POINTS):
        if table.get(entry.name, entry.value) != entry.value:
            raise EncoderError(f"backend name {entry.name!r} is claimed by {table[entry.name]} and by {entry.value}")
        table[entry.name] = entry.value
    return table


def load_encoder(spec: str | EncoderSpec, *, device: str = "cpu") -> Encoder:
    """The frozen encoder that a spec such as `clip=open_clip:ViT-B-32/openai?pool=7x7` names.

    Raises:
        EncoderError: the spec is malformed, or its backend, model, option or local file, or the device, does not
            exist.
    """
    from importlib import import_module

    from encoders.errors import EncoderError, nearest
    from encoders.spec import EncoderSpec

    parsed = EncoderSpec.parse(spec) if isinstance(spec, str) else spec
    table = backend_table()
    if parsed.backend not in table:
        raise EncoderError(f"unknown backend {parsed.backend!r} in {parsed}: {nearest(parsed.backend, table)}")
    from encoders.base import check_device

    check_device(device)
    module, _, attribute = table[parsed.backend].partition(":")
    encoder: Encoder = getattr(import_module(module), attribute)(parsed, device=device)
    return encoder
