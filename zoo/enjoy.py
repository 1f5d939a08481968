"""Play what was trained: ``python zoo/enjoy.py --algo matrl --env checkers_v0``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sb3_matrl import MATRL
from sb3_matrl.evaluation import EvaluationResult, evaluate_policy, isolated_random_streams
from sb3_matrl.vec_env import make_joint_vec_env
from zoo.cli import USER_ERROR, StrictParser, algorithm, count, device, positive_count, seed, user_errors
from zoo.config import ALGORITHMS, Hyperparameters, parse_pairs, read_yaml
from zoo.environments import check_env, make_env
from zoo.playing import play_episodes
from zoo.runs import RunFolder, find_run_folder
from zoo.tables import returns_table

MAX_COPIES = 32
EXAMPLES = """\
  python zoo/enjoy.py --algo matrl --env checkers_v0
  python zoo/enjoy.py --algo matrl --env checkers_v0 --render --n-episodes 3
  python zoo/enjoy.py --algo ippo --env switch_v0 --exp-id 2 --load-best --deterministic
"""


@dataclass(frozen=True)
class EnjoyOptions:
    """The command line of ``enjoy.py``, which ``--help`` explains."""

    algo: str
    env: str
    log_folder: str
    exp_id: int
    n_timesteps: int | None
    n_episodes: int | None
    deterministic: bool
    stochastic: bool
    seed: int
    render: bool
    load_best: bool
    load_checkpoint: int | None
    load_last_checkpoint: bool
    env_kwargs: dict[str, Any]
    device: str
    verbose: int

    @property
    def policies(self) -> dict[str, bool]:
        """What is played: name of the policy -> whether it is greedy."""
        if self.deterministic:
            return {"greedy": True}
        if self.stochastic or self.render:
            return {"sampled": False}
        return {"sampled": False, "greedy": True}

    @property
    def episodes(self) -> int:
        """How many episodes are played with each policy."""
        return self.n_episodes or (5 if self.render else 100)


def build_parser() -> StrictParser:
    """The flags, with rl-zoo's names where it has them."""
    parser = StrictParser("Play trained agents and print what they earn.", EXAMPLES)
    add = parser.add_argument
    add("--algo", type=algorithm, default="matrl", help=f"algorithm: {', '.join(ALGORITHMS)}")
    add("--env", default="checkers_v0", help="environment that the agents were trained in")
    add("-f", "--log-folder", default="logs", help="where the runs are")
    add("--exp-id", type=count, default=0, help="number of the run; 0: the latest")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("-n", "--n-timesteps", type=positive_count, help="play at least this many steps, one env copy")
    length.add_argument("--n-episodes", type=positive_count, help="episodes to play; None: 100, or 5 with --render")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--deterministic", action="store_true", help="only greedy actions")
    kind.add_argument("--stochastic", action="store_true", help="only sampled actions (with --render: anyway)")
    add("--seed", type=seed, default=0, help="seed of the environment and of sampled actions")
    window = parser.add_mutually_exclusive_group()
    window.add_argument("--render", action="store_true", dest="render", help="show the game in a window")
    window.add_argument("--no-render", action="store_false", dest="render", help="show only the table")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--load-best", action="store_true", help="the best model instead of the last one")
    which.add_argument("--load-checkpoint", type=positive_count, metavar="STEPS", help="the checkpoint after that many steps")
    which.add_argument("--load-last-checkpoint", action="store_true", help="the latest checkpoint")
    pairs: dict[str, Any] = {"action": "extend", "nargs": "+", "default": [], "metavar": "KEY:VALUE"}
    add("--env-kwargs", help="options of the environment to change, as YAML", **pairs)
    add("--device", type=device, default="auto", help="auto, cpu, cuda, ...")
    add("--verbose", type=int, choices=[0, 1], default=1, help="0: only the table, 1: also what was loaded")
    return parser


def parse_options(words: Sequence[str]) -> EnjoyOptions:
    """
    :param words: of the command line, without the program's name
    :raises ValueError: on unknown flags or values that cannot be read
    """
    given = vars(build_parser().parse_strictly(words))
    given["env_kwargs"] = parse_pairs(given["env_kwargs"], "--env-kwargs")
    return EnjoyOptions(**given)


def model_path(folder: RunFolder, options: EnjoyOptions) -> Path:
    """
    Which file to load.

    :raises FileNotFoundError: when it is not there; says what is
    """
    steps = folder.checkpoint_steps()
    path = folder.last_model
    if options.load_best:
        path = folder.best_model
    elif options.load_checkpoint is not None:
        path = folder.checkpoint(options.load_checkpoint)
    elif options.load_last_checkpoint:
        path = folder.checkpoint(steps[-1] if steps else 0)
    if not path.is_file():
        models = [name.name for name in (folder.last_model, folder.best_model) if name.is_file()]
        models += [f"checkpoint {step}" for step in steps]
        raise FileNotFoundError(
            f"{folder.path} has no {path.relative_to(folder.path)}; it has: {', '.join(models) or 'no model'}"
        )
    return path


def trained_env_kwargs(folder: RunFolder) -> dict[str, Any]:
    """
    The environment's options in training.

    :raises FileNotFoundError: when the run has no ``config.yml``
    :raises ValueError: when that is damaged
    """
    if not folder.config.is_file():
        raise FileNotFoundError(f"{folder.path} has no {folder.config.name}: it is no run of train.py, or not a whole one")
    entry = read_yaml(folder.config).get(folder.env_id)
    if not isinstance(entry, dict):
        raise ValueError(f"{folder.config} has no entry for {folder.env_id}")
    return Hyperparameters.from_mapping(entry, str(folder.config)).env_kwargs


def play(model: MATRL, options: EnjoyOptions, env_kwargs: dict[str, Any]) -> dict[str, EvaluationResult]:
    """
    Play with each kind of policy; the same seed plays the same episodes.

    :param model: trained
    :param options: how long, and how
    :param env_kwargs: options of the environment
    :return: name of the policy -> its episodes
    """
    if options.render or options.n_timesteps is not None:
        return {name: _play_one_copy(model, options, env_kwargs, greedy) for name, greedy in options.policies.items()}
    env = make_joint_vec_env(options.env, n_envs=min(options.episodes, MAX_COPIES), env_kwargs=env_kwargs)
    try:
        return {
            name: evaluate_policy(model, env, options.episodes, deterministic=greedy, seed=options.seed)
            for name, greedy in options.policies.items()
        }
    finally:
        env.close()


def _play_one_copy(model: MATRL, options: EnjoyOptions, env_kwargs: dict[str, Any], greedy: bool) -> EvaluationResult:
    if options.render:
        env_kwargs = {**env_kwargs, "render_mode": "human"}
    env = make_env(options.env, env_kwargs)
    try:
        with isolated_random_streams(options.seed):
            return play_episodes(
                model,
                env,
                n_episodes=None if options.n_timesteps else options.episodes,
                n_timesteps=options.n_timesteps,
                deterministic=greedy,
                seed=options.seed,
                render=options.render,
            )
    finally:
        env.close()


def check_agents(model: MATRL, options: EnjoyOptions, env_kwargs: dict[str, Any]) -> None:
    """
    :raises ValueError: when the environment's options give other agents or spaces than the model was trained with
    """
    env = make_env(options.env, env_kwargs)
    try:
        for agent, learner in model.agents.items():
            if agent not in env.possible_agents:
                raise ValueError(f"{options.env} with {env_kwargs} has no {agent}; the model was trained with it")
            space = env.observation_space(agent)
            if space.shape != learner.observation_space.shape:
                raise ValueError(
                    f"{options.env} with {env_kwargs} gives {agent} observations of shape {space.shape}, "
                    f"the model was trained on {learner.observation_space.shape}"
                )
        if len(env.possible_agents) != len(model.agents):
            raise ValueError(
                f"{options.env} with {env_kwargs} has agents {env.possible_agents}, the model {list(model.agents)}"
            )
    finally:
        env.close()


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
            folder = find_run_folder(Path(options.log_folder), options.algo, options.env, options.exp_id)
            path = model_path(folder, options)
            env_kwargs = {**trained_env_kwargs(folder), **options.env_kwargs}
            check_env(options.env, env_kwargs)
            model = MATRL.load(path, device=options.device)
            check_agents(model, options, env_kwargs)
        if options.verbose:
            print(f"{path}, trained for {model.num_timesteps} steps")
        print(returns_table(play(model, options, env_kwargs), per_agent=True))
        return 0
    except ImportError as error:  # pygame, say
        print(f"error: {error}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
