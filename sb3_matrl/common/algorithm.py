"""The base class of the multi-agent algorithms: the training loop and exact resume."""

from __future__ import annotations

import sys
import time
import warnings
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import safe_mean

from sb3_matrl.common.agents import Position
from sb3_matrl.common.argument_checks import check_schedules
from sb3_matrl.common.callbacks import StopTraining, reject_single_agent_evaluation
from sb3_matrl.common.finite import ON_NAN, NonFiniteError
from sb3_matrl.common.logger import AgentLogger, fit_tables
from sb3_matrl.common.model import MultiAgentModel
from sb3_matrl.common.training_state import TrainingState, normalizer_states, recurrent_states, restore_recurrent_states
from sb3_matrl.common.transaction import all_or_nothing
from sb3_matrl.files.model_files import DAMAGE, blame_file
from sb3_matrl.utils.random_state import random_generators, restore_random_generators
from sb3_matrl.utils.suggest import unknown
from sb3_matrl.vec_env import JointVecEnv

SelfAlgorithm = TypeVar("SelfAlgorithm", bound="MultiAgentAlgorithm")


class MultiAgentAlgorithm(MultiAgentModel):
    """
    Base class of the multi-agent algorithms: environment, agents, training loop, acting, files, exact resume.

    A subclass names its arguments in its constructor and calls ``super().__init__(locals())``. It then defines

    - :meth:`collect_rollouts`: act in ``self.env`` and store what was seen; call :meth:`start_rollout` first and
      :meth:`on_env_step` after every step
    - :meth:`update`: learn from it
    - :meth:`build_learners`: SB3 learners of the agents, for algorithms that have them
    - :meth:`build`: everything else that is made once, such as optimisers and random generators

    and, for everything that it changes beside its learners, :meth:`get_parameters` and :meth:`set_parameters` or
    :attr:`extra_optimizers`, and :attr:`generators`.

    These arguments are understood in every constructor that has them: ``env``, ``device``, ``seed``, ``verbose``,
    ``tensorboard_log``, ``stats_window_size``, ``_init_setup_model``, ``n_envs``, ``env_kwargs``, ``vec_env``, ``share``,
    ``frozen``, ``norm_obs``, ``norm_reward``, ``clip_obs``, ``clip_reward``, ``on_nan``. :class:`~sb3_matrl.MATRL` documents
    them.

    :param given: the constructor's local variables: arguments by name
    :raises ValueError: if an argument or the env is not usable; the message says what to do
    """

    #: Whether the training is to end in the middle of a rollout, for rollouts that call no callbacks until they have ended.
    stop_requested: Callable[[], bool] | None = None
    # The env and its number of moves at the end of the last rollout.
    _left_at: tuple[JointVecEnv, int] | None = None

    @property
    def on_nan(self) -> str:
        """``"stop"`` or ``"skip"``: what happens to an update with NaN or infinite numbers."""
        return str(self.argument("on_nan", ON_NAN[0]))

    def check_arguments(self) -> None:
        """
        Check arguments before anything is built.

        :raises ValueError: if one is not usable
        """
        if self.on_nan not in ON_NAN:
            raise ValueError(unknown("on_nan", self.on_nan, ON_NAN))

    @abstractmethod
    def collect_rollouts(self, callback: BaseCallback) -> bool:
        """
        Act in the environment until there is enough for an update; starts with :meth:`start_rollout` and moves
        :attr:`position`.

        :param callback: SB3 callback
        :return: False if the callback asked to stop
        """

    @abstractmethod
    def update(self) -> None:
        """
        Learn from what was collected, and record numbers in ``self.logger``.

        :raises NonFiniteError: on NaN or infinite numbers; the agents are then restored
        """

    # ------------------------------------------------------------------ training

    @property
    def position(self) -> Position:
        """Where the next rollout begins: raw observations of all agents, and who opens an episode."""
        assert self._last_obs is not None and self._last_episode_starts is not None
        observations: Any = self._last_obs
        return Position(observations, self._last_episode_starts)

    @position.setter
    def position(self, position: Position) -> None:
        observations: Any = position.observations
        self._last_obs, self._last_episode_starts = observations, position.episode_starts
        assert self.env is not None
        self._left_at = self.env, self.env.moves

    def _notice_moves(self) -> None:
        """Begin new episodes if the env is not where the last rollout left it: its observations no longer apply."""
        assert self.env is not None
        if self._left_at == (self.env, self.env.moves):
            return
        warnings.warn(
            "the environment of the training was reset, stepped or replaced since the last rollout: training continues with "
            "new episodes. Evaluate and play in an environment of its own to avoid this",
            stacklevel=3,
        )
        self._begin_episodes(self.num_timesteps)

    def _begin_episodes(self, num_timesteps: int) -> None:
        """Begin new episodes in all copies, with seeds that depend on the model's seed and on the number of steps."""
        assert self.env is not None
        self.env.seed(int(np.random.SeedSequence([self.seed or 0, num_timesteps]).generate_state(1)[0]))
        self.position = self.team.begin(self.env.reset(), self.env.alive, self.env_states)

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        if self.env is None:
            raise ValueError("this model has no env to learn in: pass one to load() or to set_env()")
        for agent in self.lost_agents():
            raise ValueError(
                f"frozen: {agent!r} was a function, which a file cannot hold: pass it to load() as frozen={{...}}"
            )
        new_episodes = reset_num_timesteps or self._last_obs is None
        total_timesteps, callback = super()._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        if new_episodes:
            observations: Any = self._last_obs
            self.position = self.team.begin(observations, self.env.alive, self.env_states)
        if self._resume_from is not None and not reset_num_timesteps:
            with blame_file(self.loaded_from, *DAMAGE):
                self._restore_state(self._resume_from)
        self._resume_from = None
        self._notice_moves()
        # A logger that the user set prints what it was made for.
        is_short = self.verbose == 1 and not self._custom_logger
        fit_tables(self.logger, [*self.possible_agents, *self.learners], is_short)
        for name, learner in self.learners.items():
            learner.set_logger(AgentLogger(self.logger, name))
        return total_timesteps, callback

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        callback = super()._init_callback(callback, progress_bar)
        reject_single_agent_evaluation(callback)
        return callback

    def learn(
        self: SelfAlgorithm,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> SelfAlgorithm:
        """
        Train all agents.

        :param total_timesteps: joint environment steps, over all copies
        :param callback: SB3 callback(s)
        :param log_interval: iterations between two dumps of the logger; ``None`` or 0 for never
        :param tb_log_name: name of the TensorBoard run; ``None`` for the name of the class
        :param reset_num_timesteps: start counting steps at 0; ``False`` continues
        :param progress_bar: show a progress bar (needs tqdm and rich)
        :return: the model
        """
        total_timesteps, callback = self._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name or type(self).__name__, progress_bar
        )
        iteration = 0 if reset_num_timesteps else self._n_updates + self.skipped_updates
        callback.on_training_start(locals(), globals())
        self._state = self._capture_state()
        while self.num_timesteps < total_timesteps:
            start = time.perf_counter()
            if not self._collect(callback):
                break
            self.logger.record("time/collect_seconds", time.perf_counter() - start)
            iteration += 1
            self.train(total_timesteps)
            self._state = self._capture_state()
            if log_interval and iteration % log_interval == 0:
                self.dump_logs(iteration)
        callback.on_training_end()
        return self

    def _collect(self, callback: BaseCallback) -> bool:
        """As :meth:`collect_rollouts`; also False if a callback stops the training at the start of the rollout."""
        try:
            return self.collect_rollouts(callback)
        except StopTraining:
            return False

    def start_rollout(self, callback: BaseCallback) -> Position:
        """
        Call the callback at the start of a rollout; new episodes begin if it, or anyone else, moved the env.

        :param callback: SB3 callback
        :return: where the rollout begins
        """
        callback.on_rollout_start()
        self._notice_moves()
        return self.position

    def on_env_step(self, callback: BaseCallback, seen: dict[str, Any]) -> bool:
        """
        Count a joint step, call the callback, and update the episode statistics.

        :param callback: SB3 callback
        :param seen: local variables that SB3's callbacks read, among them ``infos`` and ``dones``
        :return: False if the callback asked to stop
        :raises RuntimeError: if the callback moved the env
        """
        assert self.env is not None
        self.num_timesteps += self.n_envs
        callback.update_locals(seen)
        moves = self.env.moves
        proceed = callback.on_step()
        if self.env.moves != moves:
            raise RuntimeError(
                "a callback reset or stepped the environment of the training in the middle of a rollout; let it use an "
                "environment of its own, such as make_joint_vec_env(...) or MultiAgentEvalCallback's eval_env"
            )
        if not proceed:
            return False
        ended = np.flatnonzero(seen["dones"])
        if len(ended):  # only their infos have statistics of episodes
            self.record_episodes([seen["infos"][copy] for copy in ended])
        return True

    def record_episodes(self, infos: list[dict[str, Any]]) -> None:
        """
        Update the episode statistics.

        :param infos: infos of copies whose episodes ended
        """
        self._update_info_buffer(infos, np.ones(len(infos), dtype=bool))

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        """As in SB3, but not below 0 in a last rollout that goes beyond the end, where linear schedules would be negative."""
        super()._update_current_progress_remaining(num_timesteps, total_timesteps)
        self._current_progress_remaining = max(self._current_progress_remaining, 0.0)

    def train(self, total_timesteps: int | None = None) -> None:
        """
        One update of all agents; applied whole or not at all.

        :param total_timesteps: end of the training, for schedules; that of the last ``learn`` by default
        :raises NonFiniteError: on NaN or infinite numbers, unless ``on_nan`` is ``"skip"``; no agent has been updated
        :raises ValueError: if a schedule returns no number, or one out of its range; no agent has been updated
        """
        total = total_timesteps or self._total_timesteps
        self._update_current_progress_remaining(self.num_timesteps, total)
        check_schedules(self._schedules, self._current_progress_remaining)
        for learner in self.learners.values():
            learner.num_timesteps, learner._total_timesteps = self.num_timesteps, total
            learner._current_progress_remaining = self._current_progress_remaining
        # During an update there is no state to resume from; after a failed one the state before it is valid again.
        before, self._state = self._state, None
        try:
            with all_or_nothing(self):
                self.update()
            self._n_updates += 1
        except BaseException as error:
            self._state = before
            if not isinstance(error, NonFiniteError):
                raise
            self._skip_update(error)
        if self.on_nan == "skip":
            self.logger.record("train/skipped_updates", self.skipped_updates)

    def _skip_update(self, error: NonFiniteError, stacklevel: int = 4) -> None:
        """Raise, or warn once and continue; all agents are as before the update. The warning names the caller of ``learn``."""
        if self.on_nan == "stop":
            steps = [name for name in ("learning_rate", "br_learning_rate", "max_grad_norm") if name in self.arguments]
            raise NonFiniteError(
                f"{error}. The update was not applied: all agents are as before it, and the model can be saved. Try a smaller "
                f"{' or '.join(steps)}, or smaller rewards; on_nan='skip' continues without it"
            ) from error
        if self.skipped_updates == 0:
            warnings.warn(
                f"{error}. The update is skipped, and so will be all others like it (on_nan='skip')", stacklevel=stacklevel
            )
        self.skipped_updates += 1

    def dump_logs(self, iteration: int = 0) -> None:
        """
        Write the logger's values, and those of the latest episodes (returns are summed over agents).

        :param iteration: number of the iteration
        """
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

    # ------------------------------------------------------------------ exact resume

    def _capture_state(self) -> TrainingState:
        """State of the training, between two iterations."""
        assert self.env is not None and self.ep_info_buffer is not None
        has_snapshot = self.env.can_snapshot and self.env.is_running and self._has_own_order
        return TrainingState(
            num_timesteps=self.num_timesteps,
            generators=random_generators(),
            episodes=[dict(info) for info in self.ep_info_buffer],
            episode_starts=np.array(self._last_episode_starts),
            # A snapshot has its columns in the env's order, which another env may not have.
            env=self.env.snapshot() if has_snapshot else None,
            normalizers=normalizer_states(self.team),
            memories=recurrent_states(self.team),
        )

    @property
    def _has_own_order(self) -> bool:
        """Whether the env lists the agents in the model's order."""
        return self.env is not None and list(self.env.agents) == self.possible_agents

    def _restore_state(self, state: TrainingState) -> None:
        """
        Put a training, and the process's random generators, into a saved state.

        An env that cannot save its state begins new episodes, with seeds that depend on the model's seed and on the number of
        steps; a verbose model prints that.

        :param state: state of the same model's training
        :raises ValueError: if the state does not fit the env
        """
        assert self.env is not None and self.ep_info_buffer is not None
        for name, normalizer in self.team.normalizers.items():
            normalizer.restore(state.normalizers[name])
        if state.env is None or not self._has_own_order:
            if self.verbose >= 1:
                print("The environment cannot save its state: training resumes with new episodes.")
            self._begin_episodes(state.num_timesteps)
        else:
            self.position = Position(self.env.restore(state.env), state.episode_starts.copy())
        restore_recurrent_states(self.team, state.memories)
        self.ep_info_buffer.clear()
        self.ep_info_buffer.extend(state.episodes)
        restore_random_generators(state.generators)
