"""A training that was saved and loaded goes on as if it had never stopped."""

import subprocess
import sys
from functools import cache
from itertools import product

import numpy as np
import pytest
import torch as th
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from sb3_matrl import MATRL
from sb3_matrl.common.training_state import TrainingState
from tests.matrl.test_action_masks import WALK
from tests.vec_env.toys import plain, saving


def build(env="checkers_v0", policy="MlpPolicy", **arguments):
    small = {"n_envs": 3, "n_steps": 40, "batch_size": 60, "n_epochs": 2, "br_n_epochs": 2, "seed": 0, "device": "cpu"}
    return MATRL(policy, env, **{**small, "policy_kwargs": {"net_arch": [8]}, **arguments})


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


SHIPPED = {
    "checkers_v0": {},
    "switch_v0": {"n_agents": 3},
    "stag_hunt_v0": {"stag_follows": True, "respawn": True},
    "escalation_v0": {},
    "predator_prey_v0": {"size": 4, "n_agents": 2, "n_prey": 2},
    "matrix_game_v0": {},
}


@cache
def never_stopped(env, vec_env):
    """A whole training, which is only read."""
    model = build(env=env, env_kwargs=SHIPPED[env], vec_env=vec_env).learn(480)
    model.env.close()
    return model


@pytest.mark.cases(
    quick=["267-switch_v0-batched"],
    e2e=["120-checkers_v0-batched", "267-switch_v0-dummy", "267-predator_prey_v0-subproc", "267-matrix_game_v0-dummy"],
    rest="expensive",
)
@pytest.mark.parametrize(
    ("env", "vec_env"),
    list(product(SHIPPED, ["batched", "dummy", "subproc"])),
)
@pytest.mark.parametrize("stop", [120, 267])
def test_a_resumed_training_is_bit_for_bit_the_one_that_never_stopped(tmp_path, vec_env, env, stop):
    stopped = build(env=env, env_kwargs=SHIPPED[env], vec_env=vec_env)
    stopped.learn(480, callback=SaveAfter(stop, tmp_path / "half"))
    stopped.env.close()
    th.manual_seed(99)
    np.random.seed(99)
    resumed = MATRL.load(tmp_path / "half", env=env, device="cpu")
    assert resumed.num_timesteps == 120 * ((stop - 1) // 120)
    resumed.learn(480 - resumed.num_timesteps, reset_num_timesteps=False)
    assert_same(resumed, never_stopped(env, vec_env))
    resumed.env.close()


def test_going_on_after_a_finished_training_is_one_longer_training(tmp_path):
    build().learn(240).save(tmp_path / "half")
    resumed = MATRL.load(tmp_path / "half", env="checkers_v0", device="cpu")
    resumed.learn(240, reset_num_timesteps=False)
    assert_same(resumed, never_stopped("checkers_v0", "batched"))


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


# ---------------------------------------------------------------- what learners of all kinds carry from rollout to rollout

LSTM = {"policy": "MlpLstmPolicy", "learner_class": RecurrentPPO, "policy_kwargs": {"net_arch": [8], "lstm_hidden_size": 8}}
NORMALISED = {"norm_obs": True, "norm_reward": True, "gamma": 0.9}


def turns():
    """Agents that end one after the other, in an env that saves its state."""
    return saving("early_death")


def recurrent_teacher():
    """A recurrent agent with statistics of its own, whose actions depend much on what it has seen."""
    teacher = build(n_steps=10, n_envs=2, batch_size=20, br_n_epochs=0, **LSTM, norm_obs=True).learn(20)
    th.manual_seed(4)
    with th.no_grad():
        for parameter in teacher.agents["agent_0"].policy.parameters():
            parameter.add_(th.randn_like(parameter))
    return teacher, "agent_0"


CASES = {
    "recurrent": lambda: {"env": turns} | LSTM | NORMALISED,
    "recurrent and PPO": lambda: {
        "policy": {"agent_0": "MlpLstmPolicy", "agent_1": "MlpPolicy"},
        "learner_class": {"agent_0": RecurrentPPO, "agent_1": PPO},
        "policy_kwargs": {"agent_0": LSTM["policy_kwargs"], "agent_1": {"net_arch": [8]}},
    },
    "shared": lambda: {"env": "switch_v0", "share": {"pair": ["agent_0", "agent_2"]}} | NORMALISED,
    "shared and recurrent": lambda: {"env": turns, "share": {"pair": ["a", "c"]}} | LSTM | NORMALISED,
    "frozen": lambda: {"frozen": {"agent_1": recurrent_teacher()}},
    "masks": lambda: dict(WALK),
    "matrix game": lambda: {"env": "matrix_game_v0"} | LSTM,
}


def assert_same_carried(model, other):
    """All that goes on into the next rollout: normalisers, recurrent states, position in the env, random generators."""
    assert_same(model, other)
    ours, theirs = (one._capture_state().as_tree() for one in (model, other))
    for tree in (ours, theirs):
        for info in tree["episodes"]:
            del info["t"]
        del tree["env"]
    first, second = flat(ours), flat(theirs)
    assert len(first) == len(second) > 0
    assert all(th.equal(a, b) if isinstance(a, th.Tensor) else a == b for a, b in zip(first, second, strict=True))


def resumed_and_whole(path, stop, **options):
    """A training that was saved at a step and loaded, and one that was not."""
    options = {"n_envs": 2, "n_steps": 6, "batch_size": 12, "br_n_epochs": 1} | options
    whole = build(**options).learn(36)
    stopped = build(**options)
    stopped.learn(36, callback=SaveAfter(stop, path))
    stopped.env.close()
    th.manual_seed(99)
    np.random.seed(99)
    resumed = MATRL.load(path, env=options.get("env", "checkers_v0"), device="cpu")
    resumed.learn(36 - resumed.num_timesteps, reset_num_timesteps=False)
    return resumed, whole


@pytest.mark.cases(e2e=["shared and recurrent", "frozen"], rest="expensive")
@pytest.mark.parametrize("case", CASES)
def test_learners_of_all_kinds_resume_in_the_middle_of_a_rollout(tmp_path, case):
    resumed, whole = resumed_and_whole(tmp_path / "half", 18, **CASES[case]())
    assert_same_carried(resumed, whole)


def test_the_memory_of_a_frozen_agent_is_saved(tmp_path):
    options = {"n_envs": 2, "n_steps": 6, "batch_size": 12, "br_n_epochs": 1}
    model = build(**options, frozen={"agent_1": recurrent_teacher()}).learn(12)
    model.save(tmp_path / "half")
    resumed = MATRL.load(tmp_path / "half", env="checkers_v0", device="cpu")
    resumed.learn(0, reset_num_timesteps=False)  # takes up the state
    for ours, theirs in zip(resumed.team.frozen["agent_1"].state, model.team.frozen["agent_1"].state, strict=True):
        assert np.abs(theirs).max() > 0
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.e2e
@pytest.mark.parametrize("vec_env", ["dummy", "subproc"])
def test_normalised_hoppers_resume_in_the_middle_of_a_rollout(tmp_path, vec_env):
    pytest.importorskip("gymnasium_robotics")
    resumed, whole = resumed_and_whole(tmp_path / "half", 18, env="hopper_3x1", vec_env=vec_env, **NORMALISED)
    assert_same_carried(resumed, whole)
    for one in (resumed, whole):
        one.env.close()


@pytest.mark.e2e
def test_another_process_resumes_bit_for_bit(tmp_path):
    pytest.importorskip("gymnasium_robotics")
    options = {"env": "hopper_3x1", "n_envs": 2, "n_steps": 6, "batch_size": 12, "br_n_epochs": 1} | NORMALISED
    whole = build(**options).learn(36)
    build(**options).learn(36, callback=SaveAfter(18, tmp_path / "half"))
    code = (
        "from sb3_matrl import MATRL\n"
        f"model = MATRL.load({str(tmp_path / 'half')!r}, env='hopper_3x1', device='cpu')\n"
        "model.learn(36 - model.num_timesteps, reset_num_timesteps=False)\n"
        f"model.save({str(tmp_path / 'whole')!r})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    resumed = MATRL.load(tmp_path / "whole", env="hopper_3x1", device="cpu")
    ours, theirs = flat(resumed.get_parameters()), flat(whole.get_parameters())
    assert all(th.equal(a, b) if isinstance(a, th.Tensor) else a == b for a, b in zip(ours, theirs, strict=True))
    for name, normalizer in whole.team.normalizers.items():
        mine, reference = resumed.team.normalizers[name].state(), normalizer.state()
        np.testing.assert_array_equal(mine["observations"][0]["mean"], reference["observations"][0]["mean"])
        np.testing.assert_array_equal(mine["running"], reference["running"])
