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
from sb3_contrib.common.recurrent.type_aliases import RNNStates

from sb3_matrl.files.trees import arrays_for_tensors, tensors_for_arrays
from sb3_matrl.on_policy.rollout import Position, first_position, viewed
from sb3_matrl.utils.random_state import random_generators, restore_random_generators

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
    :param normalizers: learner -> state of its normaliser
    :param memories: learner or frozen agent -> recurrent states, a list of arrays; those without are left out
    """

    num_timesteps: int
    generators: dict[str, Any]
    episodes: list[dict[str, Any]]
    episode_starts: np.ndarray
    env: dict[str, Any] | None
    normalizers: dict[str, Any]
    memories: dict[str, Any]

    def as_tree(self) -> dict[str, Any]:
        """With tensors for arrays; :meth:`from_tree` gives an equal state back."""
        return {name: tensors_for_arrays(value) for name, value in vars(self).items()}

    @classmethod
    def from_tree(cls, tree: Any) -> TrainingState:
        """
        :param tree: as :meth:`as_tree` made it
        :raises ValueError: when parts are missing or unknown
        """
        names = {field.name for field in fields(cls)}
        if isinstance(tree, dict):
            tree = {"normalizers": {}, "memories": {}, **tree}  # files of earlier versions have none
        if not isinstance(tree, dict) or set(tree) != names:
            raise ValueError(f"the training state should consist of {sorted(names)}")
        return cls(**{name: arrays_for_tensors(value) for name, value in tree.items()})


def capture(model: MATRL) -> TrainingState:
    """:return: the state of a model that is between two iterations"""
    assert model.env is not None and model.ep_info_buffer is not None
    return TrainingState(
        num_timesteps=model.num_timesteps,
        generators=random_generators(),
        episodes=[dict(info) for info in model.ep_info_buffer],
        episode_starts=np.array(model._last_episode_starts),
        env=model.env.snapshot() if model.env.can_snapshot else None,
        normalizers=normalizer_states(model),
        memories=_memories(model),
    )


def normalizer_states(model: MATRL) -> dict[str, Any]:
    """Learner -> state of its normaliser, of those that have one."""
    return {name: normalizer.state() for name, normalizer in model.team.normalizers.items()}


def _memories(model: MATRL) -> dict[str, list[np.ndarray]]:
    memories: dict[str, list[np.ndarray]] = {}
    for name, learner in model.learners.items():
        states: RNNStates | None = getattr(learner, "_last_lstm_states", None)
        if states is not None:
            memories[name] = [state.cpu().numpy().copy() for pair in states for state in pair]
    for agent, frozen in model.team.frozen.items():
        if frozen.state is not None:
            memories[agent] = [np.array(state) for state in frozen.state]
    return memories


def _recall(model: MATRL, memories: dict[str, list[np.ndarray]]) -> None:
    for name, arrays in memories.items():
        if name in model.team.frozen:
            model.team.frozen[name].state = tuple(np.array(array) for array in arrays)
            continue
        learner: Any = model.learners[name]
        hidden, cell, hidden_vf, cell_vf = (th.as_tensor(np.array(array), device=learner.device) for array in arrays)
        learner._last_lstm_states = RNNStates((hidden, cell), (hidden_vf, cell_vf))


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
        if model.verbose >= 1:
            print("The environment cannot save its state: training resumes with new episodes.")
    for name, normalizer in model.team.normalizers.items():
        normalizer.restore(state.normalizers[name])
    if state.env is None:
        position = first_position(model.env, model.team, model.env.reset())
    else:
        position = Position(viewed(model.team, model.env.restore(state.env)), state.episode_starts.copy())
    _recall(model, state.memories)
    model._last_obs, model._last_episode_starts = position.observations, position.episode_starts
    model.ep_info_buffer.clear()
    model.ep_info_buffer.extend(state.episodes)
    restore_random_generators(state.generators)
