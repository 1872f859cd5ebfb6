"""Frozen parts: no gradient, no dropout, no optimizer state, no place in the backward pass, and no work done twice."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from fusion_batch import TEXTS, WIDTHS, batch, close
from torch import Tensor, nn

from fusion import OPERATORS
from fusion.config import FusionConfig
from fusion.errors import FusionError
from fusion.model import FusionModel
from fusion.text import build_tokenizer
from fusion.transformer import Trunk

ALIASES = tuple(WIDTHS)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> FusionConfig:
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(TEXTS, folder=folder)
    return FusionConfig(width=32, layers=3, heads=4, dropout=0.5, text="scratch", tokenizer=str(folder), max_text=16)


CASES: dict[str, tuple[str, ...]] = {  # what each name means, as beginnings of parameters' names in concat
    "text": ("text.",),
    "positions": ("positions.",),
    "adapters": ("adapters.",),
    "adapters.clip": ("adapters.of_clip.",),
    "trunk": ("operator.trunk.",),
    "trunk[:2]": ("operator.trunk.blocks.0.", "operator.trunk.blocks.1."),
    "trunk[2:]": ("operator.trunk.blocks.2.",),
    "trunk[1:2]": ("operator.trunk.blocks.1.",),
    "operator": ("operator.",),
    "match_head": ("match_head.",),
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_frozen_part_does_not_train(config: FusionConfig, name: str) -> None:
    """Exactly what is named: neither its parameters nor its dropout move, all others still do."""
    model = FusionModel(config, WIDTHS)
    model.freeze([name])
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1, weight_decay=0.1)
    before = {key: value.clone() for key, value in model.named_parameters()}
    for seed in range(2):
        optimizer.zero_grad()
        model.match(TEXTS, batch(seed), ALIASES).square().sum().backward()
        optimizer.step()
    for key, parameter in model.named_parameters():
        frozen = key.startswith(CASES[name])
        assert parameter.requires_grad is not frozen and (parameter.grad is None) is frozen, key
        assert torch.equal(parameter, before[key]) is frozen, key
    for key, module in model.named_modules():
        if isinstance(module, nn.Dropout):
            assert module.training is not f"{key}.".startswith(CASES[name]), key


@pytest.mark.parametrize("operator", sorted(OPERATORS))
def test_every_operator_freezes_its_layers(config: FusionConfig, operator: str) -> None:
    """`trunk[:2]` is the first two layers of each of its trunks and nothing else."""
    model = FusionModel(replace(config, operator=operator), WIDTHS)
    model.freeze(["trunk[:2]"])
    frozen = {id(p) for p in model.parameters() if not p.requires_grad}
    trunks = [module for module in model.modules() if isinstance(module, Trunk)]
    meant = {id(p) for trunk in trunks for block in trunk.blocks[:2] for p in block.parameters()}
    assert frozen == meant and len(trunks) == {"coattention": 2, "late": 3}.get(operator, 1)
    model.train()
    assert not any(block.training for trunk in trunks for block in trunk.blocks[:2])
    assert all(trunk.blocks[2].training for trunk in trunks)


def test_a_frozen_beginning_is_out_of_the_backward_pass(config: FusionConfig) -> None:
    """With all that comes before it frozen, autograd records nothing; with adapters that train, it must."""
    for names, recorded in (
        (["text", "positions", "adapters", "trunk[:2]"], False),
        (["text", "trunk[:2]"], True),
    ):
        model = FusionModel(config, WIDTHS).train()
        model.freeze(names)
        entered: list[Tensor] = []
        trunk = model.operator.trunks()[0]
        trunk.blocks[2].register_forward_pre_hook(lambda _, given, entered=entered: entered.append(given[0]))
        model.match(TEXTS, batch(), ALIASES).sum().backward()
        assert entered[0].requires_grad is recorded
        assert all(p.grad is not None for p in trunk.blocks[2].parameters())


@pytest.mark.parametrize("operator", sorted(OPERATORS))
@pytest.mark.parametrize("names", [("text", "trunk[:2]"), ("text", "trunk"), ("text",), ("trunk",)])
def test_frozen_work_on_texts_is_done_once(config: FusionConfig, operator: str, names: tuple[str, ...]) -> None:
    """A text met before passes no frozen layer again, whatever it is padded to; results are as if it had."""
    plain = FusionModel(replace(config, operator=operator, dropout=0.0), WIDTHS).eval()
    model = FusionModel(replace(config, operator=operator), WIDTHS)
    model.load_state_dict(plain.state_dict())
    model.freeze(names)
    model.eval()
    passed = tokens_passed(model)
    for texts in (TEXTS, TEXTS[::-1], TEXTS[:1], [*TEXTS[:1], "blue", "blue"]):
        found, expected = model.encode(texts, None, ()), plain.encode(texts, None, ())
        close(found.pooled, expected.pooled)
        assert torch.equal(found.valid, expected.valid) and found.spans == expected.spans
        close(found.states[found.valid], expected.states[expected.valid])
    once = operator != "late" and len(names) == 2
    assert passed == ([(8, 8), (8, 8)] if once else [(3, 6), (3, 6), (1, 4), (3, 4)])


def tokens_passed(model: FusionModel) -> list[tuple[int, int]]:
    """Rows and tokens of all that passes the first layer from now on."""
    passed: list[tuple[int, int]] = []
    first = model.operator.trunks()[0].blocks[0]
    first.register_forward_pre_hook(lambda _, given: passed.append(tuple(given[0].shape[:2])))
    return passed


def frozen(config: FusionConfig, **changed: Any) -> FusionModel:
    """A model whose text passes frozen layers alone."""
    model = FusionModel(replace(config, dropout=0.0, **changed), WIDTHS).eval()
    model.freeze(["text", "trunk"])
    return model


WORDS = ("red", "small", "blue", "circle", "square") * 4
LONG = [" ".join(WORDS[start : start + count]) for start in range(5) for count in range(1, 12)]
"""55 texts of 3 to 13 tokens."""


@pytest.mark.parametrize("pad_text", [1, 8])
def test_what_is_remembered_of_a_text_depends_on_nothing_else(config: FusionConfig, pad_text: int) -> None:
    """To the last bit: met in one batch, in small ones, in another order, alone."""
    batches: list[list[list[str]]] = [
        [LONG],
        [LONG[k : k + 3] for k in range(0, 55, 3)],
        [LONG[::-1][k : k + 20] for k in range(0, 55, 20)],
        [[text] for text in LONG],
    ]
    found = []
    for met in batches:
        model = frozen(config, pad_text=pad_text)
        for texts in met:
            model.encode(texts, None, ())
        passed = tokens_passed(model)
        found.append(model.encode(LONG, None, ()))
        assert not passed
    plain = FusionModel(replace(config, dropout=0.0, pad_text=pad_text), WIDTHS).eval().encode(LONG, None, ())
    for encoded in found:
        assert torch.equal(encoded.states, found[0].states)
        assert torch.equal(encoded.valid, plain.valid)
        close(encoded.states[encoded.valid], plain.states[plain.valid])


@pytest.mark.parametrize("pad_text", [1, 8])
def test_new_texts_take_about_what_they_take_without_memory(config: FusionConfig, pad_text: int) -> None:
    passed = tokens_passed(model := frozen(config, pad_text=pad_text))
    model.encode(LONG, None, ())
    longest = 13 if pad_text == 1 else 16
    assert sum(rows * tokens for rows, tokens in passed) < 1.2 * len(LONG) * longest


def test_a_full_memory_goes_on_serving(config: FusionConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for 40 tokens: of a batch with known texts the others alone pass, and one without passes as ever."""
    monkeypatch.setattr("fusion.text_memo.MEMO_BYTES", 40 * 32 * 4)
    model, plain = frozen(config), FusionModel(replace(config, dropout=0.0), WIDTHS).eval()
    short, others = ["red", "blue", "small"], ["circle red", "circle blue", "circle small", "square blue"]
    model.encode(short, None, ())
    model.encode(LONG[20:], None, ())
    passed = tokens_passed(model)
    for texts, expected in (
        ([others[0], *short, others[1], others[0]], [(2, 4)]),
        ([*others, others[0]], [(5, 4)]),
        ([*short, *short], []),
    ):
        passed.clear()
        found, without = model.encode(texts, None, ()), plain.encode(texts, None, ())
        assert passed == expected
        assert torch.equal(found.valid, without.valid) and found.spans == without.spans
        close(found.states[found.valid], without.states[without.valid])


def test_frozen_work_is_done_again_when_its_weights_change(config: FusionConfig) -> None:
    model = FusionModel(config, WIDTHS)
    model.freeze(["text", "trunk"])
    model.eval()
    before = model.encode(TEXTS, None, ()).pooled
    with torch.no_grad():
        model.operator.trunks()[0].blocks[1].down.bias.add_(torch.randn(32))
    changed = model.encode(TEXTS, None, ()).pooled
    assert not torch.equal(before, changed)
    other = FusionModel(config, WIDTHS, seed=1).eval()
    model.load_state_dict(other.state_dict())
    close(model.encode(TEXTS, None, ()).pooled, other.encode(TEXTS, None, ()).pooled)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model.encode(TEXTS, None, ()).pooled
    assert not torch.equal(half.float(), model.encode(TEXTS, None, ()).pooled)


def test_no_more_is_remembered_than_there_is_room_for(config: FusionConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for one of three texts: two tokens of 32 floats, but not for the next, of four."""
    monkeypatch.setattr("fusion.text_memo.MEMO_BYTES", 4 * 32 * 4)
    model = FusionModel(config, WIDTHS).eval()
    texts = ["", "red circle", "blue square"]
    expected = model.encode(texts, None, ()).pooled
    model.freeze(["text", "trunk"])
    for _ in range(2):
        close(model.encode(texts, None, ()).pooled, expected)
    assert model._memo.full and model._memo.unknown(texts) == texts[1:]
    close(model.encode([""], None, ()).pooled, expected[:1])


def test_a_head_still_learns_on_remembered_texts(config: FusionConfig) -> None:
    model = FusionModel(config, WIDTHS).train()
    model.freeze(["text", "trunk[:2]"])
    for _ in range(2):
        model.zero_grad()
        model.match(TEXTS, None, ()).sum().backward()
        assert all(p.grad is not None for p in model.match_head.parameters())
        assert all(p.grad is not None for p in model.operator.trunks()[0].blocks[2].parameters())


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["txt"], "cannot freeze 'txt'; did you mean 'text'.*adapters.clip"),
        (["adapters.clap"], "cannot freeze 'adapters.clap'; did you mean 'adapters.clip'"),
        (["trunk[:6]"], r"cannot freeze 'trunk\[:6\]': the trunk has layers 0 to 2; nearest: trunk\[0:3\]"),
        (["trunk[2:2]"], r"cannot freeze 'trunk\[2:2\]'"),
        (["trunk[-1:]"], r"cannot freeze 'trunk\[-1:\]'; did you mean"),
        ("text", "freeze='text' is one string"),
    ],
)
def test_names_that_mean_nothing_are_refused(config: FusionConfig, names: list[str], message: str) -> None:
    model = FusionModel(config, WIDTHS)
    with pytest.raises(FusionError, match=message):
        model.freeze(names)
    assert all(parameter.requires_grad for parameter in model.parameters()) and model.frozen == ()
