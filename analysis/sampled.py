"""Shapley values and pairwise interactions from some of the coalitions, where 2^n are too many.

Handed the coalitions that were evaluated; hands on linear maps of their values, and the variance that comes from not
having evaluated the others. The maps are the weighted least-squares fits whose solutions over all coalitions are the
Shapley values (Lundberg & Lee 2017) and the Faith-Shapley interactions of order 2 (FSII; Tsai, Yeh & Ravikumar 2023);
values of the empty and the full coalition are met exactly. Coalitions of one size are a stratum, taken as drawn
uniformly from it together with their complements; a stratum that is complete adds no error. The error is a stratified
jackknife over these pairs, with the correction for finite populations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from math import comb

import numpy as np
from jaxtyping import Float

from analysis.coalition_values import Coalition, CoalitionSpace, all_coalitions
from analysis.draws import Draws
from analysis.errors import AnswersError

Strata = Mapping[int, Sequence[tuple[Coalition, ...]]]
"""Per size (that of the smaller of a pair), the pairs of a coalition and its complement; a pair may lack one."""


def sampled_coalitions(aliases: Sequence[str], *, count: int, seed: int) -> tuple[Coalition, ...]:
    """Which coalitions to evaluate: none, all, single encoders, all but one, and pairs of other sizes at random.

    Args:
        count: how many at most.
        seed: of the choice.

    Raises:
        ValueError: fewer than three pairs of every size would be drawn; names the least count.
    """
    total = len(aliases)
    sizes = range(2, total // 2 + 1)
    wanted = [min(3, _num_pairs(total, size)) for size in sizes]
    least = 2 * total + 2 + 2 * sum(wanted)
    if count < least:
        raise ValueError(f"{count} coalitions of {total} encoders are too few to estimate from: at least {least}")
    rng = np.random.default_rng(seed)
    chosen: set[frozenset[str]] = {frozenset(), frozenset(aliases)}
    chosen |= {frozenset([alias]) for alias in aliases} | {frozenset(aliases) - {alias} for alias in aliases}
    spare = (count - least) // 2
    mass = np.array([_mass(total, size) for size in sizes])
    for size, few, share in zip(sizes, wanted, mass / mass.sum() if len(mass) else mass, strict=True):
        pairs = _pairs(aliases, size)
        number = min(len(pairs), few + int(spare * share))
        for index in rng.choice(len(pairs), size=number, replace=False):
            chosen |= {frozenset(side) for side in pairs[index]}
    return tuple(coalition for coalition in all_coalitions(aliases) if frozenset(coalition) in chosen)


def _mass(total: int, size: int) -> float:
    """Weight of all coalitions of a size together under the Shapley kernel."""
    return (total - 1) / (size * (total - size))


def _num_pairs(total: int, size: int) -> int:
    return comb(total, size) // (2 if 2 * size == total else 1)


def _pairs(aliases: Sequence[str], size: int) -> list[tuple[Coalition, Coalition]]:
    sides = [(side, tuple(a for a in aliases if a not in side)) for side in combinations(aliases, size)]
    return [pair for pair in sides if 2 * size < len(aliases) or aliases[0] in pair[0]]


def _strata(space: CoalitionSpace) -> Strata:
    found: dict[int, dict[frozenset[frozenset[str]], list[Coalition]]] = {}
    for coalition in space.coalitions:
        size = min(len(coalition), len(space.aliases) - len(coalition))
        other = frozenset(space.aliases) - frozenset(coalition)
        pair = frozenset([frozenset(coalition), other])
        found.setdefault(size, {}).setdefault(pair, []).append(coalition)
    strata = {size: [tuple(pair) for pair in pairs.values()] for size, pairs in found.items() if size > 0}
    for size in range(1, len(space.aliases) // 2 + 1):
        have, all_pairs = len(strata.get(size, [])), _num_pairs(len(space.aliases), size)
        if have < min(2, all_pairs):
            raise AnswersError(
                f"{have} pairs of coalitions with {size} of {len(space.aliases)} encoders (or without them) are "
                f"stored; an estimate needs at least 2 of each size. `analysis.sampled.sampled_coalitions` names them."
            )
    return strata


def fit_matrix(space: CoalitionSpace, *, order: int, without: tuple[Coalition, ...] = ()) -> Float[np.ndarray, "t s"]:
    """The linear map from coalition values to all terms up to `order`, smaller sets first.

    Args:
        order: 1 for Shapley values, 2 for single terms and Faith-Shapley interactions of pairs.
        without: coalitions left out, for the jackknife.
    """
    total = len(space.aliases)
    terms = [list(term) for size in range(1, order + 1) for term in combinations(range(total), size)]
    member = np.array([[alias in coalition for alias in space.aliases] for coalition in space.coalitions])
    sizes = member.sum(axis=1)
    used = np.array([coalition not in without for coalition in space.coalitions]) & (sizes > 0) & (sizes < total)
    counts = np.bincount(sizes[used], minlength=total)
    weights = [_mass(total, int(size)) / counts[size] for size in sizes[used]]
    design = np.stack([member[used][:, term].all(axis=1) for term in terms], axis=1, dtype=np.float64)
    # y = v(S) - v(none); the full coalition's y is met exactly by a Lagrange multiplier.
    values = np.eye(len(space.coalitions))[used]
    values[:, 0] -= 1
    whole = np.zeros(len(space.coalitions))
    whole[[space.full, 0]] = 1, -1
    weighted = design.T * np.array(weights)
    ones = np.ones((len(terms), 1))
    left = np.block([[weighted @ design, ones], [ones.T, np.zeros((1, 1))]])
    right = np.concatenate([weighted @ values, whole[None]])
    if np.linalg.matrix_rank(left) < len(left):
        raise AnswersError(
            f"{len(values)} coalitions do not determine {len(terms)} terms of order {order} over {total} encoders"
        )
    return np.asarray(np.linalg.solve(left, right)[:-1])


def estimate(space: CoalitionSpace, values: Draws, *, order: int) -> Draws:
    """Shapley values (order 1) or pairwise Faith-Shapley interactions (order 2), with the estimate's own error.

    Raises:
        AnswersError: too few coalitions of some size, or for that order.
    """
    strata = _strata(space)
    kept = slice(None) if order == 1 else slice(len(space.aliases), None)
    found = values.linear(fit_matrix(space, order=order)[kept])
    variance, freedom = np.zeros(len(found.point)), 0
    for size, pairs in strata.items():
        population = _num_pairs(len(space.aliases), size)
        if len(pairs) == population and all(len(pair) == 2 for pair in pairs):
            continue
        left_out = np.stack([fit_matrix(space, order=order, without=pair)[kept] @ values.point for pair in pairs])
        count = len(pairs)
        unseen = 1 - count / population if count < population else 0.5
        variance += unseen * (count - 1) / count * ((left_out - left_out.mean(axis=0)) ** 2).sum(axis=0)
        freedom += count - 1
    return replace(found, added=variance, added_df=float(freedom)) if freedom else found
