"""The small BERT that the demo's trunk starts from, warmed on captions of the encoders' training scenes.

Its two objectives are BERT's own: masked words, and whether two segments belong together. The first segment is a
caption, the second lists what the scene holds as words with boxes (as in Oscar and LayoutLM): several attributes of
one object in one place, at the places of a 4×4 grid. So the trunk has met the thing that fusion needs – words that
belong together because they stand in the same place – before it meets a picture. No picture is used.

Its tokenizer knows the closed vocabulary of the world: captions, questions, hypotheses and memes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import BertConfig

from experiments.demo_recipes.scene_bank import SEED_BASE, SceneBank
from experiments.demo_recipes.training import train
from experiments.world.hypotheses import draw_hypothesis
from experiments.world.memes import draw_triple
from experiments.world.programs import draw_program_questions
from experiments.world.questions import draw_questions
from experiments.world.scene import CANVAS, COLOURS, EVERYTHING, SHAPES, SIZES, TEXTURES, Scene, draw_scene
from fusion.positions import BoxPositions
from fusion.text import TextEmbedder, TextTokenizer, build_tokenizer
from fusion.transformer import Trunk, TrunkShape
from fusion.trunk import save_text_trunk

OBJECTIVE = "masked words (25 %) of captions, and whether a caption fits a list of words with boxes"
LENGTH = 32
GRID = 4
ATTRIBUTES = ("size", "shape", "colour", "texture")
VALUES = {"size": SIZES, "shape": SHAPES, "colour": tuple(COLOURS), "texture": TEXTURES}
# How one place's attributes are shared out over tokens, drawn for each batch.
SHARES: tuple[tuple[tuple[str, ...], ...], ...] = (
    (("size", "shape"), ("colour", "texture")),
    (("size", "shape", "colour", "texture"),),
    (("shape", "colour"), ("texture",), ("size",)),
    (("size",), ("shape",), ("colour",), ("texture",)),
    (("shape", "size"), ("shape", "colour"), ("colour", "texture")),
)
MASKED = 0.25
NO_SCENE = 0.1


@dataclass(frozen=True, slots=True)
class Corpus:
    """Captions as ids, and each scene's places: the word of every attribute there, and the box of the place."""

    ids: Int[Tensor, "b captions t"]
    words: Int[Tensor, "b places attributes"]
    boxes: Float[Tensor, "b places 4"]
    present: Bool[Tensor, "b places"]
    written: Int[Tensor, " b"]
    rivals: Int[Tensor, "vocabulary rivals"]
    """Other values of the attribute that a word is a value of, -1 where there are none."""


def lexicon(count: int = 3000) -> list[str]:
    """Sentences of every kind the world can say, for the tokenizer's vocabulary."""
    texts = []
    for k in range(count):
        rng = np.random.default_rng([SEED_BASE, 7, k])
        scene = draw_scene(rng, EVERYTHING)
        texts += [question.text for question in draw_questions(rng, scene, 9)]
        texts += [question.text for question in draw_program_questions(rng, scene, 9)]
        texts.append(draw_hypothesis(rng, scene).text)
        if k % 10 == 0:
            texts += [meme.text for meme in draw_triple(rng, EVERYTHING)]
    return texts


def occupied(scene: Scene) -> list[tuple[int, int, int]]:
    """(item, row, column) of each cell of the grid that an item covers by a quarter of itself or more."""
    fine = 8
    centre = (torch.arange(GRID * fine) + 0.5) * CANVAS / (GRID * fine)
    found = []
    for number, item in enumerate(scene.items):
        near = (centre[None, :] - item.x) ** 2 + (centre[:, None] - item.y) ** 2 <= item.radius**2
        cover = rearrange(near.float(), "(r a) (c b) -> r c (a b)", a=fine, b=fine).sum(-1)
        found += [(number, int(r), int(c)) for r, c in (cover >= 0.25 * cover.sum()).nonzero()]
    return found


def make_corpus(bank: SceneBank, tokenizer: TextTokenizer) -> Corpus:
    """Everything as tensors; one more caption of each scene lets two captions of it be compared."""
    captions = [text for texts in bank.captions for text in texts]
    ids, _ = tokenizer.ids(captions, max_text=LENGTH)
    cells = [occupied(scene) for scene in bank.scenes]
    most = max(map(len, cells))
    words = torch.zeros(len(cells), most, len(ATTRIBUTES), dtype=torch.long)
    boxes = torch.zeros(len(cells), most, 4)
    present = torch.zeros(len(cells), most, dtype=torch.bool)
    written = torch.full((len(cells),), -1, dtype=torch.long)
    known = {value: _id(tokenizer, value) for values in VALUES.values() for value in values}
    for row, (scene, places) in enumerate(zip(bank.scenes, cells, strict=True)):
        for k, (number, r, c) in enumerate(places):
            words[row, k] = torch.tensor([known[scene.items[number].attribute(name)] for name in ATTRIBUTES])
            boxes[row, k] = torch.tensor([(c + 0.5) / GRID, (r + 0.5) / GRID, 1 / GRID, 1 / GRID])
            present[row, k] = True
        if scene.top_text:
            written[row] = _id(tokenizer, scene.top_text)
    rivals = torch.full((tokenizer.vocab_size, max(map(len, VALUES.values())) - 1), -1, dtype=torch.long)
    for values in VALUES.values():
        for value in values:
            others = [known[other] for other in values if other != value]
            rivals[known[value], : len(others)] = torch.tensor(others)
    return Corpus(rearrange(ids, "(b k) t -> b k t", b=len(cells)), words, boxes, present, written, rivals)


def _id(tokenizer: TextTokenizer, word: str) -> int:
    found: int = tokenizer.ids([word], max_text=3)[0][0, 1].item()  # type: ignore[assignment]
    return found


class LayoutBert(nn.Module):
    """The parts that fusion reuses – embeddings, box positions, blocks – and the heads of the two objectives."""

    def __init__(self, shape: TrunkShape) -> None:
        super().__init__()
        self.text = TextEmbedder(shape, dropout=0.0)
        self.positions = BoxPositions(shape.width)
        self.trunk = Trunk(shape, dropout=0.0)
        self.fits = nn.Linear(shape.width, 1)
        self.guess = nn.Sequential(nn.Linear(shape.width, shape.width), nn.GELU(), nn.LayerNorm(shape.width))
        self.bias = nn.Parameter(torch.zeros(shape.vocab_size))
        # Words start as large as the box positions beside which they must be heard.
        nn.init.normal_(self.text.words.weight, std=0.5)
        nn.init.normal_(self.text.positions.weight, std=0.2)

    def forward(
        self,
        ids: Int[Tensor, "b t"],
        valid: Bool[Tensor, "b t"],
        bags: Int[Tensor, "b n k"],
        boxes: Float[Tensor, "b n 4"],
        present: Bool[Tensor, "b n"],
    ) -> tuple[Float[Tensor, "b t v"], Float[Tensor, " b"]]:
        """Logits of each caption word, and of the two segments belonging together. A bag holds word ids, -1 none."""
        content = (self.text.words(bags.clamp_min(0)) * (bags >= 0)[..., None]).sum(2)
        listed = self.text.norm(content + self.positions(boxes) + self.text.visual_type)
        states, _ = self.trunk(torch.cat([self.text(ids), listed], 1), valid=torch.cat([valid, present], 1))
        words = self.guess(states[:, : ids.shape[1]]) @ self.text.words.weight.T + self.bias
        return words, self.fits(states[:, 0])[:, 0]


def draw_bags(
    corpus: Corpus, rows: Int[Tensor, " b"], generator: torch.Generator
) -> tuple[Int[Tensor, "b n k"], Float[Tensor, "b n 4"], Bool[Tensor, "b n"]]:
    """The second segment of some scenes: bags of words with boxes, shared out over tokens in one of several ways."""
    share = SHARES[int(torch.randint(len(SHARES), (1,), generator=generator))]
    places = int(corpus.present[rows].sum(1).max())
    words, boxes = corpus.words[rows][:, :places], corpus.boxes[rows][:, :places]
    present = corpus.present[rows][:, :places]
    bags = []
    for names in share:
        columns = torch.full_like(words, -1)
        for name in names:
            columns[..., ATTRIBUTES.index(name)] = words[..., ATTRIBUTES.index(name)]
        bags.append(columns)
    bag = torch.cat(bags, 1)
    box, there = boxes.repeat(1, len(share), 1), present.repeat(1, len(share))
    written = torch.full((len(rows), 1, len(ATTRIBUTES)), -1)
    written[:, 0, 0] = corpus.written[rows]
    band = torch.tensor([0.5, 0.1, 1.0, 0.2]).expand(len(rows), 1, 4)
    bag, box = torch.cat([bag, written], 1), torch.cat([box, band], 1)
    there = torch.cat([there, written[:, :, 0] >= 0], 1)
    empty = torch.rand(len(rows), 1, generator=generator) < NO_SCENE
    return bag, box, there & ~empty


def corrupt(
    ids: Int[Tensor, "b t"], corpus: Corpus, generator: torch.Generator
) -> tuple[Int[Tensor, "b t"], Bool[Tensor, " b"]]:
    """Replaces one attribute word of each caption by a rival; captions without one stay as they are."""
    swappable = corpus.rivals[ids][..., 0] >= 0
    order = torch.rand(ids.shape, generator=generator).masked_fill(~swappable, -1)
    place = order.argmax(1)
    row = torch.arange(len(ids))
    options = corpus.rivals[ids[row, place]]
    pick = (torch.rand(len(ids), generator=generator) * (options >= 0).sum(1)).long()
    changed = ids.clone()
    found = swappable.any(1)
    changed[row[found], place[found]] = options[row, pick][found]
    return changed, found


def train_text(bank: SceneBank, folder: Path, *, steps: int, seed: int) -> float:
    """Writes the tokenizer and the trained BERT into `folder`; returns the final loss."""
    torch.manual_seed(seed)
    captions = [text for texts in bank.captions for text in texts]
    tokenizer = build_tokenizer([*captions, *lexicon()], folder=folder)
    shape = TrunkShape(
        width=128,
        layers=4,
        heads=4,
        mlp_width=512,
        vocab_size=tokenizer.vocab_size,
        max_positions=64,
        norm="post",
        eps=1e-12,
    )
    model = LayoutBert(shape)
    corpus = make_corpus(bank, tokenizer)
    mask, pad = tokenizer.id_of("mask_token"), tokenizer.id_of("pad_token")
    special = torch.tensor([tokenizer.id_of(key) for key in ("cls_token", "sep_token", "pad_token")])
    generator = torch.Generator().manual_seed(seed)

    def loss_of(rows: Tensor, step: int) -> Tensor:
        which = torch.randint(corpus.ids.shape[1], (len(rows),), generator=generator)
        ids = corpus.ids[rows, which]
        ids = ids[:, : int((ids != pad).sum(1).max())]
        kind = torch.rand(len(rows), generator=generator)
        swapped, possible = corrupt(ids, corpus, generator)
        wrong = ((kind < 0.3) & possible) | (kind > 0.85)
        shown = torch.where(((kind < 0.3) & possible)[:, None], swapped, ids)
        shown = torch.where((kind > 0.85)[:, None], shown.roll(1, 0), shown)
        hidden = (torch.rand(shown.shape, generator=generator) < MASKED) & ~torch.isin(shown, special)
        hidden &= (~wrong & (kind > 0.5))[:, None]
        bags, boxes, present = draw_bags(corpus, rows, generator)
        words, fits = model(shown.masked_fill(hidden, mask), shown != pad, bags, boxes, present)
        guessed = F.cross_entropy(words[hidden].float(), shown[hidden])
        judged = ~hidden.any(1) & present.any(1)
        total: Tensor = guessed + F.binary_cross_entropy_with_logits(fits[judged].float(), (~wrong[judged]).float())
        return total

    loss = train([model], loss_of, name="text", rows=len(bank.scenes), steps=steps, batch_size=128, lr=1e-3, seed=seed)
    config = BertConfig(
        vocab_size=shape.vocab_size,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.mlp_width,
        max_position_embeddings=shape.max_positions,
        layer_norm_eps=shape.eps,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=pad,
    )
    config.architectures = ["BertModel"]
    config.save_pretrained(folder)
    save_text_trunk(folder, text=model.text, trunk=model.trunk, positions=model.positions)
    return loss
