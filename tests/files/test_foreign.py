"""Files of plain SB3 run code when they are loaded, so they are loaded only where that is said to be fine."""

import os

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import TRPO, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from sb3_matrl.common.agents import SpacesVecEnv
from sb3_matrl.files.foreign import is_sb3_file, load_sb3_agent
from tests.evaluation.test_eval_callback import small_model


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_untrusted_file_runs_nothing(tmp_path):
    agent = small_model().agents["left"]
    agent.harmless = Bomb(tmp_path / "harm")
    agent.save(tmp_path / "agent")
    assert is_sb3_file(tmp_path / "agent.zip")
    with pytest.raises(ValueError, match=r"holds pickles: loading it can run arbitrary code.* --trust on the command line"):
        load_sb3_agent(tmp_path / "agent.zip")
    assert not (tmp_path / "harm").exists()
    load_sb3_agent(tmp_path / "agent.zip", trust=True, device="cpu")
    assert (tmp_path / "harm").exists()  # so the test can tell


def test_trusted_file_is_the_agent(tmp_path):
    agent = small_model().agents["left"]
    agent.save(tmp_path / "agent")
    loaded = load_sb3_agent(tmp_path / "agent.zip", trust=True, device="cpu")
    assert type(loaded) is PPO
    ours, theirs = loaded.policy.state_dict(), agent.policy.state_dict()
    assert ours.keys() == theirs.keys() and all(th.equal(ours[key], theirs[key]) for key in ours)


def test_other_files_are_told_apart(tmp_path):
    small_model().save(tmp_path / "model")
    (tmp_path / "text").write_text("data")
    assert not is_sb3_file(tmp_path / "model.zip")
    assert not is_sb3_file(tmp_path / "text") and not is_sb3_file(tmp_path / "nothing")
    with pytest.raises(ValueError, match="holds no agent of SB3 that is known here"):
        load_sb3_agent(tmp_path / "model.zip", trust=True)


@pytest.mark.parametrize(
    ("learner", "policy", "actions"),
    [
        (A2C, "MlpPolicy", spaces.Discrete(3)),
        (TRPO, "MlpPolicy", spaces.Discrete(3)),
        (MaskablePPO, "MlpPolicy", spaces.Discrete(3)),
        (RecurrentPPO, "MlpLstmPolicy", spaces.Discrete(3)),
        (DQN, "MlpPolicy", spaces.Discrete(3)),
        (DDPG, "MlpPolicy", spaces.Box(-2, 2, (2,))),
        (TD3, "MlpPolicy", spaces.Box(-2, 2, (2,))),
        (SAC, "MlpPolicy", spaces.Box(-2, 2, (2,))),
    ],
)
def test_agents_of_all_algorithms_are_read(tmp_path, learner, policy, actions):
    small = {"buffer_size": 10} if issubclass(learner, OffPolicyAlgorithm) else {}
    agent = learner(policy, SpacesVecEnv(1, spaces.Box(-1, 1, (2,)), actions), device="cpu", **small)
    agent.save(tmp_path / "agent")
    loaded = load_sb3_agent(tmp_path / "agent.zip", trust=True, device="cpu")
    assert type(loaded.policy) is type(agent.policy)
    observation = np.ones((1, 2), np.float32)
    np.testing.assert_array_equal(
        loaded.predict(observation, deterministic=True)[0], agent.predict(observation, deterministic=True)[0]
    )
    assert all(th.equal(a, b) for a, b in zip(loaded.policy.parameters(), agent.policy.parameters(), strict=True))
