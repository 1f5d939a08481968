"""What IDDPG, MADDPG and COMIX share: arguments of SB3's DDPG, exploration noise, acting."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import DDPG
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import get_parameters_by_name
from stable_baselines3.td3.policies import TD3Policy

from sb3_matrl.common.arguments import LearnerArguments, PerAgent
from sb3_matrl.off_policy.central_critic import action_size
from sb3_matrl.off_policy.exploration_noise import TeamNoise
from sb3_matrl.off_policy.off_policy_algorithm import Actions, OffPolicyMultiAgent
from sb3_matrl.off_policy.utilities import fast_options


class DDPGFamily(OffPolicyMultiAgent):
    """
    Base class of IDDPG, MADDPG and COMIX.

    The arguments up to ``_init_setup_model`` have the names, order, meaning and defaults of SB3's DDPG. Those marked (*) may
    also be a dict keyed by agent.

    :param policy: (*) policy name (``MlpPolicy``, ``CnnPolicy``, ``MultiInputPolicy``) or subclass of SB3's ``TD3Policy``
    :param env: factory of a PettingZoo ``ParallelEnv``, such an env, an id (``"hopper_3x1"``, ``"module:callable"``), or a
        ``JointVecEnv``
    :param learning_rate: learning rate; a number or a function of the remaining progress
    :param buffer_size: joint transitions in the replay buffer, over all copies
    :param learning_starts: joint steps with random actions before the first gradient step
    :param batch_size: joint transitions of a gradient step
    :param tau: coefficient of the targets' update after every gradient step
    :param gamma: discount factor
    :param train_freq: steps per copy between two updates, or a tuple such as ``(5, "step")`` or ``(2, "episode")``
    :param gradient_steps: gradient steps of an update; -1 for as many as joint steps were played
    :param action_noise: (*) standard deviation of normal noise on the actions scaled to [-1, 1], SB3's noise object, or
        ``None`` for no noise; for agents with a Box. As in SB3, noise is added to the random actions of the warm-up, too
    :param replay_buffer_class: ``None``; the buffer of several agents is always a ``JointReplayBuffer``
    :param replay_buffer_kwargs: ``{"handle_timeout_termination": False}`` takes a time limit for an end of the episode
    :param optimize_memory_usage: ``False``; observations are always stored once
    :param n_steps: 1; returns of several steps are not supported
    :param tensorboard_log: folder of TensorBoard logs
    :param policy_kwargs: (*) keyword arguments of the policy, among them the class and the arguments of the optimiser
    :param verbose: 0 for no output, 1 for info messages, 2 for debug messages
    :param seed: seed of all random draws, as in SB3
    :param device: device of the networks
    :param _init_setup_model: whether to build the networks in the constructor

    :param stats_window_size: number of episodes over which rollout statistics are averaged
    :param n_envs: number of env copies; a ``JointVecEnv`` has its own number
    :param env_kwargs: keyword arguments of the env factory
    :param vec_env: ``"auto"``, ``"batched"``, ``"dummy"``, ``"subproc"``, ``"supersuit"`` or ``"supersuit-subproc"``, see
        :func:`~sb3_matrl.vec_env.factory.make_joint_vec_env`
    :param env_timeout: seconds that a worker process has for one step of its copies, see the same function; ``None`` for none
    :param norm_reward: whether to divide rewards by the running standard deviation of the discounted return
    :param on_nan: NaN or infinite numbers in a gradient step end the training (``"stop"``), or that step is skipped
        (``"skip"``); either way nothing is changed by it
    :param rollout_workers: number of workers that play the steps between two updates, each with its share of the copies, while
        this process stores and learns; ``None`` for steps in this process. Every worker draws from generators of its own, so
        that their number decides about the results, and where they run does not. They pay with a large ``train_freq``
    :param worker_backend: ``"process"`` runs each worker in a process on this machine, ``"ray"`` on a Ray cluster,
        ``"in-turn"`` one after the other in this process
    :raises ValueError: if an argument or the env is not usable; the message says what to do
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = DDPG.policy_aliases
    action_kinds: ClassVar[tuple[type[spaces.Space[Any]], ...]] = (spaces.Box,)
    other_actions = ": use IQL, VDN, QMIX, QTRAN, QDPP or MADDPG for Discrete actions"

    #: Agent -> its networks.
    networks: dict[str, TD3Policy]

    def __init__(
        self,
        policy: PerAgent[str | type[TD3Policy]],
        env: Any,
        learning_rate: float | Schedule = 1e-3,
        buffer_size: int = 1_000_000,
        learning_starts: int = 100,
        batch_size: int = 256,
        tau: float = 0.005,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 1,
        gradient_steps: int = 1,
        action_noise: PerAgent[float | ActionNoise | None] = None,
        replay_buffer_class: type[Any] | None = None,
        replay_buffer_kwargs: Mapping[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        tensorboard_log: str | None = None,
        policy_kwargs: PerAgent[Mapping[str, Any] | None] = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        stats_window_size: int = 100,
        n_envs: int = 1,
        env_kwargs: Mapping[str, Any] | None = None,
        vec_env: str = "auto",
        env_timeout: float | None = None,
        norm_reward: bool = False,
        on_nan: str = "stop",
        rollout_workers: int | None = None,
        worker_backend: str = "process",
        **added: Any,
    ) -> None:
        super().__init__({**locals(), **added})

    def _setup_model(self) -> None:
        for agent, space in self._spaces["action"].items():
            _check_bounds(agent, space)
        self.__dict__.pop("_followed", None)
        self.noise = TeamNoise(self.arguments["action_noise"], self._spaces["action"], self.n_envs)
        super()._setup_model()

    def policy_kwargs_of(self, agent: str, arguments: LearnerArguments) -> dict[str, Any]:
        """
        Keyword arguments of an agent's policy; optimisers of teams are faster, a single agent's equal SB3's bit for bit.

        :param agent: name of the agent
        :param arguments: constructor arguments by agent
        """
        given = dict(arguments.of("policy_kwargs", agent) or {})
        optimizer_class = given.get("optimizer_class", th.optim.Adam)
        has_own_default = "optimizer_class" not in given and not isinstance(arguments.of("policy", agent), str)
        if len(self.possible_agents) == 1 or has_own_default:
            return given
        options = dict(given.get("optimizer_kwargs") or {})
        return {**given, "optimizer_kwargs": {**options, **fast_options(optimizer_class, options)}}

    def try_critic(self, agent: str, observation: Any) -> None:
        networks = self.networks[agent]
        actions = th.zeros(1, action_size(self._spaces["action"][agent]), device=self.device)
        for values in networks.critic(networks.obs_to_tensor(observation)[0], actions):
            check_values(values)

    # ------------------------------------------------------------------ training

    def begin_playing(self) -> None:
        self.noise.reset(range(self.n_envs))  # as SB3

    def acting_networks(self) -> dict[str, th.nn.Module]:
        return {agent: networks.actor for agent, networks in self.networks.items()}

    def buffer_actions(self, actions: Actions) -> tuple[Actions, Actions]:
        played, stored = super().buffer_actions({agent: acts for agent, acts in actions.items() if not self._is_box(agent)})
        for agent, acts in actions.items():
            if self._is_box(agent):
                networks = self.networks[agent]
                scaled = self.noise.add(agent, networks.scale_action(acts))
                played[agent], stored[agent] = networks.unscale_action(scaled), scaled.reshape(self.n_envs, -1)
        return {agent: played[agent] for agent in actions}, {agent: stored[agent] for agent in actions}

    def _is_box(self, agent: str) -> bool:
        return isinstance(self.exploration_spaces[agent], spaces.Box)

    def on_episode_end(self, copy: int) -> None:
        self.noise.reset([copy])

    def extra_state(self) -> dict[str, Any]:
        return {"noise": self.noise.state()}

    def restore_extra_state(self, state: Mapping[str, Any]) -> None:
        self.noise.restore(state["noise"])

    def set_training_mode(self, mode: bool) -> None:
        for networks in self.networks.values():
            networks.set_training_mode(mode)

    @abstractmethod
    def target_pairs(self) -> list[list[tuple[th.nn.Module, th.nn.Module]]]:
        """
        :return: networks and the targets that follow them, in groups that are updated one after the other: networks of
            different groups may share parameters, and their targets as well
        """

    @cached_property
    def _followed(self) -> list[tuple[list[th.Tensor], list[th.Tensor], list[th.Tensor], list[th.Tensor]]]:
        """By group: parameters of networks and of targets, running statistics of batch normalisation and the targets' ones."""
        groups = [[list(side) for side in zip(*pairs, strict=True)] for pairs in self.target_pairs()]
        return [(*map(_parameters, sides), *map(_statistics, sides)) for sides in groups]  # type: ignore[misc]

    def update_targets(self) -> None:
        """Move all targets towards their networks by ``tau``, as SB3's ``polyak_update``; running statistics are copied."""
        with th.no_grad():
            for parameters, targets, statistics, following in self._followed:
                th._foreach_mul_(targets, 1.0 - self.tau)
                th._foreach_add_(targets, parameters, alpha=self.tau)
                if statistics:
                    th._foreach_copy_(following, statistics)


def check_values(values: th.Tensor) -> None:
    """
    :param values: what a critic returns for one observation and action
    :raises ValueError: if that is not one value
    """
    if values.shape != (1, 1):
        raise ValueError(f"it returns values of shape {tuple(values.shape)} for one action, expected (1, 1)")


def _check_bounds(agent: str, space: spaces.Space[Any]) -> None:
    """
    :raises ValueError: if actions of a Box cannot be scaled to [-1, 1]
    """
    if not isinstance(space, spaces.Box):
        return
    if np.dtype(space.dtype).kind != "f":
        raise ValueError(f"agent {agent!r}: actions must be floats, not {space}: wrap the env to round them")
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all() and (space.low < space.high).all()):
        raise ValueError(
            f"agent {agent!r}: actions are scaled from their bounds to [-1, 1], but {space} is not bounded: wrap the env to "
            "bound them"
        )


def _parameters(networks: Iterable[th.nn.Module]) -> list[th.Tensor]:
    return [parameter for network in networks for parameter in network.parameters()]


def _statistics(networks: Iterable[th.nn.Module]) -> list[th.Tensor]:
    return [statistic for network in networks for statistic in get_parameters_by_name(network, ["running_"])]
