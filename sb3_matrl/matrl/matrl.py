"""MATRL as an SB3 algorithm: several on-policy learners, one environment, one update."""

from __future__ import annotations

import inspect
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback, Schedule
from stable_baselines3.common.utils import safe_mean
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper

from sb3_matrl.common.agents import group_env, learner_groups
from sb3_matrl.common.finite import ON_NAN, NonFiniteError, check_rollout
from sb3_matrl.common.frozen import FrozenAgent
from sb3_matrl.common.logger import AgentLogger
from sb3_matrl.common.saving import frozen_agents, restore, saved_model
from sb3_matrl.common.training_state import TrainingState, capture, resume
from sb3_matrl.common.transaction import all_or_nothing
from sb3_matrl.files.model_file import blame_file, read_model, restore_arguments, write_model
from sb3_matrl.matrl.coordinator import CoordinatorConfig, MATRLCoordinator
from sb3_matrl.matrl.finite import check_learner_losses
from sb3_matrl.matrl.metagame_report import MetaGameReport
from sb3_matrl.matrl.settings import Arguments
from sb3_matrl.on_policy.rollout import Position, Team, collect_rollout, first_position
from sb3_matrl.utils.suggest import did_you_mean, unknown
from sb3_matrl.vec_env import JointVecEnv, make_joint_vec_env

SelfMATRL = TypeVar("SelfMATRL", bound="MATRL")


class MATRL(BaseAlgorithm):
    """
    Multi-agent trust region learning (Wen et al.): every agent is an SB3 on-policy learner; after each joint rollout
    they predict their next policies independently, solve the meta-game between current and predicted policies, mix the
    two by its equilibrium, and best-respond to the others' mixtures.

    The arguments up to ``device`` have the names, order and meaning of SB3's PPO. Those marked (*) may also be a dict
    keyed by agent (by the group's name where agents share a learner; frozen agents have no entry). Defaults are those of
    PPO, whatever the learner class. An argument that a class does not have is not passed to it; ``None`` leaves its default.

    :param policy: (*) name (``MlpPolicy``, ``CnnPolicy``, ``MultiInputPolicy``) or class of the policy
    :param env: factory of a PettingZoo ``ParallelEnv``, such an env, an id (``"checkers_v0"``, ``"module:callable"``), or a
        ``JointVecEnv``
    :param learning_rate: (*) of the learners; a number or a function of the remaining progress
    :param n_steps: steps per env copy between two updates
    :param batch_size: (*) minibatch size, of the learners and of the best response
    :param n_epochs: (*) of the predicted step
    :param gamma: (*) discount factor
    :param gae_lambda: (*) of generalised advantage estimation
    :param clip_range: (*) clip of an agent's own ratio, in its learner and in its best response
    :param clip_range_vf: (*) clip of the value update; ``None`` for no clip
    :param normalize_advantage: (*) normalise advantages per minibatch
    :param ent_coef: (*) weight of the entropy bonus, of the learners and of the best response
    :param vf_coef: (*) weight of the value loss, likewise
    :param max_grad_norm: (*) gradient clipping, likewise
    :param use_sde: (*) generalised state-dependent exploration
    :param sde_sample_freq: (*) see SB3
    :param rollout_buffer_class: (*) see SB3
    :param rollout_buffer_kwargs: (*) see SB3
    :param target_kl: (*) stop a step's epochs at 1.5 times this KL, in the learners and in the best response
    :param stats_window_size: episodes over which rollout statistics are averaged
    :param tensorboard_log: folder of TensorBoard logs
    :param policy_kwargs: (*) arguments of the policy
    :param verbose: 0 silent, 1 information, 2 debug
    :param seed: every random draw follows from it: SB3's and torch's as ``set_random_seed(seed)``, the env copies and the
        coordinator from generators spawned from it
    :param device: of the networks
    :param _init_setup_model: build the networks at once

    :param n_envs: copies of the env; a ``JointVecEnv`` has its own number
    :param env_kwargs: arguments of the env factory
    :param vec_env: ``"auto"``, ``"batched"``, ``"dummy"`` or ``"subproc"``, see :func:`make_joint_vec_env`
    :param learner_class: (*) SB3 or sb3-contrib on-policy algorithm: PPO, A2C, TRPO, RecurrentPPO, MaskablePPO
    :param learner_kwargs: (*) arguments that this class has beside the ones above
    :param share: name of a group -> agents that share one learner, which is one player of the meta-game
    :param frozen: agent -> who plays it without learning: an SB3 policy or algorithm, a function of the observations
        (n_envs, ...) that returns the actions, a path of a saved MATRL model, or a tuple (model or path, agent in it)
    :param norm_obs: (*) normalise observations by running statistics, as SB3's ``VecNormalize``; they are saved with the
        model, and :meth:`predict` applies them as they are
    :param norm_reward: (*) scale rewards by the running standard deviation of the discounted return, likewise
    :param clip_obs: (*) largest normalised observation
    :param clip_reward: (*) largest normalised reward
    :param metagame: solve the meta-game; ``False`` takes the predicted policies as they are (rho = 0)
    :param best_response: take best-response steps; ``False`` ends the iteration with the mixtures
    :param solver: of the meta-game, see :func:`sb3_matrl.metagame.solve`
    :param selection: ``"random"``, ``"welfare"`` or ``"progress"`` where there are several equilibria
    :param aggregation: ``"parameters"`` or ``"distill"``: how a mixture gets network parameters
    :param best_response_start: ``"aggregated"``, ``"current"`` or ``"predicted"``
    :param br_learning_rate: (*) of the best response; ``None`` for ``learning_rate``
    :param br_n_epochs: (*) of the best response
    :param br_clip_range: (*) clip of the importance weight of the others' policies; ``None`` for no clip
    :param br_kl_coef: (*) weight of KL(pi || pi_theta) in the best response
    :param payoff_clip_range: clip of the meta-game's ratios; ``None`` for no clip
    :param distill_steps: Adam steps of ``aggregation="distill"``
    :param on_nan: NaN or infinite numbers in a rollout or an update end the training (``"stop"``), or that update alone is
        left out (``"skip"``); either way all agents stay as they were before it
    :raises ValueError: if an argument or the env is not usable; the message says what to do
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = PPO.policy_aliases

    env: JointVecEnv | None
    learners: dict[str, OnPolicyAlgorithm]
    agents: dict[str, OnPolicyAlgorithm]
    coordinator: MATRLCoordinator

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy] | Mapping[str, str | type[ActorCriticPolicy]],
        env: Any,
        learning_rate: float | Schedule | Mapping[str, float | Schedule] = 3e-4,
        n_steps: int = 2048,
        batch_size: int | Mapping[str, int] = 64,
        n_epochs: int | Mapping[str, int] = 10,
        gamma: float | Mapping[str, float] = 0.99,
        gae_lambda: float | Mapping[str, float] = 0.95,
        clip_range: float | Schedule | Mapping[str, float | Schedule] = 0.2,
        clip_range_vf: float | Schedule | Mapping[str, float | Schedule | None] | None = None,
        normalize_advantage: bool | Mapping[str, bool] = True,
        ent_coef: float | Mapping[str, float] = 0.0,
        vf_coef: float | Mapping[str, float] = 0.5,
        max_grad_norm: float | Mapping[str, float] = 0.5,
        use_sde: bool | Mapping[str, bool] = False,
        sde_sample_freq: int | Mapping[str, int] = -1,
        rollout_buffer_class: type | Mapping[str, type | None] | None = None,
        rollout_buffer_kwargs: Mapping[str, Any] | None = None,
        target_kl: float | Mapping[str, float | None] | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: Mapping[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
        *,
        n_envs: int = 1,
        env_kwargs: Mapping[str, Any] | None = None,
        vec_env: str = "auto",
        learner_class: type[OnPolicyAlgorithm] | Mapping[str, type[OnPolicyAlgorithm]] = PPO,
        learner_kwargs: Mapping[str, Any] | None = None,
        share: Mapping[str, Sequence[str]] | None = None,
        frozen: Mapping[str, Any] | None = None,
        norm_obs: bool | Mapping[str, bool] = False,
        norm_reward: bool | Mapping[str, bool] = False,
        clip_obs: float | Mapping[str, float] = 10.0,
        clip_reward: float | Mapping[str, float] = 10.0,
        metagame: bool = True,
        best_response: bool = True,
        solver: str = "auto",
        selection: str = "random",
        aggregation: str = "parameters",
        best_response_start: str = "aggregated",
        br_learning_rate: float | Schedule | Mapping[str, float | Schedule] | None = None,
        br_n_epochs: int | Mapping[str, int] = 5,
        br_clip_range: float | Mapping[str, float | None] | None = 0.2,
        br_kl_coef: float | Mapping[str, float] = 0.0,
        payoff_clip_range: float | None = 0.2,
        distill_steps: int = 10,
        on_nan: str = "stop",
    ) -> None:
        given = dict(locals())
        # The arguments as given: what save() stores and what the learners are built from.
        self.arguments = {name: given[name] for name in _constructor_arguments()}
        # SB3's base class would want one policy and one learning rate; the learners have their own.
        super().__init__(
            policy=ActorCriticPolicy,
            env=None,
            learning_rate=learning_rate,  # type: ignore[arg-type]
            policy_kwargs=None,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            support_multi_env=True,
            seed=seed,
        )
        self.n_steps = n_steps
        self.report: MetaGameReport | None = None
        # Where the training stood before the current rollout, and where a loaded one is to go on.
        self._state: TrainingState | None = None
        self._resume_from: TrainingState | None = None
        self._config = CoordinatorConfig(
            metagame, best_response, solver, selection, aggregation, best_response_start, payoff_clip_range, distill_steps
        )
        if on_nan not in ON_NAN:
            raise ValueError(unknown("on_nan", on_nan, ON_NAN))
        self.on_nan = on_nan
        self.skipped_updates = 0
        if n_steps < 1:
            raise ValueError(f"n_steps must be at least 1, got {n_steps}")
        if env is not None:
            self._attach(self._make_env(env))
        if _init_setup_model:
            if env is None:
                raise ValueError("MATRL needs an env: a ParallelEnv factory, an env, an id or a JointVecEnv")
            self._setup_model()

    # ------------------------------------------------------------------ set-up

    def _make_env(self, env: Any) -> JointVecEnv:
        if isinstance(env, VecEnvWrapper):
            raise ValueError(
                f"MATRL takes no SB3 wrapper ({type(env).__name__}) around a JointVecEnv, which would miss final observations "
                "and masks: wrap the ParallelEnv instead (SuperSuit, PettingZoo)"
            )
        arguments = self.arguments
        # A JointVecEnv has its own number of copies; 1 is the default and no conflict.
        own_copies = isinstance(env, JointVecEnv) and arguments["n_envs"] == 1
        return make_joint_vec_env(
            env,
            n_envs=env.num_envs if own_copies else arguments["n_envs"],
            vec_env=arguments["vec_env"],
            env_kwargs=arguments["env_kwargs"],
        )

    def _attach(self, env: JointVecEnv) -> None:
        self.env = env
        self._set_spaces(env.observation_spaces, env.action_spaces, env.num_envs)

    def _set_spaces(
        self, observation_spaces: Mapping[str, spaces.Space[Any]], action_spaces: Mapping[str, spaces.Space[Any]], n_envs: int
    ) -> None:
        # Pairs, because gymnasium sorts a plain dict by key.
        self.observation_space = spaces.Dict(list(observation_spaces.items()))
        self.action_space = spaces.Dict(list(action_spaces.items()))
        self.possible_agents = list(observation_spaces)
        self.n_envs = n_envs

    def _setup_model(self) -> None:
        kinds = {"observation": self.observation_space, "action": self.action_space}
        spaces_of = {kind: {agent: of[agent] for agent in self.possible_agents} for kind, of in kinds.items()}  # type: ignore[index]
        sources = self.arguments["frozen"] or {}
        members = learner_groups(self.possible_agents, self.arguments["share"], sources)
        frozen = {agent: self._frozen_agent(agent, source) for agent, source in sources.items()}
        arguments = Arguments(self.arguments, _constructor_arguments(), list(members))
        arguments.check_accepted()
        self.set_random_seed(self.seed)
        envs = {name: group_env(name, agents, spaces_of, self.n_envs) for name, agents in members.items()}
        self.learners = {name: arguments.learner(name, env, self.device) for name, env in envs.items()}
        self.agents = {agent: self.learners[name] for name, agents in members.items() for agent in agents}
        self.team = Team(self.learners, members, arguments.normalizers(envs), frozen)
        self.coordinator = MATRLCoordinator(
            self.learners,
            self._config,
            {name: arguments.best_response(name) for name in members},
            np.random.default_rng(np.random.SeedSequence(self.seed).spawn(1)[0]),
            {name: len(agents) for name, agents in members.items()},
        )

    def _frozen_agent(self, agent: str, source: Any) -> FrozenAgent:
        """From what the constructor takes; a saved model is read, its agent taken."""
        model, name = source if isinstance(source, tuple) and len(source) == 2 else (source, agent)
        if isinstance(model, (str, Path)):
            model = MATRL.load(model, device=self.device)
        if isinstance(source, FrozenAgent):
            return source
        if isinstance(model, MATRL) and name not in model.possible_agents:
            raise ValueError(
                f"frozen: {agent!r}: the model has no such agent: {unknown('agent', str(name), model.possible_agents)}"
            )
        player = model.player(name) if isinstance(model, MATRL) else FrozenAgent(source)
        player.check_spaces(agent, self.observation_space[agent], self.action_space[agent])  # type: ignore[index]
        return player.copied()

    def learner_of(self, agent: str) -> str:
        """
        :param agent: one that learns
        :return: name of its learner: the agent itself, or the group that shares one
        """
        return next(name for name, agents in self.team.members.items() if agent in agents)

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """
        Go on in another environment with the same agents and spaces.

        :param env: as in the constructor
        :param force_reset: begin with fresh episodes
        :raises ValueError: if agents, spaces or the number of copies differ
        """
        new = env if isinstance(env, JointVecEnv) else self._make_env(env)
        self._check_spaces(new)
        if new.num_envs != self.n_envs:
            raise ValueError(
                f"the env has {new.num_envs} copies, the model was built for {self.n_envs}: pass n_envs to load()"
            )
        self.env = new
        if force_reset:
            self._last_obs = self._state = self._resume_from = None

    def _check_spaces(self, env: JointVecEnv) -> None:
        if list(env.agents) != self.possible_agents:
            raise ValueError(
                f"the env's agents are {env.agents}, the model's {self.possible_agents}: it is another environment"
            )
        for kind, ours, theirs in (
            ("observation", self.observation_space, env.observation_spaces),
            ("action", self.action_space, env.action_spaces),
        ):
            for agent in self.possible_agents:
                if ours[agent] != theirs[agent]:  # type: ignore[index]
                    raise ValueError(
                        f"{agent}'s {kind} space is {theirs[agent]} in the env and {ours[agent]} in the model: "  # type: ignore[index]
                        "it is another environment, or the same one with other arguments (env_kwargs)"
                    )

    # ------------------------------------------------------------------ training

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "MATRL",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        if self.env is None:
            raise ValueError("this model has no env to learn in: pass one to MATRL.load or to set_env")
        fresh = reset_num_timesteps or self._last_obs is None
        total_timesteps, callback = super()._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        if fresh:
            position = first_position(self.env, self.team, self._last_obs)  # type: ignore[arg-type]
            self._last_obs, self._last_episode_starts = position.observations, position.episode_starts
        if self._resume_from is not None and not reset_num_timesteps:
            resume(self, self._resume_from)
        self._resume_from = None
        for name, learner in self.learners.items():
            learner.set_logger(AgentLogger(self.logger, name))
        return total_timesteps, callback

    def learn(
        self: SelfMATRL,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str = "MATRL",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfMATRL:
        """
        Train all agents.

        :param total_timesteps: joint environment steps, over all copies
        :param callback: SB3 callback(s); after every update ``model.report`` holds the iteration's numbers
        :param log_interval: iterations between two dumps of the logger; ``None`` for never
        :param tb_log_name: name of the TensorBoard run
        :param reset_num_timesteps: begin counting anew; ``False`` continues
        :param progress_bar: show one (needs tqdm and rich)
        :return: the model
        """
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        iteration = 0 if reset_num_timesteps else self._n_updates + self.skipped_updates
        callback.on_training_start(locals(), globals())
        self._state = capture(self)
        while self.num_timesteps < total_timesteps:
            start = time.perf_counter()
            if not self.collect_rollouts(callback):
                break
            self.logger.record("time/collect_seconds", time.perf_counter() - start)
            iteration += 1
            self.train(total_timesteps)
            self._state = capture(self)
            if log_interval is not None and iteration % log_interval == 0:
                self.dump_logs(iteration)
        callback.on_training_end()
        return self

    def collect_rollouts(self, callback: BaseCallback) -> bool:
        """
        Fill the agents' rollout buffers with one joint rollout.

        :return: False if the callback asked to stop
        """
        assert self.env is not None

        def on_step(seen: dict[str, Any]) -> bool:
            self.num_timesteps += self.n_envs
            callback.update_locals(seen)
            if not callback.on_step():
                return False
            self._update_info_buffer(seen["infos"], seen["dones"])
            return True

        callback.on_rollout_start()
        position = Position(self._last_obs, self._last_episode_starts)  # type: ignore[arg-type]
        position, complete = collect_rollout(self.env, self.team, position, self.n_steps, on_step)
        self._last_obs, self._last_episode_starts = position.observations, position.episode_starts
        if complete:
            callback.on_rollout_end()
        return complete

    def train(self, total_timesteps: int | None = None) -> None:
        """
        One update of all agents from the rollouts in their buffers; the numbers go to ``report`` and to the logger.

        :param total_timesteps: end of the training, for schedules; that of the last ``learn`` by default
        :raises NonFiniteError: on NaN or infinite numbers, unless ``on_nan`` is ``"skip"``; no agent has been updated
        """
        total = total_timesteps or self._total_timesteps
        self._update_current_progress_remaining(self.num_timesteps, total)
        for learner in self.learners.values():
            learner.num_timesteps, learner._total_timesteps = self.num_timesteps, total
            learner._update_current_progress_remaining(self.num_timesteps, total)
        # While the agents change there is no state to resume from; after a failed update there is the one before.
        before, self._state, self.report = self._state, None, None
        try:
            with all_or_nothing(self):
                self._update()
        except BaseException as error:
            self._state = before
            if not isinstance(error, NonFiniteError):
                raise
            self._leave_out_update(error)
        if self.on_nan == "skip":
            self.logger.record("train/skipped_updates", self.skipped_updates)

    def _update(self) -> None:
        for name, learner in self.learners.items():
            check_rollout(self.team.members[name], learner)
        report = self.coordinator.update(self._current_progress_remaining)
        check_learner_losses(self.learners, self.logger.name_to_value)
        self.report = report
        self._n_updates += 1
        for key, value in report.scalars().items():
            self.logger.record(key, value, exclude="tensorboard" if isinstance(value, str) else None)

    def _leave_out_update(self, error: NonFiniteError) -> None:
        """Stop, or say it once and go on; all agents are what they were before the update."""
        if self.on_nan == "stop":
            raise NonFiniteError(
                f"{error}. The update was not applied: all agents are as before it, and the model can be saved. Try a smaller "
                "learning_rate, br_learning_rate or max_grad_norm, or smaller rewards; on_nan='skip' goes on without it"
            ) from error
        if self.skipped_updates == 0:
            warnings.warn(f"{error}. The update is left out, and so will be all others like it (on_nan='skip')", stacklevel=4)
        self.skipped_updates += 1

    def dump_logs(self, iteration: int = 0) -> None:
        """Write the logger's values, with those of the latest episodes (returns are summed over agents)."""
        assert self.ep_info_buffer is not None
        elapsed = max((time.time_ns() - self.start_time) / 1e9, sys.float_info.epsilon)
        if len(self.ep_info_buffer) > 0:
            self.logger.record("rollout/ep_rew_mean", safe_mean([info["r"] for info in self.ep_info_buffer]))
            self.logger.record("rollout/ep_len_mean", safe_mean([info["l"] for info in self.ep_info_buffer]))
            for agent in self.possible_agents:
                mean = safe_mean([info["agents"][agent] for info in self.ep_info_buffer])
                self.logger.record(f"{agent}/rollout/ep_rew_mean", mean)
        self.logger.record("time/iterations", iteration, exclude="tensorboard")
        self.logger.record("time/fps", int((self.num_timesteps - self._num_timesteps_at_start) / elapsed))
        self.logger.record("time/time_elapsed", int(elapsed), exclude="tensorboard")
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(step=self.num_timesteps)

    # ------------------------------------------------------------------ acting

    def predict(  # type: ignore[override]
        self,
        observation: Mapping[str, Any],
        state: Mapping[str, Any] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: Mapping[str, np.ndarray] | None = None,
    ) -> tuple[dict[str, np.ndarray], dict[str, Any] | None]:
        """
        Actions for some or all agents, for one env or a batch of envs.

        :param observation: agent -> observation as the env gives it, with or without a leading batch axis; only the agents
            that are to act
        :param state: agent -> recurrent state, as returned by the previous call
        :param episode_start: bool (batch,), for recurrent policies
        :param deterministic: most likely actions instead of sampled ones
        :param action_masks: agent -> bool (batch, mask size), for learners that know masks; where an agent has none here, the
            entry ``"action_mask"`` of its observation is taken
        :return: agent -> action, and the next recurrent states (``None`` without any)
        :raises ValueError: if an agent is unknown, or an observation does not fit its space
        """
        if not isinstance(observation, Mapping):
            raise ValueError(f"predict wants a dict agent -> observation, got {type(observation).__name__}")
        actions, states = {}, {}
        for agent, value in observation.items():
            if agent not in self.possible_agents:
                raise ValueError(
                    f"agent {agent!r} is unknown{did_you_mean(agent, self.possible_agents)} Known: "
                    f"{', '.join(self.possible_agents)}"
                )
            masks = (action_masks or {}).get(agent, _mask_in(value))
            previous = None if state is None else state.get(agent)
            player = self.player(agent)
            actions[agent], states[agent] = player.predict(value, previous, episode_start, deterministic, masks)
        return actions, None if all(value is None for value in states.values()) else states

    def player(self, agent: str) -> FrozenAgent:
        """
        :param agent: any
        :return: its policy, with what it does to observations; it goes on learning where the agent does
        """
        if agent in self.team.frozen:
            return self.team.frozen[agent]
        return FrozenAgent(self.agents[agent], self.team.normalizers.get(self.learner_of(agent)))

    # ------------------------------------------------------------------ files

    def get_parameters(self) -> dict[str, dict[str, Any]]:
        """learner -> state dicts: its own (policy, optimisers) and the best response's optimiser."""
        optimizers = self.coordinator.optimizers
        return {
            name: {**learner.get_parameters(), "best_response.optimizer": optimizers[name].state_dict()}
            for name, learner in self.learners.items()
        }

    def set_parameters(  # type: ignore[override]
        self, load_path_or_dict: str | Path | Mapping[str, Mapping[str, Any]], exact_match: bool = True, device: Any = "auto"
    ) -> None:
        """
        Load parameters.

        :param load_path_or_dict: a saved model, or what :meth:`get_parameters` returned
        :param exact_match: want all learners, and every part of each
        :param device: where the tensors go first
        :raises ValueError: if learners are missing or unknown
        """
        given: Mapping[str, Mapping[str, Any]]
        given = read_model(load_path_or_dict).parameters if isinstance(load_path_or_dict, (str, Path)) else load_path_or_dict
        strangers = [name for name in given if name not in self.learners]
        missing = [name for name in self.learners if name not in given] if exact_match else []
        if strangers or missing:
            raise ValueError(
                f"parameters of unknown agents {strangers}, or without those of {missing}; known: {list(self.learners)}"
            )
        for name, parameters in given.items():
            own = {part: value for part, value in parameters.items() if part != "best_response.optimizer"}
            self.learners[name].set_parameters(own, exact_match=exact_match, device=device)
            if "best_response.optimizer" in parameters:
                self.coordinator.optimizers[name].load_state_dict(parameters["best_response.optimizer"])

    @property
    def resumable_timesteps(self) -> int:
        """Steps of the training that :meth:`save` stores: in the middle of a rollout those before it."""
        return self.num_timesteps if self._state is None else self._state.num_timesteps

    def save(self, path: str | Path, documents: Mapping[str, Any] | None = None) -> None:  # type: ignore[override]
        """
        Save the model: a zip of JSON and weights-only tensors, written atomically.

        During and after ``learn`` the state of the training is part of it, as it was before the rollout under way.

        A single agent is saved by ``model.agents[name].save(path)``, as plain SB3.

        :param path: ``.zip`` is added where there is no suffix
        :param documents: name -> value in JSON types, stored beside the model
        """
        write_model(path, saved_model(self, self._state), documents)

    @classmethod
    def load(  # type: ignore[override]
        cls: type[SelfMATRL],
        path: str | Path,
        env: Any = None,
        device: th.device | str = "auto",
        custom_objects: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> SelfMATRL:
        """
        Load a model; nothing in the file is executed.

        With an env, ``learn(reset_num_timesteps=False)`` goes on where the saved training stood: in the same episodes if the
        env can save its state, and with the random generators' states of then, so that it is bit for bit the training that
        was never stopped. A changed ``seed`` or ``n_envs`` begins new episodes with fresh draws instead.

        :param path: of the file, with or without ``.zip``
        :param env: to go on training: as in the constructor; ``None`` for a model that only acts
        :param device: of the networks
        :param custom_objects: argument name -> value for what a file cannot hold (functions, classes of your own)
        :param kwargs: constructor arguments to change, e.g. ``n_envs``
        :raises FileNotFoundError: if there is no such file
        :raises ValueError: if the file is not one of ours, is damaged, of a newer format or of another environment
        """
        saved = read_model(path)
        arguments = restore_arguments(saved.arguments, _constructor_arguments(), custom_objects or {}, kwargs)
        n_envs = env.num_envs if isinstance(env, VecEnv) else kwargs.get("n_envs", saved.counters["n_envs"])
        with blame_file(path, Exception):
            arguments["frozen"] = {**frozen_agents(saved, device), **(arguments.get("frozen") or {})} or None
        model = cls(env=None, **{**arguments, "device": device, "n_envs": n_envs, "_init_setup_model": False})
        model._set_spaces(saved.observation_spaces, saved.action_spaces, n_envs)
        if env is not None:
            model.set_env(env)
        with blame_file(path, MemoryError, RuntimeError, OverflowError):  # sizes that no memory holds
            model._setup_model()
        with blame_file(path, Exception):
            restore(model, saved, device)
            if saved.training is not None and not {"seed", "n_envs"} & set(kwargs):
                model._resume_from = TrainingState.from_tree(saved.training)
        return model


def _mask_in(observation: Any) -> np.ndarray | None:
    """The legal actions that an observation names; an agent whose turn it is not has none, and then may do anything."""
    if not isinstance(observation, Mapping) or "action_mask" not in observation:
        return None
    mask = np.asarray(observation["action_mask"]).astype(bool)
    return np.where(mask.any(axis=-1, keepdims=True), mask, True)


def _constructor_arguments() -> dict[str, Any]:
    """Name -> default of the arguments that make up a model (not its env, device or building)."""
    skipped = ("self", "env", "device", "_init_setup_model")
    parameters = inspect.signature(MATRL.__init__).parameters
    return {name: parameter.default for name, parameter in parameters.items() if name not in skipped}
