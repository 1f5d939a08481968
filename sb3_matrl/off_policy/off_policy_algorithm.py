"""The base class of the off-policy algorithms: collection, replay, gradient steps, files and exact resume."""

from __future__ import annotations

import sys
import time
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import MaybeCallback, TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import safe_mean, set_random_seed, should_collect_more_steps

from sb3_matrl.common.agents import Team
from sb3_matrl.common.algorithm import MultiAgentAlgorithm
from sb3_matrl.common.arguments import LearnerArguments
from sb3_matrl.common.finite import NonFiniteError
from sb3_matrl.common.joint_observations import JointObservations
from sb3_matrl.common.model import legal_actions
from sb3_matrl.common.training_state import TrainingState
from sb3_matrl.files.model_files import SavedModel
from sb3_matrl.off_policy.off_policy_state import OffPolicyState
from sb3_matrl.off_policy.replay import JointBatch, JointReplayBuffer, check_replay_memory
from sb3_matrl.off_policy.replay_files import load_replay, save_replay
from sb3_matrl.off_policy.team_rewards import TEAM_REWARDS, Rewards
from sb3_matrl.off_policy.transitions import JointTransition, Moment, TransitionReader
from sb3_matrl.utils.agent_names import agent_name, keyed_by_text
from sb3_matrl.utils.suggest import unknown
from sb3_matrl.vec_env.joint import copy_seeds
from sb3_matrl.vec_env.spaces import leaves_of

#: What a state of the team is: the env's ``state()``, all observations concatenated, or the first that there is.
STATES = ("auto", "env", "observations")
SelfOffPolicy = TypeVar("SelfOffPolicy", bound="OffPolicyMultiAgent")
Actions = dict[str, np.ndarray]


class OffPolicyMultiAgent(MultiAgentAlgorithm):
    """
    Base class of the off-policy algorithms: it plays, stores transitions, takes gradient steps and follows by targets.

    Every step has SB3's order: choose actions, step the environment, count, call the callbacks, store, :meth:`_on_step`. After
    ``train_freq`` steps come the gradient steps.

    A subclass defines

    - :meth:`build_networks`: networks and optimisers of every agent, and of the team
    - :meth:`choose_actions`: actions while it learns; :meth:`predict` for acting
    - :meth:`gradient_step`: one gradient step on a batch
    - :attr:`action_kinds`, :attr:`is_team`
    - :meth:`make_agent`: one agent as a model of plain SB3, if it can be one

    :param given: the constructor's local variables: arguments by name
    :raises ValueError: if an argument or the env is not usable; the message says what to do
    """

    #: Action spaces that the algorithm takes, and what to use for others.
    action_kinds: ClassVar[tuple[type[spaces.Space[Any]], ...]] = (spaces.Discrete, spaces.Box)
    other_actions: ClassVar[str] = ""
    #: Whether the team has one reward and one value.
    is_team: ClassVar[bool] = False
    training_state_class: ClassVar[type[TrainingState]] = OffPolicyState

    #: Learner -> name -> network or optimiser; saved and loaded with the model.
    parts: dict[str, dict[str, Any]]
    #: agent -> copy of its action space, from which random actions are drawn.
    exploration_spaces: dict[str, Any]
    buffer_size: int
    learning_starts: int
    batch_size: int
    tau: float
    gamma: float
    gradient_steps: int
    train_freq: TrainFreq

    # ------------------------------------------------------------------ hooks of subclasses

    @abstractmethod
    def build_networks(self, arguments: LearnerArguments) -> dict[str, dict[str, Any]]:
        """
        Make the networks, their targets and the optimisers.

        :param arguments: constructor arguments by agent
        :return: agent, or :attr:`team_name` for what belongs to the team -> name -> module or optimiser
        """

    @abstractmethod
    def choose_actions(self, moment: Moment) -> Actions:
        """
        Actions while the algorithm learns, after the warm-up.

        :param moment: what the agents know
        :return: agent -> (num_envs, *action shape), in the agent's action space
        """

    @abstractmethod
    def gradient_step(self, batch: JointBatch) -> dict[str, th.Tensor]:
        """
        Take one gradient step.

        :param batch: batch of transitions
        :return: key of the logger -> number
        :raises NonFiniteError: on NaN or infinite numbers; nothing has been changed then
        """

    @abstractmethod
    def action_of(self, agent: str, observation: Any, mask: np.ndarray | None, deterministic: bool) -> np.ndarray:
        """
        Actions of one agent when the model acts.

        :param agent: name of the agent
        :param observation: observation, with or without a leading batch axis
        :param mask: legal actions, bool (n_actions,) or (B, n_actions); ``None`` if all are legal
        :param deterministic: whether actions depend on the observation alone
        :return: (B, *action shape), or (*action shape,) for a single observation
        :raises ValueError: if the observation does not fit its space
        """

    def make_agent(self, agent: str) -> Any:
        """
        :param agent: name of the agent
        :return: the agent as a model of plain SB3
        :raises ValueError: if the algorithm has none
        """
        raise ValueError(f"the agents of {type(self).__name__} are no models of plain SB3: use predict() of the whole model")

    def buffer_actions(self, actions: Actions) -> tuple[Actions, Actions]:
        """
        Actions for the environment and as they are stored; where noise is added, it is added here, as in SB3.

        :param actions: agent -> (num_envs, *action shape)
        :return: actions for the environment, and actions as in :class:`~sb3_matrl.off_policy.transitions.JointTransition`
        """
        return actions, {agent: acts - self.exploration_spaces[agent].start for agent, acts in actions.items()}

    def extra_state(self) -> dict[str, Any]:
        """:return: further state of the training as nested dicts of arrays, numbers and texts, such as that of noise"""
        return {}

    def restore_extra_state(self, state: Mapping[str, Any]) -> None:
        """
        :param state: return value of :meth:`extra_state`
        :raises ValueError: if it does not fit
        """

    def set_training_mode(self, mode: bool) -> None:
        """
        Put the networks that act into training or evaluation mode.

        :param mode: whether gradient steps follow
        """

    def refresh(self) -> None:
        """Called before networks are used for a while: notice whatever changed them from outside."""

    def start_gradients(self) -> None:
        """Called before a backward pass, when the gradients of all optimisers are zero."""

    def share_gradients(self) -> None:
        """Called after a backward pass, before gradients are clipped."""

    def on_episode_end(self, copy: int) -> None:
        """
        Called when an episode is over.

        :param copy: index of the copy
        """

    # ------------------------------------------------------------------ set-up

    def check_arguments(self) -> None:
        super().check_arguments()
        arguments = self.arguments
        for name in ("buffer_size", "learning_starts", "batch_size", "tau", "gamma", "gradient_steps"):
            setattr(self, name, arguments[name])
        self.train_freq = _train_freq(arguments["train_freq"])
        self.handle_timeout_termination = _handle_timeouts(arguments.get("replay_buffer_kwargs"))
        if arguments.get("optimize_memory_usage"):
            raise ValueError("the joint replay buffer always stores observations once: leave optimize_memory_usage out")
        if arguments.get("n_steps", 1) != 1:
            raise ValueError(f"n_steps={arguments['n_steps']}: returns of several steps are not supported: leave n_steps at 1")
        if arguments.get("replay_buffer_class") not in (None, JointReplayBuffer):
            raise ValueError("transitions of several agents need a JointReplayBuffer: leave replay_buffer_class out")
        if self.is_team and arguments["team_reward"] not in TEAM_REWARDS:
            raise ValueError(unknown("team_reward", str(arguments["team_reward"]), TEAM_REWARDS))
        if arguments.get("state", "auto") not in STATES:
            raise ValueError(unknown("state", str(arguments["state"]), STATES))

    @property
    def wanted_states(self) -> bool | Literal["auto"]:
        how = self.argument("state", "observations")
        return "auto" if how == "auto" else how == "env"

    def _setup_model(self) -> None:
        self._check_spaces_of_actions()
        if self.n_envs > 1 and self.train_freq.unit != TrainFrequencyUnit.STEP:
            raise ValueError("train_freq in episodes needs n_envs=1: give it in steps")
        self._setup_lr_schedule()
        # Copies, because whoever else samples from the env's spaces would change what is drawn here.
        self.exploration_spaces = {agent: deepcopy(space) for agent, space in self._spaces["action"].items()}
        self.set_random_seed(self.seed)
        self._replay_buffer: JointReplayBuffer | None = None
        self._joint_observations = self._build_joint_observations()
        if self.env is not None:
            check_replay_memory(self.buffer_size, self._spaces["observation"], self._spaces["action"], self.stored_state_size)
        self.learners, agents = {}, self.possible_agents
        self.team = Team(agents, {}, {agent: (agent,) for agent in agents})
        self.reader = TransitionReader(agents, self._spaces["observation"], self._spaces["action"])
        self.rewards = Rewards(agents, self._kind_of_reward(), self.argument("norm_reward", False), self.gamma, self.n_envs)
        self.parts = self.build_networks(LearnerArguments(self.arguments, agents))
        self.agents = AgentsOnDemand(self)  # type: ignore[assignment]  # a mapping that cannot be changed
        self.n_calls = self._episode_num = 0
        self._block = [0, 0]  # steps and episodes since the last gradient steps
        self._pending: JointTransition | None = None
        self._pending_episodes: list[dict[str, Any]] = []
        self._try_agents()

    def _try_agents(self) -> None:
        """
        Let every agent act once.

        :raises ValueError: if its networks cannot process its observations
        """
        self.set_training_mode(False)
        for agent, space in self._spaces["observation"].items():
            try:
                self.action_of(agent, _example(space), None, True)
            except Exception as error:
                raise ValueError(
                    f"agent {agent!r}: its networks fail on the observation space {space} ({type(error).__name__}: {error}): "
                    "change the space by a wrapper, such as SuperSuit's flatten_v0, or choose another policy"
                ) from error

    def _check_spaces_of_actions(self) -> None:
        for agent, space in self._spaces["action"].items():
            if not isinstance(space, self.action_kinds):
                kinds = " or ".join(kind.__name__ for kind in self.action_kinds)
                raise ValueError(
                    f"agent {agent!r}: {type(self).__name__} takes {kinds} actions, not {space}{self.other_actions}"
                )

    def _build_joint_observations(self) -> JointObservations | None:
        """Observations as states, for algorithms that read states where the env's are not used."""
        if "state" not in self.arguments or self.state_space is not None:
            return None
        return JointObservations(self._spaces["observation"], self._spaces["action"])

    def _kind_of_reward(self) -> str:
        if self.is_team:
            return str(self.arguments["team_reward"])
        return "shared" if self.arguments["share_reward"] else "own"

    def set_random_seed(self, seed: int | None = None) -> None:
        """
        Set the seeds of all random draws, as SB3's ``set_random_seed``.

        :param seed: seed; ``None`` changes nothing
        """
        if seed is None:
            return
        set_random_seed(seed, using_cuda=self.device.type == "cuda")
        for space, own in zip(self.exploration_spaces.values(), copy_seeds(seed, len(self.possible_agents)), strict=True):
            space.seed(own)
        if self.env is not None:
            self.env.seed(seed)

    @property
    def generators(self) -> dict[str, np.random.Generator]:
        return {agent: space.np_random for agent, space in self.exploration_spaces.items()}

    @property
    def team_name(self) -> str:
        """Name in :attr:`parts` of what belongs to no single agent."""
        name = "team"
        while name in self.possible_agents:
            name += "_"
        return name

    @property
    def state_size(self) -> int:
        """Entries of a state; 0 for algorithms that read none."""
        return self.stored_state_size if self._joint_observations is None else self._joint_observations.size

    @property
    def stored_state_size(self) -> int:
        """Entries of the env's states in the replay buffer; 0 if they are not used."""
        return 0 if self.state_space is None else int(self.state_space.shape[0])

    @property
    def replay_buffer(self) -> JointReplayBuffer:
        """Replay buffer; its memory is taken when it is first used."""
        if self._replay_buffer is None:
            self._replay_buffer = self._make_replay_buffer()
        return self._replay_buffer

    def _make_replay_buffer(self) -> JointReplayBuffer:
        return JointReplayBuffer(
            self.buffer_size,
            self._spaces["observation"],
            self._spaces["action"],
            self.device,
            self.n_envs,
            self.stored_state_size,
            self.handle_timeout_termination,
            self._joint_observations,
        )

    # ------------------------------------------------------------------ training

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        if reset_num_timesteps:
            self._pending, self._pending_episodes, self._block = None, [], [0, 0]
        resumed = None if reset_num_timesteps else self._resume_from
        total, callback = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        self._check_turns()
        if isinstance(resumed, OffPolicyState) and resumed.progress["stored"] and not self.replay_buffer.added:
            warnings.warn(
                "the training resumes with an empty replay buffer: save_replay_buffer() and load_replay_buffer() keep the "
                "transitions",
                stacklevel=4,
            )
        return total, callback

    def _check_turns(self) -> None:
        assert self.env is not None
        if not np.array_equal(self.env.acting, self.env.alive):
            raise ValueError(
                f"{type(self).__name__} needs agents that all act in every step; in this environment they take turns. "
                "Independent learners of MATRL take such environments"
            )

    def _begin_episodes(self, num_timesteps: int) -> None:
        super()._begin_episodes(num_timesteps)
        self.rewards.begin()

    def learn(
        self: SelfOffPolicy,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 4,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfOffPolicy:
        """
        Train all agents.

        :param total_timesteps: joint environment steps, over all copies
        :param callback: SB3 callback(s)
        :param log_interval: episodes between two dumps of the logger; ``None`` for never
        :param tb_log_name: name of the TensorBoard run; ``None`` for the name of the class
        :param reset_num_timesteps: start counting steps at 0; ``False`` continues
        :param progress_bar: show a progress bar (needs tqdm and rich)
        :return: the model
        """
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name or type(self).__name__, progress_bar
        )
        self._log_interval = log_interval
        callback.on_training_start(locals(), globals())
        while self.num_timesteps < total_timesteps or any(self._block) or self._pending is not None:
            if not self._collect(callback):
                break
            if self.num_timesteps > max(self.learning_starts, 0):
                self.train(self.gradient_steps if self.gradient_steps >= 0 else self._block[0] * self.n_envs)
            self._block = [0, 0]
        callback.on_training_end()
        return self

    def collect_rollouts(self, callback: BaseCallback) -> bool:
        """
        Play ``train_freq`` steps or episodes, or the rest of them, and store the transitions.

        :param callback: SB3 callback
        :return: False if the callback asked to stop
        """
        self.set_training_mode(False)
        self.refresh()
        self._finish_step()
        if any(self._block):  # resumed in the middle of a rollout, whose start the callbacks have seen
            self._notice_moves()
        else:
            self.start_rollout(callback)
        while should_collect_more_steps(self.train_freq, *self._block):
            if not self._step(callback):
                return False
        callback.on_rollout_end()
        return True

    def _step(self, callback: BaseCallback) -> bool:
        """Play and store one joint step; False if the callback asked to stop."""
        env = self.env
        assert env is not None
        before = self._moment(self.position.observations)
        actions, buffer_actions = self.buffer_actions(self._sample_action(before))
        new_obs, rewards, dones, infos = env.step(actions)  # type: ignore[arg-type]
        self._check_turns()
        self._pending = self._transition(before, buffer_actions)
        self._pending_episodes = [infos[copy]["episode"] for copy in np.flatnonzero(dones)]
        self._left_at = env, env.moves
        seen = {
            "actions": actions,
            "buffer_actions": buffer_actions,
            "new_obs": new_obs,
            "rewards": rewards,
            "dones": dones,
            "infos": infos,
            "replay_buffer": self.replay_buffer,
            "num_collected_steps": self._block[0] + 1,
            "num_collected_episodes": self._block[1],
        }
        if not self.on_env_step(callback, seen):
            return False
        self._finish_step()
        return True

    def _moment(self, observations: Any) -> Moment:
        assert self.env is not None
        return Moment(
            observations=observations,
            masks=self.env.action_masks,
            alive=self.env.alive[:, self.reader.columns(self.env.agents)],
            states=self.env.states if self.stored_state_size else None,
        )

    def _transition(self, before: Moment, actions: Actions) -> JointTransition:
        assert self.env is not None and self.env.last_step is not None
        return self.reader.transition(before, actions, self.env.last_step, self.reader.columns(self.env.agents))

    def _sample_action(self, moment: Moment) -> Actions:
        """Random actions in the warm-up, then those of :meth:`choose_actions`."""
        if self.num_timesteps < self.learning_starts:
            return self.random_actions(moment)
        return self.choose_actions(moment)

    def random_actions(self, moment: Moment, where: np.ndarray | None = None, actions: Actions | None = None) -> Actions:
        """
        Actions drawn uniformly from the legal ones, agent by agent, copy by copy.

        :param moment: what the agents know
        :param where: bool (num_envs, n_agents), which actions are drawn; ``None`` for all
        :param actions: actions that are replaced, agent -> (num_envs, *action shape)
        :return: agent -> (num_envs, *action shape)
        """
        chosen: Actions = {}
        for i, (agent, space) in enumerate(self.exploration_spaces.items()):
            copies = range(self.n_envs) if where is None else np.flatnonzero(where[:, i]).tolist()
            masks = moment.masks.get(agent)
            drawn = [space.sample() if masks is None else space.sample(masks[copy].astype(np.int8)) for copy in copies]
            chosen[agent] = np.array(drawn) if where is None or actions is None else actions[agent].copy()
            if where is not None and drawn:
                chosen[agent][copies] = drawn
        return chosen

    def record_episodes(self, infos: list[dict[str, Any]]) -> None:
        """Nothing yet: the episodes of a pending step are recorded when the step is stored."""

    def _finish_step(self) -> None:
        """Store the pending transition, and whatever else follows the callbacks in a step."""
        transition = self._pending
        if transition is None:
            return
        assert self._last_episode_starts is not None
        super().record_episodes([{"episode": episode} for episode in self._pending_episodes])
        self.replay_buffer.add(transition)
        self.rewards.observe(transition)
        observations: Any = transition.after.observations
        self._last_obs, self._pending, self._pending_episodes = observations, None, []
        self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
        self.n_calls += 1
        self._on_step()
        self._block[0] += 1
        ended = np.flatnonzero(transition.dones).tolist() if transition.final is not None else []
        for copy in ended:
            self.on_episode_end(copy)
        self._block[1] += len(ended)
        self._episode_num += len(ended)
        if ended and self._log_interval and self._episode_num % self._log_interval < len(ended):
            self.dump_logs()

    def _on_step(self) -> None:
        """Called after every joint step, as in SB3: targets and exploration of value-based algorithms."""

    def train(self, gradient_steps: int) -> None:  # type: ignore[override]
        """
        Take gradient steps.

        :param gradient_steps: number of gradient steps
        :raises NonFiniteError: on NaN or infinite numbers, unless ``on_nan`` is ``"skip"``; the step has changed nothing
        """
        if gradient_steps <= 0 or self.replay_buffer.size() == 0:
            return
        self.set_training_mode(True)
        self.refresh()
        self._update_learning_rate(self.optimizers())
        logged: list[dict[str, th.Tensor]] = []
        for _ in range(gradient_steps):
            batch = self.sample(self.batch_size)
            try:
                logged.append(self.gradient_step(batch))
            except NonFiniteError as error:
                self._skip_update(error)
        self._n_updates += len(logged)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        for key in logged[0] if logged else ():
            self.logger.record(key, float(th.stack([one[key] for one in logged]).mean()))
        if self.on_nan == "skip":
            self.logger.record("train/skipped_updates", self.skipped_updates)

    def update(self) -> None:
        """Take one gradient step; see :meth:`train`."""
        self.train(1)

    def sample(self, batch_size: int) -> JointBatch:
        """
        Draw a batch from the replay buffer.

        :param batch_size: number of transitions
        """
        return self.replay_buffer.sample(batch_size)

    def minimise(self, losses: Mapping[str, th.Tensor], optimizers: Mapping[str, th.optim.Optimizer]) -> dict[str, th.Tensor]:
        """
        Take the steps of optimisers, all or none, with gradients clipped to ``max_grad_norm`` for each.

        :param losses: name -> loss; the sum is differentiated
        :param optimizers: name -> optimiser of the parameters that are trained
        :return: name of the optimiser -> norm of its gradients before they were clipped
        :raises NonFiniteError: if a loss or a gradient is NaN or infinite; no parameter has been changed then
        """
        for optimizer in optimizers.values():
            optimizer.zero_grad()
        self.start_gradients()
        total: Any = sum(losses.values())
        total.backward()
        self.share_gradients()
        limit = self.argument("max_grad_norm")
        norms = {name: _clip(optimizer, limit) for name, optimizer in optimizers.items()}
        self._check_finite(losses, norms)
        for optimizer in optimizers.values():
            optimizer.step()
        return norms

    def _check_finite(self, losses: Mapping[str, th.Tensor], norms: Mapping[str, th.Tensor]) -> None:
        numbers = {**{f"the {name} loss": loss for name, loss in losses.items()}}
        numbers |= {f"the gradient of {name}": norm for name, norm in norms.items()}
        values = th.stack([number.detach() for number in numbers.values()]).tolist()
        for what, value in zip(numbers, values, strict=True):
            if not np.isfinite(value):
                raise NonFiniteError(f"gradient step {self._n_updates + 1}: {what} is {value}")

    def dump_logs(self, iteration: int = 0) -> None:
        """
        Write the logger's values, and those of the latest episodes (returns are summed over agents).

        :param iteration: not used
        """
        assert self.ep_info_buffer is not None
        elapsed = max((time.time_ns() - self.start_time) / 1e9, sys.float_info.epsilon)
        self.logger.record("time/episodes", self._episode_num, exclude="tensorboard")
        if len(self.ep_info_buffer) > 0:
            self.logger.record("rollout/ep_rew_mean", safe_mean([info["r"] for info in self.ep_info_buffer]))
            self.logger.record("rollout/ep_len_mean", safe_mean([info["l"] for info in self.ep_info_buffer]))
            for agent in self.possible_agents:
                mean = safe_mean([info["agents"][agent] for info in self.ep_info_buffer])
                self.logger.record(f"{agent}/rollout/ep_rew_mean", mean)
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
    ) -> tuple[dict[str, np.ndarray], None]:
        """
        Actions for some or all agents, for one env or a batch of envs.

        :param observation: agent -> observation as the env gives it, with or without a leading batch axis; only the agents
            that are to act, by the env's own names or by their text
        :param state: not used
        :param episode_start: not used
        :param deterministic: whether actions depend on the observations alone; otherwise value-based algorithms explore with
            their last exploration rate, as SB3's DQN
        :param action_masks: agent -> bool (batch, n_actions); for agents without an entry here, the mask in their observation
            is used, see :data:`~sb3_matrl.vec_env.masks.MASK_NAMES`
        :return: agent, as named in ``observation`` -> action, and ``None``
        :raises ValueError: if an agent is unknown, or an observation does not fit its space
        """
        if not isinstance(observation, Mapping):
            raise ValueError(f"predict wants a dict agent -> observation, got {type(observation).__name__}")
        given = keyed_by_text(action_masks or {})
        self.set_training_mode(False)
        actions = {}
        for agent, value in observation.items():
            name = self.known_name(agent)
            mask = given.get(name, legal_actions(value, self._mask_names[name]))
            actions[agent] = self.action_of(name, value, mask, deterministic)
        return actions, None

    def known_name(self, agent: Any) -> str:
        """
        :param agent: any agent, by the env's own name or by its text
        :return: its name in the model
        :raises ValueError: if it is unknown
        """
        name = agent_name(agent)
        if name not in self.possible_agents:
            raise ValueError(unknown("agent", name, self.possible_agents))
        return name

    # ------------------------------------------------------------------ parameters

    def optimizers(self) -> list[th.optim.Optimizer]:
        return [part for parts in self.parts.values() for part in parts.values() if isinstance(part, th.optim.Optimizer)]

    @property
    def policy(self) -> th.nn.Module:  # type: ignore[override]
        """All networks as one module, for tools that look at parameters and gradients such as ``wandb.watch``."""
        policies = th.nn.Module()
        for learner, parts in self.parts.items():
            for name, part in parts.items():
                if isinstance(part, th.nn.Module):
                    policies.add_module(f"{learner}/{name}".replace(".", "_"), part)
        return policies

    def get_parameters(self) -> dict[str, dict[str, Any]]:
        """
        Parameters and optimiser states.

        :return: agent, or :attr:`team_name` -> name -> state dict
        """
        return {learner: {name: part.state_dict() for name, part in parts.items()} for learner, parts in self.parts.items()}

    def _set_learner_parameters(self, learner: str, given: Mapping[str, Any], exact_match: bool) -> None:
        parts = self.parts[learner]
        wrong = set(given) ^ set(parts) if exact_match else set(given) - set(parts)
        if wrong:
            raise ValueError(f"parameters of {learner}: missing or unknown {sorted(wrong)}")
        for name, state in given.items():
            parts[name].load_state_dict(dict(state))

    def set_parameters(self, load_path_or_dict: Any, exact_match: bool = True, device: Any = "auto") -> None:
        """
        Load parameters.

        :param load_path_or_dict: path of a saved model, or what :meth:`get_parameters` returned
        :param exact_match: require all learners, and every part of each
        :param device: not used: tensors are copied to the networks' device
        :raises ValueError: if learners are missing or unknown, or a file's parameters do not fit; those of a file are all
            loaded, or none
        """
        if isinstance(load_path_or_dict, (str, Path)):
            super().set_parameters(load_path_or_dict, exact_match, device)
            return
        strangers = [name for name in load_path_or_dict if name not in self.parts]
        missing = [name for name in self.parts if name not in load_path_or_dict] if exact_match else []
        if strangers or missing:
            raise ValueError(
                f"parameters of unknown agents {strangers}, or without those of {missing}; known: {list(self.parts)}"
            )
        for learner, given in load_path_or_dict.items():
            self._set_learner_parameters(learner, given, exact_match)

    # ------------------------------------------------------------------ files and exact resume

    @property
    def resumable_timesteps(self) -> int:
        """Steps of the training that :meth:`save` stores: all so far."""
        return self.num_timesteps

    def save_replay_buffer(self, path: str | Path) -> None:
        """
        Save the replay buffer: a zip of JSON and weights-only tensors, written atomically.

        A training resumes exactly from a model and a replay buffer that were saved at the same moment.

        :param path: path of the file; ``.zip`` is added if it has no suffix
        """
        save_replay(path, self.replay_buffer)

    def load_replay_buffer(self, path: str | Path) -> None:
        """
        Load a replay buffer; nothing in the file is executed.

        :param path: path of the file, with or without ``.zip``
        :raises FileNotFoundError: if there is no such file
        :raises ValueError: if the file is no replay buffer, is damaged, or is not one of this environment and algorithm, with
            the model's ``buffer_size`` and ``n_envs``; the model keeps its own buffer then
        """
        self._replay_buffer = load_replay(path, self._make_replay_buffer)

    def _saved_model(self) -> SavedModel:
        if self.env is not None and self._last_obs is not None:
            self._state = self._capture_state()
        return super()._saved_model()

    def _capture_state(self) -> OffPolicyState:
        """State of the training at this moment."""
        state = super()._capture_state()
        progress = {
            "n_calls": self.n_calls,
            "episodes": self._episode_num,
            "block_steps": self._block[0],
            "block_episodes": self._block[1],
            "stored": 0 if self._replay_buffer is None else self._replay_buffer.added,
        }
        pending = None if self._pending is None else self._pending.as_tree()
        own = {
            "normalizers": self.rewards.state(),
            "progress": progress,
            "pending": pending,
            "pending_episodes": [dict(episode) for episode in self._pending_episodes],
            "extra": self.extra_state(),
        }
        return OffPolicyState(**{**vars(state), **own})

    def _restore_state(self, state: TrainingState) -> None:
        assert isinstance(state, OffPolicyState)
        self.rewards.restore(state.normalizers)
        super()._restore_state(state)
        progress = state.progress
        self.n_calls, self._episode_num = progress["n_calls"], progress["episodes"]
        self._block = [progress["block_steps"], progress["block_episodes"]]
        self._pending = None if state.pending is None else JointTransition.from_tree(state.pending)
        self._pending_episodes = list(state.pending_episodes)
        self.restore_extra_state(state.extra)


class AgentsOnDemand(Mapping[str, Any]):
    """
    The agents as models of plain SB3, made when they are asked for.

    :param model: model whose :meth:`OffPolicyMultiAgent.make_agent` makes them
    """

    def __init__(self, model: OffPolicyMultiAgent) -> None:
        self._model = model

    def __getitem__(self, agent: Any) -> Any:
        if agent_name(agent) not in self._model.possible_agents:
            raise KeyError(agent)
        return self._model.make_agent(agent_name(agent))

    def __iter__(self) -> Iterator[str]:
        return iter(self._model.possible_agents)

    def __len__(self) -> int:
        return len(self._model.possible_agents)


def _example(space: spaces.Space[Any]) -> Any:
    """A batch of one observation: zeros, and the largest of Discrete and MultiDiscrete."""
    arrays = {leaf.key: np.zeros((1, *leaf.shape), dtype=leaf.dtype) for leaf in leaves_of(space)}
    for leaf in leaves_of(space):
        if isinstance(leaf.space, (spaces.Discrete, spaces.MultiDiscrete)):
            options = leaf.space.n if isinstance(leaf.space, spaces.Discrete) else leaf.space.nvec
            arrays[leaf.key][0] = leaf.space.start + options - 1
    return arrays[None] if None in arrays else arrays


def _train_freq(value: Any) -> TrainFreq:
    """
    SB3's ``train_freq``.

    :param value: a number of steps, or a tuple of a number and ``"step"`` or ``"episode"``
    :raises ValueError: if it is neither
    """
    number, unit = tuple(value) if isinstance(value, (tuple, list)) and len(value) == 2 else (value, "step")
    unit = unit.value if isinstance(unit, TrainFrequencyUnit) else unit
    units = [one.value for one in TrainFrequencyUnit]
    if unit not in units or isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < 1:
        raise ValueError(
            f"train_freq must be a number of steps of at least 1, or (number, 'step' or 'episode'), got {value!r}"
        )
    return TrainFreq(int(number), TrainFrequencyUnit(unit))


def _handle_timeouts(kwargs: Mapping[str, Any] | None) -> bool:
    """``handle_timeout_termination`` of the replay buffer's arguments."""
    given = dict(kwargs or {})
    value = given.pop("handle_timeout_termination", True)
    if given:
        raise ValueError(f"replay_buffer_kwargs: {unknown('argument', next(iter(given)), ['handle_timeout_termination'])}")
    if not isinstance(value, bool):
        raise ValueError(f"handle_timeout_termination must be True or False, got {value!r}")
    return value


def _clip(optimizer: th.optim.Optimizer, limit: float | None) -> th.Tensor:
    """Clip the gradients of an optimiser's parameters together; norm before that."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if limit is None:
        return th.nn.utils.get_total_norm([one.grad for one in parameters if one.grad is not None])
    return th.nn.utils.clip_grad_norm_(parameters, limit)
