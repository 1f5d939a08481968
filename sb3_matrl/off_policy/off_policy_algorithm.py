"""The base class of the off-policy algorithms: collection, gradient steps and exact resume."""

from __future__ import annotations

import sys
import time
import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import safe_mean, should_collect_more_steps

from sb3_matrl.common.argument_checks import check_schedules
from sb3_matrl.common.finite import NonFiniteError
from sb3_matrl.common.training_state import TrainingState
from sb3_matrl.common.transaction import all_or_nothing
from sb3_matrl.distributed.shard import CollectionStopped
from sb3_matrl.distributed.workers_env import WorkersVecEnv
from sb3_matrl.files.model_files import SavedModel
from sb3_matrl.off_policy.joint_batch import JointBatch
from sb3_matrl.off_policy.off_policy_player import OffPolicyPlayer
from sb3_matrl.off_policy.off_policy_state import OffPolicyState
from sb3_matrl.off_policy.played_rounds import PlayedStep, RoundReader, joined_round
from sb3_matrl.off_policy.playing_shard import PlayingShard, RoundHarvest, RoundOrder
from sb3_matrl.off_policy.replay_files import check_values
from sb3_matrl.off_policy.transitions import Actions, JointTransition
from sb3_matrl.utils.random_state import random_generators, restore_random_generators

__all__ = ["Actions", "OffPolicyMultiAgent"]
SelfOffPolicy = TypeVar("SelfOffPolicy", bound="OffPolicyMultiAgent")


class OffPolicyMultiAgent(OffPolicyPlayer):
    """
    Base class of the off-policy algorithms: it plays, stores transitions, takes gradient steps and follows by targets.

    Every step has SB3's order: choose actions, step the environment, count, call the callbacks, store, :meth:`_on_step`. After
    ``train_freq`` steps come the gradient steps. With ``rollout_workers`` the workers play these steps beforehand, and what
    follows the environment's step comes when all have been played.

    A subclass defines

    - :meth:`build_networks`: networks and optimisers of every agent, and of the team
    - :meth:`choose_actions`: actions while it learns, by :meth:`acting_networks`; :meth:`action_of` for acting
    - :meth:`gradient_step`: one gradient step on a batch
    - :attr:`action_kinds`, :attr:`is_team`
    - :meth:`make_agent`: one agent as a model of plain SB3, if it can be one

    :param given: the constructor's local variables: arguments by name
    :raises ValueError: if an argument or the env is not usable; the message says what to do
    """

    training_state_class: ClassVar[type[TrainingState]] = OffPolicyState
    shard_class = PlayingShard

    # ------------------------------------------------------------------ hooks of subclasses

    @abstractmethod
    def gradient_step(self, batch: JointBatch) -> dict[str, th.Tensor]:
        """
        Take one gradient step.

        :param batch: batch of transitions
        :return: key of the logger -> number
        :raises NonFiniteError: on NaN or infinite numbers; nothing has been changed then
        """

    def start_gradients(self) -> None:
        """Called before a backward pass, when the gradients of all optimisers are zero."""

    def share_gradients(self) -> None:
        """Called after a backward pass, before gradients are clipped."""

    # ------------------------------------------------------------------ training

    def _setup_model(self) -> None:
        super()._setup_model()
        self.n_calls = self._episode_num = 0
        self._block = [0, 0]  # steps and episodes since the last gradient steps
        self._now = None
        self._pending: JointTransition | None = None
        self._pending_episodes: list[dict[str, Any]] = []
        self._ahead: RoundReader | None = None  # steps that workers have played, but that have not been counted
        self._begins = False  # whether the workers do not know yet that learn() has begun
        self._unread: list[th.Tensor] | None = None  # losses and norms of gradients that are read after the last step

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
        if reset_num_timesteps or self._last_obs is None:
            self._ahead = None
        self.begin_playing()  # a training that is resumed from a file continues with the state of its noise
        resumed = None if reset_num_timesteps else self._resume_from
        total, callback = super()._setup_learn(total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar)
        self.check_turns()
        self._begins = resumed is None or (isinstance(resumed, OffPolicyState) and resumed.begins)
        if isinstance(resumed, OffPolicyState) and resumed.progress["stored"] and not self.replay_buffer.added:
            warnings.warn(
                "the training resumes with an empty replay buffer: save_replay_buffer() and load_replay_buffer() keep the "
                "transitions",
                stacklevel=4,
            )
        return total, callback

    def _begin_episodes(self, num_timesteps: int) -> None:
        super()._begin_episodes(num_timesteps)
        self.rewards.begin()
        self._ahead = None

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
        try:
            while should_collect_more_steps(self.train_freq, *self._block):
                if not self._step(callback):
                    return False
        except CollectionStopped:
            return False
        callback.on_rollout_end()
        return True

    def _step(self, callback: BaseCallback) -> bool:
        """Play and store one joint step; False if the callback asked to stop."""
        played = self._next_step()
        transition, infos = played.transition, played.seen["infos"]
        self._pending = transition
        self._pending_episodes = [infos[copy]["episode"] for copy in np.flatnonzero(transition.dones)]
        seen = {
            **played.seen,
            "buffer_actions": transition.actions,
            "replay_buffer": self.replay_buffer,
            "num_collected_steps": self._block[0] + 1,
            "num_collected_episodes": self._block[1],
        }
        if not self.on_env_step(callback, seen):
            return False
        self._finish_step()
        return True

    def _next_step(self) -> PlayedStep:
        """
        The next joint step, played here or before by workers.

        :raises CollectionStopped: if workers were to play while the training is to end
        """
        if not isinstance(self.env, WorkersVecEnv):
            return self.play_step()
        if not self._ahead:
            order = RoundOrder.of(self, (self._block[0], self._block[1]), self._begins)
            harvests: list[RoundHarvest] = self.collect_by_workers(self.env, order)
            self._begins = False
            played = joined_round(self.env.backend.shares, [harvest.played for harvest in harvests])
            self._ahead = RoundReader(played)
        return self._ahead.read()

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
        self._pending, self._pending_episodes = None, []
        ended = self.end_step(transition)
        self.n_calls += 1
        self._on_step()
        self._block[0] += 1
        self._block[1] += len(ended)
        self._episode_num += len(ended)
        if ended and self._log_interval and self._episode_num % self._log_interval < len(ended):
            self.dump_logs()

    def _on_step(self) -> None:
        """Called after every joint step, as in SB3: targets of value-based algorithms."""

    def train(self, gradient_steps: int) -> None:  # type: ignore[override]
        """
        Take gradient steps.

        :param gradient_steps: number of gradient steps
        :raises NonFiniteError: on NaN or infinite numbers, unless ``on_nan`` is ``"skip"``; the step has changed nothing
        :raises ValueError: if the schedule of the learning rate returns no number, or one out of its range
        """
        if gradient_steps <= 0 or self.replay_buffer.size() == 0:
            return
        self.set_training_mode(True)
        self.refresh()
        check_schedules(self._schedules, self._current_progress_remaining)
        self._update_learning_rate(self.optimizers())
        reads_once = gradient_steps > 1 and self.device.type != "cpu"
        logged = self._take_unread_steps(gradient_steps) if reads_once else self._take_steps(gradient_steps)
        self._n_updates += len(logged)
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        if logged:
            means = th.stack([th.stack(list(one.values())) for one in logged]).mean(dim=0).tolist()
            for key, value in zip(logged[0], means, strict=True):
                self.logger.record(key, value)
        if self.on_nan == "skip":
            self.logger.record("train/skipped_updates", self.skipped_updates)

    def _take_steps(self, gradient_steps: int) -> list[dict[str, th.Tensor]]:
        """Take gradient steps, each of which is applied only if its losses and gradients are finite."""
        logged = []
        for _ in range(gradient_steps):
            batch = self.sample(self.batch_size)
            try:
                logged.append(self.gradient_step(batch))
            except NonFiniteError as error:
                self._skip_update(error, stacklevel=5)
        return logged

    def _take_unread_steps(self, gradient_steps: int) -> list[dict[str, th.Tensor]]:
        """
        Take gradient steps and read their losses and gradients after the last one, not to wait for the GPU after each.

        If not all are finite, everything is put back and the steps are taken again, one by one.
        """
        generators = random_generators()
        self._unread = []
        try:
            with all_or_nothing(self):
                logged = [self.gradient_step(self.sample(self.batch_size)) for _ in range(gradient_steps)]
                if not bool(th.cat(self._unread).isfinite().all()):
                    raise NonFiniteError("a loss or a gradient is not finite")
            return logged
        except BaseException as error:
            restore_random_generators(generators)
            if not isinstance(error, Exception):
                raise
        finally:
            self._unread = None
        return self._take_steps(gradient_steps)

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
        values = th.stack([number.detach() for number in numbers.values()])
        if self._unread is not None:
            self._unread.append(values)
            return
        for what, value in zip(numbers, values.tolist(), strict=True):
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

    # ------------------------------------------------------------------ exact resume

    @property
    def resumable_timesteps(self) -> int:
        """Steps of the training that :meth:`save` stores: all so far."""
        return self.num_timesteps

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
            "ahead": self._ahead.rest() if self._ahead else None,
            "extra": self.extra_state(),
            "begins": self._begins and isinstance(self.env, WorkersVecEnv),
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
        self._ahead = None if state.ahead is None else RoundReader.from_tree(state.ahead)
        self._check_storable([] if self._pending is None else [self._pending])
        self._check_storable([] if state.ahead is None else RoundReader.from_tree(state.ahead).transitions())
        self.restore_extra_state(state.extra)

    def _check_storable(self, transitions: Sequence[JointTransition]) -> None:
        """
        Check transitions from a file.

        :raises ValueError: if a replay buffer of the model cannot hold them
        """
        if not transitions:
            return
        scratch = self.make_replay_buffer(self.n_envs * len(transitions))
        try:
            for transition in transitions:
                scratch.add(transition)
        except Exception as error:  # damaged content causes many errors
            raise ValueError(f"a pending transition does not fit the environment: {error!r}") from error
        check_values(scratch, len(scratch.final_places()))


def _clip(optimizer: th.optim.Optimizer, limit: float | None) -> th.Tensor:
    """Clip the gradients of an optimiser's parameters together; norm before that."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if limit is None:
        return th.nn.utils.get_total_norm([one.grad for one in parameters if one.grad is not None])
    return th.nn.utils.clip_grad_norm_(parameters, limit)
