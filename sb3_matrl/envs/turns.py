"""Games in which agents act one after the other, as a ParallelEnv in which all but one wait."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv

from sb3_matrl.envs.snapshot import Snapshot


class TurnBasedParallelEnv(ParallelEnv[str, Any, Any]):  # type: ignore[misc]  # PettingZoo ships no types
    """
    A parallel view of any AECEnv, for those that PettingZoo cannot convert (their metadata lack ``is_parallelizable``).

    In each step the agent in :attr:`acting_agents` acts, the other live agents observe, and everybody is rewarded. An
    agent's end counts from the step in which its flag is set; the ``step(None)`` that an AECEnv wants of the dead is made
    here as soon as it is due.

    :param env: the AECEnv; it is stepped, and has all the state
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
    def agents(self) -> list[str]:
        """Who is alive."""
        return [agent for agent in self.env.agents if not self._has_ended(agent)]

    @property
    def acting_agents(self) -> list[str]:
        """The one agent whose turn it is; nobody when the episode is over."""
        return [self.env.agent_selection] if self.env.agents else []

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        """The AECEnv's."""
        space: spaces.Space[Any] = self.env.observation_space(agent)
        return space

    def action_space(self, agent: str) -> spaces.Space[Any]:
        """The AECEnv's."""
        space: spaces.Space[Any] = self.env.action_space(agent)
        return space

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
        """
        Start a new episode.

        :param seed: passed on
        :param options: passed on
        :return: observations and infos of all live agents
        """
        self.env.reset(seed=seed, options=options)
        self._step_the_dead({})
        return self._observe(self.agents), dict(self.env.infos)

    def step(
        self, actions: dict[str, Any]
    ) -> tuple[dict[str, Any], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        """
        Play one turn.

        :param actions: agent -> action; that of the agent in :attr:`acting_agents` is made, others are ignored
        :return: observations, rewards, terminations, truncations and infos of the agents that were alive, and of new ones
        :raises ValueError: when an agent is rewarded after its end, or stays after its last ``step(None)``
        """
        before = [agent for agent in self.env.agents if self._has_ended(agent)]
        self.env.step(actions[self.env.agent_selection])
        rewards = dict.fromkeys(self.env.agents, 0.0)
        self._add_rewards(rewards)
        terminations, truncations, infos = dict(self.env.terminations), dict(self.env.truncations), dict(self.env.infos)
        observations = self._observe([agent for agent in self.env.agents if self._has_ended(agent) and agent not in before])
        self._step_the_dead(rewards)
        self._require_no_reward(before, rewards)
        infos.update(self.env.infos)
        observations.update(self._observe(self.agents))
        return observations, rewards, terminations, truncations, infos

    def render(self) -> Any:
        """As the AECEnv does."""
        return self.env.render()

    def state(self) -> Any:
        """The AECEnv's."""
        return self.env.state()

    def close(self) -> None:
        """Close the AECEnv."""
        self.env.close()

    def snapshot(self) -> Snapshot:
        """That of the AECEnv, if it offers one."""
        snapshot: Snapshot = self.env.snapshot()
        return snapshot

    def restore(self, snapshot: Snapshot) -> None:
        """
        Go on from a snapshot.

        :param snapshot: what :meth:`snapshot` returned
        """
        self.env.restore(snapshot)

    def __str__(self) -> str:
        return str(self.env)

    def _has_ended(self, agent: str) -> bool:
        return bool(self.env.terminations[agent] or self.env.truncations[agent])

    def _observe(self, agents: list[str]) -> dict[str, Any]:
        return {agent: self.env.observe(agent) for agent in agents}

    def _add_rewards(self, rewards: dict[str, float]) -> None:
        for agent, reward in self.env.rewards.items():
            rewards[agent] = rewards.get(agent, 0.0) + reward

    def _step_the_dead(self, rewards: dict[str, float]) -> None:
        """Make the steps of agents that have ended, until it is a live agent's turn or nobody is left."""
        while self.env.agents and self._has_ended(self.env.agent_selection):
            agent = self.env.agent_selection
            self.env.step(None)
            if agent in self.env.agents:
                raise ValueError(f"agent {agent!r} is still in env.agents after its end and step(None); remove it there")
            self._add_rewards(rewards)

    @staticmethod
    def _require_no_reward(ended: list[str], rewards: dict[str, float]) -> None:
        """Of agents that ended in an earlier turn, which nobody would learn from; better an error than a loss."""
        for agent in ended:
            if rewards.get(agent):
                raise ValueError(
                    f"agent {agent!r} got the reward {rewards[agent]} in a turn after its end; give it with the termination "
                    "or truncation, or end the agent later"
                )
