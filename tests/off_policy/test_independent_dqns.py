"""IQL in unrelated envs that are played side by side: every agent is SB3's DQN on the same transitions and batches."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from pettingzoo import ParallelEnv
from stable_baselines3 import DQN
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.utils import polyak_update

from sb3_matrl.off_policy.iql import IQL

ENVS = {"cart": "CartPole-v1", "car": "MountainCar-v0"}


class SideBySide(ParallelEnv):
    """Every agent plays an env of its own; it is absent from the end of its episode until all have ended."""

    metadata = {"name": "side_by_side", "render_modes": []}  # noqa: RUF012
    render_mode = None

    def __init__(self, limits=(7, 7)):
        self.possible_agents = list(ENVS)
        self.envs = {
            agent: gym.make(env_id, max_episode_steps=limit)
            for (agent, env_id), limit in zip(ENVS.items(), limits, strict=True)
        }

    def observation_space(self, agent):
        return self.envs[agent].observation_space

    def action_space(self, agent):
        return self.envs[agent].action_space

    def reset(self, seed=None, options=None):
        self.agents = list(self.possible_agents)
        return {agent: env.reset(seed=seed)[0] for agent, env in self.envs.items()}, {}

    def step(self, actions):
        steps = {agent: self.envs[agent].step(action) for agent, action in actions.items()}
        observations, rewards, ends, cuts, infos = ({agent: step[i] for agent, step in steps.items()} for i in range(5))
        self.agents = [agent for agent in self.agents if not (ends[agent] or cuts[agent])]
        return observations, rewards, ends, cuts, infos


SETTINGS = {
    "learning_rate": 1e-3,
    "learning_starts": 40,
    "batch_size": 16,
    "target_update_interval": 50,
    "buffer_size": 300,
    "gradient_steps": 2,
    "max_grad_norm": 0.5,
    "policy_kwargs": {"net_arch": [16]},
    "device": "cpu",
}
OURS = {"double_q": False, "backend": "sb3", "seed": 0}


def samples(batch, agent, i):
    """An agent's part of a joint batch as SB3's buffer returns it, without the rows in which it was absent."""
    rows = batch.alive[:, i]
    column = {name: getattr(batch, name)[:, i : i + 1][rows] for name in ("rewards", "terminated")}
    observations, following = batch.observations[agent][rows], batch.next_observations[agent][rows]
    return ReplayBufferSamples(
        observations, batch.actions[agent][rows, None], following, column["terminated"].float(), column["rewards"], None
    )


@pytest.mark.e2e
@pytest.mark.parametrize("limits, exact", [((7, 7), True), ((40, 25), False)], ids=["together", "deaths"])
def test_each_agent_is_dqn(limits, exact):
    model = IQL("MlpPolicy", SideBySide, env_kwargs={"limits": limits}, **OURS, **SETTINGS)
    references = {}
    for agent, env_id in ENVS.items():
        references[agent] = DQN("MlpPolicy", env_id, **SETTINGS)
        references[agent].policy.load_state_dict(model.utilities.policies[agent].state_dict())
        references[agent].learn(0)  # a logger
    events = []
    sample, update_targets = model.sample, model.update_targets
    model.sample = lambda size: events.append(sample(size)) or events[-1]
    model.update_targets = lambda: (events.append("targets"), update_targets())
    model.learn(400)
    batches = [event for event in events if event != "targets"]
    assert len(batches) == 180 and events.count("targets") == 8
    assert all(bool(batch.alive.all()) for batch in batches) == exact
    assert any(bool((batch.truncated & batch.alive).any()) for batch in batches)
    for i, (agent, dqn) in enumerate(references.items()):
        for event in events:
            if event == "targets":
                polyak_update(dqn.q_net.parameters(), dqn.q_net_target.parameters(), 1.0)
            else:
                own = samples(event, agent, i)
                dqn.replay_buffer.sample = lambda *_, part=own, **__: part
                dqn.train(1, 16)
        ours = model.utilities.policies[agent].state_dict()
        for name, theirs in dqn.policy.state_dict().items():
            assert th.equal(ours[name], theirs) if exact else np.allclose(ours[name], theirs, atol=1e-5), name
