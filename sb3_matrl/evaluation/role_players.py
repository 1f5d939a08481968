"""Players that fill the roles of a game: models, files, single agents, functions, and the uniform random player."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from sb3_matrl.common.frozen import FrozenAgent
from sb3_matrl.common.loading import load_model
from sb3_matrl.common.model import MultiAgentModel
from sb3_matrl.common.scripted import is_joint_model
from sb3_matrl.evaluation.evaluate import JointPredictor
from sb3_matrl.evaluation.mixed import Player
from sb3_matrl.evaluation.random_policy import RandomPolicy
from sb3_matrl.utils.one_line import one_line
from sb3_matrl.utils.suggest import unknown
from sb3_matrl.vec_env import JointVecEnv

#: Name of the player that chooses every action uniformly among the legal ones.
RANDOM = "random"


class SoloPlayer:
    """
    One agent with the ``predict`` of a multi-agent model, in which it is the only agent.

    :param source: what ``frozen`` of :class:`~sb3_matrl.MATRL` accepts for one agent: an SB3 algorithm or policy, a function
        of the observations, or an object with SB3's ``predict``
    :raises TypeError: if it is none of these
    """

    name = "agent"

    def __init__(self, source: Any) -> None:
        self.possible_agents = [self.name]
        self._player = source if isinstance(source, FrozenAgent) else FrozenAgent(source)

    @property
    def policy(self) -> Any:
        """The SB3 policy, function or object that acts."""
        return self._player.policy

    def fits(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> bool:
        """Whether it was made for exactly these spaces, images with their channels first or last; always, if not known."""
        try:
            self._player.check_spaces(self.name, observation_space, action_space)
        except ValueError:
            return False
        return True

    def predict(
        self,
        observation: Mapping[str, Any],
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: Mapping[str, np.ndarray] | None = None,
    ) -> tuple[dict[str, Any], Any]:
        """See :meth:`sb3_matrl.common.model.MultiAgentModel.predict`."""
        masks = (action_masks or {}).get(self.name)
        action, state = self._player.predict(observation[self.name], state, episode_start, deterministic, masks)
        return {self.name: action}, state


@dataclass(frozen=True)
class Contestant:
    """
    A player that can fill every role of an env.

    :param name: name for tables
    :param by_role: role -> agent of a model; ``None`` for the uniform random player
    """

    name: str
    by_role: Mapping[str, Player] | None

    def in_role(self, role: str, env: JointVecEnv, seed: int) -> Player:
        """
        The player of one role.

        :param role: agent of the env
        :param env: env that is played
        :param seed: seed of the uniform random player's actions
        """
        if self.by_role is not None:
            return self.by_role[role]
        return Player(RandomPolicy({role: env.observation_spaces[role]}, {role: env.action_spaces[role]}, seed), role)


def make_contestant(name: str, source: Any, env: JointVecEnv, device: str = "auto") -> Contestant:
    """
    Make a player from what a user gives, and check that it can fill every role.

    :param name: name for tables and errors
    :param source: one of

        - a model of several agents, or anything with its ``predict`` and ``possible_agents``: each role is played by the agent
          of that name
        - the path of a saved model
        - a tuple (model or path, agent): this agent plays every role
        - an SB3 algorithm or policy, a function of the observations, or an object with SB3's ``predict``: it plays every role
        - ``"random"`` or :class:`~sb3_matrl.evaluation.RandomPolicy`: uniform actions
    :param env: env whose agents are the roles
    :param device: device of the networks of models that are loaded
    :raises FileNotFoundError: if there is no such file
    :raises ValueError: if a role has no agent, or one whose spaces differ
    :raises TypeError: if ``source`` is none of the above
    """
    if source is RandomPolicy or (isinstance(source, str) and source == RANDOM):
        return Contestant(name, None)
    model, agent = source if isinstance(source, tuple) and len(source) == 2 else (source, None)
    if isinstance(model, (str, Path)):
        model = load_model(model, device=device, verbose=0)
    if not is_joint_model(model):
        model, agent = SoloPlayer(model), SoloPlayer.name
    players = {role: Player(model, _agent_for(name, role, model, agent, env)) for role in env.agents}
    for role, player in players.items():
        check_role(name, player, role, env)
    return Contestant(name, players)


def _agent_for(name: str, role: str, model: Any, agent: str | None, env: JointVecEnv) -> str:
    """Name of the agent of a model that plays a role."""
    if agent is not None and agent not in model.possible_agents:
        raise ValueError(f"player {name}: {unknown('agent', agent, model.possible_agents)}")
    if agent is None and role not in model.possible_agents:
        raise ValueError(
            f"player {name} cannot play {role}: it has the agents {', '.join(model.possible_agents)}, the env has "
            f"{', '.join(env.agents)}; give the agent that plays every role as (model, agent)"
        )
    return role if agent is None else agent


def check_role(name: str, player: Player, role: str, env: JointVecEnv) -> None:
    """
    Check that an agent of a model can play a role; agents whose spaces are not known are not checked.

    :param name: name of the player, for the error
    :param player: agent of a model
    :param role: agent of the env
    :param env: env that is played
    :raises ValueError: if a space differs, or the agent was a function that its file does not hold
    """
    if isinstance(player.model, MultiAgentModel) and player.agent in player.model.lost_agents():
        raise ValueError(f"player {name} cannot play {role}: {player.agent} was a Python function, which a file cannot hold")
    own, wanted = _spaces_of(player), (env.observation_spaces[role], env.action_spaces[role])
    if own is None or (isinstance(player.model, SoloPlayer) and player.model.fits(*wanted)):
        return
    for kind, given, trained, fits in zip(("observations", "actions"), wanted, own, (same_form, _equal), strict=True):
        if not fits(given, trained):
            raise ValueError(
                f"player {name} cannot play {role}: its {kind} are {one_line(trained)}, those of the role {one_line(given)}"
            )


def _spaces_of(player: Player) -> tuple[spaces.Space[Any], spaces.Space[Any]] | None:
    """Spaces of observations and actions; ``None`` if they are not known."""
    model: Any = player.model
    if isinstance(model, SoloPlayer):
        pair = getattr(model.policy, "observation_space", None), getattr(model.policy, "action_space", None)
        return None if None in pair else pair  # type: ignore[return-value]
    if isinstance(model, MultiAgentModel):
        of_observations: Any = model.observation_space
        of_actions: Any = model.action_space
        return of_observations[player.agent], of_actions[player.agent]
    return None


def same_form(given: spaces.Space[Any], trained: spaces.Space[Any]) -> bool:
    """
    Whether a policy can read observations; bounds may differ, e.g. in a longer game.

    :param given: space of the observations
    :param trained: space for which the policy was made
    """
    if isinstance(given, spaces.Box) and isinstance(trained, spaces.Box):
        return given.shape == trained.shape and given.dtype == trained.dtype
    if isinstance(given, spaces.Dict) and isinstance(trained, spaces.Dict):
        return given.keys() == trained.keys() and all(same_form(given[key], trained[key]) for key in given)
    return _equal(given, trained)


def _equal(given: spaces.Space[Any], trained: spaces.Space[Any]) -> bool:
    return bool(given == trained)


class OneWay:
    """
    A model that always plays greedily, or always samples, whatever it is asked for.

    :param model: a trained model, or anything with its ``predict``
    :param deterministic: greedy actions instead of sampled ones
    """

    def __init__(self, model: JointPredictor, deterministic: bool) -> None:
        self.model = model
        self.deterministic = deterministic

    def predict(
        self,
        observation: Mapping[str, Any],
        state: Any = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: Mapping[str, np.ndarray] | None = None,
    ) -> tuple[dict[str, Any], Any]:
        """See :meth:`sb3_matrl.common.model.MultiAgentModel.predict`; ``deterministic`` is ignored."""
        masks: dict[str, Any] = {} if action_masks is None else {"action_masks": action_masks}
        return self.model.predict(observation, state, episode_start, self.deterministic, **masks)
