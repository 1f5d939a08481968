"""Files of plain SB3 run code when they are loaded, so they are loaded only where that is said to be fine."""

import os

import pytest
import torch as th
from stable_baselines3 import PPO

from sb3_matrl.common.foreign import is_sb3_file, load_sb3_agent
from tests.common.test_callbacks import small_model


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
    with pytest.raises(ValueError, match=r"holds pickles: loading it can run any code .* --trust on the command line"):
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
    with pytest.raises(ValueError, match="holds no agent with an actor-critic policy"):
        load_sb3_agent(tmp_path / "model.zip", trust=True)
