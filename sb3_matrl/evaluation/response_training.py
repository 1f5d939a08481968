"""A fresh learner trained against frozen agents: the best response that training finds."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecEnv

from sb3_matrl.common.arguments import LearnerArguments, constructor_arguments
from sb3_matrl.common.frozen import FrozenAgent
from sb3_matrl.common.model import MultiAgentModel
from sb3_matrl.common.registry import algorithm_spec
from sb3_matrl.common.scripted import JointModelPlayer
from sb3_matrl.envs.parallel import is_environment
from sb3_matrl.evaluation.evaluate import JointPredictor, evaluate_policy
from sb3_matrl.evaluation.mixed import MixedPolicy, Player
from sb3_matrl.evaluation.role_players import OneWay, SoloPlayer
from sb3_matrl.utils.one_line import one_line
from sb3_matrl.utils.suggest import unknown
from sb3_matrl.vec_env import JointVecEnv, make_joint_vec_env

#: Algorithm that learns the responses.
LEARNER = "ippo"
#: Weights with which a response starts.
STARTS = ("scratch", "own")
MAX_COPIES = 64
# Arguments of learners, envs and normalisers, without those of the method that trained them together.
_OF_LEARNERS = {
    *inspect.signature(PPO.__init__).parameters,
    *("n_envs", "vec_env", "env_timeout", "learner_class", "learner_kwargs", "norm_obs", "norm_reward", "clip_obs"),
    *("clip_reward", "critic", "state", "backend"),
}
# Smaller pictures have no room for the convolutions of SB3's CnnPolicy.
_MIN_PICTURE = 36


@dataclass(frozen=True, kw_only=True)
class ResponseSettings:
    """
    How responses are trained and measured.

    :param n_timesteps: steps of each training, over all copies of the env
    :param n_evaluations: number of evaluations during a training, beside the one before it; the best policy is kept
    :param n_eval_episodes: episodes of every evaluation
    :param deterministic: whether the agents of the model play greedily instead of sampling; a response plays in whichever of
        the two ways earns more
    :param arguments: constructor arguments of :class:`~sb3_matrl.MATRL` that replace those of the model
    :param seed: seed of the evaluations
    :raises ValueError: if a number is less than 1, or less than 2 for episodes, which intervals need
    """

    n_timesteps: int = 50_000
    n_evaluations: int = 10
    n_eval_episodes: int = 200
    deterministic: bool = False
    arguments: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("n_timesteps", 1), ("n_evaluations", 1), ("n_eval_episodes", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")

    def seed_of(self, purpose: int) -> int:
        """Seed of the evaluations that choose a policy (0), or of those that measure the chosen one (1)."""
        return int(np.random.SeedSequence([self.seed, purpose]).generate_state(1)[0])


@dataclass(frozen=True, eq=False)
class Response:
    """
    A trained response to frozen agents.

    :param agent: agent that learned
    :param start: ``"scratch"`` or ``"own"``: its weights at the beginning
    :param seed: seed of the training
    :param timesteps: steps after which it was evaluated, (m,)
    :param scores: mean return of the agent in each of these evaluations, sampled or greedy, whichever is larger, (m,)
    :param kept: index of the evaluation whose policy was kept
    :param deterministic: whether the kept policy plays greedily
    :param returns: return of the kept policy in games that did not choose it, (k,)
    """

    agent: str
    start: str
    seed: int
    timesteps: tuple[int, ...]
    scores: tuple[float, ...]
    kept: int
    deterministic: bool
    returns: tuple[float, ...]

    @property
    def score(self) -> float:
        """Mean return by which the kept policy was chosen."""
        return self.scores[self.kept]


def train_response(
    model: JointPredictor,
    agent: str,
    env: Any,
    start: str = "scratch",
    seed: int = 0,
    settings: ResponseSettings | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    on_step: Callable[[int], None] | None = None,
) -> Response:
    """
    Train one agent against the others of a model, which do not learn, and measure the best policy found.

    The learner is PPO, or what the model trained the agent with, with the model's own arguments.

    :param model: a trained model, or anything with its ``predict``
    :param agent: agent that is replaced by a learner
    :param env: factory or id of the env; not an env that exists already, because several copies are made
    :param start: ``"scratch"``: new weights; ``"own"``: those of the agent in the model
    :param seed: seed of the training
    :param settings: length of the training, and evaluations
    :param env_kwargs: keyword arguments of the env's factory
    :param on_step: function called with the number of steps done
    :return: the response
    :raises ValueError: if the agent is unknown, or its weights cannot be taken over
    :raises TypeError: if ``env`` is no factory and no id
    """
    chosen = settings or ResponseSettings()
    with closing(evaluation_copies(env, chosen, env_kwargs)) as eval_env:
        check_agent(agent, eval_env)
        learner = _build(model, agent, env, start, seed, chosen, env_kwargs, eval_env)
        try:
            keeper = _BestPolicy(agent, eval_env, chosen, on_step)
            learner.learn(chosen.n_timesteps, callback=keeper, log_interval=None)
        finally:
            learner.env.close()
        best = OneWay(SoloPlayer(keeper.policy), keeper.deterministic)
        players = {agent: Player(best, SoloPlayer.name)}
        returns = returns_of(model, agent, eval_env, chosen, players)
    return Response(
        agent,
        start,
        seed,
        tuple(keeper.timesteps),
        tuple(keeper.scores),
        keeper.kept,
        keeper.deterministic,
        tuple(returns.tolist()),
    )


def evaluation_copies(env: Any, settings: ResponseSettings, env_kwargs: Mapping[str, Any] | None) -> JointVecEnv:
    """
    Copies of the env for evaluations.

    :param env: factory or id of the env
    :param settings: number of episodes
    :param env_kwargs: keyword arguments of the env's factory
    :raises TypeError: if ``env`` is no factory and no id
    """
    if isinstance(env, VecEnv) or is_environment(env):
        raise TypeError(f"responses need several copies of the env: pass its id or factory, not a {type(env).__name__}")
    return make_joint_vec_env(env, n_envs=min(settings.n_eval_episodes, MAX_COPIES), env_kwargs=env_kwargs)


def check_agent(agent: str, env: JointVecEnv) -> None:
    """
    :param agent: name of an agent
    :param env: env
    :raises ValueError: if the env has no such agent
    """
    if agent not in env.agents:
        raise ValueError(unknown("agent", agent, env.agents))


def returns_of(
    model: JointPredictor,
    agent: str,
    env: JointVecEnv,
    settings: ResponseSettings,
    instead: Mapping[str, Player] | None = None,
) -> np.ndarray:
    """
    Returns of an agent in games that choose no policy; the same seeds in every call.

    :param model: model of all agents
    :param agent: agent whose returns are wanted
    :param env: env that is played
    :param settings: number of episodes, and whether the agents of the model play greedily
    :param instead: agent -> player in place of that of the model
    :return: (k,)
    """
    fixed = OneWay(model, settings.deterministic)
    players = {name: Player(fixed, name) for name in env.agents} | dict(instead or {})
    result = evaluate_policy(MixedPolicy(players), env, settings.n_eval_episodes, seed=settings.seed_of(1))
    return result.agent_returns[:, env.agents.index(agent)]


def has_own_weights(model: Any, agent: str) -> bool:
    """Whether the learner of responses can start with the weights of an agent of a model."""
    is_alike = isinstance(model, algorithm_spec(LEARNER).load_class())
    return is_alike and agent not in model.team.frozen


def _build(
    model: Any,
    agent: str,
    env: Any,
    start: str,
    seed: int,
    settings: ResponseSettings,
    env_kwargs: Mapping[str, Any] | None,
    eval_env: JointVecEnv,
) -> Any:
    """The model in which one agent learns and all others are frozen."""
    if start not in STARTS:
        raise ValueError(unknown("start", start, STARTS))
    if start == "own" and not has_own_weights(model, agent):
        raise ValueError(f"{agent!r} has no weights that {LEARNER} can start with: use start='scratch'")
    spec = algorithm_spec(LEARNER)
    fixed = OneWay(model, settings.deterministic)
    arguments = {
        "device": getattr(model, "device", "auto"),
        **spec.fixed,
        **(_own_arguments(model, agent) if isinstance(model, spec.load_class()) else _default_arguments(agent, eval_env)),
        **settings.arguments,
        "metagame": False,
        "best_response": False,
        "share": None,
        "frozen": {other: JointModelPlayer(fixed, other) for other in eval_env.agents if other != agent} or None,
        "env_kwargs": env_kwargs,
        "tensorboard_log": None,
        "verbose": 0,
        "seed": seed,
    }
    learner: Any = spec.load_class()(env=env, **arguments)
    if start == "own":
        _take_weights(model, agent, learner)
    return learner


def _own_arguments(model: MultiAgentModel, agent: str) -> dict[str, Any]:
    """Constructor arguments with which a model trained an agent; those of its first learner for a frozen agent."""
    learner = next(iter(model.learners)) if agent in model.team.frozen else model.team.learner_of(agent)
    per_learner = LearnerArguments(model.arguments, model.learners)
    return {
        name: per_learner.of(name, learner) if spec.per_agent else model.arguments[name]
        for name, spec in constructor_arguments(type(model)).items()
        if name in _OF_LEARNERS
    }


def _default_arguments(agent: str, env: JointVecEnv) -> dict[str, Any]:
    """Arguments for models whose learners are of another kind: SB3's defaults, and what the env needs."""
    space = env.observation_spaces[agent]
    is_picture = is_image_space(space) and sorted(space.shape or ())[1] >= _MIN_PICTURE
    kind = "MultiInput" if isinstance(space, spaces.Dict) else "Cnn" if is_picture else "Mlp"
    env.reset()
    masked = {"learner_class": MaskablePPO} if agent in env.agents_with_masks else {}
    return {"policy": f"{kind}Policy", **masked}


def _take_weights(model: MultiAgentModel, agent: str, learner: Any) -> None:
    """Copy the policy and the statistics of the normaliser; optimisers begin anew."""
    name = model.team.learner_of(agent)
    try:
        learner.learners[agent].policy.load_state_dict(model.learners[name].policy.state_dict())
    except RuntimeError as error:
        reason = one_line(error)
        raise ValueError(
            f"the weights of {agent!r} do not fit a learner of its own: use start='scratch' ({reason})"
        ) from error
    if name in model.team.normalizers:
        learner.team.normalizers[agent].restore(model.team.normalizers[name].state(), with_running=False)


class _BestPolicy(BaseCallback):
    """
    Evaluates the learner during its training, both sampled and greedy, and keeps its best policy.

    :param agent: agent that learns
    :param env: env for evaluations
    :param settings: number of evaluations and episodes
    :param on_step: function called with the number of steps done
    """

    def __init__(
        self, agent: str, env: JointVecEnv, settings: ResponseSettings, on_step: Callable[[int], None] | None
    ) -> None:
        super().__init__()
        self.agent = agent
        self.env = env
        self.settings = settings
        self.on_step_done = on_step
        self.timesteps: list[int] = []
        self.scores: list[float] = []
        self.kept = 0
        self.deterministic = False
        self.policy: FrozenAgent

    def _on_rollout_start(self) -> None:
        part = self.settings.n_timesteps / self.settings.n_evaluations
        if not self.timesteps or self.model.num_timesteps // part > self.timesteps[-1] // part:
            self._evaluate()

    def _on_step(self) -> bool:
        if self.on_step_done is not None:
            self.on_step_done(min(self.model.num_timesteps, self.settings.n_timesteps))
        return True

    def _on_training_end(self) -> None:
        if self.timesteps[-1] != self.model.num_timesteps:
            self._evaluate()

    def _evaluate(self) -> None:
        model: Any = self.model
        column, episodes, seed = self.env.agents.index(self.agent), self.settings.n_eval_episodes, self.settings.seed_of(0)
        found = [
            float(evaluate_policy(model, self.env, episodes, greedy, seed).agent_returns[:, column].mean())
            for greedy in (False, True)
        ]
        self.timesteps.append(model.num_timesteps)
        self.scores.append(max(found))
        if len(self.scores) == 1 or self.scores[-1] > self.scores[self.kept]:
            self.kept = len(self.scores) - 1
            self.deterministic = found[1] > found[0]
            self.policy = model.player(self.agent).copied()
