"""Policies of networks as tables: the probabilities of all actions in given observations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch as th
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.dqn.policies import DQNPolicy

from sb3_matrl.common.frozen import FrozenAgent, best_legal_actions
from sb3_matrl.common.model import MultiAgentModel
from sb3_matrl.evaluation.mixed import Player
from sb3_matrl.evaluation.random_policy import RandomPolicy

#: Function of observations (m, ...) and legal actions, bool (m, n_actions), that returns probabilities (m, n_actions).
PolicyFunction = Callable[[np.ndarray, np.ndarray], np.ndarray]
#: Most probability that a policy without masks may give to illegal actions; more is an error.
TOLERANCE = 1e-6


class UnreadablePolicy(ValueError):
    """The policy is no function of the observation with discrete actions, or does not know the legal ones."""


def policy_table(source: Any, agent: str, observations: np.ndarray, masks: np.ndarray, greedy: bool = False) -> np.ndarray:
    """
    Probabilities of an agent's actions.

    :param source: a model of several agents, ``RandomPolicy``, :class:`~sb3_matrl.evaluation.Player`, an SB3 algorithm or
        policy, a function of observations and masks that returns probabilities, probabilities (m, n_actions), or a mapping
        from agent to one of these
    :param agent: name of the agent
    :param observations: (m, ...)
    :param masks: bool (m, n_actions), legal actions
    :param greedy: give the most probable action probability 1
    :return: float64 (m, n_actions); rows sum to 1, and illegal actions have probability 0
    :raises UnreadablePolicy: if the policy has a memory, has no probabilities, or plays illegal actions
    :raises ValueError: if the source has no policy for the agent, or its probabilities are none
    """
    if isinstance(source, Player):
        source, name = source.model, source.agent
    else:
        name = agent
    if isinstance(source, Mapping):
        if agent not in source:
            raise ValueError(f"no policy for agent {agent!r}; there are policies for {list(source)}")
        return policy_table(source[agent], agent, observations, masks, greedy)
    if isinstance(source, MultiAgentModel):
        source = source.player(name)
    if isinstance(source, BaseAlgorithm | BasePolicy):
        source = FrozenAgent(source)
    table = _legal(agent, _probabilities(source, agent, observations, masks), masks)
    return np.eye(masks.shape[1])[table.argmax(axis=1)] if greedy else table


def _probabilities(source: Any, agent: str, observations: np.ndarray, masks: np.ndarray) -> np.ndarray:
    if source is RandomPolicy or isinstance(source, RandomPolicy):
        return np.asarray(masks / masks.sum(axis=1, keepdims=True))
    if isinstance(source, FrozenAgent):
        return _network_probabilities(source, agent, observations, masks)
    return np.asarray(source(observations, masks) if callable(source) else source)


def _network_probabilities(player: FrozenAgent, agent: str, observations: np.ndarray, masks: np.ndarray) -> np.ndarray:
    policy: Any = player.policy
    if player.normalizer is not None:
        observations = player.normalizer.normalize(observations)
    if isinstance(policy, DQNPolicy):
        return np.asarray(np.eye(masks.shape[1])[best_legal_actions(policy, observations, masks)])
    if isinstance(policy, RecurrentActorCriticPolicy):
        raise UnreadablePolicy(f"{agent}: its policy has a memory, so that it is no function of the observation")
    if not isinstance(policy, ActorCriticPolicy | MaskableActorCriticPolicy):
        raise UnreadablePolicy(f"{agent}: probabilities cannot be read out of a {type(policy).__name__}")
    policy.set_training_mode(False)
    known: dict[str, Any] = {"action_masks": masks} if isinstance(policy, MaskableActorCriticPolicy) else {}
    with th.no_grad():
        distribution: Any = policy.get_distribution(policy.obs_to_tensor(observations)[0], **known)
        probabilities = getattr(distribution.distribution, "probs", None)
    if not isinstance(probabilities, th.Tensor):
        raise UnreadablePolicy(f"{agent}: its actions are {policy.action_space}, expected Discrete actions")
    return np.asarray(probabilities.cpu().numpy())


def _legal(agent: str, probabilities: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Check probabilities and correct their sums."""
    table = np.asarray(probabilities, dtype=np.float64)
    if table.shape != masks.shape or not (table >= 0).all() or not np.allclose(table.sum(axis=1), 1.0, atol=1e-4):
        raise ValueError(f"{agent}: expected probabilities of shape {masks.shape} that sum to 1 in each row")
    illegal = np.where(masks, 0.0, table).sum(axis=1).max(initial=0.0)
    if illegal > TOLERANCE:
        raise UnreadablePolicy(
            f"{agent}: its policy gives illegal actions a probability of up to {illegal:.2g}; train it with action masks "
            "(learner_class MaskablePPO)"
        )
    table = np.where(masks, table, 0.0)
    return np.asarray(table / table.sum(axis=1, keepdims=True))
