"""Algorithms with an action value per agent: exploration, targets, acting, agents as SB3's DQN."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import LinearSchedule, polyak_update
from stable_baselines3.dqn.policies import DQNPolicy

from sb3_matrl.common.argument_checks import check_policy_name
from sb3_matrl.common.arguments import LearnerArguments, PerAgent
from sb3_matrl.common.legal_masks import mask_rows
from sb3_matrl.common.space_checks import errors_name_spaces
from sb3_matrl.files.model_files import SavedModel
from sb3_matrl.off_policy.joint_batch import JointBatch
from sb3_matrl.off_policy.off_policy_algorithm import Actions, OffPolicyMultiAgent
from sb3_matrl.off_policy.transitions import Moment
from sb3_matrl.off_policy.utilities import (
    Utilities,
    chosen_values,
    fast_options,
    greedy_actions,
    legal_values,
    network_space,
)
from sb3_matrl.utils.random_state import random_generators, restore_random_generators
from sb3_matrl.utils.suggest import unknown

# Arguments that an agent gets as SB3's DQN.
_OF_DQN = (
    *("learning_rate", "learning_starts", "batch_size", "tau", "gamma", "gradient_steps", "max_grad_norm"),
    *("target_update_interval", "exploration_fraction", "exploration_initial_eps", "exploration_final_eps"),
)
BACKENDS = ("auto", "sb3", "torch")
LOSSES = {"huber": th.nn.functional.smooth_l1_loss, "mse": th.nn.functional.mse_loss}


class ValueBased(OffPolicyMultiAgent):
    """
    Base class of IQL, VDN, QMIX, QTRAN and Q-DPP: every agent has SB3's Q-network and a target network.

    The arguments up to ``_init_setup_model`` have the names, order, meaning and defaults of SB3's DQN. Those marked (*) may
    also be a dict keyed by agent.

    :param policy: (*) policy name (``MlpPolicy``, ``CnnPolicy``, ``MultiInputPolicy``) or class
    :param env: factory of a PettingZoo ``ParallelEnv``, such an env, an id (``"checkers_v0"``, ``"module:callable"``), or a
        ``JointVecEnv``
    :param learning_rate: learning rate; a number or a function of the remaining progress
    :param buffer_size: joint transitions in the replay buffer, over all copies
    :param learning_starts: joint steps with random actions before the first gradient step
    :param batch_size: joint transitions of a gradient step
    :param tau: coefficient of the targets' update; 1 copies the networks
    :param gamma: discount factor
    :param train_freq: steps per copy between two updates, or a tuple such as ``(5, "step")`` or ``(2, "episode")``
    :param gradient_steps: gradient steps of an update; -1 for as many as joint steps were played
    :param replay_buffer_class: ``None``; the buffer of several agents is always a ``JointReplayBuffer``
    :param replay_buffer_kwargs: ``{"handle_timeout_termination": False}`` takes a time limit for an end of the episode
    :param optimize_memory_usage: ``False``; observations are always stored once
    :param n_steps: 1; returns of several steps are not supported
    :param target_update_interval: joint steps between two updates of the targets
    :param exploration_fraction: share of the training in which the exploration rate falls
    :param exploration_initial_eps: exploration rate at the beginning
    :param exploration_final_eps: exploration rate at the end
    :param max_grad_norm: maximum norm of the gradients, of all parameters of an optimiser together
    :param stats_window_size: number of episodes over which rollout statistics are averaged
    :param tensorboard_log: folder of TensorBoard logs
    :param policy_kwargs: (*) keyword arguments of the policy, among them the class and the arguments of the optimiser
    :param verbose: 0 for no output, 1 for info messages, 2 for debug messages
    :param seed: seed of all random draws, as in SB3
    :param device: device of the networks
    :param _init_setup_model: whether to build the networks in the constructor

    :param n_envs: number of env copies; a ``JointVecEnv`` has its own number
    :param env_kwargs: keyword arguments of the env factory
    :param vec_env: ``"auto"``, ``"batched"``, ``"dummy"``, ``"subproc"``, ``"supersuit"`` or ``"supersuit-subproc"``, see
        :func:`~sb3_matrl.vec_env.factory.make_joint_vec_env`
    :param env_timeout: seconds that a worker process has for one step of its copies, see the same function; ``None`` for none
    :param double_q: whether the networks choose the next action that the targets evaluate; ``False``, as in SB3's DQN, lets
        the targets choose it
    :param norm_reward: whether to divide rewards by the running standard deviation of the discounted return
    :param on_nan: NaN or infinite numbers in a gradient step end the training (``"stop"``), or that step is skipped
        (``"skip"``); either way nothing is changed by it
    :param backend: code of the networks: ``"sb3"`` calls SB3's agent by agent; ``"torch"`` computes agents whose networks have
        the same shape together, equal up to rounding; ``"auto"`` takes ``"torch"`` for two or more agents, and ``"sb3"`` for
        one
    :param rollout_workers: number of workers that play the steps between two updates, each with its share of the copies, while
        this process stores and learns; ``None`` for steps in this process. Every worker draws from generators of its own, so
        that their number decides about the results, and where they run does not. They pay with a large ``train_freq``
    :param worker_backend: ``"process"`` runs each worker in a process on this machine, ``"ray"`` on a Ray cluster,
        ``"in-turn"`` one after the other in this process
    :raises ValueError: if an argument or the env is not usable; the message says what to do
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = DQN.policy_aliases
    action_kinds = (spaces.Discrete,)
    other_actions = ": use MADDPG, IDDPG or COMIX for Box actions"

    utilities: Utilities

    def __init__(
        self,
        policy: PerAgent[str | type[DQNPolicy]],
        env: Any,
        learning_rate: float | Schedule = 1e-4,
        buffer_size: int = 1_000_000,
        learning_starts: int = 100,
        batch_size: int = 32,
        tau: float = 1.0,
        gamma: float = 0.99,
        train_freq: int | tuple[int, str] = 4,
        gradient_steps: int = 1,
        replay_buffer_class: type[Any] | None = None,
        replay_buffer_kwargs: Mapping[str, Any] | None = None,
        optimize_memory_usage: bool = False,
        n_steps: int = 1,
        target_update_interval: int = 10_000,
        exploration_fraction: float = 0.1,
        exploration_initial_eps: float = 1.0,
        exploration_final_eps: float = 0.05,
        max_grad_norm: float = 10,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: PerAgent[Mapping[str, Any] | None] = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        n_envs: int = 1,
        env_kwargs: Mapping[str, Any] | None = None,
        vec_env: str = "auto",
        env_timeout: float | None = None,
        double_q: bool = True,
        norm_reward: bool = False,
        on_nan: str = "stop",
        backend: str = "auto",
        rollout_workers: int | None = None,
        worker_backend: str = "process",
        **added: Any,
    ) -> None:
        self.exploration_rate = 0.0
        super().__init__({**locals(), **added})

    def check_arguments(self) -> None:
        super().check_arguments()
        if self.argument("loss", "mse") not in LOSSES:
            raise ValueError(unknown("loss", str(self.argument("loss")), LOSSES))
        if self.arguments["backend"] not in BACKENDS:
            raise ValueError(unknown("backend", str(self.arguments["backend"]), BACKENDS))
        self.double_q: bool = self.arguments["double_q"]
        self.target_update_interval: int = self.arguments["target_update_interval"]
        self.exploration_schedule = LinearSchedule(
            self.arguments["exploration_initial_eps"],
            self.arguments["exploration_final_eps"],
            self.arguments["exploration_fraction"],
        )

    # ------------------------------------------------------------------ networks

    @property
    def computes_together(self) -> bool:
        """Whether agents with like networks are computed together."""
        backend = self.arguments["backend"]
        return backend == "torch" or (backend == "auto" and len(self.possible_agents) > 1)

    def build_networks(self, arguments: LearnerArguments) -> dict[str, dict[str, Any]]:
        policies = {agent: self._build_policy(agent, arguments) for agent in self.possible_agents}
        self.utilities = Utilities(policies, stacked=self.computes_together)
        self.team_modules: dict[str, tuple[th.nn.Module, th.nn.Module | None]] = {}
        if self.n_envs > self.target_update_interval:
            warnings.warn(
                f"n_envs={self.n_envs} is greater than target_update_interval={self.target_update_interval}: the targets are "
                f"updated after every step of all copies, that is every {self.n_envs} joint steps",
                stacklevel=2,
            )
        if not self.is_team:
            for policy in policies.values():
                policy.optimizer = self._build_optimizer(policy, list(policy.q_net.parameters()))
            return {agent: {"policy": policy, "policy.optimizer": policy.optimizer} for agent, policy in policies.items()}
        parts: dict[str, dict[str, Any]] = {agent: {"policy": policy} for agent, policy in policies.items()}
        self.team_modules = modules = self.build_team()
        trained = [*self.utilities.parameters(), *(one for module, _ in modules.values() for one in module.parameters())]
        self.optimizer = self._build_optimizer(self._common_optimizer(policies), trained)
        team = {name: module for name, (module, _) in modules.items()}
        team |= {f"{name}_target": target for name, (_, target) in modules.items() if target is not None}
        return {**parts, self.team_name: {**team, "optimizer": self.optimizer}}

    def build_team(self) -> dict[str, tuple[th.nn.Module, th.nn.Module | None]]:
        """
        Make the networks of the team; :func:`copy.deepcopy` makes targets without random draws.

        :return: name -> module that is trained, and its target (``None`` for none)
        """
        return {}

    def _build_policy(self, agent: str, arguments: LearnerArguments) -> DQNPolicy:
        policy = arguments.of("policy", agent)
        observation_space, action_space = (self._spaces[kind][agent] for kind in ("observation", "action"))
        try:
            check_policy_name(policy, self.policy_aliases)
            policy_class: Any = self.policy_aliases[policy] if isinstance(policy, str) else policy
            with errors_name_spaces(getattr(policy_class, "__name__", repr(policy)), observation_space, action_space):
                built: DQNPolicy = policy_class(
                    network_space(observation_space),
                    action_space,
                    self.lr_schedule,
                    **(arguments.of("policy_kwargs", agent) or {}),
                )
                return built.to(self.device)
        except ValueError as error:
            raise ValueError(f"agent {agent!r}: {error}") from error

    def _common_optimizer(self, policies: Mapping[str, DQNPolicy]) -> DQNPolicy:
        """
        A policy that names the optimiser of the team.

        :raises ValueError: if the policies name different ones
        """
        first, *others = policies.values()
        wanted = first.optimizer_class, first.optimizer_kwargs
        if any((one.optimizer_class, one.optimizer_kwargs) != wanted for one in others):
            raise ValueError(
                f"policy_kwargs: {type(self).__name__} has one optimiser for all agents, so that optimizer_class and "
                "optimizer_kwargs must be the same for all"
            )
        return first

    def _build_optimizer(self, policy: DQNPolicy, parameters: list[th.nn.Parameter]) -> th.optim.Optimizer:
        """The optimiser that a policy names, for some parameters."""
        options = policy.optimizer_kwargs
        if self.computes_together:
            options = {**fast_options(policy.optimizer_class, options), **options}
        return policy.optimizer_class(parameters, lr=self.lr_schedule(1), **options)  # type: ignore[call-arg]

    def set_training_mode(self, mode: bool) -> None:
        self.utilities.set_training_mode(mode)

    def _on_step(self) -> None:
        if self.n_calls % max(self.target_update_interval // self.n_envs, 1) == 0:
            self.update_targets()
        self.logger.record("rollout/exploration_rate", self.exploration_rate)

    def update_exploration(self) -> None:
        self.exploration_rate = self.exploration_schedule(self._current_progress_remaining)

    def update_targets(self) -> None:
        """Move all targets towards their networks by ``tau``."""
        self.utilities.follow(self.tau)
        for module, target in self.team_modules.values():
            if target is not None:
                polyak_update(module.parameters(), target.parameters(), self.tau)

    def next_actions(self, batch: JointBatch, target_values: Mapping[str, th.Tensor]) -> dict[str, th.Tensor]:
        """
        The legal next actions that the targets evaluate: the best by the networks (``double_q``) or by the targets.

        :param batch: batch of transitions
        :param target_values: values of the next actions by the targets, agent -> (B, n_actions)
        :return: agent -> int64 (B,)
        """
        choosing = self.utilities.values(batch.next_observations) if self.double_q else target_values
        return greedy_actions(choosing, batch.next_masks)

    def next_values(self, batch: JointBatch) -> th.Tensor:
        """
        Target values of the agents' next actions, without gradient.

        :param batch: batch of transitions
        :return: (B, n)
        """
        with th.no_grad():
            if self.double_q:
                choosing, values = self.utilities.both_values(batch.next_observations)
            else:
                choosing = values = self.utilities.target_values(batch.next_observations)
            return chosen_values(values, greedy_actions(choosing, batch.next_masks))

    def start_gradients(self) -> None:
        self.utilities.start_gradients()

    def share_gradients(self) -> None:
        self.utilities.share_gradients()

    def refresh(self) -> None:
        self.utilities.refresh()

    # ------------------------------------------------------------------ acting

    def acting_networks(self) -> dict[str, th.nn.Module]:
        return {agent: policy.q_net for agent, policy in self.utilities.policies.items()}

    def choose_actions(self, moment: Moment) -> Actions:
        explores = np.random.rand(self.n_envs, len(self.possible_agents)) < self.exploration_rate
        actions = {agent: np.zeros(self.n_envs, dtype=np.int64) for agent in self.possible_agents}
        if not explores.all():
            actions = self.greedy(moment)
        return self.random_actions(moment, explores, actions) if explores.any() else actions

    def greedy(self, moment: Moment) -> Actions:
        """
        The best legal actions of all agents.

        :param moment: what the agents know
        :return: agent -> int64 (num_envs,), in the action space
        """
        policies = self.utilities.policies
        with th.no_grad():
            tensors = {agent: policy.obs_to_tensor(moment.observations[agent])[0] for agent, policy in policies.items()}
            values = self.utilities.values(tensors)
            masks = {agent: th.as_tensor(mask, device=self.device) for agent, mask in moment.masks.items()}
            chosen = greedy_actions(values, masks)
        return {agent: acts.cpu().numpy() + self.exploration_spaces[agent].start for agent, acts in chosen.items()}

    def action_of(self, agent: str, observation: Any, mask: np.ndarray | None, deterministic: bool) -> np.ndarray:
        """
        Best actions of one agent; unless ``deterministic``, each is random with probability ``exploration_rate``, as in SB3's
        DQN, but independently for every row.

        :param agent: name of the agent
        :param observation: observation, with or without a leading batch axis
        :param mask: legal actions; ``None`` if all are legal, and so are they in a row without any
        :param deterministic: whether no action is random
        """
        policy, space = self.utilities.policies[agent], self.exploration_spaces[agent]
        with th.no_grad():
            tensor, batched = policy.obs_to_tensor(observation)
            values = policy.q_net(tensor)
            legal = mask_rows(mask, values)
            actions = legal_values(values, legal).argmax(dim=1).cpu().numpy() + space.start
        if not deterministic:
            # From the global generator: drawing from the space would change the training after an evaluation.
            options = None if legal is None else legal.cpu().numpy()
            for row in np.flatnonzero(np.random.rand(len(actions)) < self.exploration_rate).tolist():
                choices = np.arange(space.n) if options is None else np.flatnonzero(options[row])
                actions[row] = space.start + np.random.choice(choices)
        return np.asarray(actions if batched else actions[0])

    def acting_policy(self, agent: str) -> DQNPolicy:
        """
        :param agent: name of the agent
        :return: its policy, which counts actions from 0 and changes while the agent learns
        """
        return self.utilities.policies[agent]

    def make_agent(self, agent: str) -> DQN:
        """
        One agent as SB3's DQN, with copies of its networks and an empty replay buffer.

        :param agent: name of the agent
        :raises ValueError: if its actions do not begin with 0, which SB3's DQN does not know
        """
        env, arguments = self.agent_env(agent), LearnerArguments(self.arguments, self.possible_agents)
        before = random_generators()
        try:
            dqn = DQN(
                arguments.of("policy", agent),
                env,
                **{name: self.arguments[name] for name in _OF_DQN},
                train_freq=(self.train_freq.frequency, self.train_freq.unit.value),
                policy_kwargs=dict(arguments.of("policy_kwargs", agent) or {}),
                buffer_size=1,
                device=self.device,
            )
        finally:
            restore_random_generators(before)
        dqn.policy.load_state_dict(self.utilities.policies[agent].state_dict())
        dqn.exploration_rate, dqn.num_timesteps = self.exploration_rate, self.num_timesteps
        return dqn

    def _restore(self, saved: SavedModel, device: Any) -> None:
        super()._restore(saved, device)
        if self.num_timesteps > 0:
            self.exploration_rate = self.exploration_schedule(1.0 - self.num_timesteps / max(self._total_timesteps, 1))
