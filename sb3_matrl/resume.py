"""
The state of a training between two iterations: with the model's parameters it decides everything that follows.

It is taken before every rollout. A model that is saved in the middle of one holds the state in which the rollout began: the
training that goes on from there plays the rollout again and is, bit for bit, the one that was never stopped.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th

from sb3_matrl.common.random_state import random_generators, restore_random_generators

if TYPE_CHECKING:
    from sb3_matrl.matrl import MATRL


@dataclass(frozen=True)
class TrainingState:
    """
    Nested dicts and lists of arrays, numbers, texts and ``None``, so that no pickle is needed to store it.

    :param num_timesteps: joint steps so far
    :param generators: states of the global random generators
    :param episodes: the latest episodes' statistics, as in SB3's ``ep_info_buffer``
    :param episode_starts: bool (n_envs, n_agents), who opens an episode with the next step
    :param env: what ``JointVecEnv.snapshot`` returned; ``None`` where the env cannot save its state
    """

    num_timesteps: int
    generators: dict[str, Any]
    episodes: list[dict[str, Any]]
    episode_starts: np.ndarray
    env: dict[str, Any] | None

    def as_tree(self) -> dict[str, Any]:
        """With tensors for arrays; :meth:`from_tree` gives an equal state back."""
        return {name: _tensors_for_arrays(value) for name, value in vars(self).items()}

    @classmethod
    def from_tree(cls, tree: Any) -> TrainingState:
        """
        :param tree: as :meth:`as_tree` made it
        :raises ValueError: when parts are missing or unknown
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(tree, dict) or set(tree) != names:
            raise ValueError(f"the training state should consist of {sorted(names)}")
        return cls(**{name: _arrays_for_tensors(value) for name, value in tree.items()})


def capture(model: MATRL) -> TrainingState:
    """:return: the state of a model that is between two iterations"""
    assert model.env is not None and model.ep_info_buffer is not None
    return TrainingState(
        num_timesteps=model.num_timesteps,
        generators=random_generators(),
        episodes=[dict(info) for info in model.ep_info_buffer],
        episode_starts=np.array(model._last_episode_starts),
        env=model.env.snapshot() if model.env.can_snapshot else None,
    )


def resume(model: MATRL, state: TrainingState) -> None:
    """
    Bring a model that has the parameters, and the process's random generators, into the state.

    An env that cannot save its state begins new episodes, with seeds that depend on the model's and on the step; this is
    said on the screen where the model is verbose.

    :param model: has an env, and SB3's ``_setup_learn`` behind it
    :param state: of the same model
    :raises ValueError: if the state is not one of such an env
    """
    assert model.env is not None and model.ep_info_buffer is not None
    if state.env is None:
        model.env.seed(int(np.random.SeedSequence([model.seed or 0, state.num_timesteps]).generate_state(1)[0]))
        model._last_obs = model.env.reset()
        model._last_episode_starts = np.ones_like(model.env.alive)
        if model.verbose >= 1:
            print("The environment cannot save its state: training resumes with new episodes.")
    else:
        model._last_obs = model.env.restore(state.env)
        model._last_episode_starts = state.episode_starts.copy()
    model._alive = model.env.alive.copy()
    model.ep_info_buffer.clear()
    model.ep_info_buffer.extend(state.episodes)
    restore_random_generators(state.generators)


def _tensors_for_arrays(value: Any) -> Any:
    return th.from_numpy(np.array(value)) if isinstance(value, np.ndarray) else _each(_tensors_for_arrays, value)


def _arrays_for_tensors(value: Any) -> Any:
    return value.numpy() if isinstance(value, th.Tensor) else _each(_arrays_for_tensors, value)


def _each(change: Any, value: Any) -> Any:
    if isinstance(value, dict):
        return {key: change(one) for key, one in value.items()}
    return [change(one) for one in value] if isinstance(value, (list, tuple)) else value
