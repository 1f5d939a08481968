"""Description of an env: its agents and spaces, checked before the env runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from gymnasium import spaces

from sb3_matrl.envs.layers import require_current_observations
from sb3_matrl.envs.parallel import require_parallel_env
from sb3_matrl.envs.turns import TurnBasedParallelEnv
from sb3_matrl.utils.agent_names import agent_name
from sb3_matrl.vec_env.global_state import NoState, StateFormat, declared_format, probed_format
from sb3_matrl.vec_env.mask_method import MaskMethod
from sb3_matrl.vec_env.named import named_by_text
from sb3_matrl.vec_env.spaces import AgentSpaces, leaves_of


@dataclass(frozen=True)
class EnvDescription:
    """
    Properties of an env that a vectorised env needs.

    :param agents: names of the possible agents as text, in the env's order
    :param observation_spaces: agent -> space, in that order
    :param action_spaces: agent -> space, in that order
    :param metadata: metadata of the env
    :param render_mode: render mode of the env, or ``None``
    :param snapshot_obstacle: reason why the env cannot save its state, or ``None``; see :func:`snapshot_obstacle`
    :param renamed: whether the env itself names agents by something else than strings
    :param one_mask: whether the env has sb3-contrib's method ``action_masks()``, which does not name an agent
    :param state: format of the env's global states; ``None`` if it has none that can be used
    :param with_states: whether copies write their states into the arrays
    """

    agents: list[str]
    observation_spaces: AgentSpaces
    action_spaces: AgentSpaces
    metadata: dict[str, Any]
    render_mode: str | None
    snapshot_obstacle: str | None
    renamed: bool = False
    one_mask: bool = False
    state: StateFormat | None = None
    with_states: bool = False

    @property
    def written_state(self) -> StateFormat | None:
        """Format of the states that copies write into the arrays; ``None`` if they write none."""
        return self.state if self.with_states else None

    def with_state_of(self, env: Any) -> EnvDescription:
        """
        Description for copies that write their states.

        :param env: env with this description, which is reset
        :raises NoState: if it has no state that can be used
        """
        return replace(self, state=probed_format(env), with_states=True)

    def without_state(self) -> EnvDescription:
        """Description of an env whose state, though declared, cannot be used."""
        return replace(self, state=None, with_states=False)

    def require_same(self, other: EnvDescription) -> None:
        """
        Check that another copy has the same agents, in any order, with the same spaces.

        :param other: description of the other copy
        :raises ValueError: if an agent or a space differs; names it
        """
        if set(other.agents) != set(self.agents):
            raise ValueError(f"its agents are {other.agents}, those of copy 0 {self.agents}; {_ALL_COPIES}")
        for agent in self.agents:
            for kind, mine, theirs in (
                ("observation", self.observation_spaces[agent], other.observation_spaces[agent]),
                ("action", self.action_spaces[agent], other.action_spaces[agent]),
            ):
                if not same_space(mine, theirs):
                    raise ValueError(f"{kind} space of agent {agent!r} is {theirs}, in copy 0 {mine}; {_ALL_COPIES}")


_ALL_COPIES = "all copies need the same agents with the same spaces"


def same_space(one: spaces.Space[Any], other: spaces.Space[Any]) -> bool:
    """Whether two spaces are the same object or equal."""
    return one is other or one == other


def describe(env: Any) -> EnvDescription:
    """
    Read and check a ParallelEnv's agents and spaces.

    :param env: a PettingZoo ParallelEnv
    :raises TypeError: if ``env`` is no ParallelEnv, or SB3 does not support one of its spaces
    :raises ValueError: if the env has no agents or does not return their spaces, or wrappers would give old observations
    """
    require_parallel_env(env)
    require_current_observations(env)
    own_names = _own_names(env)
    named = named_by_text(env)
    agents = list(named.possible_agents)
    return EnvDescription(
        agents,
        observation_spaces={agent: _space(named, "observation_space", agent) for agent in agents},
        action_spaces={agent: _space(named, "action_space", agent) for agent in agents},
        metadata=getattr(env, "metadata", {}),
        render_mode=render_mode_of(env),
        snapshot_obstacle=snapshot_obstacle(env),
        renamed=not all(isinstance(agent, str) for agent in own_names),
        state=_declared_state(env),
        one_mask=(method := MaskMethod.of(env)) is not None and not method.per_agent,
    )


def _declared_state(env: Any) -> StateFormat | None:
    try:
        return declared_format(env)
    except NoState:
        return None


def render_mode_of(env: Any) -> str | None:
    """Render mode of the env; ``None`` if neither it nor the unwrapped env has such an attribute."""
    mode: str | None = getattr(env, "render_mode", None) or getattr(getattr(env, "unwrapped", None), "render_mode", None)
    return mode


def snapshot_obstacle(env: Any) -> str | None:
    """
    Find out why an env cannot save its state.

    The class of the outermost wrapper must define ``snapshot()`` and ``restore()``. Methods that PettingZoo's wrappers
    forward to the wrapped env do not count, because they do not cover the wrapper's own state. An env that has the methods
    but does not always support them has an attribute ``can_snapshot``.

    :param env: a ParallelEnv or AECEnv
    :return: reason, a sentence that names the env; ``None`` if the env can save its state
    """
    if isinstance(env, TurnBasedParallelEnv):
        return snapshot_obstacle(env.env)  # the view has no state of its own
    kind = type(env)
    missing = [name for name in ("snapshot", "restore") if not callable(getattr(kind, name, None))]
    if missing:
        wrapper = ", for the wrapped env's state and its own" if getattr(env, "unwrapped", env) is not env else ""
        return f"{env} cannot save its state: {kind.__name__} would have to define {'() and '.join(missing)}(){wrapper}"
    if not getattr(env, "can_snapshot", True):
        return f"{env} cannot save its state: its attribute can_snapshot is false"
    return None


def _own_names(env: Any) -> list[Any]:
    """Possible agents as the env names them."""
    possible = getattr(env, "possible_agents", None)
    own_names = [] if possible is None else list(possible)
    if not own_names:
        raise ValueError(f"{env}: possible_agents is empty or missing; list every agent that may ever appear, before reset()")
    try:
        names = [agent_name(agent) for agent in own_names]
    except ValueError as error:
        raise ValueError(f"{env}: possible_agents: {error}") from None
    if len(set(own_names)) < len(own_names):
        raise ValueError(f"{env}: possible_agents has repeated names: {own_names}")
    if len(set(names)) < len(names):
        raise ValueError(f"{env}: possible_agents are {own_names}, of which two have the same text; give them different names")
    return own_names


def _space(env: Any, method: str, agent: str) -> spaces.Space[Any]:
    getter: Callable[[str], Any] = getattr(env, method)
    try:
        space = getter(agent)
    except Exception as error:
        raise ValueError(
            f"{env}: {method}({agent!r}) raised {type(error).__name__}: {error}; it must return a space for every one of "
            "possible_agents, before reset() too"
        ) from error
    if not isinstance(space, spaces.Space):
        raise TypeError(f"{env}: {method}({agent!r}) is {space!r}, expected a gymnasium space")
    try:
        if method == "action_space" and isinstance(space, spaces.Dict):
            raise TypeError("a Dict space, which SB3 supports for observations only; use MultiDiscrete or Box")
        leaves_of(space)
    except TypeError as error:
        raise TypeError(f"{env}: {method} of agent {agent!r} is {error}") from None
    return space
