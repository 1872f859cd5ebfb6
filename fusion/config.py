"""The settings of a fusion model, as data that round-trips through a dictionary exactly.

Handed keyword arguments or a dictionary (unknown keys and wrong types are refused, `None` stays `None`);
handed on to `fusion.model`. What cannot be honoured fails here or when the model is built, never in a forward
pass.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from fusion import OPERATORS
from fusion.errors import FusionError, choices


@dataclass(frozen=True, slots=True)
class FusionConfig:
    """Settings of a fusion model.

    Attributes:
        width: W of every state; for a text checkpoint it must be the checkpoint's.
        layers: blocks of the trunk; for a text checkpoint at most the checkpoint's (the first ones are used).
        heads: attention heads; must divide `width`.
        mlp_ratio: inner width of a block's MLP over `width`, for trunks from scratch.
        dropout: on embeddings and on what each block adds, while training. Attention weights are not dropped:
            it would turn off the fused attention kernel on CPUs.
        operator: a name in `fusion.OPERATORS`.
        text: "demo" (weights in `fusion/demo_text`), "scratch", or a folder with a BERT checkpoint.
        tokenizer: folder with tokenizer.json for "scratch"; None is the demo's. A text checkpoint brings its
            own.
        max_text: longest text in tokens, [CLS] and [SEP] included; the rest of a longer one is cut off.
    """

    width: int = 128
    layers: int = 4
    heads: int = 4
    mlp_ratio: int = 4
    dropout: float = 0.0
    operator: str = "concat"
    text: str = "demo"
    tokenizer: str | None = None
    max_text: int = 64

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
        if self.tokenizer is not None and self.text != "scratch":
            raise FusionError(
                f"fusion.tokenizer={self.tokenizer!r} is for fusion.text='scratch' only; "
                f"fusion.text={self.text!r} brings its own tokenizer"
            )

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
    if name == "dropout":
        right, kind = isinstance(value, (int, float)) and not isinstance(value, bool), "a number"
    elif name in ("operator", "text"):
        right, kind = isinstance(value, str) and value != "", "a name"
    elif name == "tokenizer":
        right, kind = value is None or isinstance(value, str), "a folder or None"
    else:
        whole = isinstance(value, int) and not isinstance(value, bool)
        right, kind = whole and isinstance(value, int) and value >= 1, "a whole number of at least 1"
    if not right:
        raise FusionError(f"fusion.{name}={value!r} must be {kind}")
