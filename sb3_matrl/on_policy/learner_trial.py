"""A trial of a new learner: can its policy read the agent's observations, act, and evaluate its actions?"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_matrl.on_policy.actors import act, observation_tensor, with_states
from sb3_matrl.on_policy.buffers import is_maskable, is_recurrent
from sb3_matrl.on_policy.central_policies import state_size_of
from sb3_matrl.utils.one_line import one_line
from sb3_matrl.utils.random_state import random_generators, restore_random_generators
from sb3_matrl.vec_env.spaces import leaves_of

# Rows of a trial: some faults, such as axes in another order, do not show in a single one.
_ROWS = 2


def check_trial(learner: OnPolicyAlgorithm, observation_space: spaces.Space[Any]) -> None:
    """
    Let a new learner's policy act once for two rows, in evaluation mode; neither the learner nor the random generators change.

    :param learner: SB3 or sb3-contrib on-policy algorithm
    :param observation_space: observation space of its agents, whose images may have their channels last
    :raises ValueError: if the policy cannot process the observations, or its actions are not in the action space
    """
    generators, training = random_generators(), learner.policy.training
    learner.policy.set_training_mode(False)
    try:
        _try(learner, observation_space)
    except Exception as error:
        raise ValueError(
            f"{type(learner.policy).__name__} fails on the observation space {one_line(observation_space)} with actions in "
            f"{one_line(learner.action_space)} ({type(error).__name__}: {one_line(error)}): change the spaces by a wrapper, "
            "such as SuperSuit's flatten_v0, or choose another policy or other policy_kwargs"
        ) from error
    finally:
        learner.policy.set_training_mode(training)
        restore_random_generators(generators)


def _try(learner: Any, observation_space: spaces.Space[Any]) -> None:
    observation = _zeros(observation_space)
    starts, masks = np.ones(_ROWS, dtype=bool), None
    if is_maskable(learner.rollout_buffer):
        masks = np.ones((_ROWS, learner.rollout_buffer.mask_dims), dtype=bool)
    states, size = _states(learner), state_size_of(learner.policy)
    critic_states = np.zeros((_ROWS, size), dtype=np.float32) if size else None
    env_actions, actions, values, _ = act(learner, observation, starts, masks, states, critic_states)[:4]
    if values.numel() != _ROWS:
        raise ValueError(f"the policy returns values of shape {tuple(values.shape)} for {_ROWS} observations")
    if not learner.action_space.contains(env_actions[0].astype(learner.action_space.dtype)):
        raise ValueError(f"the action {env_actions[0]!r} of the policy is not in the space")
    inputs = with_states(learner, observation_tensor(learner, observation), critic_states)
    _evaluate(learner, inputs, actions, masks, states)


def _states(learner: Any) -> RNNStates | None:
    """The recurrent states of the learner's first column, for all rows."""
    if not is_recurrent(learner.rollout_buffer):
        return None
    return RNNStates(*[tuple(state[:, :1].repeat(1, _ROWS, 1) for state in pair) for pair in learner._last_lstm_states])


def _evaluate(learner: Any, inputs: Any, actions: np.ndarray, masks: np.ndarray | None, states: RNNStates | None) -> None:
    """Evaluate the actions as updates do."""
    given = th.as_tensor(actions, device=learner.device)
    given = given.long().flatten() if isinstance(learner.action_space, spaces.Discrete) else given.float().reshape(_ROWS, -1)
    extras: dict[str, Any] = {} if masks is None else {"action_masks": masks}
    if states is not None:
        extras = {"lstm_states": states, "episode_starts": th.ones(_ROWS, device=learner.device)}
    with th.no_grad():
        learner.policy.evaluate_actions(inputs, given, **extras)


def _zeros(space: spaces.Space[Any]) -> Any:
    """A batch of observations of zeros."""
    arrays = {leaf.key: np.zeros((_ROWS, *leaf.shape), dtype=leaf.dtype) for leaf in leaves_of(space)}
    return arrays[None] if None in arrays else arrays
