"""A cross-play with its folder: games in worker processes, finished ones kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from tqdm import tqdm

from sb3_matrl.envs.making import env_source, make_env
from sb3_matrl.evaluation.cross_play import Table
from sb3_matrl.evaluation.cross_play_result import CrossPlayResult
from sb3_matrl.evaluation.cross_play_schedule import Cell, Games, Schedule, run_schedule
from sb3_matrl.evaluation.role_players import Contestant, make_contestant
from sb3_matrl.vec_env import JointVecEnv, make_joint_vec_env
from sb3_matrl.vec_env.named import named_by_text
from sb3_matrl.zoo.common.locking import locked_folder
from sb3_matrl.zoo.common.signals import SignalWatch
from sb3_matrl.zoo.tournaments.entrants import Entrant, EntrantFinder, World
from sb3_matrl.zoo.tournaments.line_file import LineFile
from sb3_matrl.zoo.tournaments.process_pool import worker_processes
from sb3_matrl.zoo.tournaments.tournament_options import CrossPlayOptions

IN_USE = "is in use by another cross-play"
CELLS = "cells.jsonl"


class LazyContestants(Sequence[Contestant]):
    """
    Players that are loaded when they first play.

    :param entrants: the players
    :param env: env that they play
    :param trust: accept files of plain SB3
    :param device: device of the networks
    """

    def __init__(self, entrants: Sequence[Entrant], env: JointVecEnv, trust: bool, device: str) -> None:
        self._entrants = entrants
        self._env = env
        self._trust = trust
        self._device = device
        self._loaded: dict[int, Contestant] = {}

    def __len__(self) -> int:
        return len(self._entrants)

    def __getitem__(self, index: Any) -> Any:
        if index not in self._loaded:
            entrant = self._entrants[index]
            source = entrant.load(self._trust, self._device)
            self._loaded[index] = make_contestant(entrant.name, source, self._env, self._device)
        return self._loaded[index]


@dataclass(frozen=True)
class Tournament:
    """
    A cross-play that passed all checks.

    :param options: the command line
    :param entrants: the players
    :param world: their environment
    :param roles: agents of the environment
    :param schedule: the games
    """

    options: CrossPlayOptions
    entrants: Sequence[Entrant]
    world: World
    roles: tuple[str, ...]
    schedule: Schedule

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the players."""
        return tuple(entrant.name for entrant in self.entrants)

    @property
    def subject(self) -> dict[str, Any]:
        """What games depend on, in JSON's types: games of an earlier start are kept if it is equal."""
        return {
            "env": self.world.env_id,
            "env_kwargs": dict(self.world.env_kwargs),
            "env_wrapper": self.world.env_wrapper,
            "players": {entrant.name: entrant.content for entrant in self.entrants},
            "roles": list(self.roles),
            "seed": self.options.seed,
            "deterministic": self.options.deterministic,
            "design": "full" if self.schedule.is_full else "sampled",
            "games_per_cell": self.schedule.games_per_cell,
        }

    def open_table(self) -> Table:
        """The env with its players, for this process; the caller closes its env."""
        th.set_num_threads(self.options.num_threads)
        env = make_joint_vec_env(
            env_source(self.world.env_id, self.world.env_wrapper),
            n_envs=self.schedule.games_per_cell,
            env_kwargs=self.world.env_kwargs,
        )
        players = LazyContestants(self.entrants, env, self.options.trust, self.options.device)
        return Table(env, players, self.schedule, self.options.deterministic)


def prepare(options: CrossPlayOptions) -> Tournament:
    """
    Find the players and check that each can play every role; nothing is played or written.

    :raises FileNotFoundError: if a run or model is missing
    :raises ValueError: on any other mistake of the user
    :raises ImportError: if a package is missing that the environment needs
    """
    finder = EntrantFinder(Path(options.log_folder), options.env, options.env_kwargs, options.per_run, options.trust)
    entrants, world = finder.find(options.players)
    with closing(make_env(world.env_id, world.env_kwargs, world.env_wrapper)) as env:
        roles = tuple(named_by_text(env).possible_agents)
    schedule = Schedule(
        len(entrants),
        len(roles),
        options.games,
        options.seed,
        options.design,
        interval_width=options.width,
        max_games=max(options.max_games, options.games),
    )
    tournament = Tournament(options, entrants, world, roles, schedule)
    table = tournament.open_table()
    with closing(table.env):
        for index in range(len(entrants)):
            table.contestants[index]
    return tournament


@contextmanager
def kept_games(tournament: Tournament) -> Iterator[LineFile]:
    """
    Context manager that locks the folder of a cross-play and opens the file of its finished cells.

    :param tournament: a prepared cross-play
    :return: the file
    :raises ValueError: if the folder is in use, or holds games of another cross-play
    """
    out = Path(tournament.options.out)
    with locked_folder(out, IN_USE):
        file = LineFile(out / CELLS, tournament.subject, "choose another --out, or remove the file")
        read_games(file)
        yield file


def play(tournament: Tournament, file: LineFile) -> CrossPlayResult:
    """
    Play all games that were not played before.

    :param tournament: a prepared cross-play
    :param file: file of finished cells, to which others are added
    :return: returns of all games
    :raises KeyboardInterrupt: after Ctrl-C or SIGTERM; finished cells are kept
    """
    schedule, games = tournament.schedule, read_games(file)
    with ExitStack() as stack:
        watch = stack.enter_context(SignalWatch())
        bar = stack.enter_context(tqdm(desc="games", unit="game", disable=None))
        runner = stack.enter_context(closing(_Runner(tournament, watch)))

        def play_cells(cells: Sequence[Cell]) -> Iterator[tuple[Cell, np.ndarray]]:
            bar.total = (len(games) + len(cells)) * schedule.games_per_cell
            bar.update(len(games) * schedule.games_per_cell - bar.n)
            for cell, returns in runner.play(cells):
                file.add({"profile": cell.profile, "batch": cell.batch, "returns": returns.tolist()})
                bar.update(len(returns))
                yield cell, returns

        def result(played: Games, batches: int) -> CrossPlayResult:
            return CrossPlayResult.from_games(tournament.roles, tournament.names, schedule, played, batches)

        batches = run_schedule(schedule, play_cells, games, lambda played, count: result(played, count).widest_interval)
        return result(games, batches)


def read_games(file: LineFile) -> Games:
    """
    Games of an earlier start.

    :param file: file of finished cells
    :raises ValueError: if a line holds no cell
    """
    games: Games = {}
    for number, part in enumerate(file.parts, start=2):
        try:
            cell = Cell(tuple(map(int, part["profile"])), int(part["batch"]))
            games[cell] = np.array(part["returns"], dtype=np.float64)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{file.path}, line {number} holds no games: remove the line, or the file to begin again"
            ) from error
    return games


class _Runner:
    """
    Plays cells in this process or, with several jobs, in worker processes, which start with the first cell.

    :param tournament: what is played
    :param watch: signals that end it
    """

    def __init__(self, tournament: Tournament, watch: SignalWatch) -> None:
        self._tournament = tournament
        self._watch = watch
        self._held = ExitStack()
        self._compute: Any = None

    def play(self, cells: Sequence[Cell]) -> Iterable[tuple[Cell, np.ndarray]]:
        """
        :param cells: the cells
        :return: each with its returns, in any order
        """
        if not cells:
            return
        if self._compute is None:
            self._compute = self._start(min(self._tournament.options.jobs, len(cells)))
        yield from self._compute(cells)

    def _start(self, jobs: int) -> Any:
        if jobs > 1:
            compute = self._held.enter_context(worker_processes(jobs, _open_table, [self._tournament], self._watch))
            return lambda cells: compute(_play_cell, cells)
        table = self._tournament.open_table()
        self._held.callback(table.env.close)

        def play(cells: Sequence[Cell]) -> Iterator[tuple[Cell, np.ndarray]]:
            for cell in cells:
                with self._watch.at_once():
                    returns = table.play_cell(cell)
                yield cell, returns

        return play

    def close(self) -> None:
        """End the worker processes, and close the env."""
        self._held.close()


# The table of a worker process.
_tables: list[Table] = []


def _open_table(tournament: Tournament) -> None:
    _tables.append(tournament.open_table())


def _play_cell(cell: Cell) -> np.ndarray:
    return _tables[0].play_cell(cell)
