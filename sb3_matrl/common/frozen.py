"""Frozen agents, which act without learning: policies, saved agents, functions."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecTransposeImage
from stable_baselines3.dqn.policies import DQNPolicy

from sb3_matrl.common.legal_masks import mask_rows, usable_mask
from sb3_matrl.common.normalize import Normalizer, NormalizerConfig
from sb3_matrl.common.scripted import scripted_player, wants_batches
from sb3_matrl.common.space_checks import check_space
from sb3_matrl.files.argument_codec import Unsaved, argument_from_json, argument_to_json
from sb3_matrl.files.space_codec import space_from_json, space_to_json
from sb3_matrl.files.trees import arrays_for_tensors, tensors_for_arrays
from sb3_matrl.vec_env.spaces import leaves_of


class FrozenAgent:
    """
    An agent that acts without learning.

    :param policy: an SB3 policy or algorithm; or what :func:`~sb3_matrl.common.scripted.scripted_player` accepts; or ``None``
        for one that a file could not hold, which raises an error when it is to act
    :param normalizer: normaliser of the policy's observations; ``None`` for raw observations
    :param first_action: the agent's action that an SB3 policy calls 0
    :raises TypeError: if ``policy`` is none of these
    :raises ValueError: if it is a policy whose actions begin with another one, so that it would play others
    """

    def __init__(self, policy: Any, normalizer: Normalizer | None = None, first_action: int = 0) -> None:
        if isinstance(policy, BaseAlgorithm):
            policy = policy.policy
        if isinstance(policy, BasePolicy) and not first_action:
            check_space(policy.action_space, "action")
        elif isinstance(policy, BasePolicy) and getattr(policy.action_space, "start", 0) != first_action:
            raise ValueError(f"first_action is {first_action!r}, not that of {policy.action_space}")
        self.policy = policy
        self.first_action = first_action
        self._script = None if policy is None or isinstance(policy, BasePolicy) else scripted_player(policy)
        self._wants_batches = self._script is not None and wants_batches(policy)
        self._observation_space: spaces.Space[Any] | None = None
        self.normalizer = normalizer
        # State of a recurrent policy between two calls of act().
        self.state: Any = None

    def copied(self) -> FrozenAgent:
        """A copy that does not change when the policy is trained further; a function is not copied."""
        if not isinstance(self.policy, BasePolicy):
            return self
        policy = type(self.policy)(**_constructor_arguments(self.policy))
        policy.load_state_dict(self.policy.state_dict())
        policy = policy.to(self.policy.device)
        policy.set_training_mode(False)
        return FrozenAgent(policy, copy.deepcopy(self.normalizer), self.first_action)

    def check_spaces(self, agent: str, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        """
        Check that the policy was made for an agent's spaces; functions are not checked, and play on these spaces from now on.

        :param agent: name of the agent, for the error
        :param observation_space: observation space of the agent; images may have their channels first or last
        :param action_space: action space of the agent
        :raises ValueError: if a space differs
        """
        self._observation_space = observation_space
        if not isinstance(self.policy, BasePolicy):
            return
        for kind, space, own in (
            ("observation", _channels_first(observation_space), self.policy.observation_space),
            ("action", action_space, self.policy.action_space),
        ):
            if space != _channels_first(own):
                raise ValueError(f"frozen: {agent!r}: its {kind} space is {space}, that of the policy {own}")

    def act(self, observation: Any, episode_start: np.ndarray, action_masks: np.ndarray | None) -> np.ndarray:
        """
        Sample actions for all env copies during collection; recurrent states are kept between calls.

        :param observation: (n_envs, ...)
        :param episode_start: bool (n_envs,)
        :param action_masks: bool (n_envs, mask size), or ``None``
        :return: (n_envs, *action shape)
        """
        actions, self.state = self.predict(observation, self.state, episode_start, False, action_masks)
        return actions

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, Any]:
        """
        SB3's ``predict``, with action masks for policies and functions that take them.

        :param observation: observation, with or without a leading batch axis
        :param state: state of a recurrent policy or of an object with ``predict``
        :param episode_start: bool (batch,), for recurrent policies
        :param deterministic: most likely actions instead of sampled ones
        :param action_masks: bool (batch, mask size) or (mask size,); a row without any legal action counts as one that allows
            all
        :return: (batch, *action shape), or (*action shape,) for a single observation; and the next state
        :raises ValueError: if this was a function in a model that comes from a file, or a normalised observation does not have
            the shape of its space
        """
        if self.policy is None:
            raise ValueError("this frozen agent was a function, which a file cannot hold: pass it to load() as frozen={...}")
        if action_masks is not None:
            action_masks = usable_mask(action_masks)
        if self._script is not None:
            if (
                self._wants_batches
                and self._observation_space is not None
                and _is_single(observation, self._observation_space)
            ):
                masks = None if action_masks is None else np.asarray(action_masks)[None]
                actions, state = self._script(_batch_of_one(observation), state, episode_start, deterministic, masks)
                return actions[0], state
            return self._script(observation, state, episode_start, deterministic, action_masks)
        if self.normalizer is not None:
            observation = self.normalizer.normalize(_checked(observation, self.policy.observation_space))
        if isinstance(self.policy, DQNPolicy) and action_masks is not None:
            return self._counted(best_legal_actions(self.policy, observation, action_masks)), None
        extra = {"action_masks": action_masks} if isinstance(self.policy, MaskableActorCriticPolicy) else {}
        actions, state = self.policy.predict(observation, state, episode_start, deterministic, **extra)
        return self._counted(to_space_dtype(self.policy.action_space, actions)), state

    def _counted(self, actions: np.ndarray) -> np.ndarray:
        """Actions of an SB3 policy, which counts from 0, as the agent's space counts them."""
        return actions + self.first_action if self.first_action else actions

    def to_file(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """:return: JSON document and tensors for :meth:`from_file`; of a function, only that there was one"""
        if not isinstance(self.policy, BasePolicy):
            return {"policy": None}, {}
        arguments = _constructor_arguments(self.policy)
        own = {
            name: value for name, value in arguments.items() if not isinstance(value, spaces.Space) and name != "lr_schedule"
        }
        document: dict[str, Any] = {
            "policy": argument_to_json(type(self.policy)),
            "observation_space": space_to_json(self.policy.observation_space),
            "action_space": space_to_json(self.policy.action_space),
            "arguments": argument_to_json(own),
        }
        tensors: dict[str, Any] = {"policy": self.policy.state_dict()}
        if self.first_action:
            document["first_action"] = self.first_action
        if self.normalizer is not None:
            document["normalizer"] = asdict(self.normalizer.config)
            tensors["normalizer"] = tensors_for_arrays(self.normalizer.state())
        return document, tensors

    @classmethod
    def from_file(cls, document: Mapping[str, Any], tensors: Mapping[str, Any], device: th.device | str) -> FrozenAgent:
        """
        :param document: JSON document of :meth:`to_file`
        :param tensors: tensors of :meth:`to_file`
        :param device: device of the policy, as in SB3; ``"auto"`` is allowed
        :raises ValueError: if the policy's class is not one of SB3's or sb3-contrib's, or the parts do not fit
        """
        if document["policy"] is None:
            return cls(None)
        policy_class, arguments = argument_from_json(document["policy"]), argument_from_json(document["arguments"])
        if isinstance(policy_class, Unsaved) or any(isinstance(value, Unsaved) for value in arguments.values()):
            return cls(None)
        if not (isinstance(policy_class, type) and issubclass(policy_class, BasePolicy)):
            raise ValueError(f"a frozen agent's policy is no SB3 policy: {policy_class!r}")
        observation_space = space_from_json(document["observation_space"])
        policy = policy_class(
            observation_space, space_from_json(document["action_space"]), lr_schedule=lambda _: 0.0, **arguments
        )
        policy.load_state_dict(tensors["policy"])
        policy = policy.to(get_device(device))
        policy.set_training_mode(False)
        normalizer = None
        if "normalizer" in document:
            normalizer = Normalizer(NormalizerConfig(**document["normalizer"]), observation_space, 1)
            normalizer.restore(arrays_for_tensors(tensors["normalizer"]), with_running=False)
        return cls(policy, normalizer, document.get("first_action", 0))


def _is_single(observation: Any, space: spaces.Space[Any]) -> bool:
    """Whether an observation has no batch axis."""
    leaf = leaves_of(space)[0]
    value = observation if leaf.key is None else observation[leaf.key]
    return np.ndim(value) == len(leaf.shape)


def _batch_of_one(observation: Any) -> Any:
    """An observation, or a dict of its entries, with a leading axis of length 1."""
    if isinstance(observation, Mapping):
        return {key: np.asarray(value)[None] for key, value in observation.items()}
    return np.asarray(observation)[None]


def _checked(observation: Any, space: spaces.Space[Any]) -> Any:
    """
    The arrays of an observation, as SB3 checks them: a normaliser would broadcast over those of another shape.

    :param observation: observation, with or without a batch axis
    :param space: observation space of a policy, in which images have their channels first
    :raises ValueError: if a shape is wrong, or an entry is missing
    """
    leaves = leaves_of(space)
    if leaves[0].key is not None and not (
        isinstance(observation, Mapping) and {leaf.key for leaf in leaves} <= set(observation)
    ):
        raise ValueError(f"the observation is {observation!r}, expected a dict of {[leaf.key for leaf in leaves]}")
    arrays = {leaf.key: np.asarray(observation if leaf.key is None else observation[leaf.key]) for leaf in leaves}
    for leaf in leaves:
        found = arrays[leaf.key].shape
        if not is_image_space(leaf.space) and leaf.shape not in (found, found[1:]):
            raise ValueError(f"the observation has shape {found}, expected {leaf.shape}, or (n_envs, ...) of these, of {leaf}")
    return arrays[None] if None in arrays else arrays


def best_legal_actions(policy: DQNPolicy, observation: Any, action_masks: np.ndarray) -> np.ndarray:
    """
    Actions of the largest value among the legal ones, by a policy that knows no masks.

    :param policy: SB3's policy of a DQN
    :param observation: observation, with or without a leading batch axis
    :param action_masks: bool (batch, n_actions) or (n_actions,); a row without any legal action counts as one that allows all
    :return: (batch,), or one number for a single observation
    """
    policy.set_training_mode(False)
    with th.no_grad():
        tensor, batched = policy.obs_to_tensor(observation)
        values = policy.q_net(tensor)
        legal: Any = mask_rows(action_masks, values)
        actions = values.masked_fill(~legal, -th.inf).argmax(dim=1).cpu().numpy()
    return np.asarray(actions if batched else actions[0])


def to_space_dtype(space: spaces.Space[Any], actions: np.ndarray) -> np.ndarray:
    """
    Convert actions that SB3 samples as float32 to a space's dtype: those of a MultiBinary, and of a Box of integers, which are
    rounded, and those of a Box of float16.

    :param space: action space
    :param actions: actions within its bounds
    :return: actions in the space's dtype; those of other spaces as they are
    """
    if isinstance(space, spaces.MultiBinary) or (isinstance(space, spaces.Box) and np.dtype(space.dtype).kind in "biu"):
        return np.asarray(np.rint(actions), dtype=space.dtype)
    if isinstance(space, spaces.Box) and not np.can_cast(actions.dtype, space.dtype):
        return actions.astype(space.dtype)
    return actions


def _constructor_arguments(policy: BasePolicy) -> dict[str, Any]:
    """Arguments that build an equal policy; sb3-contrib's recurrent policies do not report those of their LSTMs."""
    arguments = policy._get_constructor_parameters()
    if isinstance(policy, RecurrentActorCriticPolicy):
        arguments |= {name: getattr(policy, name) for name in ("shared_lstm", "enable_critic_lstm", "lstm_kwargs")}
        arguments |= {"lstm_hidden_size": policy.lstm_actor.hidden_size, "n_lstm_layers": policy.lstm_actor.num_layers}
    return arguments


def _channels_first(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """The space with the channels of images first, as in SB3's policies."""
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: _channels_first(entry) for key, entry in space.spaces.items()})
    if is_image_space(space) and not is_image_space_channels_first(space):  # type: ignore[arg-type]
        return VecTransposeImage.transpose_space(space)  # type: ignore[arg-type]
    return space
