"""Players of frozen agents that are no SB3 policies: functions, and objects with a ``predict``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

MASKS = "action_masks"
# observation, state, episode_start, deterministic, action_masks -> actions and the next state
ScriptedPlayer = Callable[[Any, Any, Any, bool, Any], tuple[np.ndarray, Any]]


def scripted_player(source: Any) -> ScriptedPlayer:
    """
    The player of a frozen agent.

    :param source: one of

        - a function of the observations (n_envs, ...) that returns the actions (n_envs, ...). If it has a parameter
          ``action_masks``, or a second positional one without a default, it also gets the action masks, bool (n_envs, mask
          size), or ``None`` in an env without
        - an object with SB3's ``predict``, which gets those of its arguments that its signature names
    :raises TypeError: if it is neither
    """
    if not isinstance(source, type) and hasattr(source, "predict"):
        return _from_predict(source.predict)
    if not isinstance(source, type) and callable(source):
        return _from_function(source)
    raise TypeError(
        "a frozen agent is an SB3 policy or algorithm, a function of the observations, an object with predict, a path of a "
        f"saved model or a tuple (model or path, agent), not {source!r}"
    )


def wants_batches(source: Any) -> bool:
    """
    Whether a source of :func:`scripted_player` is a function, which is always given a batch; a ``predict`` may get one
    observation.

    :param source: function or object
    """
    return isinstance(source, type) or not hasattr(source, "predict")


def is_joint_model(source: Any) -> bool:
    """Whether an object, or the objects of a class, have a ``predict`` that maps agents to observations."""
    return hasattr(source, "predict") and hasattr(source, "possible_agents")


class JointModelPlayer:
    """
    One agent of an object whose ``predict`` maps agents to observations, such as ``RandomPolicy``.

    :param model: object with the ``predict`` of a multi-agent model
    :param agent: name of the agent in it
    """

    def __init__(self, model: Any, agent: str) -> None:
        self.model = model
        self.agent = agent

    def predict(
        self, observation: Any, state: Any, episode_start: Any, deterministic: bool, action_masks: Any
    ) -> tuple[Any, Any]:
        """SB3's ``predict`` for the agent."""
        masks = None if action_masks is None else {self.agent: action_masks}
        actions, following = self.model.predict({self.agent: observation}, state, episode_start, deterministic, masks)
        return actions[self.agent], following


def _from_function(function: Callable[..., Any]) -> ScriptedPlayer:
    by_keyword, by_position = _takes_masks(function)

    def play(
        observation: Any, state: Any, episode_start: Any, deterministic: bool, action_masks: Any
    ) -> tuple[np.ndarray, Any]:
        if by_keyword:
            return np.asarray(function(observation, action_masks=action_masks)), None
        return np.asarray(function(observation, action_masks) if by_position else function(observation)), None

    return play


def _takes_masks(function: Callable[..., Any]) -> tuple[bool, bool]:
    """Whether a function takes the masks as the keyword ``action_masks``, or as its second positional argument."""
    parameters = _parameters(function)
    named = parameters.get(MASKS)
    if named is not None and named.kind is not inspect.Parameter.POSITIONAL_ONLY:
        return True, False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    required = [one for one in parameters.values() if one.kind in positional and one.default is inspect.Parameter.empty]
    return False, len(required) == 2


def _from_predict(predict: Callable[..., Any]) -> ScriptedPlayer:
    names = _parameters(predict).keys() & {"state", "episode_start", "deterministic", MASKS}

    def play(
        observation: Any, state: Any, episode_start: Any, deterministic: bool, action_masks: Any
    ) -> tuple[np.ndarray, Any]:
        given = {"state": state, "episode_start": episode_start, "deterministic": deterministic, MASKS: action_masks}
        answer = predict(observation, **{name: given[name] for name in names})
        actions, following = answer if isinstance(answer, tuple) else (answer, None)
        return np.asarray(actions), following

    return play


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Parameters by name; none for built-in functions without a signature."""
    try:
        return inspect.signature(function).parameters
    except (TypeError, ValueError):
        return {}
