"""Cross-play: every player with or against every other one, in every role."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from sb3_matrl.envs.parallel import is_environment
from sb3_matrl.evaluation.cross_play_result import CrossPlayResult
from sb3_matrl.evaluation.cross_play_schedule import Cell, Games, Schedule, run_schedule
from sb3_matrl.evaluation.evaluate import MAX_EPISODE_STEPS, evaluate_policy
from sb3_matrl.evaluation.mixed import MixedPolicy
from sb3_matrl.evaluation.role_players import Contestant, make_contestant
from sb3_matrl.vec_env import JointVecEnv, make_joint_vec_env


def cross_play(
    players: Mapping[str, Any],
    env: Any,
    n_games: int = 100,
    deterministic: bool = False,
    seed: int = 0,
    *,
    design: str = "auto",
    interval_width: float | None = None,
    max_games: int = 10_000,
    env_kwargs: Mapping[str, Any] | None = None,
    device: str = "auto",
    max_episode_steps: int | None = MAX_EPISODE_STEPS,
    on_cell: Callable[[Cell, np.ndarray], None] | None = None,
) -> CrossPlayResult:
    """
    Let players meet in all roles of a game, in all combinations or a sample of them.

    The games of every combination begin with the same seeds (a paired design), many copies at once. A result does not depend
    on the order in which the combinations are played, nor on the other players.

    :param players: name -> player: a model of several agents, the path of one, a tuple (model or path, agent), an SB3
        algorithm or policy, a function of the observations, or ``"random"``; see
        :func:`~sb3_matrl.evaluation.role_players.make_contestant`
    :param env: env as :func:`~sb3_matrl.vec_env.make_joint_vec_env` takes it; its agents are the roles. A ``JointVecEnv``
        plays as many games at once as it has copies
    :param n_games: games of every combination (full design), or of every player in every role (sampled design)
    :param deterministic: greedy actions instead of sampled ones
    :param seed: seed of the games, of sampled actions and of sampled combinations
    :param design: ``"full"``: all K^n combinations of K players in n roles; ``"sampled"``: random ones, in which every player
        plays every role equally often; ``"auto"``: full up to 1000 combinations
    :param interval_width: games are added until no 95 % interval of a mean return is wider than this; ``None``: ``n_games``
    :param max_games: largest number of games in place of ``n_games``; counts with ``interval_width`` only
    :param env_kwargs: keyword arguments of the env's factory
    :param device: device of the networks of models that are loaded
    :param max_episode_steps: steps after which a game is cut, see :func:`~sb3_matrl.evaluation.evaluate_policy`
    :param on_cell: function called with every finished cell and its returns, (games, n)
    :return: returns of all games
    :raises TypeError: if ``players`` is no mapping
    :raises ValueError: if a player cannot play a role, or an argument is out of range
    :raises FileNotFoundError: if there is no file at a path
    """
    names = _names(players)
    copies = env.num_envs if isinstance(env, VecEnv) else None
    schedule = Schedule(len(names), _count_roles(env, env_kwargs), n_games, seed, design, copies, interval_width, max_games)
    played: Any = env if copies is not None else make_joint_vec_env(env, schedule.games_per_cell, env_kwargs=env_kwargs)
    try:
        contestants = [make_contestant(name, source, played, device) for name, source in players.items()]
        table, games = Table(played, contestants, schedule, deterministic, max_episode_steps), Games()
        roles = tuple(played.agents)

        def widest(games: Games, batches: int) -> float:
            return CrossPlayResult.from_games(roles, names, schedule, games, batches).widest_interval

        batches = run_schedule(schedule, lambda cells: table.play(cells, on_cell), games, widest)
        return CrossPlayResult.from_games(roles, names, schedule, games, batches)
    finally:
        if copies is None and not is_environment(env):  # an env that was given stays open
            played.close()


def _names(players: Any) -> tuple[str, ...]:
    if not isinstance(players, Mapping):
        raise TypeError(f"players must be a dict name -> player, got {players!r}")
    return tuple(players)


def _count_roles(env: Any, env_kwargs: Mapping[str, Any] | None) -> int:
    """Number of agents of an env, or of the envs that a factory makes."""
    if isinstance(env, VecEnv):
        return len(env.unwrapped.agents)  # type: ignore[attr-defined]
    if is_environment(env):
        return len(env.possible_agents)
    with closing(make_joint_vec_env(env, env_kwargs=env_kwargs)) as probe:
        return len(probe.agents)


class Table:
    """
    Where cells are played: an env and its players.

    :param env: env with as many copies as a cell has games
    :param contestants: the players
    :param schedule: schedule of the games, for their seeds
    :param deterministic: greedy actions instead of sampled ones
    :param max_episode_steps: steps after which a game is cut
    """

    def __init__(
        self,
        env: JointVecEnv,
        contestants: Sequence[Contestant],
        schedule: Schedule,
        deterministic: bool = False,
        max_episode_steps: int | None = MAX_EPISODE_STEPS,
    ) -> None:
        self.env = env
        self.contestants = contestants
        self.schedule = schedule
        self.deterministic = deterministic
        self.max_episode_steps = max_episode_steps

    def play_cell(self, cell: Cell) -> np.ndarray:
        """
        Play one game in every copy.

        :param cell: players and batch
        :return: return of each role in each game, (games, n)
        """
        seed = self.schedule.seed_of(cell.batch)
        chosen = [self.contestants[player] for player in cell.profile]
        players = {
            role: contestant.in_role(role, self.env, seed + place)
            for place, (role, contestant) in enumerate(zip(self.env.agents, chosen, strict=True))
        }
        result = evaluate_policy(
            MixedPolicy(players),
            self.env,
            self.env.num_envs,
            self.deterministic,
            seed,
            max_episode_steps=self.max_episode_steps,
        )
        return result.agent_returns

    def play(
        self, cells: Sequence[Cell], on_cell: Callable[[Cell, np.ndarray], None] | None = None
    ) -> Iterator[tuple[Cell, np.ndarray]]:
        """
        Play cells one after the other.

        :param cells: the cells
        :param on_cell: function called with every finished cell and its returns
        :return: each cell with its returns
        """
        for cell in cells:
            returns = self.play_cell(cell)
            if on_cell is not None:
                on_cell(cell, returns)
            yield cell, returns
