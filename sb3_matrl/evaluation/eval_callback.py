"""Callback for evaluation during training, the multi-agent counterpart of SB3's ``EvalCallback``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, EventCallback

from sb3_matrl.common.callbacks import StopTraining
from sb3_matrl.envs.parallel import is_environment
from sb3_matrl.evaluation.evaluate import (
    MAX_EPISODE_STEPS,
    EvaluationResult,
    check_max_episode_steps,
    evaluate_policy,
    structure_of,
)
from sb3_matrl.evaluation.evaluation_text import evaluation_line
from sb3_matrl.evaluation.exact_nash_conv import NashConvRecord
from sb3_matrl.files.argument_codec import argument_from_json, argument_to_json
from sb3_matrl.utils.atomic_file import atomic_file
from sb3_matrl.utils.reward_structure import RewardStructure
from sb3_matrl.vec_env import JointVecEnv, make_joint_vec_env


class _Stopped(Exception):
    """Stops an evaluation in progress."""


class MultiAgentEvalCallback(EventCallback):
    """
    Evaluate all agents together during training.

    Every evaluation plays the sampled and the greedy policies, because they may differ a lot. It takes place between
    two iterations, after the first one that reaches a multiple of ``eval_freq``, and at the end of training; of off-policy
    algorithms after the first ``train_freq`` steps, with their gradient steps, that reach a multiple. It does not change the
    training: the global random streams are restored. Sampled actions of algorithms that explore by chance have the exploration
    rate of that moment.

    Logged: ``eval/mean_reward`` (team return, sampled), ``eval/mean_reward_greedy``, ``eval/mean_ep_length``,
    ``eval/mean_ep_length_greedy`` and ``eval/<agent>/mean_reward`` (sampled); where the agents' returns have a constant sum
    also ``eval/<agent>/win_rate`` (sampled); ``eval/cut_episodes`` if episodes had no end;
    ``eval/nash_conv``, exact, in games whose environment knows them: ``matrix_game_v0``, and small ones such as
    ``openspiel:kuhn_poker``.

    ``evaluations.npz`` holds, for m evaluations of k episodes with n agents: ``timesteps`` (m,), ``results`` and
    ``results_greedy`` (m, k), ``ep_lengths`` and ``ep_lengths_greedy`` (m, k), ``agent_returns`` and
    ``agent_returns_greedy`` (m, k, n), ``cut`` and ``cut_greedy`` (m, k), whether the episode was cut, ``agents`` (n,); and
    ``nash_conv`` (m,) where it is known.

    :param eval_env: separate :class:`JointVecEnv` for evaluation, or any argument of :func:`make_joint_vec_env`; of an
        environment, a copy is played, so that it may be that of the training
    :param callback_on_new_best: callback called when the mean team return is the best so far
    :param callback_after_eval: callback called after every evaluation
    :param n_eval_episodes: episodes per evaluation, for the sampled and the greedy policies each
    :param eval_freq: environment steps between evaluations, counted over all copies; 0 or less: only at the end
    :param log_path: folder for ``evaluations.npz``; ``None`` for no file
    :param best_model_save_path: folder for ``best_model.zip``, the latest of equally good models; ``None`` for no file
    :param deterministic: choose the best model by the greedy return instead of the sampled one
    :param seed: seed from which, with the number of steps, the seed of every evaluation is derived
    :param verbose: 1 to print the results in one line: team return, or the agents' returns where they have a constant sum
    :param should_stop: function called before every step of an evaluation; if it returns ``True``, the evaluation is
        discarded, remains due, and training ends
    :param documents: name -> value in JSON types, stored in the file of the best model
    :param max_episode_steps: number of steps after which an episode is cut, see :func:`evaluate_policy`
    """

    def __init__(
        self,
        eval_env: JointVecEnv | Callable[..., Any] | str | Any,
        callback_on_new_best: BaseCallback | None = None,
        callback_after_eval: BaseCallback | None = None,
        n_eval_episodes: int = 20,
        eval_freq: int = 10_000,
        log_path: str | os.PathLike[str] | None = None,
        best_model_save_path: str | os.PathLike[str] | None = None,
        deterministic: bool = False,
        seed: int = 0,
        verbose: int = 1,
        should_stop: Callable[[], bool] = lambda: False,
        documents: Mapping[str, Any] | None = None,
        max_episode_steps: int | None = MAX_EPISODE_STEPS,
    ) -> None:
        super().__init__(callback_after_eval, verbose=verbose)
        self.callback_on_new_best = callback_on_new_best
        if callback_on_new_best is not None:
            callback_on_new_best.parent = self
        self.eval_env: JointVecEnv = eval_env if isinstance(eval_env, JointVecEnv) else make_joint_vec_env(_own(eval_env))
        self.n_eval_episodes = n_eval_episodes
        self.eval_freq = eval_freq
        self.log_path = None if log_path is None else Path(log_path)
        self.best_model_save_path = None if best_model_save_path is None else Path(best_model_save_path)
        self.deterministic = deterministic
        self.seed = seed
        self.should_stop = should_stop
        self.documents = documents
        check_max_episode_steps(max_episode_steps)
        self.max_episode_steps = max_episode_steps
        self.evaluate_at_end = True
        self.best_mean_reward = -np.inf
        self.last_mean_reward = -np.inf
        self.timesteps: list[int] = []
        self.sampled: list[EvaluationResult] = []
        self.greedy: list[EvaluationResult] = []
        self.nash_conv = NashConvRecord(self.eval_env)
        self._next_evaluation: int | None = None
        self._continue_training = True

    def state(self) -> dict[str, Any]:
        """
        State for a checkpoint, with which a resumed training continues these evaluations.

        :return: evaluations so far, best mean return and step of the next evaluation, in JSON types
        """
        return {
            "timesteps": list(self.timesteps),
            "sampled": argument_to_json([vars(result) for result in self.sampled]),
            "greedy": argument_to_json([vars(result) for result in self.greedy]),
            "nash_conv": argument_to_json(self.nash_conv.values),
            "best_mean_reward": argument_to_json(float(self.best_mean_reward)),
            "next_evaluation": self._next_evaluation,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """
        Restore the state from a checkpoint.

        :param state: return value of :meth:`state`
        :raises ValueError: if the state is invalid
        """
        try:
            self.sampled, self.greedy = (
                [EvaluationResult(**values) for values in argument_from_json(state[kind])] for kind in ("sampled", "greedy")
            )
            self.timesteps = [int(steps) for steps in state["timesteps"]]
            unknown = argument_to_json([float("nan")] * len(self.timesteps))  # of an earlier version
            self.nash_conv.values = [float(value) for value in argument_from_json(state.get("nash_conv", unknown))]
            self.best_mean_reward = argument_from_json(state["best_mean_reward"])
            self._next_evaluation = state["next_evaluation"]
        except (KeyError, TypeError) as error:
            raise ValueError(f"not the state of evaluations: {error!r}") from error
        if self.timesteps:
            self.last_mean_reward = (self.greedy if self.deterministic else self.sampled)[-1].mean

    def _init_callback(self) -> None:
        trained = list(getattr(self.model, "possible_agents", self.eval_env.agents))
        if set(trained) != set(self.eval_env.agents):
            raise ValueError(f"eval_env has agents {list(self.eval_env.agents)}, the model has {trained}")
        for folder in (self.log_path, self.best_model_save_path):
            if folder is not None:
                folder.mkdir(parents=True, exist_ok=True)
        if self.callback_on_new_best is not None:
            self.callback_on_new_best.init_callback(self.model)

    def _on_training_start(self) -> None:
        super()._on_training_start()
        self._continue_training = True
        if not self._is_due():  # True if an earlier training stopped just before an evaluation
            self._schedule_next()

    def _on_rollout_start(self) -> None:
        if self._is_due():
            self._evaluate()
        if not self._continue_training:
            raise StopTraining

    def _is_due(self) -> bool:
        return self.eval_freq > 0 and self._next_evaluation is not None and self._next_evaluation <= self.model.num_timesteps

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        done = bool(self.timesteps) and self.timesteps[-1] == self.model.num_timesteps
        if self.evaluate_at_end and self._continue_training and not done:
            self._evaluate()

    def _schedule_next(self) -> None:
        if self.eval_freq > 0:
            self._next_evaluation = (self.model.num_timesteps // self.eval_freq + 1) * self.eval_freq

    def _evaluate(self) -> None:
        self.num_timesteps = self.model.num_timesteps
        try:
            # Play both before recording anything: if the env fails, the evaluation is still due.
            sampled, greedy = self._play(deterministic=False), self._play(deterministic=True)
        except _Stopped:
            self._continue_training = False
            return
        self._schedule_next()
        self.timesteps.append(self.num_timesteps)
        self.sampled.append(sampled)
        self.greedy.append(greedy)
        self.nash_conv.measure(self.model)
        if self.log_path is not None:
            self._save_evaluations(self.log_path / "evaluations.npz")
        self._log()
        is_best = self._keep_best()
        if self.verbose >= 1:
            line = evaluation_line(self.num_timesteps, sampled, greedy, self._structure(), is_best)
            print(f"{line}; NashConv {self.nash_conv.values[-1]:.3f}" if self.nash_conv.is_known else line)
        if is_best and self.callback_on_new_best is not None:
            self._continue_training = self.callback_on_new_best.on_step() and self._continue_training
        self._continue_training = self._on_event() and self._continue_training

    def _play(self, deterministic: bool) -> EvaluationResult:
        seed = int(np.random.SeedSequence([self.seed, self.num_timesteps]).generate_state(1)[0])
        self._check_stop()
        return evaluate_policy(
            self.model,  # type: ignore[arg-type]
            self.eval_env,
            self.n_eval_episodes,
            deterministic,
            seed,
            self._check_stop,
            self.max_episode_steps,
        )

    def _check_stop(self, *_: object) -> None:
        if self.should_stop():
            raise _Stopped

    def _log(self) -> None:
        sampled, greedy = self.sampled[-1], self.greedy[-1]
        self.logger.record("eval/mean_reward", sampled.mean)
        self.logger.record("eval/mean_reward_greedy", greedy.mean)
        self.logger.record("eval/mean_ep_length", sampled.mean_length)
        self.logger.record("eval/mean_ep_length_greedy", greedy.mean_length)
        if cut := len(sampled.cut) + len(greedy.cut):
            self.logger.record("eval/cut_episodes", cut)
        for agent, mean in sampled.agent_means.items():
            self.logger.record(f"eval/{agent}/mean_reward", mean)
        if self._structure() == "constant-sum":
            for agent, rate in sampled.win_rates.items():
                self.logger.record(f"eval/{agent}/win_rate", rate)
        if self.nash_conv.is_known:
            self.logger.record("eval/nash_conv", self.nash_conv.values[-1])
        # Dump immediately, as SB3 does, so that the results are logged with the current number of steps.
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)

    def _structure(self) -> RewardStructure:
        """How the agents' returns in all evaluations so far depend on each other."""
        return structure_of([*self.sampled, *self.greedy])

    def _keep_best(self) -> bool:
        """Save the model if no earlier one was better; True if it is better than all of them."""
        self.last_mean_reward = (self.greedy if self.deterministic else self.sampled)[-1].mean
        # In a zero-sum game, for example, the team return is always 0, up to rounding.
        is_equal = self.last_mean_reward == self.best_mean_reward or (
            len(self.sampled) > 1 and self._structure() == "constant-sum"
        )
        if not (is_equal or self.last_mean_reward > self.best_mean_reward):  # also if it is NaN
            return False
        # Of equally good models keep the latest.
        if self.best_model_save_path is not None:
            model: Any = self.model
            model.save(self.best_model_save_path / "best_model.zip", self.documents)
        if is_equal:
            return False
        self.best_mean_reward = self.last_mean_reward
        return True

    def _save_evaluations(self, path: Path) -> None:
        arrays = {
            "timesteps": np.array(self.timesteps),
            "results": np.array([result.returns for result in self.sampled]),
            "results_greedy": np.array([result.returns for result in self.greedy]),
            "ep_lengths": np.array([result.lengths for result in self.sampled]),
            "ep_lengths_greedy": np.array([result.lengths for result in self.greedy]),
            "agent_returns": np.array([result.agent_returns for result in self.sampled]),
            "agent_returns_greedy": np.array([result.agent_returns for result in self.greedy]),
            "cut": np.array([result.was_cut for result in self.sampled]),
            "cut_greedy": np.array([result.was_cut for result in self.greedy]),
            "agents": np.array(self.sampled[-1].agents),
        } | ({"nash_conv": np.array(self.nash_conv.values)} if self.nash_conv.is_known else {})
        # Atomic, so that readers never see an incomplete file.
        with atomic_file(path) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]


def _own(env: Any) -> Any:
    """A copy of an environment, because the training may play in the same one; the environment itself if it has no copies."""
    if not is_environment(env):
        return env
    try:
        return cloudpickle.loads(cloudpickle.dumps(env))
    except Exception:  # whatever its objects raise
        return env
