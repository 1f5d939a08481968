"""Claims of the paper, and the rules by which recorded numbers decide them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

from sb3_matrl.zoo.benchmarking.run_statistics import MIN_SEEDS_FOR_INTERVALS, column_estimates, probability_of_improvement
from sb3_matrl.zoo.benchmarking.suite_scores import CLEARLY_BETTER

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot be told"
BETTER, WORSE, EQUAL, UNCLEAR = "better", "worse", "equal", "unclear"

RULES = (
    f"A method is better than another one if a run of it has the higher score with a probability above {CLEARLY_BETTER}, and "
    "the 95 % interval of this probability (bootstrap over seeds) is above one half; worse is the same the other way round. "
    "Methods that have the same return in every run are equal.",
    f'A claim about several comparisons "{HOLDS}" if all of them go its way, "{FAILS}" if one of them goes the other way or '
    f'is equal; else it "{OPEN}". In exact games, quantities are compared by whether their 95 % intervals overlap.',
    f'A printed return "{HOLDS}" if the 95 % interval of the mean over seeds reaches it; if not, a training shorter than that '
    'of the budget "paper" leaves it open. Variances over seeds are compared by the 95 % interval of their ratio (F '
    "distribution).",
)


@dataclass(frozen=True)
class Claim:
    """
    A claim of the paper, and what became of it here.

    :param text: the claim in a sentence without its full stop
    :param verdict: ``HOLDS``, ``FAILS`` or ``OPEN``
    :param reason: the numbers behind it, a sentence
    """

    text: str
    verdict: str
    reason: str


def overall(outcomes: Iterable[str]) -> str:
    """
    Verdict on a claim that needs several.

    :param outcomes: ``HOLDS``, ``FAILS`` or ``OPEN`` of each
    :return: ``FAILS`` if one fails, ``HOLDS`` if all hold
    """
    found = set(outcomes)
    return FAILS if FAILS in found else HOLDS if found == {HOLDS} else OPEN


def compare(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """
    Compare the scores of two methods.

    :param ours: score of every run
    :param theirs: score of every run of the other method, in the order of the same seeds
    :return: ``BETTER``, ``WORSE``, ``EQUAL`` or ``UNCLEAR``
    """
    if list(ours) == list(theirs):
        return EQUAL
    if min(len(ours), len(theirs)) < MIN_SEEDS_FOR_INTERVALS:
        return UNCLEAR
    found = probability_of_improvement(np.array(ours)[:, None], np.array(theirs)[:, None])
    if found.value > CLEARLY_BETTER and found.low > 0.5:
        return BETTER
    return WORSE if found.value < 1.0 - CLEARLY_BETTER and found.high < 0.5 else UNCLEAR


def compare_intervals(ours: Sequence[float] | None, theirs: Sequence[float] | None) -> str:
    """
    Compare two quantities of which more is better.

    :param ours: ends of the interval; ``None`` if there is none
    :param theirs: ends of the other interval
    """
    if ours is None or theirs is None:
        return UNCLEAR
    return BETTER if ours[0] > theirs[1] else WORSE if ours[1] < theirs[0] else UNCLEAR


def outperforms(text: str, ours: Sequence[float], others: Mapping[str, Sequence[float]]) -> Claim:
    """
    Claim that a method is better than each of others.

    :param text: the claim
    :param ours: score of every run
    :param others: name -> score of every run
    """
    return of_comparisons(text, {name: compare(ours, theirs) for name, theirs in others.items()})


def of_comparisons(text: str, outcomes: Mapping[str, str], words: Mapping[str, str] | None = None) -> Claim:
    """
    Claim that needs every comparison to be ``BETTER``.

    :param text: the claim
    :param outcomes: with whom or where -> outcome
    :param words: outcome -> words for it, where the usual ones do not fit
    """
    known = {BETTER: "better than", WORSE: "worse than", EQUAL: "equal in every run to", UNCLEAR: "not to be told from"}
    groups: dict[str, list[str]] = {}
    for name, outcome in outcomes.items():
        groups.setdefault(outcome, []).append(name)
    parts = [f"{(words or known)[kind]} {in_words(groups[kind])}" for kind in known if kind in groups]
    verdicts = {BETTER: HOLDS, WORSE: FAILS, EQUAL: FAILS, UNCLEAR: OPEN}
    reason = "; ".join(parts)
    return Claim(text, overall(verdicts[outcome] for outcome in outcomes.values()), f"{reason[:1].upper()}{reason[1:]}.")


def reaches(text: str, scores: Sequence[float], printed: float, is_whole: bool) -> Claim:
    """
    Claim that a method reaches a printed return.

    :param text: the claim
    :param scores: return of every run
    :param printed: the number
    :param is_whole: whether the training is as long as that of the whole budget
    """
    mean, low, high = _mean(scores)
    if math.isnan(low):
        return Claim(text, OPEN, f"{mean:.1f} here, too few seeds for an interval.")
    verdict = HOLDS if high >= printed else FAILS if is_whole else OPEN
    shorter = "" if is_whole or verdict == HOLDS else ", after a shorter training"
    return Claim(text, verdict, f"{mean:.1f} [{low:.1f}, {high:.1f}] here{shorter}.")


def stays_at(text: str, scores: Sequence[float], printed: float, is_whole: bool) -> Claim:
    """
    Claim that a method learns no more than a printed return.

    :param text: the claim
    :param scores: return of every run
    :param printed: the number
    :param is_whole: whether the training is as long as that of the whole budget
    """
    mean, low, high = _mean(scores)
    if math.isnan(low):
        return Claim(text, OPEN, f"{mean:.1f} here, too few seeds for an interval.")
    verdict = FAILS if low > printed else (HOLDS if high >= printed and is_whole else OPEN)
    return Claim(text, verdict, f"{mean:.1f} [{low:.1f}, {high:.1f}] here.")


def varies_more(text: str, ours: Sequence[float], theirs: Sequence[float]) -> Claim:
    """
    Claim that the scores of a method vary more over seeds than those of another one.

    :param text: the claim
    :param ours: score of every run
    :param theirs: score of every run of the other method
    """
    if list(ours) == list(theirs):
        return Claim(text, FAILS, "The same returns in every run.")
    if min(len(ours), len(theirs)) < 2 or np.var(theirs, ddof=1) == 0.0 or np.var(ours, ddof=1) == 0.0:
        return Claim(text, OPEN, "Too few seeds for variances.")
    ratio = float(np.var(ours, ddof=1) / np.var(theirs, ddof=1))
    degrees = len(ours) - 1, len(theirs) - 1
    low, high = ratio / stats.f.ppf(0.975, *degrees), ratio / stats.f.ppf(0.025, *degrees)
    verdict = HOLDS if low > 1.0 else FAILS if high < 1.0 else OPEN
    return Claim(text, verdict, f"Ratio of the variances {ratio:.2g} [{low:.2g}, {high:.2g}].")


def in_words(names: Sequence[str]) -> str:
    """``a``, ``a and b`` or ``a, b and c``; names with commas are quoted."""
    quoted = [f'"{name}"' if "," in name else name for name in names]
    return quoted[0] if len(quoted) == 1 else f"{', '.join(quoted[:-1])} and {quoted[-1]}"


def _mean(scores: Sequence[float]) -> tuple[float, float, float]:
    """Mean with the ends of its interval, NaN for few runs."""
    means, _ = column_estimates(np.array(scores, dtype=np.float64)[:, None])
    value, low, high = means[:, 0].tolist()
    return value, low, high
