"""Joint collection: one pass through the environment fills the SB3 rollout buffer of every learner."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from sb3_matrl.common.agents import Position, Team
from sb3_matrl.on_policy.actors import Actor, LearnerActor
from sb3_matrl.on_policy.buffers import is_maskable
from sb3_matrl.on_policy.critic_states import CriticStates, StateSource
from sb3_matrl.on_policy.joint_updates import JointUpdates
from sb3_matrl.on_policy.stack_actor import StackActor
from sb3_matrl.vec_env import JointStep, JointVecEnv

# Called after every joint step with the local variables that SB3's callbacks read; False stops the rollout.
OnStep = Callable[[dict[str, Any]], bool]


class RolloutCollector:
    """
    Plays rollouts with a team of on-policy learners.

    :param env: environment, which has been reset
    :param team: learners and frozen agents; a learner's rollout buffer has one column for every copy of each of its agents
    :param joint: which learners act together; every learner acts by itself if ``None``
    :param source: source of the states of central critics; ``None`` if the learners' critics see their observations
    """

    def __init__(
        self, env: JointVecEnv, team: Team, joint: JointUpdates | None = None, source: StateSource | None = None
    ) -> None:
        self.env = env
        self.team = team
        self.states = None if source is None else CriticStates(source, env, team)
        stacks, rest = ([], list(team.learners)) if joint is None else joint.usable()
        self.actors: list[Actor] = [LearnerActor(env, team, name, self.states) for name in rest]
        self.actors += [StackActor(env, team, stack, self.states) for stack in stacks]

    def collect(self, position: Position, n_steps: int, on_step: OnStep) -> tuple[Position, bool]:
        """
        Play ``n_steps`` joint steps in every copy and fill all learners' rollout buffers, advantages included.

        A truncated agent's last reward is bootstrapped with the value of its final observation; a terminated agent's is not.
        Rows in which an agent did not act are masked.

        :param position: observations and episode starts to begin with
        :param n_steps: steps per copy, the size of the buffers
        :param on_step: called after every step; False stops
        :return: where the rollout ended, and whether it is complete (False if ``on_step`` stopped it)
        :raises NonFiniteError: if a policy's output is NaN or infinite
        :raises ValueError: if the masks of a learner that knows masks cannot be read
        """
        env, team = self.env, self.team
        env.require_masks(self._masked_agents(env.acting), warn=False)
        for actor in self.actors:
            actor.start(n_steps)
        acted = np.empty((n_steps, env.num_envs, len(env.agents)), dtype=bool)
        position = self._with_states(position)
        for n in range(n_steps):
            alive, acted[n] = env.alive, env.acting
            actions = self._joint_actions(position, n)
            new_obs, rewards, dones, infos = env.step(actions)  # type: ignore[arg-type]
            step = env.last_step
            assert step is not None
            ended = step.terminated | step.truncated | step.dones[:, None] | ~alive
            seen = {"n_steps": n, "actions": actions, "new_obs": new_obs, "rewards": rewards, "dones": dones, "infos": infos}
            position = Position(step.observations, ended)
            if not on_step(seen):
                return position, False
            team.observe(step.observations, step.alive, None if self.states is None else self.states.of_env)
            position, final_states = self._with_states(position), self._final_states(step)
            for actor in self.actors:
                actor.store(n, step, ended, final_states)
        env.require_masks(self._masked_agents(acted))
        env.warn_of_ignored_masks(self._agents_of(maskable=False))
        for actor in self.actors:
            actor.finish(position, acted)
        return replace(position, states=None), True

    def _with_states(self, position: Position) -> Position:
        """The position with what central critics see there."""
        return position if self.states is None else replace(position, states=self.states.now(position))

    def _final_states(self, step: JointStep) -> np.ndarray | None:
        """What central critics see of the final moment of agents that were truncated."""
        if self.states is None or not (step.truncated & ~step.terminated).any():
            return None
        return self.states.final(step)

    def _masked_agents(self, acted: np.ndarray) -> list[str]:
        """Agents whose learners know masks, of those that acted at any time: bool (..., n_agents)."""
        rows = acted.reshape(-1, len(self.env.agents))
        has_acted = {agent: bool(rows[:, column].any()) for column, agent in enumerate(self.env.agents)}
        return [agent for agent in self._agents_of(maskable=True) if has_acted[agent]]

    def _agents_of(self, maskable: bool) -> list[str]:
        """Agents whose learners know masks, or do not know any."""
        members, learners = self.team.members, self.team.learners
        chosen = [name for name in learners if is_maskable(learners[name].rollout_buffer) == maskable]
        return [agent for name in chosen for agent in members[name]]

    def _joint_actions(self, position: Position, n: int) -> dict[str, np.ndarray]:
        """agent -> (num_envs, *action shape), in the env's order."""
        actions: dict[str, np.ndarray] = {}
        for actor in self.actors:
            actions |= actor.act(position, n)
        for agent, frozen in self.team.frozen.items():
            starts = position.episode_starts[:, self.env.agents.index(agent)]
            actions[agent] = frozen.act(position.observations[agent], starts, self.env.action_masks.get(agent))
        return {agent: actions[agent] for agent in self.env.agents}
