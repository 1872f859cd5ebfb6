"""What float32 means while an encoder computes: all of its digits, whatever the process has asked of torch.

On a GPU torch rounds what enters a float32 convolution to TF32, of 10 bits, unless it is told not to, and
`torch.set_float32_matmul_precision` has it round what enters a product too, on some processors as well. A store's
fingerprint says float32, so an encoder computes under `whole_float32`; the process's own settings are put back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

OPERATIONS = (
    ("cudnn", "conv"),
    ("cudnn", "rnn"),
    ("cuda", "matmul"),
    ("mkldnn", "conv"),
    ("mkldnn", "rnn"),
    ("mkldnn", "matmul"),
)
"""Backends and their operations that have a precision of their own, from torch 2.9."""


class Setting(NamedTuple):
    """One of the process's settings, and its value under which nothing is rounded."""

    get: Callable[[], Any]
    put: Callable[[Any], Any]
    exact: bool | str


@contextmanager
def whole_float32() -> Iterator[None]:
    """No float32 operation rounds its inputs inside; the settings that decide it are put back at the end.

    Torch has them twice, and where a process sets one kind it refuses to read the other: that is then left as it is, as
    the operations follow the newer.
    """
    before: list[tuple[Setting, Any]] = []
    for setting in _settings():
        try:
            before.append((setting, setting.get()))
        except RuntimeError:
            continue
    try:
        for setting, _ in before:
            setting.put(setting.exact)
        yield
    finally:
        for setting, value in before:  # in the order of setting: the older kind changes the newer
            setting.put(value)


def _settings() -> list[Setting]:
    backends: Any = torch.backends
    found = [
        _attribute(backends.cudnn, "allow_tf32", exact=False),
        Setting(torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"),
        # Not a precision: which kernel of attention a GPU takes, whose last digits differ.
        Setting(backends.cuda.cudnn_sdp_enabled, backends.cuda.enable_cudnn_sdp, False),
    ]
    parts = [getattr(getattr(backends, backend), operation, None) for backend, operation in OPERATIONS]
    newer = [_attribute(part, "fp32_precision", exact="ieee") for part in parts if hasattr(part, "fp32_precision")]
    return found + newer


def _attribute(owner: Any, name: str, *, exact: bool | str) -> Setting:
    return Setting(lambda: getattr(owner, name), lambda value: setattr(owner, name, value), exact)
