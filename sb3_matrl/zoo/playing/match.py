"""Playing with trained agents: find the run, load the players, play the episodes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch as th
from pettingzoo import ParallelEnv
from tqdm import tqdm

from sb3_matrl.envs.making import env_source, make_env
from sb3_matrl.envs.wrappers import Wrappers
from sb3_matrl.evaluation import EvaluationResult, MixedPolicy, evaluate_policy, isolated_random_streams
from sb3_matrl.evaluation.evaluate import JointPredictor
from sb3_matrl.evaluation.film import check_recordable, record_video
from sb3_matrl.evaluation.play import play_episodes
from sb3_matrl.vec_env import make_joint_vec_env
from sb3_matrl.zoo.common.run_folder import RunFolder, find_run_folder
from sb3_matrl.zoo.common.trusted_envs import check_env_of_file
from sb3_matrl.zoo.playing.display_check import NoScreenError, check_showable, checked_window
from sb3_matrl.zoo.playing.enjoy_options import EnjoyOptions
from sb3_matrl.zoo.playing.players import (
    PlayerLoader,
    TrainedPlayer,
    check_players,
    model_path,
    open_run_folder,
    trained_hyperparameters,
)
from sb3_matrl.zoo.playing.shipped_agents import find_shipped
from sb3_matrl.zoo.training.options import TrainOptions

MAX_COPIES = 32


def find_run(options: EnjoyOptions) -> RunFolder:
    """
    Find the run whose agents play.

    :raises FileNotFoundError: if there is none
    :raises ValueError: if ``--run-dir`` or ``--pretrained`` holds another algorithm or environment than the command line says,
        or an environment that is not trusted
    """
    if options.pretrained is not None:
        return _checked(find_shipped(options.pretrained), options, f"--pretrained {options.pretrained}")
    if options.run_dir is None:
        algo, env_id = options.algo or TrainOptions.algo, options.env or TrainOptions.env
        return find_run_folder(Path(options.log_folder), algo, env_id, options.exp_id)
    folder = _checked(open_run_folder(Path(options.run_dir))[0], options, options.run_dir)
    check_env_of_file(folder.env_id, folder.arguments, [options.env], options.trust)
    return folder


def _checked(folder: RunFolder, options: EnjoyOptions, name: str) -> RunFolder:
    """
    A run folder that is named by something else than algorithm and environment, which may be given, too.

    :raises ValueError: if they are those of another run
    """
    algo = open_run_folder(folder.path)[1]
    for flag, given, trained in (("--algo", options.algo, algo), ("--env", options.env, folder.env_id)):
        if given not in (None, trained):
            raise ValueError(f"{name} is a run of {algo} on {folder.env_id}, not with {flag} {given}: leave {flag} out")
    return folder


@dataclass(frozen=True)
class Game:
    """
    Agents and the environment in which they play.

    :param env_id: id of the environment
    :param env_kwargs: options of the environment
    :param env_wrapper: wrappers of the environment
    :param players: agent -> its player
    """

    env_id: str
    env_kwargs: dict[str, Any]
    env_wrapper: Wrappers
    players: Mapping[str, TrainedPlayer]

    def __str__(self) -> str:
        """Where the players come from: one line for all if they trained together, else one for each."""
        steps = {agent: f"trained for {player.model.num_timesteps} steps" for agent, player in self.players.items()}
        homes = {player.path for player in self.players.values()}
        if len(homes) == 1 and all(player.agent == agent for agent, player in self.players.items()):
            return f"{homes.pop()}, {next(iter(steps.values()))}"
        return "\n".join(f"{agent}: {player}, {steps[agent]}" for agent, player in self.players.items())


def prepare(options: EnjoyOptions) -> Game:
    """
    Load the players and check that they fit the environment, without playing.

    :raises FileNotFoundError: if a run or a model is missing
    :raises ValueError: on any other mistake of the user
    :raises ImportError: if a package is missing that an option needs
    """
    th.set_num_threads(options.num_threads)
    folder = find_run(options)
    home = model_path(folder, options.choice)
    trained = trained_hyperparameters(folder)
    env_kwargs = {**trained.env_kwargs, **options.env_kwargs}
    if options.record is not None:
        check_recordable(folder.env_id, Path(options.record), env_kwargs, trained.env_wrapper)
    with closing(make_env(folder.env_id, env_kwargs, trained.env_wrapper)) as env:
        if options.render:
            check_showable(folder.env_id, env.metadata)
        loader = PlayerLoader(Path(options.log_folder), options.choice, options.device, options.trust)
        players = loader.load(home, options.agent)
        check_players(players, env, f"{folder.env_id} with {env_kwargs}" if env_kwargs else folder.env_id)
    return Game(folder.env_id, env_kwargs, trained.env_wrapper, players)


def play(game: Game, options: EnjoyOptions) -> dict[str, EvaluationResult]:
    """
    Play with each kind of policy; the same seed plays the same episodes.

    :param game: players and environment
    :param options: length, seed, window and video
    :return: name of the policy -> its episodes
    """
    results = {}
    for name, greedy in options.policies.items():
        with tqdm(total=options.episodes, desc=name, unit="episode", disable=not options.progress) as bar:
            results[name] = _play(MixedPolicy(game.players), game, options, greedy, bar)
    return results


def _play(policy: JointPredictor, game: Game, options: EnjoyOptions, greedy: bool, bar: tqdm[Any]) -> EvaluationResult:
    if options.record is not None:
        return record_video(
            policy,
            game.env_id,
            options.record,
            env_kwargs=game.env_kwargs,
            env_wrapper=game.env_wrapper,
            deterministic=greedy,
            n_episodes=options.episodes,
            n_timesteps=options.n_timesteps,
            seed=options.seed,
            fps=options.fps,
            on_episode=bar.update,
        )
    if options.render or options.episodes is None:
        return _play_one_copy(policy, game, options, greedy, bar)
    source = env_source(game.env_id, game.env_wrapper)
    env = make_joint_vec_env(source, n_envs=min(options.episodes, MAX_COPIES), env_kwargs=game.env_kwargs)
    with closing(env):
        return evaluate_policy(
            policy,
            env,
            options.episodes,
            deterministic=greedy,
            seed=options.seed,
            callback=lambda seen, _: bar.update(sum(map(len, seen["episodes"])) - bar.n),
        )


def _play_one_copy(
    policy: JointPredictor, game: Game, options: EnjoyOptions, greedy: bool, bar: tqdm[Any]
) -> EvaluationResult:
    with closing(_one_copy(game, options.render)) as env, isolated_random_streams(options.seed):
        return play_episodes(
            policy,
            env,
            n_episodes=options.episodes,
            n_timesteps=options.n_timesteps,
            deterministic=greedy,
            seed=options.seed,
            on_frame=checked_window(env.render) if options.render else None,
            on_episode=bar.update,
        )


def _one_copy(game: Game, shown: bool) -> ParallelEnv[Any, Any, Any]:
    """
    Make the environment.

    :raises NoScreenError: if it does not take ``render_mode="human"``, or needs a screen for it
    """
    if not shown:
        return make_env(game.env_id, game.env_kwargs, game.env_wrapper)
    try:
        return make_env(game.env_id, {**game.env_kwargs, "render_mode": "human"}, game.env_wrapper)
    except ValueError as error:
        raise NoScreenError(str(error)) from error
