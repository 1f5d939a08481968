"""Networks of one agent of the actor-critic algorithms, built by SB3's TD3 policies on the agent's own spaces."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3 import DDPG
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.dqn.policies import QNetwork
from stable_baselines3.td3.policies import Actor, TD3Policy

from sb3_matrl.common.space_checks import errors_name_spaces
from sb3_matrl.off_policy.central_critic import CentralCritic
from sb3_matrl.off_policy.utilities import network_space
from sb3_matrl.utils.suggest import unknown


def policy_class(policy: str | type[TD3Policy]) -> type[TD3Policy]:
    """
    :param policy: name of one of DDPG's policies, or a subclass of ``TD3Policy``
    :return: the class
    :raises ValueError: if it is neither
    """
    if isinstance(policy, str):
        if policy not in DDPG.policy_aliases:
            raise ValueError(unknown("policy", policy, DDPG.policy_aliases))
        policy = DDPG.policy_aliases[policy]  # type: ignore[assignment]
    if not (isinstance(policy, type) and issubclass(policy, TD3Policy)):
        raise ValueError(f"policy must be one of {', '.join(DDPG.policy_aliases)} or a subclass of TD3Policy, got {policy!r}")
    return policy


class CentralNetworks:
    """
    Mix-in for ``TD3Policy``: the critic sees the state and all actions, and the actor of a Discrete space gives logits.

    The order in which the networks are made is SB3's: actor, its target, critic, its target.
    """

    #: Size of the state plus those of all actions.
    critic_input_size: int
    actor_kwargs: dict[str, Any]
    critic_kwargs: dict[str, Any]
    action_space: spaces.Space[Any]

    def __reduce__(self) -> tuple[Any, ...]:
        return _unbuilt, (_central_class, type(self).__mro__[2], self.critic_input_size), vars(self)

    def make_actor(self, features_extractor: BaseFeaturesExtractor | None = None) -> Actor | QNetwork:
        """:return: SB3's actor for a Box, SB3's Q-network for a Discrete, whose outputs are the logits"""
        if not isinstance(self.action_space, spaces.Discrete):
            actor: Actor = super().make_actor(features_extractor)  # type: ignore[misc]
            return actor
        own: Any = self
        return QNetwork(**own._update_features_extractor(self.actor_kwargs, features_extractor)).to(own.device)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> CentralCritic:
        """:return: critic on the state and all actions, without a features extractor"""
        arch, activation = self.critic_kwargs["net_arch"], self.critic_kwargs["activation_fn"]
        own: Any = self
        return CentralCritic(self.critic_input_size, arch, activation).to(own.device)


class CriticNetworks:
    """Mix-in for ``TD3Policy``: critic and its target alone; the team's optimiser is made elsewhere."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _unbuilt, (_critic_class, type(self).__mro__[2]), vars(self)

    def _build(self, lr_schedule: Schedule) -> None:
        own: Any = self
        own.critic, own.critic_target = own.make_critic(None), own.make_critic(None)
        own.critic_target.load_state_dict(own.critic.state_dict())
        own.critic_target.set_training_mode(False)

    def set_training_mode(self, mode: bool) -> None:
        """Put the critic in training or evaluation mode."""
        own: Any = self
        own.critic.set_training_mode(mode)
        own.training = mode


def _central_class(given: type[TD3Policy], critic_input_size: int) -> type[TD3Policy]:
    return type(f"Central{given.__name__}", (CentralNetworks, given), {"critic_input_size": critic_input_size})


def _critic_class(given: type[TD3Policy]) -> type[TD3Policy]:
    return type(f"Critic{given.__name__}", (CriticNetworks, given), {})


def _unbuilt(make: Callable[..., type[TD3Policy]], *arguments: Any) -> TD3Policy:
    """Networks without content, for pickle and deepcopy: their class itself has no name that could be imported."""
    cls = make(*arguments)
    return cls.__new__(cls)


def build_networks(
    policy: str | type[TD3Policy],
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
    lr_schedule: Schedule,
    policy_kwargs: Mapping[str, Any] | None,
    device: th.device | str,
    critic_input_size: int | None = None,
) -> TD3Policy:
    """
    Networks of an agent with an actor; the global torch generator is used as SB3's DDPG uses it.

    :param policy: name or class, see :func:`policy_class`
    :param observation_space: observation space of the agent, whose images may have their channels last
    :param action_space: action space of the agent, a Box; also a Discrete with a central critic
    :param lr_schedule: learning rate
    :param policy_kwargs: keyword arguments of the policy; ``n_critics`` is 1 by default, as in DDPG
    :param device: device of the networks
    :param critic_input_size: size of a central critic's input; ``None`` for a critic on the agent's own observation
    :raises ValueError: if a central critic is to share layers with an actor or with other critics, or SB3 cannot use the
        spaces or arguments
    """
    given = cls = policy_class(policy)
    kwargs = {"n_critics": 1, **(policy_kwargs or {})}
    if critic_input_size is not None:
        _check_own_critic(kwargs)
        cls = _central_class(cls, critic_input_size)
    with errors_name_spaces(given.__name__, observation_space, action_space):
        networks: TD3Policy = cls(network_space(observation_space), action_space, lr_schedule, **kwargs)  # type: ignore[arg-type]
        return networks.to(device)


def build_critic(
    policy: str | type[TD3Policy],
    observation_space: spaces.Space[Any],
    action_space: spaces.Box,
    policy_kwargs: Mapping[str, Any] | None,
    device: th.device | str,
) -> TD3Policy:
    """
    Critic of an agent without an actor, and its target: ``critic`` and ``critic_target`` of the result.

    :param policy: name or class, see :func:`policy_class`
    :param observation_space: observation space of the agent, whose images may have their channels last
    :param action_space: action space of the agent
    :param policy_kwargs: keyword arguments of the policy
    :param device: device of the networks
    :raises ValueError: if there are to be several critics, or shared layers, or SB3 cannot use the spaces or arguments
    """
    given = policy_class(policy)
    kwargs = {"n_critics": 1, **(policy_kwargs or {})}
    _check_own_critic(kwargs)
    cls = _critic_class(given)
    with errors_name_spaces(given.__name__, observation_space, action_space):
        networks: TD3Policy = cls(network_space(observation_space), action_space, lambda _: 0.0, **kwargs)
        return networks.to(device)


def _check_own_critic(policy_kwargs: Mapping[str, Any]) -> None:
    if policy_kwargs["n_critics"] != 1:
        raise ValueError(f"policy_kwargs: n_critics is {policy_kwargs['n_critics']!r}, but every agent has one critic here")
    if policy_kwargs.get("share_features_extractor"):
        raise ValueError("policy_kwargs: share_features_extractor must be False: actor and critic share no layers here")
