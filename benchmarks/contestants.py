"""
Trainings that advance iteration by iteration, for the comparison of speed: ours and those of plain Stable-Baselines3.

- *SuperSuit + one shared PPO* is PettingZoo's tutorial: SuperSuit turns every agent of every copy into a column of one
  vectorised environment in this process, and one SB3 PPO learns from all columns. One policy plays all agents. Observations of
  unlike sizes are padded, and normalised by SB3's VecNormalize where ours are.
- *PPO alone* is SB3's PPO as one of the agents, in a gymnasium environment; every other agent repeats one action. Its time is
  that of one learner, without any multi-agent code.
- Ours is MATRL with one learner per agent.

All have the networks, rollout length, epochs and rows of a minibatch of the zoo's settings. One shared PPO has n times the
rows of a learner of ours, in minibatches of the same size, hence as many gradient steps as our n learners together.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any

import gymnasium
import supersuit
import torch as th
from pettingzoo import ParallelEnv
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from benchmarks.shared import build_model
from sb3_matrl import MATRL
from sb3_matrl.envs import make
from sb3_matrl.zoo.common.hyperparameters import Hyperparameters

#: More steps than any measurement takes; schedules stay at their first value.
FOREVER = 10**12
# Arguments of PPO that have their own place here.
_NOT_PPO = frozenset({"env", "seed", "device", "verbose", "tensorboard_log", "_init_setup_model"})


class _Stopped(Exception):
    """Ends a training from within."""


class SteppedTraining:
    """
    A training that runs ``learn`` in a thread of its own, one iteration at a time.

    :param model: model whose ``learn`` collects rollouts by its method ``collect_rollouts``
    """

    def __init__(self, model: BaseAlgorithm) -> None:
        self.model = model
        self._error: BaseException | None = None
        self._stop = False
        self._go, self._waiting = threading.Semaphore(0), threading.Semaphore(0)
        self._collect: Callable[..., bool] = model.collect_rollouts  # type: ignore[attr-defined]
        model.collect_rollouts = self._collect_in_turn  # type: ignore[attr-defined]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        self._wait()

    def iterate(self) -> None:
        """
        Train for one iteration: collect a rollout and learn from it.

        :raises RuntimeError: if the training failed
        """
        self._go.release()
        self._wait()

    def close(self) -> None:
        """End the training; further calls do nothing."""
        self._stop = True
        self._go.release()
        self._thread.join()

    def _wait(self) -> None:
        self._waiting.acquire()
        if self._error is not None:
            raise RuntimeError(f"the training failed: {self._error}") from self._error

    def _collect_in_turn(self, *args: Any, **kwargs: Any) -> bool:
        self._waiting.release()
        self._go.acquire()
        if self._stop:
            raise _Stopped
        return self._collect(*args, **kwargs)

    def _run(self) -> None:
        th.set_num_threads(1)  # a setting of the thread
        try:
            self.model.learn(FOREVER, log_interval=None)  # type: ignore[arg-type]  # SB3 takes None, too
        except _Stopped:
            pass
        except BaseException as error:  # shown by the waiting thread
            self._error = error
            self._waiting.release()


@dataclass(frozen=True)
class Work:
    """
    Work done since a training began.

    :param env_steps: joint steps over all copies of the environment
    :param gradient_steps: gradient steps over all learners, each of one minibatch
    """

    env_steps: int
    gradient_steps: int

    def __sub__(self, other: Work) -> Work:
        return Work(self.env_steps - other.env_steps, self.gradient_steps - other.gradient_steps)


class Contestant(ABC):
    """
    A training to be measured.

    :param name: name in tables
    :param model: the model
    """

    def __init__(self, name: str, model: BaseAlgorithm) -> None:
        self.name = name
        self.model = model
        self.training = SteppedTraining(model)

    @property
    @abstractmethod
    def work(self) -> Work:
        """Work done so far, counted by the model and by Adam."""

    @property
    def detail(self) -> str:
        """How the model computes, for the record."""
        return ""

    def close(self) -> None:
        """End the training and close its environment; further calls do nothing."""
        self.training.close()
        if self.model.env is not None:
            self.model.env.close()


class SharedPPO(Contestant):
    """
    PettingZoo's tutorial: SuperSuit and one PPO of Stable-Baselines3 that all agents share.

    :param settings: hyper-parameters
    :param env: id of the environment
    """

    def __init__(self, settings: Hyperparameters, env: str) -> None:
        world = make(env, **settings.env_kwargs)
        self.n_agents = len(world.possible_agents)
        super().__init__("SuperSuit + one shared PPO", _ppo(settings, tutorial_vec_env(world, settings.n_envs)))

    @property
    def work(self) -> Work:
        return Work(self.model.num_timesteps // self.n_agents, adam_steps(_optimizer(self.model)))


class LonePPO(Contestant):
    """
    PPO of Stable-Baselines3 as the first agent, all others of which repeat one action.

    :param settings: hyper-parameters
    :param env: id of the environment
    """

    def __init__(self, settings: Hyperparameters, env: str) -> None:
        def copy() -> gymnasium.Env[Any, Any]:
            return OneAgentView(make(env, **settings.env_kwargs))

        super().__init__("PPO alone (one agent)", _ppo(settings, DummyVecEnv([copy] * settings.n_envs)))

    @property
    def work(self) -> Work:
        return Work(self.model.num_timesteps, adam_steps(_optimizer(self.model)))


class Ours(Contestant):
    """
    MATRL, or one of its ablations.

    :param name: name in tables
    :param settings: hyper-parameters, ``backend`` included
    :param env: id of the environment
    """

    model: MATRL

    def __init__(self, name: str, settings: Hyperparameters, env: str) -> None:
        super().__init__(name, build_model(settings, env, seed=0))

    @property
    def work(self) -> Work:
        best_responses = self.model.coordinator.optimizers.values()
        optimizers = [*map(_optimizer, self.model.learners.values()), *best_responses]
        return Work(self.model.num_timesteps, sum(map(adam_steps, optimizers)))

    @property
    def detail(self) -> str:
        return self.model.coordinator.joint.describe()


class OneAgentView(gymnasium.Env[Any, Any]):
    """
    The first agent's view of a multi-agent environment; every other agent repeats one action.

    :param env: PettingZoo environment
    """

    def __init__(self, env: ParallelEnv[str, Any, Any]) -> None:
        self.env = env
        self.agent, *others = env.possible_agents
        self.observation_space, self.action_space = env.observation_space(self.agent), env.action_space(self.agent)
        self.others: dict[str, Any] = {}
        for other in others:
            env.action_space(other).seed(0)
            self.others[other] = env.action_space(other).sample()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        observations, _ = self.env.reset(seed=seed, options=options)
        return observations[self.agent], {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        alive, agent = self.env.agents, self.agent
        actions = {other: kept for other, kept in self.others.items() if other in alive} | {agent: action}
        observations, rewards, terminations, truncations, _ = self.env.step(actions)
        return observations[agent], float(rewards[agent]), bool(terminations[agent]), bool(truncations[agent]), {}

    def close(self) -> None:
        self.env.close()


def tutorial_vec_env(world: ParallelEnv[str, Any, Any], n_envs: int) -> VecEnv:
    """
    A vectorised environment as PettingZoo's tutorial makes it, in this process.

    :param world: environment whose agents have like actions and end together
    :param n_envs: number of copies
    :return: vectorised environment with a column for every agent of every copy
    """
    if len({repr(world.observation_space(agent)) for agent in world.possible_agents}) > 1:
        world = supersuit.pad_observations_v0(world)
    columns = supersuit.pettingzoo_env_to_vec_env_v1(world)
    copies: VecEnv = supersuit.concat_vec_envs_v1(columns, n_envs, num_cpus=0, base_class="stable_baselines3")
    return copies


def adam_steps(optimizer: th.optim.Optimizer) -> int:
    """
    Steps that an optimiser has taken, as Adam counts them for its bias corrections.

    :param optimizer: Adam
    """
    return max((int(state["step"]) for state in optimizer.state.values()), default=0)


def _ppo(settings: Hyperparameters, env: VecEnv) -> PPO:
    """SB3's PPO with the hyper-parameters that it knows, and with VecNormalize where ours normalises."""
    if settings["norm_obs"] or settings["norm_reward"]:
        names = ("norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma")
        env = VecNormalize(env, **{name: settings[name] for name in names})
    given, known = settings.model_arguments(), signature(PPO).parameters.keys() - _NOT_PPO
    return PPO(env=env, device="cpu", **{name: given[name] for name in known & given.keys()})


def _optimizer(model: Any) -> th.optim.Optimizer:
    optimizer: th.optim.Optimizer = model.policy.optimizer
    return optimizer
