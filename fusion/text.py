"""Strings to token ids to embeddings.

Handed a folder with tokenizer.json and a list of strings, hands on embedded tokens [CLS] text [SEP], padded
to about the longest text of the batch. Also builds a tokenizer from a corpus. Learned absolute
positions are for text alone: visual tokens bypass them.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn

from fusion.errors import FusionError
from fusion.transformer import TrunkShape

SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
SPECIAL_ROBERTA = {
    "pad_token": "<pad>",
    "unk_token": "<unk>",
    "cls_token": "<s>",
    "sep_token": "</s>",
    "mask_token": "<mask>",
}


@dataclass(frozen=True, slots=True)
class TextTokenizer:
    """A fast tokenizer and the ids of its special tokens.

    Attributes:
        tokenizer: without padding, truncation or special tokens of its own doing.
        names: special tokens by their names in tokenizer_config.json ("cls_token", ...).
    """

    tokenizer: Tokenizer
    names: dict[str, str]

    @classmethod
    def load(cls, folder: Path) -> "TextTokenizer":
        """Reads tokenizer.json and the special tokens' names in tokenizer_config.json and special_tokens_map.json
        (BERT's or RoBERTa's where these are silent).

        Raises:
            FusionError: the file is missing or unreadable, or lacks a special token.
        """
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise FusionError(f"no tokenizer: {path} does not exist")
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # the tokenizers library raises nothing narrower
            raise FusionError(f"cannot read tokenizer {path}: {error}") from error
        tokenizer.no_padding()
        tokenizer.no_truncation()
        settings: dict[str, Any] = {}
        for file in ("special_tokens_map.json", "tokenizer_config.json"):
            if (folder / file).is_file():
                settings.update(json.loads((folder / file).read_text(encoding="utf-8")))
        names = {}
        for key, default in SPECIAL.items():
            # Older RoBERTa folders name none of their tokens.
            found = [name for name in (default, SPECIAL_ROBERTA[key]) if tokenizer.token_to_id(name) is not None]
            name = settings.get(key) or next(iter(found), default)
            names[key] = name["content"] if isinstance(name, dict) else str(name)
        for key in ("pad_token", "cls_token", "sep_token"):
            if tokenizer.token_to_id(names[key]) is None:
                raise FusionError(
                    f"tokenizer {path} has no {key} {names[key]!r}; name it in tokenizer_config.json"
                )
        return cls(tokenizer, names)

    def save(self, folder: Path) -> None:
        """Writes a folder that `load`, and transformers' AutoTokenizer, can read."""
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(str(folder / "tokenizer.json"))
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", **self.names}
        (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    @property
    def vocab_size(self) -> int:
        """Number of rows that an embedding needs."""
        return max(self.tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def id_of(self, key: str) -> int:
        """Returns the id of a special token by its key, such as "cls_token"."""
        found = self.tokenizer.token_to_id(self.names[key])
        if found is None:
            raise FusionError(f"the tokenizer has no {key} {self.names[key]!r}")
        return found

    def ids(
        self, text: Sequence[str], *, max_text: int, multiple: int = 1
    ) -> tuple[Int[Tensor, "b t"], Bool[Tensor, "b t"]]:
        """Returns ids of [CLS] text [SEP] and which are real.

        Texts are cut to `max_text` and padded to the longest, and on to a multiple of `multiple` within `max_text`.
        """
        cls_id, sep_id, pad_id = (self.id_of(key) for key in ("cls_token", "sep_token", "pad_token"))
        encodings = self.tokenizer.encode_batch(list(text), add_special_tokens=False)
        rows = [[cls_id, *encoding.ids[: max_text - 2], sep_id] for encoding in encodings]
        longest = padded_length(max(len(row) for row in rows), max_text=max_text, multiple=multiple)
        ids = torch.tensor([row + [pad_id] * (longest - len(row)) for row in rows])
        lengths = torch.tensor([len(row) for row in rows])
        return ids, torch.arange(longest) < lengths[:, None]


def padded_length(longest: int, *, max_text: int, multiple: int) -> int:
    """Returns the tokens that texts are padded to: a multiple of `multiple`, or `max_text` where that is less."""
    return min(max_text, math.ceil(longest / multiple) * multiple)


class TextEmbedder(nn.Module):
    """Word + learned absolute position + type embeddings, LayerNorm: BERT's, to the letter of its checkpoint.

    Type 0 is text and CLS; type 1 is visual, and adapters add it. Where a trunk's layers rotate by position
    there are no positions here.
    """

    def __init__(self, shape: TrunkShape, *, dropout: float) -> None:
        super().__init__()
        self.words = nn.Embedding(shape.vocab_size, shape.width)
        self.absolute = shape.positions == "absolute"
        self.positions = nn.Embedding(shape.max_positions if self.absolute else 0, shape.width)
        self.types = nn.Embedding(2, shape.width)
        self.norm = nn.LayerNorm(shape.width, eps=shape.eps if shape.text_eps is None else shape.text_eps)
        self.dropout = nn.Dropout(dropout)
        for table in (self.words, self.positions, self.types):
            if len(table.weight):
                nn.init.normal_(table.weight, std=0.02)

    @property
    def visual_type(self) -> Float[Tensor, " w"]:
        """The type embedding of visual tokens."""
        return self.types.weight[1]

    def forward(self, ids: Int[Tensor, "b t"]) -> Float[Tensor, "b t w"]:
        """Returns embeddings of a text whose first token is CLS."""
        embedded = self.words(ids)
        if self.absolute:
            embedded = embedded + self.positions.weight[: ids.shape[1]]
        embedded = embedded + self.types.weight[0]
        normalised: Tensor = self.dropout(self.norm(embedded))
        return normalised


def build_tokenizer(texts: Iterable[str], *, folder: Path, vocab_size: int = 8192) -> TextTokenizer:
    """Builds a lower-casing WordPiece tokenizer from a corpus and writes it to a folder.

    The vocabulary holds [PAD] [UNK] [CLS] [SEP] [MASK] (ids 0-4), every character met, alone and as a
    continuation, then the most frequent words, ties in alphabetical order. So the same corpus gives the same
    file, whatever its order, and a new word of known characters falls back to these.

    Raises:
        FusionError: the corpus has no words, or its characters alone overflow `vocab_size`.
    """
    normalizer = normalizers.BertNormalizer(lowercase=True)
    splitter = pre_tokenizers.BertPreTokenizer()
    counts = Counter(
        word for text in texts for word, _ in splitter.pre_tokenize_str(normalizer.normalize_str(text))
    )
    if not counts:
        raise FusionError("cannot build a tokenizer: the texts hold no words")
    letters = sorted({letter for word in counts for letter in word})
    tokens = [*SPECIAL.values(), *letters, *(f"##{letter}" for letter in letters)]
    if len(tokens) > vocab_size:
        raise FusionError(
            f"vocab_size={vocab_size} is below the {len(tokens)} characters and special tokens of the texts"
        )
    words = sorted((word for word in counts if len(word) > 1), key=lambda word: (-counts[word], word))
    vocabulary = {token: i for i, token in enumerate([*tokens, *words][:vocab_size])}

    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=SPECIAL["unk_token"]))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(list(SPECIAL.values()))
    cls, sep = SPECIAL["cls_token"], SPECIAL["sep_token"]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}",
        pair=f"{cls} $A {sep} $B:1 {sep}:1",
        special_tokens=[(cls, vocabulary[cls]), (sep, vocabulary[sep])],
    )
    built = TextTokenizer(tokenizer, dict(SPECIAL))
    built.save(folder)
    return built
