"""Results of a cross-play: a record for JSON, and tables for the screen."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from sb3_matrl.evaluation.cross_play_result import CrossPlayResult, margins
from sb3_matrl.evaluation.cyclicity import cyclicity
from sb3_matrl.evaluation.population_rankings import alpha_rank, nash_averaging
from sb3_matrl.evaluation.ratings import bradley_terry
from sb3_matrl.utils.atomic_file import atomic_file
from sb3_matrl.zoo.common.text_tables import markdown
from sb3_matrl.zoo.tournaments.entrants import Entrant


def summarise(result: CrossPlayResult, entrants: Sequence[Entrant]) -> dict[str, Any]:
    """
    Everything that a cross-play says, beside the payoffs of the profiles.

    :param result: returns of all games
    :param entrants: the players, in the same order
    :return: ``players``: mean return in each role with 95 % intervals; in a full design ``groups``: the same for pairs of
        runs; and if players compete, ``ratings`` and ``cycles``. Names of what is missing have the reason as their value
    """
    groups = _members(entrants)
    summary: dict[str, Any] = {"players": _players(result), "groups": _groups(result, groups) if result.is_full else {}}
    if len(result.roles) > 1 and _competes(result):
        summary["ratings"] = _ratings(result)
        summary["cycles"] = _cycles(result, groups) if result.is_full else "cycles need all profiles: --design full"
    return summary


def _members(entrants: Sequence[Entrant]) -> dict[str, list[int]]:
    """Name of the run -> its players."""
    groups: dict[str, list[int]] = {}
    for index, entrant in enumerate(entrants):
        groups.setdefault(entrant.group, []).append(index)
    return groups


def _competes(result: CrossPlayResult) -> bool:
    """Whether the returns of the roles ever differ."""
    return bool((result.returns != result.returns[..., :1]).any())


def _mean(samples: np.ndarray) -> dict[str, float]:
    """Mean of independent samples (S,) with its 95 % interval."""
    mean, half = float(samples.mean()), float(margins(samples))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def _players(result: CrossPlayResult) -> dict[str, dict[str, Any]]:
    """Player -> role -> mean return with its interval."""
    samples = result.of_players
    return {
        player: {role: _mean(samples[:, place, index]) for place, role in enumerate(result.roles)}
        for index, player in enumerate(result.players)
    }


def _groups(result: CrossPlayResult, groups: Mapping[str, list[int]]) -> dict[str, dict[str, Any]]:
    """Role -> "run / other run" -> mean return of the role played by the one, another role by the other."""
    if len(result.roles) < 2:
        return {}
    found: dict[str, dict[str, Any]] = {}
    for place, role in enumerate(result.roles):
        pairs = result.pairs_by_game(place)
        found[role] = {
            f"{one} / {two}": _mean(pairs[:, mine][:, :, theirs].mean(axis=(1, 2)))
            for one, mine in groups.items()
            for two, theirs in groups.items()
        }
    return found


def _ratings(result: CrossPlayResult) -> dict[str, Any]:
    elo = bradley_terry(result.wins())
    found: dict[str, Any] = {"elo": {"values": elo.values, "low": elo.low, "high": elo.high}}
    symmetric = result.symmetric_payoffs()
    if not np.isfinite(symmetric).all():
        reason = "needs games of every two players in every role: --design full"
        return found | {"alpha_rank": reason, "nash_averaging": reason}
    for name, compute in (
        ("alpha_rank", lambda: alpha_rank(symmetric)),
        ("nash_averaging", lambda: dict(zip(("strategy", "payoffs"), nash_averaging(_advantages(symmetric)), strict=True))),
    ):
        try:
            found[name] = compute()
        except ImportError as error:
            found[name] = str(error)
    return found


def _advantages(symmetric: np.ndarray) -> np.ndarray:
    """Antisymmetric part of the players' payoffs."""
    return np.asarray((symmetric - symmetric.T) / 2.0)


def _cycles(result: CrossPlayResult, groups: Mapping[str, list[int]]) -> dict[str, Any]:
    """Name of the run -> how cyclic the order of its players is; ``all`` for all players."""
    samples = result.margins_by_game()
    sets = {name: members for name, members in groups.items() if len(members) > 2}
    if len(result.players) > 2 and len(sets) != 1:
        sets["all"] = list(range(len(result.players)))
    return {name: asdict(cyclicity(samples[:, members][:, :, members])) for name, members in sets.items()}


def payoff_record(result: CrossPlayResult) -> dict[str, Any]:
    """
    :param result: returns of all games
    :return: the payoff array over roles with standard errors, (n, K, ..., K); of a sampled design the table of its profiles
    """
    if not result.is_full:
        return {"design": "sampled", "games": result.n_games, "profiles": result.rows()}
    return {
        "design": "full",
        "games": result.n_games,
        "payoffs": result.payoffs,
        "standard_errors": result.standard_errors,
    }


def write_csv(path: Path, result: CrossPlayResult) -> None:
    """
    Write the table of profiles, atomically.

    :param path: path of the file
    :param result: returns of all games
    :raises OSError: if the file cannot be written
    """
    rows, text = result.rows(), io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with atomic_file(path) as file:
        file.write(text.getvalue().encode())


def result_text(result: CrossPlayResult, summary: Mapping[str, Any]) -> str:
    """
    Tables of a cross-play.

    :param result: returns of all games
    :param summary: as :func:`summarise` returns it
    :return: Markdown without a final newline
    """
    parts = [_player_table(result, summary)]
    for role, pairs in summary["groups"].items():
        if len(pairs) > 1:
            parts.append(f"Mean return of {role}, by the run that plays it (rows) and the run of the others:")
            parts.append(_group_table(pairs))
    cycles = summary.get("cycles", {})
    parts += [cycles] if isinstance(cycles, str) else [f"{name}: {cycle_text(found)}" for name, found in cycles.items()]
    ratings = summary.get("ratings", {})
    parts += [ratings[name] for name in ("alpha_rank", "nash_averaging") if isinstance(ratings.get(name), str)]
    return "\n\n".join(parts)


def _player_table(result: CrossPlayResult, summary: Mapping[str, Any]) -> str:
    ratings = summary.get("ratings", {})
    columns: list[tuple[str, list[str]]] = [
        (role, [mean_text(summary["players"][player][role]) for player in result.players]) for role in result.roles
    ]
    if ratings:
        elo = ratings["elo"]
        texts = [f"{value:.0f} [{low:.0f}, {high:.0f}]" for value, low, high in zip(*elo.values(), strict=True)]
        columns.append(("Elo", texts))
    for name, label in (("alpha_rank", "alpha-rank"), ("nash_averaging", "Nash averaging")):
        values = ratings.get(name)
        if values is not None and not isinstance(values, str):
            shares = values["strategy"] if isinstance(values, Mapping) else values
            columns.append((label, [f"{share:.3f}" for share in shares]))
    rows = [[player, *(texts[index] for _, texts in columns)] for index, player in enumerate(result.players)]
    return markdown(["mean return [95 %] as", *(name for name, _ in columns)], rows)


def _group_table(pairs: Mapping[str, Any]) -> str:
    names = list(dict.fromkeys(pair.split(" / ")[0] for pair in pairs))
    rows = [[one, *(mean_text(pairs[f"{one} / {two}"]) for two in names)] for one in names]
    return markdown(["", *names], rows)


def mean_text(values: Mapping[str, float]) -> str:
    """
    :param values: ``mean``, ``low`` and ``high``
    :return: e.g. ``"0.12 [0.10, 0.14]"``
    """
    if not math.isfinite(values["low"]):
        return f"{values['mean']:.3g}"
    return f"{values['mean']:.3g} [{values['low']:.3g}, {values['high']:.3g}]"


def cycle_text(found: Mapping[str, Any]) -> str:
    """
    Sentence about cycles.

    :param found: fields of :class:`~sb3_matrl.evaluation.Cyclicity`
    """
    low, high = found["triples_interval"]
    triples = f"{found['triples']:.0%} of {found['n_triples']} triples are cyclic [{low:.0%}, {high:.0%}]"
    decided = f"{found['decided_cyclic']} of the {found['decided']} whose differences are significant"
    if math.isnan(found["share"]):
        return f"{triples}, {decided}; the players cannot be told apart: play more games"
    low, high = found["share_interval"]
    return f"{triples}, {decided}; cyclic part of the payoffs {found['share']:.0%} [{low:.0%}, {high:.0%}]"
