"""A training that was saved and loaded goes on as if it had never stopped."""

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

from sb3_matrl import MATRL
from sb3_matrl.resume import TrainingState
from tests.vec_env.toys import plain


def build(env="checkers_v0", **arguments):
    small = {"n_envs": 3, "n_steps": 40, "batch_size": 60, "n_epochs": 2, "br_n_epochs": 2, "seed": 0, "device": "cpu"}
    return MATRL("MlpPolicy", env, policy_kwargs={"net_arch": [8]}, **{**small, **arguments})


def flat(tree):
    """All tensors and numbers of nested state dicts in one list."""
    if isinstance(tree, th.Tensor):
        return [tree]
    values = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, (list, tuple)) else None
    return [tree] if values is None else [one for value in values for one in flat(value)]


def assert_same(model, other):
    ours, theirs = flat(model.get_parameters()), flat(other.get_parameters())
    assert len(ours) == len(theirs)
    for one, two in zip(ours, theirs, strict=True):
        assert th.equal(one, two) if isinstance(one, th.Tensor) else one == two
    assert model.num_timesteps == other.num_timesteps
    assert [played(info) for info in model.ep_info_buffer] == [played(info) for info in other.ep_info_buffer]


def played(info):
    """Statistics of an episode without the time that it took."""
    return {name: value for name, value in info.items() if name != "t"}


class SaveAfter(BaseCallback):
    """Save once, in the middle of a rollout or wherever the step falls, and stop."""

    def __init__(self, steps, path):
        super().__init__()
        self.steps, self.path = steps, path

    def _on_step(self):
        if self.num_timesteps < self.steps:
            return True
        self.model.save(self.path)
        return False


@pytest.mark.parametrize("vec_env", ["batched", "dummy", "subproc"])
@pytest.mark.parametrize(("env", "env_kwargs"), [("checkers_v0", {}), ("switch_v0", {"n_agents": 3}), ("matrix_game_v0", {})])
@pytest.mark.parametrize("stop", [120, 267])
def test_a_resumed_training_is_bit_for_bit_the_one_that_never_stopped(tmp_path, vec_env, env, env_kwargs, stop):
    options = {"env": env, "env_kwargs": env_kwargs, "vec_env": vec_env}
    whole = build(**options).learn(480)
    stopped = build(**options)
    stopped.learn(480, callback=SaveAfter(stop, tmp_path / "half"))
    stopped.env.close()
    th.manual_seed(99)
    np.random.seed(99)
    resumed = MATRL.load(tmp_path / "half", env=env, device="cpu")
    assert resumed.num_timesteps == 120 * ((stop - 1) // 120)
    resumed.learn(480 - resumed.num_timesteps, reset_num_timesteps=False)
    assert_same(resumed, whole)
    resumed.env.close()
    whole.env.close()


def test_going_on_after_a_finished_training_is_one_longer_training(tmp_path):
    whole = build().learn(480)
    build().learn(240).save(tmp_path / "half")
    resumed = MATRL.load(tmp_path / "half", env="checkers_v0", device="cpu")
    resumed.learn(240, reset_num_timesteps=False)
    assert_same(resumed, whole)


def test_an_env_that_cannot_save_its_state_begins_new_episodes(tmp_path, capsys):
    build(env=plain, n_steps=20, vec_env="dummy").learn(120).save(tmp_path / "half")
    resumed = MATRL.load(tmp_path / "half", env=plain, device="cpu", verbose=1)
    resumed.learn(60, reset_num_timesteps=False, log_interval=None)
    assert "resumes with new episodes" in capsys.readouterr().out
    assert resumed.num_timesteps == 180


@pytest.mark.parametrize("change", [{"seed": 5}, {"n_envs": 2}])
def test_a_changed_seed_or_number_of_copies_begins_anew(tmp_path, change):
    build().learn(120).save(tmp_path / "half")
    resumed = MATRL.load(tmp_path / "half", env="checkers_v0", device="cpu", **change)
    assert resumed._resume_from is None
    resumed.learn(120, reset_num_timesteps=False)
    assert resumed.num_timesteps >= 240


def test_beginning_anew_ignores_the_saved_training(tmp_path):
    build().learn(120).save(tmp_path / "half")
    resumed = MATRL.load(tmp_path / "half", env="checkers_v0", device="cpu")
    resumed.learn(120)
    assert resumed.num_timesteps == 120
    assert resumed._resume_from is None


def test_a_state_of_other_parts_is_refused():
    with pytest.raises(ValueError, match="training state should consist of"):
        TrainingState.from_tree({"num_timesteps": 3})


def test_a_model_built_with_options_takes_a_joint_env():
    model = build(env="switch_v0", env_kwargs={"n_agents": 2})
    env = build(env="switch_v0", env_kwargs={"n_agents": 2}).env
    model.set_env(env)
    assert model.env is env
