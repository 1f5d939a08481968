"""The two-step game of the QMIX paper: a sum of utilities prefers the safe 7, a monotone mixer finds the 8."""

import numpy as np
import pytest
import torch as th

from sb3_matrl.off_policy.qmix import QMIX
from sb3_matrl.off_policy.vdn import VDN
from tests.worlds.two_step_game import TwoStepGame

# Q_tot of joint actions (rows: agent_0's) in the first state, after A and after B. VDN: the limit of uniform play.
LIMITS = {
    VDN: [[[6.93, 6.93], [6.44, 6.44]], [[7.0, 7.0], [7.0, 7.0]], [[-1.5, 2.5], [2.5, 6.5]]],
    QMIX: [[[6.93, 6.93], [7.92, 7.92]], [[7.0, 7.0], [7.0, 7.0]], [[0.0, 1.0], [1.0, 8.0]]],
}
TOLERANCE = {VDN: 0.4, QMIX: 0.1}
RETURN = {VDN: 7.0, QMIX: 8.0}


def joint_values(model):
    """Q_tot of all joint actions in the three states, (3, 2, 2)."""
    states = th.eye(3)
    with th.no_grad():
        first, second = (policy.q_net(states) for policy in model.utilities.policies.values())
        pairs = th.stack([first[:, :, None].expand(3, 2, 2), second[:, None, :].expand(3, 2, 2)], dim=-1).view(12, 2)
        mixed = pairs.sum(dim=1) if isinstance(model, VDN) else model.mixer(pairs, states.repeat_interleave(4, dim=0))
    return mixed.view(3, 2, 2).numpy()


def greedy_return(model):
    env = TwoStepGame()
    observations, _ = env.reset()
    total = 0.0
    while env.agents:
        actions, _ = model.predict(observations, deterministic=True)
        observations, rewards, *_ = env.step({agent: int(action) for agent, action in actions.items()})
        total += sum(rewards.values())
    return total


@pytest.mark.expensive
@pytest.mark.parametrize("algorithm", [VDN, QMIX])
def test_the_published_values(algorithm):
    own = {} if algorithm is VDN else {"mixing_embed_dim": 8}
    model = algorithm(
        "MlpPolicy",
        TwoStepGame,
        n_envs=10,
        seed=0,
        device="cpu",
        learning_rate=2e-3,
        learning_starts=200,
        batch_size=100,
        train_freq=1,
        gradient_steps=2,
        target_update_interval=200,
        exploration_initial_eps=1.0,
        exploration_final_eps=1.0,
        buffer_size=10_000,
        policy_kwargs={"net_arch": [64]},
        loss="mse",
        **own,
    ).learn(10_000)
    values = joint_values(model)
    assert np.abs(values - np.array(LIMITS[algorithm])).max() < TOLERANCE[algorithm], values
    assert greedy_return(model) == RETURN[algorithm]
