"""
State of a training between two iterations.

With the model's parameters it decides everything that follows. It is taken before every rollout. A model that is saved in the
middle of a rollout holds the state in which the rollout began: the resumed training repeats the rollout and is, bit for bit,
the one that was never stopped.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch as th
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.policies import BasePolicy

from sb3_matrl.common.agents import Team
from sb3_matrl.files.trees import arrays_for_tensors, tensors_for_arrays


@dataclass(frozen=True)
class TrainingState:
    """
    Nested dicts and lists of arrays, numbers, texts and ``None``, so that no pickle is needed to store it.

    :param num_timesteps: joint steps so far
    :param generators: states of the global random generators
    :param episodes: statistics of the latest episodes, as in SB3's ``ep_info_buffer``
    :param episode_starts: bool (n_envs, n_agents), True where the agent's next step opens an episode
    :param env: snapshot of the ``JointVecEnv``; ``None`` if the env cannot save its state
    :param normalizers: learner -> state of its normaliser
    :param memories: learner or frozen agent -> recurrent states, a list of arrays; policies without them have no entry
    """

    num_timesteps: int
    generators: dict[str, Any]
    episodes: list[dict[str, Any]]
    episode_starts: np.ndarray
    env: dict[str, Any] | None
    normalizers: dict[str, Any]
    memories: dict[str, Any]

    def as_tree(self) -> dict[str, Any]:
        """The state with tensors for arrays; :meth:`from_tree` reads it."""
        return {name: tensors_for_arrays(value) for name, value in vars(self).items()}

    @classmethod
    def from_tree(cls, tree: Any) -> TrainingState:
        """
        :param tree: return value of :meth:`as_tree`
        :raises ValueError: if parts are missing or unknown
        """
        names = {field.name for field in fields(cls)}
        if isinstance(tree, dict):
            tree = {"normalizers": {}, "memories": {}, **tree}  # files of format 1 have none
        if not isinstance(tree, dict) or set(tree) != names:
            raise ValueError(f"the training state should consist of {sorted(names)}")
        state = cls(**{name: arrays_for_tensors(value) for name, value in tree.items()})
        state._check()
        return state

    def _check(self) -> None:
        """
        :raises ValueError: if a part has another form than in a training
        """
        forms = {"generators": dict, "episodes": list, "episode_starts": np.ndarray, "normalizers": dict, "memories": dict}
        for name, kind in {**forms, "num_timesteps": int, "env": dict | None}.items():
            if not isinstance(getattr(self, name), kind):
                raise ValueError(f"the training state's {name} is a {type(getattr(self, name)).__name__}")
        check_episodes(self.episodes)


def check_episodes(episodes: list[Any]) -> None:
    """
    :param episodes: statistics of episodes, as in SB3's ``ep_info_buffer``
    :raises ValueError: if one has no returns and length
    """
    if not all(map(_is_episode, episodes)):
        raise ValueError("the training state's episodes have no returns and lengths")


def _is_episode(episode: Any) -> bool:
    """Whether a value is the statistics of an episode, with the return of every agent."""
    if not isinstance(episode, dict) or not isinstance(episode.get("agents"), dict):
        return False
    numbers = [episode.get("r"), episode.get("l"), *episode["agents"].values()]
    return all(isinstance(number, (int, float)) for number in numbers)


def normalizer_states(team: Team) -> dict[str, Any]:
    """Learner -> state of its normaliser, for learners that have one."""
    return {name: normalizer.state() for name, normalizer in team.normalizers.items()}


def recurrent_states(team: Team) -> dict[str, list[np.ndarray]]:
    """Learner or frozen agent -> recurrent states of its policy, for policies that have them."""
    memories: dict[str, list[np.ndarray]] = {}
    for name, learner in team.learners.items():
        states: RNNStates | None = getattr(learner, "_last_lstm_states", None)
        if states is not None:
            memories[name] = [state.cpu().numpy().copy() for pair in states for state in pair]
    for agent, frozen in team.frozen.items():
        if frozen.state is not None and isinstance(frozen.policy, BasePolicy):
            memories[agent] = [np.array(state) for state in frozen.state]
    return memories


def restore_recurrent_states(team: Team, memories: dict[str, list[np.ndarray]]) -> None:
    """
    Put recurrent states back.

    :param team: team with the same learners and frozen agents
    :param memories: return value of :func:`recurrent_states`
    """
    for name, arrays in memories.items():
        if name in team.frozen:
            team.frozen[name].state = tuple(np.array(array) for array in arrays)
            continue
        learner = team.learners[name]
        hidden, cell, hidden_vf, cell_vf = (th.as_tensor(np.array(array), device=learner.device) for array in arrays)
        learner._last_lstm_states = RNNStates((hidden, cell), (hidden_vf, cell_vf))
