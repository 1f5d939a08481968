"""Parallel view of turn-based environments, in which one agent acts and the others wait."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv

from sb3_matrl.envs.snapshot import Snapshot


class TurnBasedParallelEnv(ParallelEnv[str, Any, Any]):  # type: ignore[misc]  # PettingZoo ships no types
    """
    Parallel view of an AECEnv that PettingZoo cannot convert (its metadata lacks ``is_parallelizable``).

    In each step the agent in :attr:`acting_agents` acts, the other live agents observe, and all of them are rewarded. An
    agent ends in the step in which its flag is set; the ``step(None)`` that an AECEnv requires for ended agents is made
    automatically.

    :param env: AECEnv that is stepped and holds the state
    """

    def __init__(self, env: AECEnv[str, Any, Any]) -> None:
        self.env = env
        self.possible_agents = list(getattr(env, "possible_agents", []))
        self.metadata = getattr(env, "metadata", {})
        self.render_mode = getattr(env, "render_mode", None)

    @property
    def unwrapped(self) -> Any:
        """The AECEnv without its wrappers."""
        return self.env.unwrapped

    @property
    def agents(self) -> list[Any]:
        """Live agents."""
        return [agent for agent in self.env.agents if not self._has_ended(agent)]

    @property
    def acting_agents(self) -> list[Any]:
        """The agent whose turn it is; empty if the episode is over."""
        return [self._selected()] if len(self.env.agents) else []

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        """Delegate to the AECEnv."""
        space: spaces.Space[Any] = self.env.observation_space(agent)
        return space

    def action_space(self, agent: str) -> spaces.Space[Any]:
        """Delegate to the AECEnv."""
        space: spaces.Space[Any] = self.env.action_space(agent)
        return space

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """
        Start a new episode.

        :param seed: seed for the AECEnv
        :param options: reset options for the AECEnv
        :return: observations and infos of all live agents
        """
        self.env.reset(seed=seed, options=options)
        self._step_ended_agents({})
        return self._observe(self.agents), dict(self.env.infos)

    def step(
        self, actions: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """
        Play one turn.

        :param actions: agent -> action; actions of agents that are not in :attr:`acting_agents` are ignored
        :return: observations, rewards, terminations, truncations and infos of the agents that were alive, and of new ones
        :raises ValueError: if an agent is rewarded after its end, or still listed after its last ``step(None)``, or selected
            without being listed
        """
        before = [agent for agent in self.env.agents if self._has_ended(agent)]
        self.env.step(actions[self._selected()])
        rewards = dict.fromkeys(self.env.agents, 0.0)
        self._add_rewards(rewards)
        terminations, truncations, infos = dict(self.env.terminations), dict(self.env.truncations), dict(self.env.infos)
        observations = self._observe([agent for agent in self.env.agents if self._has_ended(agent) and agent not in before])
        self._step_ended_agents(rewards)
        self._require_no_reward(before, rewards)
        infos.update(self.env.infos)
        observations.update(self._observe(self.agents))
        return observations, rewards, terminations, truncations, infos

    def render(self) -> Any:
        """Render the AECEnv."""
        return self.env.render()

    def state(self) -> Any:
        """Delegate to the AECEnv."""
        return self.env.state()

    @property
    def state_space(self) -> spaces.Space[Any]:
        """Delegate to the AECEnv, which need not have this attribute."""
        space: spaces.Space[Any] = self.env.state_space
        return space

    def close(self) -> None:
        """Close the AECEnv."""
        self.env.close()

    def snapshot(self) -> Snapshot:
        """Save the state of the AECEnv, if it supports this."""
        snapshot: Snapshot = self.env.snapshot()
        return snapshot

    def restore(self, snapshot: Snapshot) -> None:
        """
        Restore a snapshot.

        :param snapshot: return value of :meth:`snapshot`
        """
        self.env.restore(snapshot)

    def __str__(self) -> str:
        return str(self.env)

    def _selected(self) -> Any:
        """The agent whose turn it is."""
        selected = getattr(self.env, "agent_selection", None)
        if selected not in self.env.agents:
            raise ValueError(
                f"env.agent_selection is {selected!r}, which is not in env.agents {list(self.env.agents)}; at the end of "
                "reset() and step(), select a listed agent"
            )
        return selected

    def _has_ended(self, agent: Any) -> bool:
        return bool(self.env.terminations[agent] or self.env.truncations[agent])

    def _observe(self, agents: list[str]) -> dict[str, Any]:
        return {agent: self.env.observe(agent) for agent in agents}

    def _add_rewards(self, rewards: dict[str, float]) -> None:
        for agent, reward in self.env.rewards.items():
            rewards[agent] = rewards.get(agent, 0.0) + reward

    def _step_ended_agents(self, rewards: dict[str, float]) -> None:
        """Call ``step(None)`` for ended agents until it is a live agent's turn or no agent is left."""
        while len(self.env.agents) and self._has_ended(agent := self._selected()):
            self.env.step(None)
            if agent in self.env.agents:
                raise ValueError(
                    f"agent {agent!r} is still in env.agents after its end and step(None); remove it there, for example with "
                    "PettingZoo's AECEnv._was_dead_step()"
                )
            self._add_rewards(rewards)

    @staticmethod
    def _require_no_reward(ended: list[str], rewards: dict[str, float]) -> None:
        """Reject rewards of agents that ended in an earlier turn: no learner would see them."""
        for agent in ended:
            if rewards.get(agent):
                raise ValueError(
                    f"agent {agent!r} got the reward {rewards[agent]} in a turn after its end; give it with the termination "
                    "or truncation, or end the agent later"
                )
