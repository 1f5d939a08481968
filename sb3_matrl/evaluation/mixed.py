"""Joint policy of agents from several models, such as partners that never trained together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sb3_matrl.evaluation.evaluate import JointPredictor, check_joint_predictor
from sb3_matrl.utils.agent_names import agent_name, keyed_by_text
from sb3_matrl.utils.suggest import unknown


@dataclass(frozen=True)
class Player:
    """
    One agent of a model.

    :param model: a trained model, or anything with its ``predict``
    :param agent: name of the agent in that model
    """

    model: JointPredictor
    agent: str


class MixedPolicy:
    """
    Joint policy in which each agent is played by an agent of some model; has the ``predict`` of a trained model.

    :param players: agent of the environment -> player; one model may play several agents
    :raises TypeError: if a player is none, or its model plays one agent
    """

    def __init__(self, players: Mapping[str, Player]) -> None:
        for agent, player in players.items():
            if not isinstance(player, Player):
                raise TypeError(f"{agent!r} needs a Player(model, agent of that model), got a {type(player).__name__}")
            check_joint_predictor(player.model)
        self.players: dict[str, Player] = keyed_by_text(dict(players))

    @property
    def possible_agents(self) -> list[str]:
        """Agents that the policy can play."""
        return list(self.players)

    def predict(
        self,
        observation: Mapping[str, Any],
        state: Mapping[str, Any] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: Mapping[str, np.ndarray] | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any] | None]:
        """
        Choose actions for some or all agents, in one env or a batch of envs.

        :param observation: agent -> observation, with or without a leading batch axis, of the agents that are to act
        :param state: agent -> state of the model that plays it, returned by the previous call
        :param episode_start: bool (batch,), for recurrent policies
        :param deterministic: greedy actions instead of sampled ones
        :param action_masks: agent -> bool (batch, mask size); passed on only to the players of these agents
        :return: agent -> action, and the next states (``None`` if there are none)
        :raises ValueError: if an agent has no player
        """
        given_masks, given_states = keyed_by_text(action_masks or {}), keyed_by_text(state or {})
        actions, states = {}, {}
        for agent, value in observation.items():
            name = agent_name(agent)
            if name not in self.players:
                raise ValueError(unknown("agent", name, self.players))
            player = self.players[name]
            previous, mask = given_states.get(name), given_masks.get(name)
            masks = {} if mask is None else {"action_masks": {player.agent: mask}}
            chosen, states[agent] = player.model.predict(
                {player.agent: value}, previous, episode_start, deterministic, **masks
            )
            actions[agent] = chosen[player.agent]
        return actions, None if all(one is None for one in states.values()) else states
