"""What texts become in the frozen beginning of a trunk, computed once for each.

Handed texts and the functions that embed them and pass them through the frozen layers, hands on their states, of which
it keeps as many as there is room for. It serves streams without images: in all others words see tokens that differ.
"""

import math
from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

ROWS, STEP = 8, 8
"""Texts in a pass whose states are kept, and what its length is a multiple of. Sums may be rounded otherwise where
products have another size, or rows another alignment. So passes have few shapes, rows lie alike in them, and what is
kept of a text depends on nothing that it was met with: training that goes on after a stop, with nothing kept, ends as
if it had never stopped."""
MEMO_BYTES = 256 * 2**20
WORTHWHILE = 0.25
"""Share of a batch's texts that must be known, once there is room for no more, to be put together with the others."""

Padded = tuple[Float[Tensor, "b t w"], Bool[Tensor, "b t"]]
Begin = Callable[[Float[Tensor, "b t w"], Bool[Tensor, "b t"]], Float[Tensor, "b t w"]]


class TextMemo:
    """States of texts after the frozen beginning of a trunk.

    It holds at most `MEMO_BYTES`, and beside them what it grows from while it grows. It forgets everything when a
    weight it depends on has changed. While there is room, texts that are not known yet pass in groups of like length.
    Then it goes on serving those that it has: the others pass together, and where few are known the batch is left to
    the caller as if there were no memory.

    Args:
        padded: the length to which a batch is padded whose longest text has so many tokens.
    """

    def __init__(self, padded: Callable[[int], int]) -> None:
        self._padded = padded
        self._of: tuple[object, ...] = ()
        self._forget()

    def _forget(self) -> None:
        self._places: dict[str, range] = {}
        self._states: Tensor | None = None  # rows w, the first `_used` of them in use
        self._used = 0
        self.full = False

    def check(self, modules: Iterable[nn.Module]) -> None:
        """Forgets everything if the modules' weights, or the precision, are not those of before."""
        weights = [parameter for module in modules for parameter in module.parameters()]
        device = weights[0].device.type
        precision = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weights[0].dtype
        of = (precision, *((weight.data_ptr(), weight._version) for weight in weights))
        if of != self._of:
            self._of = of
            self._forget()

    @torch.no_grad()
    def stream(
        self, texts: Sequence[str], *, embed: Callable[[Sequence[str]], Padded], begin: Begin
    ) -> Padded | None:
        """Returns the states of texts, padded, and which are real; None where the memory is of no use to them.

        Args:
            embed: from texts to their embeddings, padded, and which are real.
            begin: from embeddings and which are real to states after the frozen layers.
        """
        unknown = self.unknown(texts)
        if unknown and not self.full:
            self._learn(unknown, *embed(unknown), begin=begin)
            unknown = self.unknown(texts)
        if not unknown:
            return self._known(texts)
        known = [text for text in dict.fromkeys(texts) if text in self._places]
        if len(known) < WORTHWHILE * (len(known) + len(unknown)):
            return None
        embedded, valid = embed(unknown)
        one, other = self._known(known), (begin(embedded, valid), valid)
        longest = max(one[1].shape[1], valid.shape[1])
        states = torch.cat([F.pad(part, (0, 0, 0, longest - part.shape[1])) for part, _ in (one, other)])
        valid = torch.cat([F.pad(part, (0, longest - part.shape[1])) for _, part in (one, other)])
        place = {text: row for row, text in enumerate((*known, *unknown))}
        rows = [place[text] for text in texts]
        return states[rows], valid[rows]

    def unknown(self, texts: Sequence[str]) -> list[str]:
        """Returns the texts, each once, whose states are not kept."""
        return [text for text in dict.fromkeys(texts) if text not in self._places]

    def _learn(
        self,
        texts: Sequence[str],
        states: Float[Tensor, "b t w"],
        valid: Bool[Tensor, "b t"],
        *,
        begin: Begin,
    ) -> None:
        """Passes texts through the layers, `ROWS` of like length at a time, and keeps what there is room for.

        In a pass all texts are padded or none is, as a mask too may change how sums are rounded. Rows that no text is
        left for repeat one.
        """
        groups: dict[tuple[int, bool], list[int]] = {}
        for row, length in enumerate(valid.sum(dim=1).tolist()):
            size = math.ceil(length / STEP) * STEP
            groups.setdefault((size, size == length), []).append(row)
        more = max(size for size, _ in groups) - valid.shape[1]
        states, valid = F.pad(states, (0, 0, 0, more)), F.pad(valid, (0, more))
        for (size, _), members in groups.items():
            for start in range(0, len(members), ROWS):
                some = members[start : start + ROWS]
                rows = (some * ROWS)[:ROWS]
                passed = begin(states[rows, :size], valid[rows, :size])
                for row, of_text in zip(some, passed, strict=False):
                    self._keep(texts[row], of_text[valid[row, :size]])
                    if self.full:
                        return

    def _keep(self, text: str, states: Float[Tensor, "t w"]) -> None:
        """Keeps the states of a text, or finds that there is no room."""
        place = range(self._used, self._used + len(states))
        room = MEMO_BYTES // (states.shape[1] * states.element_size())
        self.full = place.stop > room
        if self.full:
            return
        if self._states is None or place.stop > len(self._states):
            more = states.new_empty(min(room, max(2 * place.stop, 1024)), states.shape[1])
            if self._states is not None:
                more[: self._used] = self._states[: self._used]
            self._states = more
        self._states[place.start : place.stop] = states
        self._places[text], self._used = place, place.stop

    def _known(self, texts: Sequence[str]) -> Padded:
        """Returns kept states of texts, padded with the first of each, and which are real."""
        assert self._states is not None
        places = [self._places[text] for text in texts]
        starts = torch.tensor([place.start for place in places])[:, None]
        lengths = torch.tensor([len(place) for place in places])[:, None]
        steps = torch.arange(self._padded(int(lengths.max())))
        rows = starts + steps.where(steps < lengths, 0)
        device = self._states.device
        return self._states[rows.to(device)], (steps < lengths).to(device)
