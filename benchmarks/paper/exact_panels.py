"""Table 1 and Figs. 3, 7 and 8: exact games, measured by the studies of ``zoo/games.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.paper.claims import BETTER, FAILS, HOLDS, OPEN, UNCLEAR, WORSE, Claim, compare_intervals, of_comparisons
from benchmarks.paper.sections import Panel, PanelOptions, Picture, Section, Table, Task
from sb3_matrl.games import KINDS
from sb3_matrl.zoo.studies.dynamics_study import dynamics
from sb3_matrl.zoo.studies.outcome import LABELS, Outcome
from sb3_matrl.zoo.studies.portrait import CONVERGED
from sb3_matrl.zoo.studies.rotational_study import SAME_STEP, rotational
from sb3_matrl.zoo.studies.study_options import DynamicsOptions, RotationalOptions, Table1Options
from sb3_matrl.zoo.studies.table1_study import table1

# The paper's learners, and two that have MATRL's step size of 0.03 instead of 0.02.
LEARNERS = ("IGA", "IGA-PP, projected forecast", "IGA-PP", "MATRL", "IL-LA", "IGA, 0.03", "IGA-PP, 0.03")
BASELINES, EQUAL_STEPS = LEARNERS[:3], LEARNERS[5:]
FIG3 = ("gd", "extragradient", "lookahead", "matrl")
_KEPT = ("learner", "kind", "converged", "converged_ci95", "mean_step", "mean_step_ci95", "at_equilibrium", "paper")
_WORDS = {
    BETTER: "better than each of them in games of the class",
    WORSE: "worse than one of them in",
    UNCLEAR: "intervals overlap in",
}


@dataclass(frozen=True)
class RandomGames(PanelOptions):
    """
    :param games: random games of each class
    :param steps: steps of every learner
    """

    games: int
    steps: int = 1000


@dataclass(frozen=True)
class NoOptions(PanelOptions):
    """Nothing to choose: the study is short."""


# ---------------------------------------------------------------------- Table 1


def measure_table1(task: Task) -> dict[str, Any]:
    """Run all learners on the random games of the paper's generator."""
    found = table1(Table1Options(games=task.options.games, steps=task.options.steps, jobs=task.jobs))
    found.write(task.folder)
    rows = [row for row in found.record["rows"] if row["generator"] == "paper" and row["learner"] in LEARNERS]
    return {"rows": [{key: row[key] for key in _KEPT} for row in rows]}


def table1_section(record: Mapping[str, Any]) -> Section:
    """Converged games and mean first steps, beside the printed ones."""
    rows = {(row["learner"], row["kind"]): row for row in record["rows"]}
    cells = [[name, *(_games_cell(rows[name, kind]) for kind in KINDS)] for name in LEARNERS]
    printed = [[f"{name}, printed", *(_printed(rows[name, kind]) for kind in KINDS)] for name in ("IGA", "IGA-PP", "MATRL")]
    options = record["options"]
    text = (
        f"{options['games']:,} random games of each class, at most {options['steps']:,} steps: converged games in per cent / "
        "mean step at which they converged, with 95 % intervals. The paper's IGA-LA is IGA-PP, with or without a projected "
        "forecast. MATRL's best response has a step of 0.03, the other learners one of 0.02; IL-LA is MATRL without the game, "
        'and the rows named "0.03" have the larger step, too.'
    )
    pictures = [Picture("table1.png", "Share of games that have converged, by step")]
    return Section([text], [Table(["", *KINDS], cells + printed)], pictures=pictures, claims=_table1_claims(rows))


def _games_cell(row: Mapping[str, Any]) -> str:
    low, high = row["converged_ci95"]
    share = f"{row['converged']:.1f} [{low:.1f}, {high:.1f}]"
    if row["mean_step"] is None:
        return f"{share} / never"
    low, high = row["mean_step_ci95"]
    return f"{share} / {row['mean_step']:.0f} [{low:.0f}, {high:.0f}]"


def _printed(row: Mapping[str, Any]) -> str:
    return f"{row['paper']['converged']:g} / {row['paper']['mean_step']:g}"


def _table1_claims(rows: Mapping[tuple[str, str], Mapping[str, Any]]) -> list[Claim]:
    def outcomes(key: str, sign: int, others: Sequence[str]) -> dict[str, str]:
        def interval(learner: str, kind: str) -> list[float] | None:
            ends = rows[learner, kind][key]
            return None if ends is None else sorted(sign * end for end in ends)

        found = {}
        for kind in KINDS:
            each = {compare_intervals(interval("MATRL", kind), interval(other, kind)) for other in others}
            found[kind] = WORSE if WORSE in each else BETTER if each == {BETTER} else UNCLEAR
        return found

    share, steps = ("converged_ci95", 1), ("mean_step_ci95", -1)
    return [
        of_comparisons(
            "MATRL converges in more games of every class than IGA and IGA-LA", outcomes(*share, BASELINES), _WORDS
        ),
        of_comparisons("MATRL needs fewer steps in every class than IGA and IGA-LA", outcomes(*steps, BASELINES), _WORDS),
        of_comparisons(
            "MATRL needs fewer steps than IGA and IGA-LA with its step size, 0.03 (a check that the paper does not make)",
            outcomes(*steps, EQUAL_STEPS),
            _WORDS,
        ),
    ]


# ---------------------------------------------------------------------- Fig. 3


def measure_fig3(task: Task) -> dict[str, Any]:
    """Run all optimisers on the rotational game."""
    found = rotational(RotationalOptions())
    found.write(task.folder)
    rows = [row for row in found.record["rows"] if row["group"] == SAME_STEP]
    return {"rows": [{key: row[key] for key in ("learner", "steps", "diverges")} for row in rows]}


def fig3_section(record: Mapping[str, Any]) -> Section:
    """Steps to the fixed point."""
    rows = {row["learner"]: row for row in record["rows"]}
    steps = {name: row["steps"] for name, row in rows.items()}
    cells = [[LABELS[name], _steps_text(row), "shown" if name in FIG3 else ""] for name, row in rows.items()]
    text = "Steps until max(|x|, |y|) < 0.001 in the rotational game of footnote 3, from (1, 1), all step sizes 0.02."
    arriving = [name for name in FIG3[1:] if steps[name] is not None]
    counts = ", ".join(f"{LABELS[name]} {steps[name]}" for name in arriving)
    fastest = steps["matrl"] is not None and all(steps["matrl"] < (steps[name] or 10**9) for name in FIG3[1:-1])
    claims = [
        Claim(
            "Gradient descent cannot converge", HOLDS if rows["gd"]["diverges"] else FAILS, f"It {_steps_text(rows['gd'])}."
        ),
        Claim(
            "Extragradient, LookAhead and MATRL converge to the stable fixed point",
            HOLDS if len(arriving) == len(FIG3) - 1 else FAILS,
            f"Steps: {counts}.",
        ),
        Claim("MATRL is the fastest of them with the same learning rate", HOLDS if fastest else FAILS, f"Steps: {counts}."),
    ]
    pictures = [Picture("rotational.png", "Trajectories, and distances to the fixed point")]
    return Section([text], [Table(["optimiser", "steps", "in the paper's figure"], cells)], pictures=pictures, claims=claims)


def _steps_text(row: Mapping[str, Any]) -> str:
    return str(row["steps"]) if row["steps"] is not None else "diverges" if row["diverges"] else "does not arrive"


# ---------------------------------------------------------------------- Figs. 7 and 8


def _measure_games(task: Task, games: Sequence[str]) -> dict[str, Any]:
    rows = {}
    for game in games:
        found: Outcome = dynamics(DynamicsOptions(game=game))
        found.write(task.folder)
        kept = ("learner", "steps", "first_step", "final_distance")
        rows[game] = [{key: row[key] for key in kept} for row in found.record["rows"]]
    return {"games": rows}


def _games_section(record: Mapping[str, Any], text: str, claims: Sequence[Claim]) -> Section:
    tables, pictures = [], []
    for game, rows in record["games"].items():
        name = game.replace("_", " ")
        cells = [
            [
                LABELS[row["learner"]],
                "never" if row["first_step"] is None else str(row["first_step"]),
                f"{row['final_distance']:.4f}",
            ]
            for row in rows
        ]
        tables.append(Table([name, f"first within {CONVERGED}", "distance at the end"], cells))
        pictures.append(Picture(f"dynamics_{game}.png", f"Paths of the learners in {name}"))
    return Section([text], tables, pictures=pictures, claims=claims)


def _arrives(text: str, record: Mapping[str, Any]) -> Claim:
    """Claim that MATRL ends at an equilibrium of all games."""
    ends = {game: row for game, rows in record["games"].items() for row in rows if row["learner"] == "matrl"}
    distances = ", ".join(f"{game.replace('_', ' ')} {row['final_distance']:.4f}" for game, row in ends.items())
    verdict = HOLDS if all(row["final_distance"] <= CONVERGED for row in ends.values()) else FAILS
    return Claim(text, verdict if ends else OPEN, f"Distance from the nearest equilibrium at the end: {distances}.")


def fig7_section(record: Mapping[str, Any]) -> Section:
    """Matching pennies."""
    text = (
        "Learners with exact gradients in matching pennies, from (0.9, 0.2), 1,000 steps; MATRL with a predicted step of 0.3."
    )
    claim = _arrives("MATRL's learning dynamics converge in matching pennies", record)
    return _games_section(record, text, [claim])


def fig8_games_section(record: Mapping[str, Any]) -> Section:
    """Chicken and the prisoner's dilemma."""
    text = (
        "Chicken and the prisoner's dilemma, which Appendix F announces as Fig. 8 while the printed Fig. 8 shows robots. "
        "As in Fig. 7 otherwise."
    )
    claim = _arrives("MATRL has a good convergence performance in chicken and in the prisoner's dilemma", record)
    return _games_section(record, text, [claim])


PANELS = (
    Panel("table1", "Table 1: random 2x2 games", RandomGames, measure_table1, table1_section),
    Panel("fig3", "Fig. 3: the rotational game", NoOptions, measure_fig3, fig3_section),
    Panel(
        "fig7", "Fig. 7: matching pennies", NoOptions, lambda task: _measure_games(task, ["matching_pennies"]), fig7_section
    ),
    Panel(
        "fig8_games",
        "Fig. 8 of the text: chicken and the prisoner's dilemma",
        NoOptions,
        lambda task: _measure_games(task, ["chicken", "prisoners_dilemma"]),
        fig8_games_section,
    ),
)
