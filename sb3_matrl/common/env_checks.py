"""Whether another environment is one that a model was made for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gymnasium import spaces

from sb3_matrl.vec_env import JointVecEnv


def check_fits(
    env: JointVecEnv, spaces_of: Mapping[str, Mapping[str, spaces.Space[Any]]], state_space: spaces.Box | None
) -> None:
    """
    Check an environment against the agents and spaces of a model.

    :param env: environment, which may list the agents in another order
    :param spaces_of: ``"observation"`` and ``"action"`` -> agent -> space of the model
    :param state_space: space of the env's states, if the model reads them
    :raises ValueError: if something differs
    """
    agents = list(spaces_of["observation"])
    if set(env.agents) != set(agents):
        raise ValueError(f"the env's agents are {env.agents}, the model's {agents}: it is another environment")
    theirs = {"observation": env.observation_spaces, "action": env.action_spaces}
    for kind, ours in spaces_of.items():
        for agent, space in ours.items():
            if space != theirs[kind][agent]:
                raise ValueError(
                    f"{agent}'s {kind} space is {theirs[kind][agent]} in the env and {space} in the model: it is another "
                    "environment, or the same one with other arguments (env_kwargs)"
                )
    if state_space is None:
        return
    if not env.with_states:
        raise ValueError("the model reads the env's states: make the JointVecEnv with make_joint_vec_env(..., states=True)")
    if env.state_space != state_space:
        raise ValueError(f"the state space is {env.state_space} in the env and {state_space} in the model")
