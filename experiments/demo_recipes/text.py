"""The small BERT that the demo's trunk starts from: masked words of captions of the encoders' training scenes.

Its tokenizer knows the closed vocabulary of the world: captions, questions, hypotheses and memes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM

from experiments.demo_recipes.scene_bank import SEED_BASE, SceneBank
from experiments.demo_recipes.training import train
from experiments.world.hypotheses import draw_hypothesis
from experiments.world.memes import draw_triple
from experiments.world.programs import draw_program_questions
from experiments.world.questions import draw_questions
from experiments.world.scene import EVERYTHING, draw_scene
from fusion.text import TextTokenizer, build_tokenizer

OBJECTIVE = "masked words (15 %) of captions"
LENGTH = 40


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


def train_text(bank: SceneBank, folder: Path, *, steps: int, seed: int) -> float:
    """Writes the tokenizer and the trained BERT into `folder`; returns the final loss."""
    torch.manual_seed(seed)
    captions = [text for texts in bank.captions for text in texts]
    tokenizer = build_tokenizer([*captions, *lexicon()], folder=folder)
    config = BertConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=64,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=tokenizer.id_of("pad_token"),
    )
    model = BertForMaskedLM(config)
    ids, valid = _token_rows(tokenizer, captions)
    mask = tokenizer.id_of("mask_token")
    generator = torch.Generator().manual_seed(seed)

    def loss_of(rows: Tensor, step: int) -> Tensor:
        taken, present = ids[rows], valid[rows]
        hidden = present & (torch.rand(taken.shape, generator=generator) < 0.15)
        hidden[:, 0] = False
        labels = taken.masked_fill(~hidden, -100)
        out = model(taken.masked_fill(hidden, mask), attention_mask=present.long(), labels=labels)
        loss: Tensor = out.loss
        return loss

    loss = train([model], loss_of, name="text", rows=len(ids), steps=steps, batch_size=128, lr=1e-3, seed=seed)
    model.bert.save_pretrained(folder)
    return loss


def _token_rows(tokenizer: TextTokenizer, captions: list[str]) -> tuple[Tensor, Tensor]:
    ids, valid = tokenizer.ids(captions, max_text=LENGTH)
    return ids, valid
