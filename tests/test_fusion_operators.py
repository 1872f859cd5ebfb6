"""What the operators are, one by one: alignments against PyTorch's own, operators against one another and by hand."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from fusion_batch import PREFIX, TEXTS, WIDTHS, batch, close
from torch import Tensor, nn

from fusion import ALIGNMENTS, OPERATORS, OPTIONS
from fusion.alignment import aligner, alignment, grid_boxes
from fusion.channel import Channel
from fusion.config import FusionConfig
from fusion.errors import FusionError
from fusion.gated import Gated
from fusion.model import FusionModel
from fusion.operators import Stream
from fusion.text import build_tokenizer
from fusion.types import Features


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> FusionConfig:
    folder = tmp_path_factory.mktemp("tokenizer")
    build_tokenizer(TEXTS, folder=folder)
    return FusionConfig(width=32, layers=2, heads=4, text="scratch", tokenizer=str(folder), max_text=16)


def aligned(tokens: Tensor, boxes: Tensor, grid: tuple[int, int], name: str) -> Tensor:
    """The cells' tokens, without the cell of the whole image."""
    valid = torch.ones(tokens.shape[:2], dtype=torch.bool)
    weights, reached = aligner(boxes, valid, cells=grid_boxes(grid), align=alignment(name))
    assert reached[:, 1:].all()
    close(weights.sum(-1)[:, 1:], torch.ones(len(tokens), grid[0] * grid[1]))
    return (weights @ tokens)[:, 1:]


GRIDS = [(2, 2), (4, 4), (6, 6), (3, 5), (14, 14), (7, 7), (2, 3)]


@pytest.mark.parametrize("source", GRIDS)
@pytest.mark.parametrize("target", [(2, 2), (7, 7), (3, 5)])
def test_alignments_equal_torch_on_grids(source: tuple[int, int], target: tuple[int, int]) -> None:
    """Bilinear and nearest at any size; area where one grid is a whole multiple of the other."""
    torch.manual_seed(0)
    tokens = torch.randn(2, source[0] * source[1], 3)
    boxes = grid_boxes(source).expand(2, -1, 4)
    image = tokens.transpose(1, 2).reshape(2, 3, *source)

    def flat(cells: Tensor) -> Tensor:
        return cells.flatten(2).transpose(1, 2)

    close(
        aligned(tokens, boxes, target, "bilinear"),
        flat(F.interpolate(image, target, mode="bilinear", align_corners=False)),
    )
    if all(s % t == 0 for s, t in zip(source, target, strict=True)):
        close(aligned(tokens, boxes, target, "area"), flat(F.adaptive_avg_pool2d(image, target)))
    if all(t % s == 0 for s, t in zip(source, target, strict=True)):
        close(aligned(tokens, boxes, target, "area"), flat(F.interpolate(image, target, mode="nearest")))
    if all(s % 2 == 1 or s == t or t % s == 0 for s, t in zip(source, target, strict=True)):  # no ties
        close(aligned(tokens, boxes, target, "nearest"), flat(F.interpolate(image, target, mode="nearest-exact")))


def test_area_by_hand() -> None:
    """Three columns into two: a half cell holds all of one and half of the next, so 2/3 and 1/3."""
    tokens = torch.tensor([[[1.0], [2.0], [4.0]]])
    found = aligned(tokens, grid_boxes((1, 3))[None], (1, 2), "area")
    close(found, torch.tensor([[[(2 * 1 + 2) / 3], [(2 + 2 * 4) / 3]]]))


@pytest.mark.parametrize("name", sorted(ALIGNMENTS))
def test_prefix_tokens_fill_the_cell_of_the_whole_image(name: str) -> None:
    """And the grid's cells only where an encoder has nothing else."""
    boxes = torch.cat([PREFIX, PREFIX, grid_boxes((2, 2))])[None]
    tokens = torch.tensor([1.0, 3.0, 10, 20, 30, 40]).reshape(1, 6, 1)
    valid = torch.ones(1, 6, dtype=torch.bool)
    weights, reached = aligner(boxes, valid, cells=grid_boxes((2, 2)), align=alignment(name))
    assert reached.all()
    close((weights @ tokens)[0, :, 0], torch.tensor([2.0, 10, 20, 30, 40]))
    weights, reached = aligner(boxes[:, :2], valid[:, :2], cells=grid_boxes((2, 2)), align=alignment(name))
    close((weights @ tokens[:, :2])[0, :, 0], torch.full((5,), 2.0))
    weights, reached = aligner(boxes[:, 2:], valid[:, 2:], cells=grid_boxes((2, 2)), align=alignment(name))
    assert reached.tolist() == [[False, True, True, True, True]] and not weights[0, 0].any()


@pytest.mark.parametrize("name", sorted(ALIGNMENTS))
def test_tokens_that_are_not_valid_change_no_cell(name: str) -> None:
    boxes = grid_boxes((3, 3))[None]
    valid = torch.tensor([[True, False, True, True, False, True, False, False, True]])
    some, reached = aligner(boxes, valid, cells=grid_boxes((4, 4)), align=alignment(name))
    fewer, reached_by_fewer = aligner(
        boxes[:, valid[0]], valid[:, valid[0]], cells=grid_boxes((4, 4)), align=alignment(name)
    )
    assert torch.equal(reached, reached_by_fewer) and not some[:, :, ~valid[0]].any()
    close(some[:, :, valid[0]], fewer)
    none, reached = aligner(boxes, torch.zeros_like(valid), cells=grid_boxes((4, 4)), align=alignment(name))
    assert not none.any() and not reached.any()


def one_trunk(model: FusionModel) -> nn.Module:
    found = model.operator.branches["of_vit"] if model.config.operator == "late" else model.operator.trunk
    assert isinstance(found, nn.Module)
    return found


@pytest.mark.parametrize("operator", sorted(OPERATORS))
def test_without_encoders_every_operator_is_the_same_trunk(config: FusionConfig, operator: str) -> None:
    concat = FusionModel(config, {"vit": 6}).eval()
    other = FusionModel(replace(config, operator=operator), {"vit": 6}).eval()
    one_trunk(other).load_state_dict(one_trunk(concat).state_dict())
    close(other.encode(TEXTS, None, ()).states, concat.encode(TEXTS, None, ()).states)


@pytest.mark.parametrize(("operator", "grid"), [("late", None), ("gated", "2x2")])
def test_one_encoder_alone_equals_concat(config: FusionConfig, operator: str, grid: str | None) -> None:
    """An ensemble of one; and a mixture of one on its own grid."""
    concat = FusionModel(config, {"vit": 6}).eval()
    other = FusionModel(replace(config, operator=operator, grid=grid), {"vit": 6}).eval()
    one_trunk(other).load_state_dict(one_trunk(concat).state_dict())
    for text in (TEXTS, None):
        close(
            other.encode(text, batch(), ("vit",)).pooled,
            concat.encode(text, batch(), ("vit",)).pooled,
        )


def test_channel_is_one_projection_of_joined_channels(config: FusionConfig) -> None:
    """Two 2x2 encoders on a 2x2 grid: cat(channels) times cat(weights), for every token that enters the trunk."""
    torch.manual_seed(0)
    model = FusionModel(replace(config, operator="channel", grid="2x2"), {"a": 6, "b": 6}).eval()
    operator = model.operator
    assert isinstance(operator, Channel)
    streams = {
        alias: Stream(torch.randn(3, 4, 32), torch.ones(3, 4, dtype=torch.bool), grid_boxes((2, 2)).expand(3, 4, 4))
        for alias in ("a", "b")
    }
    entered: list[Tensor] = []
    operator.trunk.register_forward_pre_hook(lambda _, given: entered.append(given[0]))
    operator(Stream(torch.randn(3, 1, 32), torch.ones(3, 1, dtype=torch.bool)), visual=streams, attention="none")
    joined = torch.cat([stream.states for stream in streams.values()], dim=-1)
    weights = torch.cat([operator.projections[f"of_{alias}"].weight for alias in ("a", "b")], dim=1)
    expected = F.layer_norm(joined @ weights.T, (32,))
    close(entered[0][:, 2:], expected)  # behind CLS and the cell of the whole image


def test_gates_depend_on_the_input_and_mix_as_they_say(config: FusionConfig) -> None:
    model = FusionModel(replace(config, operator="gated", grid="2x2"), WIDTHS).eval()
    assert isinstance(model.operator, Gated)
    found = model.encode(TEXTS, batch(), ("vit", "clip"), attention="mass").weight
    other = model.encode(TEXTS, {**batch(), "vit": batch(1)["vit"]}, ("vit", "clip"), attention="mass").weight
    said = model.encode(TEXTS[::-1], batch(), ("vit", "clip"), attention="mass").weight
    assert found is not None and other is not None and said is not None
    assert (found.values - other.values).abs().min() > 1e-4
    assert (found.values - said.values).abs().amax() > 1e-4
    blank = batch()
    blank["vit"].valid[1] = False
    gone = model.encode(TEXTS, blank, ("vit", "clip"), attention="mass").weight
    assert gone is not None and gone.values[1].tolist() == [0.0, 1.0]


def test_windows_read_what_lies_in_their_place(config: FusionConfig) -> None:
    """Cell 0 of a 2x2 grid: vit's token 0; of a 3x3 grid tokens 0, 1, 3, 4, and the prefix token before them."""
    model = FusionModel(replace(config, operator="window", grid="2x2"), WIDTHS).eval()
    given = batch()
    visual = {alias: Stream(torch.zeros(3, f.tokens.shape[1], 32), f.valid, f.boxes) for alias, f in given.items()}
    windows = model.operator.windows({alias: visual[alias] for alias in ("vit", "clip")})  # type: ignore[operator]
    assert windows[0, 0].nonzero()[:, 0].tolist() == [0, 4 + 0, 4 + 1, 4 + 2, 4 + 4, 4 + 5]
    assert windows[0, 3].nonzero()[:, 0].tolist() == [3, 4 + 0, 4 + 5, 4 + 6, 4 + 8, 4 + 9]


def test_any_number_of_encoders_and_any_regions(config: FusionConfig) -> None:
    """Six encoders of unequal widths and numbers of tokens, one of which found nothing in one image."""
    widths = {f"e{k}": 3 + k for k in range(6)}
    generator = torch.Generator().manual_seed(0)
    features = {}
    for k, (alias, width) in enumerate(widths.items()):
        boxes = 0.2 + 0.6 * torch.rand(2, k + 1, 4, generator=generator)
        valid = torch.ones(2, k + 1, dtype=torch.bool)
        features[alias] = Features(torch.randn(2, k + 1, width, generator=generator), boxes, valid)
    features["e3"].valid[1] = False
    for operator in OPERATORS:
        model = FusionModel(replace(config, operator=operator), widths).eval()
        together = model.match(TEXTS[:2], features, tuple(widths))
        for row in range(2):  # whatever else is in the batch
            one = {alias: found.rows(slice(row, row + 1)) for alias, found in features.items()}
            close(model.match(TEXTS[row : row + 1], one, tuple(widths)), together[row : row + 1])
        fewer = {alias: found.rows(slice(1, 2)) for alias, found in features.items() if alias != "e3"}
        close(model.match(TEXTS[1:2], fewer, tuple(fewer)), together[1:])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"grid": "7x7"}, "fusion.grid='7x7' is no option of operator 'concat'.*own: none.*channel, gated, window"),
        ({"operator": "window", "align": "area"}, "fusion.align='area' is no option.*own: grid, reads.*channel, gated"),
        ({"operator": "gated", "align": "arae"}, "fusion.align 'arae'; did you mean 'area'"),
        ({"operator": "channel", "grid": "7"}, "fusion.grid='7' is not ROWSxCOLUMNS"),
        ({"operator": "channel", "grid": "0x3"}, "fusion.grid='0x3' is not ROWSxCOLUMNS"),
        ({"operator": "resampler", "queries": 0}, "fusion.queries=0 must be a whole number of at least 1"),
        ({"operator": "resampler", "reads": True}, "fusion.reads=True must be a whole number"),
        ({"operator": "channel", "grid": 7}, "fusion.grid=7 must be ROWSxCOLUMNS or None"),
    ],
)
def test_options_that_cannot_be_honoured_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(FusionError, match=message):
        FusionConfig.from_dict(values)


def test_every_option_is_looked_at(config: FusionConfig) -> None:
    """Each option of each operator changes what is described, or the number of tokens or parameters."""
    other = {"grid": "3x2", "align": "nearest", "queries": 5, "reads": 3}
    for operator, options in OPTIONS.items():
        plain = FusionModel(replace(config, operator=operator), WIDTHS).operator.describe()
        for option in options:
            built = FusionModel(replace(config, operator=operator, **{option: other[option]}), WIDTHS).operator
            recorded = {"grid": [3, 2]}.get(option, other[option])
            assert built.describe() == {**plain, option: recorded} != plain, (operator, option)


@pytest.mark.parametrize("alias", ["cls", "text"])
def test_aliases_that_name_other_spans_are_refused(config: FusionConfig, alias: str) -> None:
    with pytest.raises(FusionError, match=f"encoder '{alias}' has the name of a span"):
        FusionModel(config, {alias: 4})


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_padding_of_texts_changes_nothing_else(config: FusionConfig, name: str) -> None:
    made = {pad: FusionModel(replace(config, operator=name, pad_text=pad), WIDTHS).eval() for pad in (1, 12)}
    features = batch()
    for coalition in ((), tuple(WIDTHS)):
        plain, padded = (made[pad].encode(TEXTS, features, coalition) for pad in (1, 12))
        close(padded.pooled, plain.pooled)
        close(made[12].match_logits(padded), made[1].match_logits(plain))
