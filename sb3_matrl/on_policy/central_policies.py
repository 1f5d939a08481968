"""
Actor-critic policies whose critic sees the state of the environment, while the actor sees the agent's own observation.

They have SB3's and sb3-contrib's networks with another input for the critic. Acting needs the observation alone: an agent that
is saved by itself plays wherever sb3_matrl is installed. Only training needs states, see :class:`ObservationAndState`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.common.maskable.policies import (
    MaskableActorCriticCnnPolicy,
    MaskableActorCriticPolicy,
    MaskableMultiInputActorCriticPolicy,
)
from sb3_contrib.common.recurrent.policies import (
    RecurrentActorCriticCnnPolicy,
    RecurrentActorCriticPolicy,
    RecurrentMultiInputActorCriticPolicy,
)
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import (
    ActorCriticCnnPolicy,
    ActorCriticPolicy,
    BasePolicy,
    MultiInputActorCriticPolicy,
)
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

# Hidden layers of a critic whose actor has none by default, because a CNN precedes them.
_DEFAULT_CRITIC = [64, 64]


@dataclass(frozen=True)
class ObservationAndState:
    """
    What a policy with a central critic evaluates, in place of an observation.

    :param observation: observations for the actor, (B, ...), or a dict of such
    :param state: states for the critic, float32 (B, state size)
    """

    observation: PyTorchObs
    state: th.Tensor

    def __getitem__(self, rows: Any) -> ObservationAndState:
        """The same of some rows."""
        own = self.observation
        taken = {key: value[rows] for key, value in own.items()} if isinstance(own, dict) else own[rows]
        return ObservationAndState(taken, self.state[rows])


class CentralCriticMixin:
    """
    Critic that sees a state instead of the agent's observation, for SB3's actor-critic policies.

    Losses call the policy with an :class:`ObservationAndState`, :meth:`predict` with an observation.

    :param observation_space: observation space of the agent
    :param action_space: action space of the agent
    :param lr_schedule: learning rate schedule
    :param state_size: number of elements of a state
    :param given: further arguments of the policy; its features extractor belongs to the actor
    :raises ValueError: if actor and critic are to share features, or the size is not positive
    """

    #: SB3's class that has a critic of its own, and otherwise the same networks.
    counterpart: ClassVar[type[BasePolicy]]
    state_size: int
    # Attributes of SB3's policies.
    net_arch: Any
    vf_features_extractor: Any

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        *,
        state_size: int,
        **given: Any,
    ) -> None:
        if given.pop("share_features_extractor", False):
            raise ValueError("share_features_extractor: a critic that sees the state cannot share the actor's features")
        if state_size < 1:
            raise ValueError(f"state_size must be at least 1, got {state_size}")
        self.state_size = state_size
        self._default_net_arch = given.get("net_arch") is None
        # With one extractor, SB3 draws the actor's and the critic's layers in the order of a policy with its own critic.
        super().__init__(observation_space, action_space, lr_schedule, **given)  # type: ignore[call-arg]
        self.share_features_extractor = False
        self.vf_features_extractor = FlattenExtractor(spaces.Box(-np.inf, np.inf, (state_size,), np.float32))

    def _build_mlp_extractor(self: Any) -> None:
        """Hidden layers of the actor, which start from its features, and of the critic, which start from the state."""
        if self._default_net_arch and self.net_arch == []:
            self.net_arch = {"pi": [], "vf": list(_DEFAULT_CRITIC)}
        widths = self.net_arch if isinstance(self.net_arch, Mapping) else {"pi": self.net_arch, "vf": self.net_arch}
        self.mlp_extractor = MlpExtractor(self.features_dim, {"pi": widths.get("pi", [])}, self.activation_fn, self.device)
        critic = MlpExtractor(self.state_size, {"vf": widths.get("vf", [])}, self.activation_fn, self.device)
        self.mlp_extractor.value_net, self.mlp_extractor.latent_dim_vf = critic.value_net, critic.latent_dim_vf

    def _get_constructor_parameters(self: Any) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "state_size": self.state_size}  # type: ignore[misc]

    def extract_features(self: Any, obs: Any, features_extractor: Any = None) -> Any:
        """
        Features of actor and critic.

        :param obs: observations and states; observations alone with ``features_extractor``
        :param features_extractor: extractor of the features that are wanted; ``None`` for both
        :return: features of the actor (B, n_features) and the states (B, state size); those of the extractor alone if given
        :raises ValueError: if the critic's states are missing
        """
        own = observation_of(obs)
        if features_extractor is not None:
            return BasePolicy.extract_features(self, own, features_extractor)
        return BasePolicy.extract_features(self, own, self.pi_features_extractor), state_of(obs)

    def get_distribution(self: Any, obs: Any, *args: Any, **kwargs: Any) -> Any:
        """
        Action distributions, which need no states; see SB3.

        :param obs: observations, with or without states
        """
        return super().get_distribution(observation_of(obs), *args, **kwargs)  # type: ignore[misc]

    def predict_values(self: Any, obs: Any) -> th.Tensor:
        """
        Values of states.

        :param obs: observations and states
        :return: (B, 1)
        :raises ValueError: if the states are missing
        """
        values: th.Tensor = self.value_net(self.mlp_extractor.forward_critic(state_of(obs)))
        return values


class RecurrentCentralCriticMixin(CentralCriticMixin):
    """
    The same for sb3-contrib's recurrent policies, whose critic has an LSTM or a layer of its own.

    :param observation_space: observation space of the agent
    :param action_space: action space of the agent
    :param lr_schedule: learning rate schedule
    :param given: see :class:`CentralCriticMixin`
    :raises ValueError: as there, or if actor and critic are to share an LSTM
    """

    critic: Any
    lstm_critic: Any

    def __init__(
        self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any], lr_schedule: Schedule, **given: Any
    ) -> None:
        if given.get("shared_lstm"):
            raise ValueError("shared_lstm: a critic that sees the state cannot share the actor's LSTM")
        super().__init__(observation_space, action_space, lr_schedule, **given)
        self._build_critic_input(lr_schedule)

    def _build_mlp_extractor(self: Any) -> None:
        """Hidden layers of actor and critic, which start from their LSTMs or layers."""
        super(CentralCriticMixin, self)._build_mlp_extractor()  # type: ignore[misc]

    def _build_critic_input(self: Any, lr_schedule: Schedule) -> None:
        """Replace the critic's first part, made for observations, unless the state is as large as they are."""
        if self.state_size == self.features_dim:
            return
        if self.lstm_critic is None:
            self.critic = nn.Linear(self.state_size, self.lstm_output_dim)
        else:
            old = self.lstm_critic
            self.lstm_critic = nn.LSTM(self.state_size, old.hidden_size, num_layers=old.num_layers, **self.lstm_kwargs)
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

    def predict_values(self: Any, obs: Any, lstm_states: Any = None, episode_starts: Any = None) -> th.Tensor:
        """
        Values of states, see :meth:`CentralCriticMixin.predict_values`.

        :param obs: observations and states
        :param lstm_states: states of the critic's LSTM
        :param episode_starts: float (B,), 1 where the LSTM is reset
        """
        state = state_of(obs)
        if self.lstm_critic is None:
            latent = self.critic(state)
        else:
            latent, _ = self._process_sequence(state, lstm_states, episode_starts, self.lstm_critic)
        values: th.Tensor = self.value_net(self.mlp_extractor.forward_critic(latent))
        return values


def observation_of(obs: Any) -> Any:
    """
    The actor's part of a policy's input.

    :param obs: observations, with or without states
    """
    return obs.observation if isinstance(obs, ObservationAndState) else obs


def state_of(obs: Any) -> th.Tensor:
    """
    The critic's part of a policy's input.

    :param obs: observations and states
    :raises ValueError: if there are no states
    """
    if not isinstance(obs, ObservationAndState):
        raise ValueError(
            "the critic of this policy sees the state of the environment, which only the training of all agents together has: "
            "call learn() of the model that the agent belongs to. Acting with predict() needs the observation alone"
        )
    return obs.state


class CentralCriticPolicy(CentralCriticMixin, ActorCriticPolicy):
    """SB3's ``MlpPolicy`` with a central critic, see :class:`CentralCriticMixin`."""

    counterpart = ActorCriticPolicy


class CentralCriticCnnPolicy(CentralCriticMixin, ActorCriticCnnPolicy):
    """SB3's ``CnnPolicy`` with a central critic, see :class:`CentralCriticMixin`."""

    counterpart = ActorCriticCnnPolicy


class CentralCriticMultiInputPolicy(CentralCriticMixin, MultiInputActorCriticPolicy):
    """SB3's ``MultiInputPolicy`` with a central critic, see :class:`CentralCriticMixin`."""

    counterpart = MultiInputActorCriticPolicy


class MaskableCentralCriticPolicy(CentralCriticMixin, MaskableActorCriticPolicy):
    """MaskablePPO's ``MlpPolicy`` with a central critic, see :class:`CentralCriticMixin`."""

    counterpart = MaskableActorCriticPolicy


class MaskableCentralCriticCnnPolicy(CentralCriticMixin, MaskableActorCriticCnnPolicy):
    """MaskablePPO's ``CnnPolicy`` with a central critic, see :class:`CentralCriticMixin`."""

    counterpart = MaskableActorCriticCnnPolicy


class MaskableCentralCriticMultiInputPolicy(CentralCriticMixin, MaskableMultiInputActorCriticPolicy):
    """MaskablePPO's ``MultiInputPolicy`` with a central critic, see :class:`CentralCriticMixin`."""

    counterpart = MaskableMultiInputActorCriticPolicy


class RecurrentCentralCriticPolicy(RecurrentCentralCriticMixin, RecurrentActorCriticPolicy):
    """RecurrentPPO's ``MlpLstmPolicy`` with a central critic, see :class:`RecurrentCentralCriticMixin`."""

    counterpart = RecurrentActorCriticPolicy


class RecurrentCentralCriticCnnPolicy(RecurrentCentralCriticMixin, RecurrentActorCriticCnnPolicy):
    """RecurrentPPO's ``CnnLstmPolicy`` with a central critic, see :class:`RecurrentCentralCriticMixin`."""

    counterpart = RecurrentActorCriticCnnPolicy


class RecurrentCentralCriticMultiInputPolicy(RecurrentCentralCriticMixin, RecurrentMultiInputActorCriticPolicy):
    """RecurrentPPO's ``MultiInputLstmPolicy`` with a central critic, see :class:`RecurrentCentralCriticMixin`."""

    counterpart = RecurrentMultiInputActorCriticPolicy


_CLASSES: tuple[Any, ...] = (
    CentralCriticPolicy,
    CentralCriticCnnPolicy,
    CentralCriticMultiInputPolicy,
    MaskableCentralCriticPolicy,
    MaskableCentralCriticCnnPolicy,
    MaskableCentralCriticMultiInputPolicy,
    RecurrentCentralCriticPolicy,
    RecurrentCentralCriticCnnPolicy,
    RecurrentCentralCriticMultiInputPolicy,
)
_WITH_CENTRAL_CRITIC: dict[type[BasePolicy], type[BasePolicy]] = {cls.counterpart: cls for cls in _CLASSES}


def with_central_critic(learner_class: type[OnPolicyAlgorithm], policy: Any) -> Any:
    """
    The policy class with a central critic that stands for a policy with a critic of its own.

    :param learner_class: class of the learner
    :param policy: policy name or class
    :return: class; a name that the learner does not know as it is
    :raises ValueError: for a class of the user's own without a central critic
    """
    cls = learner_class.policy_aliases.get(policy, policy) if isinstance(policy, str) else policy
    if isinstance(cls, str) or issubclass(cls, CentralCriticMixin):
        return cls
    if cls not in _WITH_CENTRAL_CRITIC:
        raise ValueError(
            f"critic='central' needs a policy whose critic sees the state, and that of {cls.__name__} does not: take one of "
            "SB3's names, such as 'MlpPolicy', or derive the class from "
            "sb3_matrl.on_policy.central_policies.CentralCriticPolicy"
        )
    return _WITH_CENTRAL_CRITIC[cls]


def state_size_of(policy: Any) -> int:
    """
    Size of the states that a policy's critic sees.

    :param policy: policy of a learner
    :return: number of elements; 0 if the critic sees the observation
    """
    return policy.state_size if isinstance(policy, CentralCriticMixin) else 0
