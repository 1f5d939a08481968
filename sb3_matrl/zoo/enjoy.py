"""Play what was trained: ``python zoo/enjoy.py --algo matrl --env checkers_v0``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch as th
from tqdm import tqdm

from sb3_matrl.envs.making import env_source, make_env
from sb3_matrl.envs.wrappers import Wrappers
from sb3_matrl.evaluation import EvaluationResult, MixedPolicy, evaluate_policy, isolated_random_streams
from sb3_matrl.evaluation.evaluate import JointPredictor
from sb3_matrl.evaluation.film import VideoError, check_recordable, record_video
from sb3_matrl.evaluation.play import play_episodes
from sb3_matrl.vec_env import make_joint_vec_env
from sb3_matrl.zoo.common.cli import USER_ERROR, StrictParser, algorithm, count, device, positive_count, seed, user_errors
from sb3_matrl.zoo.common.hyperparameters import ALGORITHMS
from sb3_matrl.zoo.common.run_folder import RunFolder, find_run_folder
from sb3_matrl.zoo.common.text_tables import returns_table
from sb3_matrl.zoo.common.yaml_files import parse_pairs
from sb3_matrl.zoo.playing.players import (
    ModelChoice,
    TrainedPlayer,
    check_players,
    load_players,
    model_path,
    open_run_folder,
    parse_guests,
    trained_hyperparameters,
)

MAX_COPIES = 32
DEFAULT_ALGORITHM, DEFAULT_ENV = "matrl", "checkers_v0"
EXAMPLES = """\
  python zoo/enjoy.py --algo matrl --env checkers_v0
  python zoo/enjoy.py --algo matrl --env checkers_v0 --render --n-episodes 3
  python zoo/enjoy.py --algo ippo --env switch_v0 --exp-id 2 --load-best --deterministic
  python zoo/enjoy.py --run-dir runs/mine --record mine.mp4
  python zoo/enjoy.py --env switch_v0 --agent agent_0=ippo/switch_v0_1 --agent agent_1=old.zip:agent_0
"""


@dataclass(frozen=True)
class EnjoyOptions:
    """The command line of ``enjoy.py``, which ``--help`` explains."""

    algo: str | None
    env: str | None
    log_folder: str
    exp_id: int
    run_dir: str | None
    agent: dict[str, str]
    trust: bool
    n_timesteps: int | None
    n_episodes: int | None
    deterministic: bool
    stochastic: bool
    seed: int
    render: bool
    record: str | None
    fps: int | None
    load_best: bool
    load_checkpoint: int | None
    load_last_checkpoint: bool
    env_kwargs: dict[str, Any]
    device: str
    num_threads: int
    progress: bool
    verbose: int

    @property
    def watched(self) -> bool:
        """Whether somebody looks on: then few episodes, one after the other."""
        return self.render or self.record is not None

    @property
    def policies(self) -> dict[str, bool]:
        """What is played: name of the policy -> whether it is greedy."""
        if self.deterministic:
            return {"greedy": True}
        if self.stochastic or self.watched:
            return {"sampled": False}
        return {"sampled": False, "greedy": True}

    @property
    def episodes(self) -> int | None:
        """How many episodes are played with each policy; ``None`` for as many as ``n_timesteps`` takes."""
        if self.n_timesteps is not None:
            return None
        return self.n_episodes or (5 if self.watched else 100)

    @property
    def choice(self) -> ModelChoice:
        """Which model of a run is loaded."""
        return ModelChoice(self.load_best, self.load_checkpoint, self.load_last_checkpoint)


def build_parser() -> StrictParser:
    """The flags, with rl-zoo's names where it has them."""
    parser = StrictParser("Play trained agents and print what they earn.", EXAMPLES)
    _add_models(parser)
    _add_game(parser)
    _add_display(parser)
    parser.add_argument("--device", type=device, default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--num-threads", type=positive_count, default=1, help="threads of PyTorch")
    return parser


def _add_models(parser: StrictParser) -> None:
    """Whose agents play."""
    add = parser.add_argument
    add("--algo", type=algorithm, help=f"algorithm: {', '.join(ALGORITHMS)}; None: {DEFAULT_ALGORITHM}, or that of --run-dir")
    add("--env", help=f"environment that the agents were trained in; None: {DEFAULT_ENV}, or that of --run-dir")
    add("-f", "--log-folder", "--folder", default="logs", help="where the runs are")
    run = parser.add_mutually_exclusive_group()
    run.add_argument("--exp-id", type=count, default=0, help="number of the run; 0: the latest")
    run.add_argument("--run-dir", help="folder of the run, wherever it lies")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--load-best", action="store_true", help="the best model instead of the last one")
    which.add_argument("--load-checkpoint", type=positive_count, metavar="STEPS", help="the checkpoint after that many steps")
    which.add_argument("--load-last-checkpoint", action="store_true", help="the latest checkpoint")
    add(
        "--agent",
        action="append",
        default=[],
        metavar="AGENT=RUN[:OTHER]",
        help="let an agent be played by one of another run, OTHER if it has another name there; RUN: folder of a run, "
        "a model's .zip, or <algo>/<env>_<k> in the log folder; may be repeated",
    )
    add(
        "--trust",
        action="store_true",
        help="accept an --agent of plain Stable-Baselines3, which can run code when it is loaded",
    )


def _add_game(parser: StrictParser) -> None:
    """What they play, and how."""
    add = parser.add_argument
    pairs: dict[str, Any] = {"action": "extend", "nargs": "+", "default": [], "metavar": "KEY:VALUE"}
    add("--env-kwargs", help="options of the environment to change, as YAML", **pairs)
    length = parser.add_mutually_exclusive_group()
    length.add_argument("-n", "--n-timesteps", type=positive_count, help="play at least this many steps, one env copy")
    length.add_argument("--n-episodes", type=positive_count, help="episodes to play; None: 100, or 5 when shown or recorded")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--deterministic", action="store_true", help="only greedy actions")
    kind.add_argument("--stochastic", action="store_true", help="only sampled actions (when shown or recorded: anyway)")
    add("--seed", type=seed, default=0, help="seed of the environment and of sampled actions")


def _add_display(parser: StrictParser) -> None:
    """What is seen of it."""
    add = parser.add_argument
    window = parser.add_mutually_exclusive_group()
    window.add_argument("--render", action="store_true", dest="render", help="show the game in a window")
    window.add_argument("--no-render", action="store_false", dest="render", help="open no window")
    add("--record", metavar="VIDEO", help="write a video of the game: a path that ends in .mp4 or .gif")
    add("--fps", type=positive_count, help="frames per second of the video; None: those of the environment")
    add("-P", "--progress", action="store_true", help="show a progress bar over the episodes")
    add("--verbose", type=int, choices=[0, 1], default=1, help="0: only the table, 1: also what was loaded")


def parse_options(words: Sequence[str]) -> EnjoyOptions:
    """
    :param words: of the command line, without the program's name
    :raises ValueError: on unknown flags, values that cannot be read, or flags that contradict each other
    """
    given = vars(build_parser().parse_strictly(words))
    given["env_kwargs"] = parse_pairs(given["env_kwargs"], "--env-kwargs")
    given["agent"] = parse_guests(given["agent"])
    if given["render"] and given["record"] is not None:
        raise ValueError("--render shows the game, --record writes it to a file: choose one")
    if given["fps"] is not None and given["record"] is None:
        raise ValueError("--fps is the speed of a video: it needs --record")
    return EnjoyOptions(**given)


def find_run(options: EnjoyOptions) -> RunFolder:
    """
    The run whose agents play.

    :raises FileNotFoundError: when there is none
    :raises ValueError: when ``--run-dir`` holds another algorithm or environment than the command line says
    """
    if options.run_dir is None:
        algo, env_id = options.algo or DEFAULT_ALGORITHM, options.env or DEFAULT_ENV
        return find_run_folder(Path(options.log_folder), algo, env_id, options.exp_id)
    folder, algo = open_run_folder(Path(options.run_dir))
    for flag, given, trained in (("--algo", options.algo, algo), ("--env", options.env, folder.env_id)):
        if given not in (None, trained):
            raise ValueError(f"{folder.path} is a run of {algo} on {folder.env_id}, not with {flag} {given}: leave {flag} out")
    return folder


@dataclass(frozen=True)
class Game:
    """
    Who plays what.

    :param env_id: the environment
    :param env_kwargs: its options
    :param env_wrapper: what is put around it
    :param players: agent -> who plays it
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
    Load everything and check that it fits together; nothing is played.

    :raises FileNotFoundError: when a run or a model is missing
    :raises ValueError: on anything else that the user got wrong
    :raises ImportError: when a package is missing that an option needs
    """
    th.set_num_threads(options.num_threads)
    folder = find_run(options)
    home = model_path(folder, options.choice)
    trained = trained_hyperparameters(folder)
    env_kwargs = {**trained.env_kwargs, **options.env_kwargs}
    if options.record is not None:
        check_recordable(folder.env_id, env_kwargs, Path(options.record), trained.env_wrapper)
    with closing(make_env(folder.env_id, env_kwargs, trained.env_wrapper)) as env:
        players = load_players(home, options.agent, Path(options.log_folder), options.choice, options.device, options.trust)
        check_players(players, env, f"{folder.env_id} with {env_kwargs}" if env_kwargs else folder.env_id)
    return Game(folder.env_id, env_kwargs, trained.env_wrapper, players)


def play(game: Game, options: EnjoyOptions) -> dict[str, EvaluationResult]:
    """
    Play with each kind of policy; the same seed plays the same episodes.

    :param game: who plays what
    :param options: how long, and how
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
            game.env_kwargs,
            options.record,
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
    env_kwargs = {**game.env_kwargs, "render_mode": "human"} if options.render else game.env_kwargs
    with closing(make_env(game.env_id, env_kwargs, game.env_wrapper)) as env, isolated_random_streams(options.seed):
        return play_episodes(
            policy,
            env,
            n_episodes=options.episodes,
            n_timesteps=options.n_timesteps,
            deterministic=greedy,
            seed=options.seed,
            on_frame=env.render if options.render else None,
            on_episode=bar.update,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """
    :param arguments: of the command line; the process's own by default
    :return: exit code
    :raises SystemExit: with code 2 when the user got something wrong
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with user_errors():
            options = parse_options(words)
            game = prepare(options)
        if options.verbose:
            print(game)
        print(returns_table(play(game, options), per_agent=True))
        if options.record is not None and options.verbose:
            print(f"The video is in {options.record}.")
        return 0
    except (ImportError, OSError, VideoError) as error:  # no pygame, a full disk, frames that are no pictures
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
