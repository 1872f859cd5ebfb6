"""What lives here: the one error that a user of the fusion room can cause, and the phrase that names near
choices.

Handed a wrong name and the valid ones, it hands on a message that ends with the likeliest meant.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class FusionError(ValueError):
    """A setting, name, feature or file that cannot be honoured; the message says which and what would do."""


def choices(value: str, valid: Iterable[str]) -> str:
    """Returns "did you mean 'clip'? valid: vit, clip", without the question if no name is near `value`."""
    names = list(valid)
    near = get_close_matches(value, names, n=1, cutoff=0.5)
    listed = "valid: " + (", ".join(names) if names else "none")
    return f"did you mean {near[0]!r}? {listed}" if near else listed
