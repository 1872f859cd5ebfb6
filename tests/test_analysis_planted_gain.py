"""Calibration by simulation: a planted gain is found at the number of examples that the report prints for it.

With few worlds the bound is the one that chance alone would pass in 999 of 1,000 runs.
"""

from __future__ import annotations

import numpy as np
import pytest
from planted_worlds import WORLDS, drawn, finished, name
from scipy.stats import binom


@pytest.mark.parametrize(("num_seeds", "among"), [(1, 1), (5, 1), (5, 6)])
def test_a_planted_gain_is_found_at_the_printed_size(num_seeds: int, among: int) -> None:
    """Each world prints the examples that a gain of 3 points needs, and is then drawn anew with as many."""
    probability = {name(): 0.5, name("a"): 0.67, name("b"): 0.67, name("a+b"): 0.7}
    found, sizes = 0, []
    for world in range(WORLDS):
        rng = np.random.default_rng([world, num_seeds])

        def entry(num_rows: int, rng: np.random.Generator = rng) -> dict[str, object]:
            answers = drawn(
                probability,
                num_rows=num_rows,
                num_seeds=num_seeds,
                rng=rng,
                seed_spread=0.002 * (num_seeds > 1),
                own_luck=0.2,
            )
            task = finished(answers, ("a", "b"), num_resamples=300, among=among)
            return next(entry for entry in task["verdict"] if entry["encoder"] == "a")

        needed = entry(1000)["needed"]
        assert isinstance(needed, dict)
        if "not_run" in needed:  # the few seeds of this world happen to differ so much that none is printed
            continue
        assert needed["gain"] == 0.03
        sizes.append(needed["examples"])
        found += entry(sizes[-1])["grade"] == "suggestive"
    printed = len(sizes)
    print(f"{num_seeds} seeds: found in {found} of {printed} worlds at {np.median(sizes):.0f} examples")
    assert printed >= (0.85 if among == 1 else 0.6) * WORLDS
    assert found >= (0.8 * printed if WORLDS == 2000 else binom.ppf(0.001, printed, 0.8))
