"""
Accuracy and processor time of the meta-game solvers on random games.

Prints one line per number of agents, kind of game and method (NashConv in units of the payoff scale), fewer for games with
three strategies per agent, and one for 100 agents on 4000 samples, and writes them to JSON. Set OMP_NUM_THREADS=1 so that
this is the time on one core:

    OMP_NUM_THREADS=1 python -m benchmarks.metagame_solvers
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from benchmarks.shared import write_record
from sb3_matrl.metagame import MetaGame, solve

ACCEPTED = 1e-6
#: The slower methods get one in so many of the games.
SHARES = {"support": 5, "best-response": 5, "cmaes": 50}
MANY_AGENTS, MANY_SAMPLES = 100, 4000
#: Games with three strategies per agent: share of the games of two strategies (their supports are more), numbers of agents.
THREE_STRATEGIES_SHARE, THREE_STRATEGIES_AGENTS = 10, (2, 3, 4)


@dataclass(frozen=True)
class Row:
    """One line of the table; NashConv in units of the payoff scale (0 for a zero game), times in processor milliseconds."""

    n_agents: int
    n_strategies: int
    kind: str
    method: str
    games: int
    max: float
    percentile_99: float
    share_accepted: float
    mean_ms: float
    max_ms: float


def from_table(transform: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> Callable[..., MetaGame]:
    """:return: a generator of games whose normal-random table is transformed"""

    def make(n_agents: int, rng: np.random.Generator, n_strategies: int = 2) -> MetaGame:
        shape = (n_agents, *(n_strategies,) * n_agents)
        return MetaGame.from_payoffs(transform(rng.standard_normal(shape), rng))

    return make


def independent_samples(n_agents: int, rng: np.random.Generator, n_strategies: int = 2, n_samples: int = 500) -> MetaGame:
    """:return: a game of ratios that have nothing to do with the advantages: pure noise, the hard case"""
    ratios = np.exp(0.3 * rng.standard_normal((n_samples, n_agents, n_strategies - 1)))
    return MetaGame(ratios, rng.standard_normal((n_samples, n_agents)), 0.2)


def predicted_samples(n_agents: int, rng: np.random.Generator, n_strategies: int = 2, n_samples: int = 500) -> MetaGame:
    """:return: a game of ratios that rise with the agent's own advantage, as after policy gradient steps of growing size"""
    noise = rng.standard_normal((n_samples, n_agents))
    common = rng.standard_normal((n_samples, 1))
    advantages = 0.5 * noise + common + rng.standard_normal((n_samples, n_agents))
    return MetaGame(np.exp(0.1 * noise[:, :, None] * np.arange(1, n_strategies)), advantages, 0.2)


KINDS: dict[str, Callable[..., MetaGame]] = {
    "normal": from_table(lambda table, rng: table),
    "integer": from_table(lambda table, rng: rng.integers(-1, 2, table.shape).astype(np.float64)),
    "sparse": from_table(lambda table, rng: table * (rng.random(table.shape) < 0.3)),
    "zero-sum": from_table(lambda table, rng: table - table.mean(axis=0)),
    "identical": from_table(lambda table, rng: np.repeat(table[:1], len(table), axis=0)),
    "zero": from_table(lambda table, rng: np.zeros_like(table)),
    "samples": independent_samples,
    "predicted": predicted_samples,
}


def methods_for(n_agents: int, n_strategies: int = 2) -> list[str]:
    """:return: the methods that claim to solve every game of n agents with so many strategies"""
    closed = ["closed-form"] if (n_agents, n_strategies) == (2, 2) else []
    return [*closed, "auto", "support", "best-response", "cmaes"]


def measure(n_agents: int, kind: str, method: str, games: int, seed: int, n_strategies: int = 2) -> Row:
    """:return: the line of ``games`` games, the same ones for every method"""
    rng = np.random.default_rng([seed, n_agents, list(KINDS).index(kind)])
    errors, seconds = np.zeros(games), np.zeros(games)
    for k in range(games):
        game = KINDS[kind](n_agents, rng, n_strategies)
        start = time.process_time()
        solution = solve(game, method, rng=np.random.default_rng([seed, k]))
        seconds[k] = time.process_time() - start
        errors[k] = solution.nash_conv / game.scale if game.scale > 0.0 else solution.nash_conv
    return summary(n_agents, n_strategies, kind, method, errors, seconds)


def summary(n_agents: int, n_strategies: int, kind: str, method: str, errors: np.ndarray, seconds: np.ndarray) -> Row:
    """:return: statistics of the errors and times of some games"""
    return Row(
        n_agents=n_agents,
        n_strategies=n_strategies,
        kind=kind,
        method=method,
        games=len(errors),
        max=float(errors.max()),
        percentile_99=float(np.percentile(errors, 99)),
        share_accepted=float(np.mean(errors <= ACCEPTED)),
        mean_ms=float(1e3 * seconds.mean()),
        max_ms=float(1e3 * seconds.max()),
    )


def measure_many(kind: str, games: int, seed: int) -> Row:
    """:return: the line of 100 agents on 4000 samples"""
    rng = np.random.default_rng([seed, MANY_AGENTS])
    errors, seconds = np.zeros(games), np.zeros(games)
    for k in range(games):
        game = KINDS[kind](MANY_AGENTS, rng, n_samples=MANY_SAMPLES)
        start = time.process_time()
        solution = solve(game, rng=np.random.default_rng([seed, k]))
        seconds[k] = time.process_time() - start
        errors[k] = solution.nash_conv / game.scale
    return summary(MANY_AGENTS, 2, kind, "auto", errors, seconds)


def measurements(games: int, many: int, seed: int) -> Iterator[Row]:
    """:return: all lines of the table with two strategies"""
    plan = [(n, kind, method) for n in range(2, 7) for kind in KINDS for method in methods_for(n)]
    for n_agents, kind, method in tqdm(plan, desc="n = 2..6", unit="line", disable=None):
        yield measure(n_agents, kind, method, max(1, games // SHARES.get(method, 1)), seed)
    for kind in tqdm(("predicted", "samples"), desc="100 agents", unit="line", disable=None):
        yield measure_many(kind, many, seed)


def measurements_of_three_strategies(games: int, seed: int) -> Iterator[Row]:
    """:return: the lines with three strategies"""
    games = max(1, games // THREE_STRATEGIES_SHARE)
    plan = [(n, kind, method) for n in THREE_STRATEGIES_AGENTS for kind in KINDS for method in methods_for(n, 3)]
    for n_agents, kind, method in tqdm(plan, desc="3 strategies", unit="line", disable=None):
        yield measure(n_agents, kind, method, max(1, games // SHARES.get(method, 1)), seed, 3)


def table(rows: list[Row]) -> str:
    """:return: the lines as text"""
    lines = [
        f"{'n':>4} {'K':>2} {'kind':10} {'method':14} {'games':>6} {'max':>9} {'p99':>9} {'<= 1e-6':>8} "
        f"{'mean ms':>9} {'max ms':>9}"
    ]
    for row in rows:
        lines.append(
            f"{row.n_agents:4d} {row.n_strategies:2d} {row.kind:10} {row.method:14} {row.games:6d} {row.max:9.1e} "
            f"{row.percentile_99:9.1e} {row.share_accepted:8.2%} {row.mean_ms:9.2f} {row.max_ms:9.1f}"
        )
    return "\n".join(lines)


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--games", type=int, default=1000, help="random games per line (support, best-response: a fifth; cmaes: a fiftieth)"
    )
    parser.add_argument("--many-games", type=int, default=5, help="games of 100 agents")
    parser.add_argument("--seed", type=int, default=0, help="seed of games and solvers")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/metagame_solvers.json"))
    args = parser.parse_args()
    rows = list(measurements(args.games, args.many_games, args.seed))
    more = list(measurements_of_three_strategies(args.games, args.seed))
    print(table(rows + more))
    record = {"rows": [asdict(row) for row in rows], "rows_of_three_strategies": [asdict(row) for row in more]}
    write_record(args.out, {"seed": args.seed, "accepted": ACCEPTED, **record})


if __name__ == "__main__":
    main()
