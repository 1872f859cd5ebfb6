"""Lets torchvision be imported beside a torch that it was not built for. Import this module before
torchvision, timm or open_clip.

PyPI's torchvision is a CUDA build. Beside a CPU-only torch its C++ extension does not load, so the operators
that it would define are missing, and `import torchvision` fails while it attaches shape rules to two of them
("operator torchvision::nms does not exist"). Declaring their schemas is enough: transforms, timm and
open_clip never call them, and a call would still fail with torch's own clear message. Where torchvision's own
operators load, nothing is declared.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"


def _extension_loads() -> bool:
    """Whether torchvision's C++ library fits this torch; tried as torchvision does, and twice is harmless."""
    found = importlib.util.find_spec("torchvision")
    if found is None or not found.submodule_search_locations:
        return True
    for folder in found.submodule_search_locations:
        for library in sorted(path for path in Path(folder).glob("_C.*") if path.suffix != ".py"):
            try:
                torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
            except (ImportError, OSError):
                return False
            return True
    return False


def _declare_missing() -> torch.library.Library | None:
    if importlib.util.find_spec("torchvision") is None or _extension_loads():
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}{_SCHEMA}")  # type: ignore[no-untyped-call]
    return library


# Torch forgets a library's declarations when the object is collected, hence the module-level reference.
DECLARED = _declare_missing()
