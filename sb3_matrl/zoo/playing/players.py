"""Players of a game: the agents of a run, and guests from other runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gymnasium import spaces
from pettingzoo import ParallelEnv
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_matrl.common.algorithm import MultiAgentAlgorithm
from sb3_matrl.common.loading import load_model
from sb3_matrl.evaluation import Player
from sb3_matrl.evaluation.role_players import SoloPlayer
from sb3_matrl.files.foreign import is_sb3_file, load_sb3_agent
from sb3_matrl.utils.one_line import one_line
from sb3_matrl.utils.suggest import did_you_mean, unknown
from sb3_matrl.vec_env.named import named_by_text
from sb3_matrl.zoo.common.hyperparameters import Hyperparameters
from sb3_matrl.zoo.common.run_folder import RunFolder, runs_below
from sb3_matrl.zoo.common.yaml_files import read_yaml
from sb3_matrl.zoo.playing.enjoy_options import ModelChoice


class SingleAgent(SoloPlayer):
    """
    An agent saved by plain SB3, with the ``predict`` of a multi-agent model.

    :param learner: algorithm of SB3
    """

    def __init__(self, learner: BaseAlgorithm) -> None:
        super().__init__(learner)
        self.observation_space = spaces.Dict({self.name: learner.observation_space})
        self.action_space = spaces.Dict({self.name: learner.action_space})
        self.num_timesteps = learner.num_timesteps


@dataclass(frozen=True)
class TrainedPlayer(Player):
    """
    An agent of a saved model.

    :param path: path of the model
    """

    model: MultiAgentAlgorithm | SingleAgent
    path: Path

    @property
    def is_lost(self) -> bool:
        """Whether the agent was a function, which its file does not hold."""
        return isinstance(self.model, MultiAgentAlgorithm) and self.agent in self.model.lost_agents()

    def __str__(self) -> str:
        return f"{self.agent} of {self.path}"


def open_run_folder(path: Path) -> tuple[RunFolder, str]:
    """
    :param path: path of a run folder
    :return: the run folder, and the name of the algorithm
    :raises FileNotFoundError: if there is no such folder, or it has no ``args.yml``
    :raises ValueError: if ``args.yml`` is damaged
    """
    if not path.is_dir():
        raise FileNotFoundError(f"there is no run folder {path}")
    folder = RunFolder(path, env_id="")
    if not folder.arguments.is_file():
        raise FileNotFoundError(_no_run(folder, folder.arguments))
    arguments = read_yaml(folder.arguments)
    env_id, algorithm = arguments.get("env"), arguments.get("algo")
    if not isinstance(env_id, str) or not isinstance(algorithm, str):
        raise ValueError(f"{folder.arguments} must say 'env' and 'algo'; it has: {', '.join(map(str, arguments))}")
    return replace(folder, env_id=env_id), algorithm


def model_path(folder: RunFolder, choice: ModelChoice) -> Path:
    """
    Path of a model of a run.

    :param folder: run folder
    :param choice: which of its models
    :raises FileNotFoundError: if there is no such model; lists those that there are
    """
    steps = folder.checkpoint_steps()
    path = folder.last_model
    if choice.best:
        path = folder.best_model
    elif choice.checkpoint is not None:
        path = folder.checkpoint(choice.checkpoint)
    elif choice.last_checkpoint:
        path = folder.checkpoint(steps[-1] if steps else 0)
    if not path.is_file():
        models = [name.name for name in (folder.last_model, folder.best_model) if name.is_file()]
        models += [f"checkpoint {step}" for step in steps]
        raise FileNotFoundError(
            f"{folder.path} has no {path.relative_to(folder.path)}; it has: {', '.join(models) or 'no model'}"
        )
    return path


def trained_hyperparameters(folder: RunFolder) -> Hyperparameters:
    """
    The hyper-parameters of a run, including the options of its environment.

    :param folder: run folder
    :raises FileNotFoundError: if the run has no ``args.yml`` or ``config.yml``
    :raises ValueError: if one of them is damaged
    """
    _, algorithm = open_run_folder(folder.path)
    if not folder.config.is_file():
        raise FileNotFoundError(_no_run(folder, folder.config))
    entry = read_yaml(folder.config).get(folder.env_id)
    if not isinstance(entry, dict):
        raise ValueError(f"{folder.config} has no entry for {folder.env_id}")
    return Hyperparameters.from_mapping(algorithm, entry, str(folder.config))


def _no_run(folder: RunFolder, missing: Path) -> str:
    return f"{folder.path} has no {missing.name}: it is not a run of train.py, or incomplete"


@dataclass(frozen=True)
class PlayerLoader:
    """
    Loads the agents that play, from runs and models.

    :param log_folder: folder of runs named ``<algo>/<env>_<k>``
    :param choice: which model of a run folder
    :param device: device of the networks
    :param trust: accept files of plain SB3, which can run code when they are loaded
    """

    log_folder: Path
    choice: ModelChoice
    device: str
    trust: bool

    def load(self, home: Path, guests: Mapping[str, str]) -> dict[str, TrainedPlayer]:
        """
        Load a player for every agent; a model of several players is loaded once.

        :param home: path of the model whose agents play where there is no guest
        :param guests: agent of the game -> run or model of its player
        :return: agent of the game -> its player
        :raises FileNotFoundError: if a run or model does not exist
        :raises ValueError: if a file is no model, or has no such agent
        """
        models: dict[Path, MultiAgentAlgorithm | SingleAgent] = {home: load_model(home, device=self.device, verbose=0)}
        players = {agent: TrainedPlayer(models[home], agent, home) for agent in models[home].possible_agents}
        for agent, source in guests.items():
            path, name = self.find(source)
            if path not in models:
                models[path] = self._load_guest(path)
            if name is None:
                name = SingleAgent.name if isinstance(models[path], SingleAgent) else agent
            if name not in models[path].possible_agents:
                raise ValueError(f"--agent {agent}={source}: {path}: {unknown('agent', name, models[path].possible_agents)}")
            players[agent] = TrainedPlayer(models[path], name, path)
        for agent, player in players.items():
            if player.is_lost:
                reason = "was played by a Python function, which a file cannot hold"
                raise ValueError(f"{player} {reason}: give --agent {agent}=RUN")
        return players

    def _load_guest(self, path: Path) -> MultiAgentAlgorithm | SingleAgent:
        if is_sb3_file(path):
            return SingleAgent(load_sb3_agent(path, self.trust, self.device))
        return load_model(path, device=self.device, verbose=0)

    def find(self, source: str) -> tuple[Path, str | None]:
        """
        Find the model of a guest.

        :param source: path of a run folder or of a model, or ``<algo>/<env>_<k>``; optionally ``:`` and the agent's name there
        :return: path of the model, and the name if one is given
        :raises FileNotFoundError: if there is no such run or model
        :raises ValueError: if the run is damaged
        """
        head, colon, name = source.rpartition(":")
        # The whole text first: a path may have a colon of its own.
        for text, agent in [(source, None), *([(head, name)] if colon and head else [])]:
            for path in (Path(text), self.log_folder / text):
                if path.is_file():
                    return path, agent
                if path.is_dir():
                    return model_path(open_run_folder(path)[0], self.choice), agent
        runs = [str(path.relative_to(self.log_folder)) for path in runs_below(self.log_folder)]
        there = f"neither as a path nor in {self.log_folder}{did_you_mean(source, runs)}"
        raise FileNotFoundError(f"--agent: there is no run or model {source}, {there}")


def check_players(players: Mapping[str, TrainedPlayer], env: ParallelEnv[Any, Any, Any], name: str) -> None:
    """
    :param players: agent -> its player
    :param env: environment of the game
    :param name: name of the environment with its options, for errors
    :raises ValueError: if an agent has no player, a player no agent, or the spaces differ from those of its training
    """
    named = named_by_text(env)
    agents = list(named.possible_agents)
    for agent, player in players.items():
        if agent not in agents:
            raise ValueError(f"{name}: {unknown('agent', agent, agents)}; it would be played by {player}")
    for agent in agents:
        if agent not in players:
            raise ValueError(f"{name} has agents {agents}, the model has {list(players)}; give others with --agent")
        player = players[agent]
        for kind, given, wanted, fit in (
            ("observations", named.observation_space(agent), player.model.observation_space, _same_form),
            ("actions", named.action_space(agent), player.model.action_space, _equal),
        ):
            trained = wanted[player.agent]  # type: ignore[index]
            if not fit(given, trained):
                raise ValueError(
                    f"{name} gives {agent} {kind} {one_line(given)}, but {player} was trained with {one_line(trained)}"
                )


def _equal(given: spaces.Space[Any], trained: spaces.Space[Any]) -> bool:
    return bool(given == trained)


def _same_form(given: spaces.Space[Any], trained: spaces.Space[Any]) -> bool:
    """Whether a policy can read the observations; bounds may differ, e.g. in a longer game."""
    if isinstance(given, spaces.Box) and isinstance(trained, spaces.Box):
        return given.shape == trained.shape and given.dtype == trained.dtype
    if isinstance(given, spaces.Dict) and isinstance(trained, spaces.Dict):
        return given.keys() == trained.keys() and all(_same_form(given[key], trained[key]) for key in given)
    return _equal(given, trained)
