"""The fusion model: text embedder, one adapter per encoder, an operator, and the matching head.

Handed strings and features of encoders, and told which encoders are present, hands on an encoded stream:
joint, text only (empty coalition) or image only (no text). Features of absent encoders are never looked at.
Which operator fuses is the settings' business; nothing here depends on it.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from fusion.adapters import Adapter
from fusion.config import FusionConfig
from fusion.errors import FusionError, choices
from fusion.freezing import freeze, frozen_layers, parts_of
from fusion.operators import Attention, Stream, operator_class
from fusion.positions import BoxPositions
from fusion.seeding import seeded
from fusion.text import TextEmbedder, padded_length
from fusion.text_memo import TextMemo
from fusion.trunk import TextTrunk, initialise_embedder, initialise_positions, load_text_trunk
from fusion.types import Coalition, Encoded, FeatureMap, Features, check_coalition


def _check(config: FusionConfig, widths: Mapping[str, int], trunk: TextTrunk) -> None:
    """Refuses encoders and trunks that do not fit the settings."""
    for alias, encoder_width in widths.items():
        if alias in ("cls", "text"):
            raise FusionError(f"encoder {alias!r} has the name of a span of the stream; choose another alias")
        if encoder_width < 1:
            raise FusionError(f"encoder {alias!r} has width {encoder_width}; at least 1")
    for name in ("width", "layers", "heads"):
        if getattr(trunk.shape, name) != getattr(config, name):
            raise FusionError(
                f"fusion.{name}={getattr(config, name)}, but the text trunk given has "
                f"{getattr(trunk.shape, name)}"
            )
    if config.max_text > trunk.shape.max_positions:
        raise FusionError(
            f"fusion.max_text={config.max_text} is more than the text trunk's "
            f"{trunk.shape.max_positions} positions"
        )


class FusionModel(nn.Module):
    """Fuses text with the features of any coalition of encoders.

    The same seed gives the same initial weights whatever the order of the encoders.

    Args:
        config: the settings.
        widths: each encoder's token width D by alias, in the run's order.
        trunk: text model to start from; by default what `config.text` names.
        seed: of the initial weights.

    Raises:
        FusionError: settings that cannot be honoured.
    """

    def __init__(
        self,
        config: FusionConfig,
        widths: Mapping[str, int],
        trunk: TextTrunk | None = None,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        trunk = load_text_trunk(config) if trunk is None else trunk
        _check(config, widths, trunk)
        self.config = config
        self.widths = dict(widths)
        self.shape = trunk.shape
        self.tokenizer = trunk.tokenizer
        with seeded(seed, "shared"):
            self.text = TextEmbedder(trunk.shape, dropout=config.dropout)
            self.positions = BoxPositions(config.width)
            self.operator = operator_class(config.operator)(
                trunk, aliases=self.aliases, config=config, seed=seed
            )
            self.match_head = nn.Sequential(
                nn.Linear(config.width, config.width),
                nn.LayerNorm(config.width),
                nn.GELU(),
                nn.Linear(config.width, 1),
            )
        initialise_embedder(self.text, trunk)
        initialise_positions(self.positions, trunk)
        self.adapters = nn.ModuleDict()
        for alias, encoder_width in widths.items():
            with seeded(seed, "adapter", alias):
                # The prefix keeps aliases such as "keys" apart from ModuleDict's own attributes.
                adapter = Adapter(encoder_width, width=config.width, dropout=config.dropout)
            adapter.output_norm.load_state_dict(self.text.norm.state_dict())
            self.adapters[f"of_{alias}"] = adapter
        self.frozen: tuple[str, ...] = ()
        self._memo = TextMemo(partial(padded_length, max_text=config.max_text, multiple=config.pad_text))

    def freeze(self, names: Sequence[str]) -> None:
        """Takes parts out of training: no gradient, evaluation mode, work on texts alone done once.

        Args:
            names: "text" (words, positions, types and their LayerNorm), "positions" (of boxes), "adapters",
                "adapters.ALIAS", "trunk", "trunk[FIRST:LAST]" (layers of every trunk of the operator),
                "operator" (with its trunks), "match_head".

        Raises:
            FusionError: a name that means nothing here; nothing is frozen then.
        """
        named: dict[str, nn.Module] = {
            name: getattr(self, name) for name in ("text", "positions", "adapters", "operator", "match_head")
        }
        named |= {f"adapters.{alias}": self.adapters[f"of_{alias}"] for alias in self.aliases}
        freeze(parts_of(names, named=named, trunks=self.operator.trunks()))
        self.frozen = tuple(dict.fromkeys((*self.frozen, *names)))

    def train(self, mode: bool = True) -> "FusionModel":
        """Sets training mode for all but the frozen parts."""
        super().train(mode)
        if self.frozen:
            self.freeze(self.frozen)
        return self

    @property
    def aliases(self) -> tuple[str, ...]:
        """The run's encoders, in the run's order."""
        return tuple(self.widths)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.text.words.weight.device

    def observe(self, features: FeatureMap) -> None:
        """Adds features to what each encoder's tokens are standardised by.

        Once before training, on the training set or a part of it.

        Raises:
            FusionError: features of an unknown encoder or of a wrong shape.
        """
        for alias, found in self._present_features(features, check_coalition(tuple(features), self.aliases)).items():
            adapter = self.adapters[f"of_{alias}"]
            assert isinstance(adapter, Adapter)
            adapter.observe(found)

    def encode(
        self,
        text: Sequence[str] | None,
        features: FeatureMap | None,
        coalition: Sequence[str],
        attention: Attention = "none",
        *,
        fills: FeatureMap | None = None,
    ) -> Encoded:
        """Encodes a batch as one stream.

        Args:
            text: one string an example, "" allowed; None for an image-only stream, which keeps its CLS token.
            features: of at least the encoders in the coalition, tokens b n D; the others' are not looked at.
                None with the empty coalition.
            coalition: the encoders present, in the run's order; () for text only.
            attention: "mass" adds attention mass per layer and head, and the weight of each encoder.
            fills: constants that stand in for absent encoders, as `VEDropout.fills` makes them. They take part
                like features, but nothing of the absent encoder's adapter learns from them.

        Returns:
            The stream: states b l w, pooled b k w.

        Raises:
            FusionError: nothing to encode, an encoder unknown, out of order or without features, or features
                of a wrong shape.
        """
        if attention not in self.operator.attentions:
            raise FusionError(
                f"operator {self.config.operator!r} gives no attention {attention!r}; "
                f"{choices(str(attention), self.operator.attentions)}"
            )
        present = check_coalition(coalition, self.aliases)
        found = self._present_features(features, present)
        visual = {alias: self._adapt(alias, found[alias]) for alias in present}
        if fills:
            visual = self._filled(visual, fills)
        lead = self._remembered(text) if text and not visual and attention == "none" else None
        if lead is None:
            lead = self._lead(text, visual)
        encoded: Encoded = self.operator(lead, visual=visual, attention=attention)
        return encoded

    def match(
        self, text: Sequence[str], features: FeatureMap | None, coalition: Sequence[str]
    ) -> Float[Tensor, " b"]:
        """Returns logits of fit between each text and its image; arguments and errors as in `encode`."""
        return self.match_logits(self.encode(text, features, coalition))

    def match_logits(self, encoded: Encoded) -> Float[Tensor, " b"]:
        """Returns the logits of fit of a stream already encoded, averaged over the branches that count."""
        logits: Tensor = rearrange(self.match_head(encoded.pooled), "b k 1 -> b k")
        if logits.shape[1] == 1:
            return logits[:, 0]
        counts = (encoded.pooled != 0).any(dim=2)
        return (logits * counts).sum(dim=1) / counts.sum(dim=1)

    def save(self, folder: Path) -> None:
        """Writes model.safetensors, fusion.json and the tokenizer; `load` needs nothing else."""
        from fusion.checkpoint import save_model

        save_model(self, folder)

    @classmethod
    def load(cls, folder: Path, *, device: torch.device | str = "cpu") -> "FusionModel":
        """Returns a saved model, in evaluation mode."""
        from fusion.checkpoint import load_model

        return load_model(folder, device=device)

    def _present_features(self, features: FeatureMap | None, coalition: Coalition) -> dict[str, Features]:
        """Returns the coalition's features, checked; the others are not touched."""
        given = features or {}
        found: dict[str, Features] = {}
        for alias in coalition:
            if alias not in given:
                raise FusionError(
                    f"no features of encoder {alias!r}, which the coalition names; "
                    f"{choices(alias, given).replace('valid', 'given')}"
                )
            one = given[alias]
            if one.tokens.ndim != 3 or one.tokens.shape[2] != self.widths[alias]:
                raise FusionError(
                    f"features of {alias!r} have shape {tuple(one.tokens.shape)}; expected "
                    f"(batch, tokens, {self.widths[alias]})"
                )
            batch, num_tokens, _ = one.tokens.shape
            if one.boxes.shape != (batch, num_tokens, 4) or one.valid.shape != (batch, num_tokens):
                raise FusionError(
                    f"features of {alias!r}: boxes {tuple(one.boxes.shape)} and valid "
                    f"{tuple(one.valid.shape)} do not fit {batch} x {num_tokens} tokens"
                )
            first = next(iter(found), alias)
            if found and found[first].tokens.shape[0] != batch:
                raise FusionError(f"{alias!r} has {batch} images, {first!r} {found[first].tokens.shape[0]}")
            found[alias] = one
        return found

    def _adapt(self, alias: str, features: Features) -> Stream:
        boxes = features.boxes.masked_fill(~features.valid[..., None], 0)
        adapter = self.adapters[f"of_{alias}"]
        adapted = adapter(features, positions=self.positions(boxes), visual_type=self.text.visual_type)
        return Stream(adapted, features.valid, boxes)

    def _filled(self, visual: Mapping[str, Stream], fills: FeatureMap) -> dict[str, Stream]:
        """Adds constants for absent encoders, in the run's order, out of the backward pass."""
        absent = check_coalition([alias for alias in self.aliases if alias in fills] or list(fills), self.aliases)
        for alias in fills:
            if alias in visual or alias not in absent:
                raise FusionError(
                    f"a fill for encoder {alias!r}, which is {'present' if alias in visual else 'unknown'}; "
                    f"absent: {', '.join(a for a in self.aliases if a not in visual) or 'none'}"
                )
        given = self._present_features(fills, absent)
        device = self.device.type
        # Without its cache: up to torch 2.10 a weight that was first cast without gradients stays without one.
        uncached = torch.autocast(
            device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device), cache_enabled=False
        )
        with torch.no_grad(), uncached:
            constant = {alias: self._adapt(alias, given[alias]) for alias in absent}
        every = {**visual, **constant}
        return {alias: every[alias] for alias in self.aliases if alias in every}

    def _remembered(self, text: Sequence[str]) -> Stream | None:
        """Returns texts after the layers that are frozen from the start on; None where nothing is gained by it."""
        trunk = self.operator.text_trunk()
        if trunk is None or not self.frozen or isinstance(text, str):
            return None
        depth = frozen_layers(self.text, trunk)
        if depth == 0:
            return None
        self._memo.check([self.text, *trunk.blocks[:depth]])
        found = self._memo.stream(
            text, embed=self._embedded, begin=lambda states, valid: trunk.begin(states, valid=valid, layers=depth)
        )
        return None if found is None else Stream(*found, done=depth)

    def _embedded(self, text: Sequence[str]) -> tuple[Float[Tensor, "b t w"], Bool[Tensor, "b t"]]:
        """Embeds [CLS] text [SEP], padded."""
        settings = self.config
        ids, valid = self.tokenizer.ids(text, max_text=settings.max_text, multiple=settings.pad_text)
        return self.text(ids.to(self.device)), valid.to(self.device)

    def _lead(self, text: Sequence[str] | None, visual: Mapping[str, Stream]) -> Stream:
        """Embeds [CLS] text [SEP], or CLS alone."""
        batch = next((stream.states.shape[0] for stream in visual.values()), None)
        if isinstance(text, str):
            raise FusionError(f"text is one string, {text[:40]!r}; give a list with one string an example")
        if text is None and batch is None:
            raise FusionError("nothing to encode: no text and the empty coalition")
        if text is not None and len(text) != (batch or len(text)) or text is not None and not text:
            raise FusionError(f"{len(text)} texts for {'no' if batch is None else batch} images")
        if text is not None:
            return Stream(*self._embedded(text))
        ids = torch.full((batch or 0, 1), self.tokenizer.id_of("cls_token"), device=self.device)
        return Stream(self.text(ids), torch.ones_like(ids, dtype=torch.bool))
