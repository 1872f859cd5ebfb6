"""The settings of a fusion model, as data that round-trips through a dictionary exactly.

Handed keyword arguments or a dictionary (unknown keys and wrong types are refused, `None` stays `None`);
handed on to `fusion.model`. What cannot be honoured fails here or when the model is built, never in a forward
pass.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from fusion import ALIGNMENTS, OPERATORS, OPTIONS
from fusion.errors import FusionError, choices

_TEXTS = {
    "tokenizer": "a folder or None",
    "trunk": "a folder, a name or None",
    "grid": "ROWSxCOLUMNS or None",
    "align": "a name or None",
}


@dataclass(frozen=True, slots=True)
class FusionConfig:
    """Settings of a fusion model.

    Attributes:
        width: W of every state; for a text checkpoint it must be the checkpoint's.
        layers: blocks of the trunk; for a text checkpoint at most the checkpoint's (the first ones are used).
        heads: attention heads; must divide `width`.
        mlp_ratio: inner width of a block's MLP over `width`, rounded to a whole number, for trunks from scratch.
        dropout: on embeddings and on what each block adds, while training. Attention weights are not dropped:
            it would turn off the fused attention kernel on CPUs.
        operator: a name in `fusion.OPERATORS`.
        text: "demo" (weights in `fusion/demo_text`), "scratch", or a folder or Hugging Face name of a text
            encoder, of an architecture in `fusion.architectures.TEXT_MODELS`.
        trunk: folder or Hugging Face name of a ViT whose blocks the trunk starts from; None for those of `text`.
        tokenizer: folder with tokenizer.json for "scratch"; None is the demo's. A text checkpoint brings its
            own.
        max_text: longest text in tokens, [CLS] and [SEP] included; the rest of a longer one is cut off.
        pad_text: a batch's texts are padded to its longest, and on to a multiple of so many tokens: kernels that are
            compiled for each shape they meet (those of CPUs, of `torch.compile`) then meet few.
        grid: rows and columns of the common grid, "7x7"; None for the operator's default. This and the
            following are options: an operator takes those that `fusion.OPTIONS` gives it.
        align: a name in `fusion.ALIGNMENTS`, for how tokens are brought to the common grid.
        queries: learned queries.
        reads: how often queries read the encoders' tokens.
    """

    width: int = 128
    layers: int = 4
    heads: int = 4
    mlp_ratio: int | float = 4
    dropout: float = 0.0
    operator: str = "concat"
    text: str = "demo"
    trunk: str | None = None
    tokenizer: str | None = None
    max_text: int = 64
    pad_text: int = 1
    grid: str | None = None
    align: str | None = None
    queries: int | None = None
    reads: int | None = None

    @property
    def grid_size(self) -> tuple[int, int] | None:
        """Rows and columns of `grid`."""
        if self.grid is None:
            return None
        rows, columns = self.grid.split("x")
        return int(rows), int(columns)

    def __post_init__(self) -> None:
        for field in fields(self):
            _check_kind(field.name, getattr(self, field.name))
        if self.max_text < 2:
            raise FusionError(
                f"fusion.max_text={self.max_text} leaves no room for [CLS] and [SEP]; at least 2"
            )
        if self.width % self.heads:
            divisors = [heads for heads in range(1, self.width + 1) if self.width % heads == 0]
            near = min(divisors, key=lambda heads: abs(heads - self.heads))
            raise FusionError(
                f"fusion.heads={self.heads} does not divide fusion.width={self.width}; nearest: {near}"
            )
        if not 0 <= self.dropout < 1:
            raise FusionError(f"fusion.dropout={self.dropout!r} must be in [0, 1)")
        if self.operator not in OPERATORS:
            raise FusionError(
                f"unknown fusion.operator {self.operator!r}; {choices(self.operator, OPERATORS)}"
            )
        self._check_options()
        if self.tokenizer is not None and self.text != "scratch":
            raise FusionError(
                f"fusion.tokenizer={self.tokenizer!r} is for fusion.text='scratch' only; "
                f"fusion.text={self.text!r} brings its own tokenizer"
            )

    def _check_options(self) -> None:
        """Refuses options that the operator would not look at, and values that none could honour."""
        every = dict.fromkeys(name for names in OPTIONS.values() for name in names)
        for name in every:
            if getattr(self, name) is not None and name not in OPTIONS[self.operator]:
                takers = [operator for operator, names in OPTIONS.items() if name in names]
                raise FusionError(
                    f"fusion.{name}={getattr(self, name)!r} is no option of operator {self.operator!r} "
                    f"(its own: {', '.join(OPTIONS[self.operator]) or 'none'}); taken by {', '.join(takers)}"
                )
        if self.align is not None and self.align not in ALIGNMENTS:
            raise FusionError(f"unknown fusion.align {self.align!r}; {choices(self.align, ALIGNMENTS)}")
        if self.grid is not None and not re.fullmatch(r"[1-9]\d{0,2}x[1-9]\d{0,2}", self.grid):
            raise FusionError(f"fusion.grid={self.grid!r} is not ROWSxCOLUMNS, such as 7x7")

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "FusionConfig":
        """Returns the settings; keys left out take their defaults.

        Raises:
            FusionError: an unknown key, or a value that cannot be honoured.
        """
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise FusionError(f"unknown setting fusion.{key}; {choices(key, known)}")
            _check_kind(key, values[key])
        return cls(**values)


def _check_kind(name: str, value: object) -> None:
    """Refuses a value of the wrong type for a setting, whatever file or command line it came from."""
    if name == "mlp_ratio":
        right = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf
        kind = "a number above 0"
    elif name == "dropout":
        right, kind = isinstance(value, (int, float)) and not isinstance(value, bool), "a number"
    elif name in ("operator", "text"):
        right, kind = isinstance(value, str) and value != "", "a name"
    elif name in ("tokenizer", "trunk", "grid", "align"):
        right, kind = value is None or (isinstance(value, str) and value != ""), _TEXTS[name]
    elif name in ("queries", "reads") and value is None:
        return
    else:
        whole = isinstance(value, int) and not isinstance(value, bool)
        right, kind = whole and isinstance(value, int) and value >= 1, "a whole number of at least 1"
    if not right:
        raise FusionError(f"fusion.{name}={value!r} must be {kind}")
