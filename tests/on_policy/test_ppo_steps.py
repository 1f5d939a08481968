"""The steps of a single learner on a GPU, beside SB3's own update; see :mod:`tests.host_syncs` for the device."""

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import TRPO, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.logger import Logger

from sb3_matrl.common.agents import SpacesVecEnv
from sb3_matrl.on_policy import joint_updates
from sb3_matrl.on_policy.buffers import install_masked_buffer, is_maskable
from sb3_matrl.on_policy.joint_updates import JointUpdates
from sb3_matrl.on_policy.learners import build_learner
from sb3_matrl.on_policy.ppo_steps import can_read_once, ppo_steps
from tests.host_syncs import META, on_meta

BOX = spaces.Box(-1, 1, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (1, 36, 36), np.uint8)
DISCRETE, CONTINUOUS = spaces.Discrete(4), spaces.Box(-1, 1, (2,), np.float32)
N_STEPS, N_ENVS = 6, 3
CASES = {
    "PPO": (PPO, "MlpPolicy", BOX, DISCRETE, {}),
    "all rows at once": (PPO, "MlpPolicy", BOX, DISCRETE, {"batch_size": 18, "normalize_advantage": False}),
    "a last minibatch of one row": (PPO, "MlpPolicy", BOX, DISCRETE, {"batch_size": 17}),
    "values clipped": (PPO, "MlpPolicy", BOX, CONTINUOUS, {"clip_range_vf": 0.1, "max_grad_norm": 0.01}),
    "no entropy in closed form": (PPO, "MlpPolicy", BOX, CONTINUOUS, {"use_sde": True}),
    "images": (PPO, "CnnPolicy", IMAGE, DISCRETE, {}),
    "masks": (MaskablePPO, "MlpPolicy", BOX, DISCRETE, {}),
    "RMSprop": (PPO, "MlpPolicy", BOX, DISCRETE, {"policy_kwargs": {"optimizer_class": th.optim.RMSprop}}),
}


def learner(case, n_alive=N_STEPS * N_ENVS, **settings):
    learner_class, policy, observations, actions, arguments = CASES[case]
    env = SpacesVecEnv(N_ENVS, observations, actions)
    common = {"n_steps": N_STEPS, "batch_size": 5, "n_epochs": 3, "learning_rate": 1e-2, "clip_range": 0.2, "ent_coef": 0.03}
    built = build_learner(
        learner_class, policy, env, {**common, "device": "cpu", "seed": 3, "gamma": 0.9, **arguments, **settings}, None
    )
    install_masked_buffer(built)
    rng = np.random.default_rng(0)
    for _ in range(N_STEPS):
        masks = {"action_masks": np.eye(4)[rng.integers(4, size=N_ENVS)] + (rng.random((N_ENVS, 4)) < 0.5) > 0}
        built.rollout_buffer.add(
            rng.integers(256, size=(N_ENVS, *IMAGE.shape)) if observations is IMAGE else rng.normal(size=(N_ENVS, 3)),
            rng.integers(4, size=(N_ENVS, 1)) if actions is DISCRETE else rng.normal(size=(N_ENVS, 2)),
            rng.normal(size=N_ENVS),
            rng.random(N_ENVS) < 0.3,
            th.tensor(rng.normal(size=N_ENVS)),
            th.tensor(rng.normal(size=N_ENVS) - 1.5),
            **(masks if is_maskable(built.rollout_buffer) else {}),
        )
    built.rollout_buffer.compute_returns_and_advantage(th.tensor(rng.normal(size=N_ENVS)), np.zeros(N_ENVS))
    built.rollout_buffer.mask = (rng.permutation(N_STEPS * N_ENVS) < n_alive).reshape(N_STEPS, N_ENVS)
    built.set_logger(Logger(folder=None, output_formats=[]))
    return built


@pytest.mark.parametrize("n_alive", [18, 11])
@pytest.mark.parametrize("case", CASES)
def test_parameters_and_logged_numbers_are_those_of_sb3(case, n_alive):
    theirs, ours = learner(case, n_alive), learner(case, n_alive)
    np.random.seed(5)
    theirs.train()
    drawn = np.random.get_state()[2]
    np.random.seed(5)
    record = ppo_steps(ours)
    joint_updates._log_training(ours, record)
    assert np.random.get_state()[2] == drawn and ours._n_updates == theirs._n_updates == 3
    mine, reference = ours.policy.state_dict(), theirs.policy.state_dict()
    assert all(th.equal(mine[name], value) for name, value in reference.items())
    states = [one.policy.optimizer.state_dict()["state"] for one in (ours, theirs)]
    assert all(th.equal(states[0][i][name], value) for i, of in states[1].items() for name, value in of.items())
    logged, expected = ours.logger.name_to_value, theirs.logger.name_to_value
    assert set(logged) == set(expected)
    for name, value in expected.items():
        assert logged[name] == pytest.approx(value, rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize("case", ["PPO", "values clipped", "images", "masks"])
def test_steps_wait_for_nothing(case, monkeypatch):
    built = learner(case)
    built.policy = on_meta(built.policy)
    built.device = built.rollout_buffer.device = META
    steps = []
    step = built.policy.optimizer.step
    monkeypatch.setattr(built.policy.optimizer, "step", lambda: steps.append(step()))
    with pytest.raises(NotImplementedError, match="meta"):  # the losses are read at the end
        ppo_steps(built)
    assert len(steps) == 3 * 4
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        built.train()
    assert len(steps) == 3 * 4, "SB3's own update waits before its first step"


@pytest.mark.parametrize(("normalize", "n_minibatches"), [(True, 1), (False, 2)])
def test_maskable_ppo_leaves_out_one_row_of_which_it_would_take_the_deviation(normalize, n_minibatches):
    built = learner("masks", batch_size=17, normalize_advantage=normalize)
    assert len(list(built.rollout_buffer.get(17))) == n_minibatches
    built.train()
    assert all(value.isfinite().all() for value in built.policy.parameters())


def test_a2c_waits_after_its_step(monkeypatch):
    """Its own update reads nothing before; the checks of PyTorch's distributions would."""
    monkeypatch.setitem(CASES, "A2C", (A2C, "MlpPolicy", BOX, DISCRETE, {}))
    for backend, taken in (("auto", 1), ("sb3", 0)):
        built = learner("A2C")
        joint, steps = JointUpdates({"one": built}, backend), []
        built.policy = on_meta(built.policy)
        built.device = built.rollout_buffer.device = META
        step = built.policy.optimizer.step
        monkeypatch.setattr(built.policy.optimizer, "step", lambda step=step, steps=steps: steps.append(step()))
        with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
            joint.train({})
        assert len(steps) == taken


def test_which_learners_are_updated_like_this(monkeypatch):
    class Own(PPO):
        def train(self):
            super().train()

    env = SpacesVecEnv(N_ENVS, BOX, DISCRETE)
    kinds = [PPO, MaskablePPO, Own, A2C, TRPO]
    found = [can_read_once(build_learner(kind, "MlpPolicy", env, {"device": "cpu"}, None)) for kind in kinds]
    assert found == [True, True, False, False, False]
    assert not can_read_once(build_learner(RecurrentPPO, "MlpLstmPolicy", env, {"device": "cpu"}, None))
    assert not can_read_once(build_learner(PPO, "MlpPolicy", env, {"device": "cpu", "target_kl": 0.1}, None))

    replaced = build_learner(PPO, "MlpPolicy", env, {"device": "cpu"}, None)
    replaced.train = lambda: None
    assert not can_read_once(replaced)

    used = []
    monkeypatch.setattr(PPO, "train", lambda self: used.append("SB3"))
    monkeypatch.setattr(joint_updates, "ppo_steps", lambda one: used.append("ours"))
    monkeypatch.setattr(joint_updates, "_log_training", lambda one, record: None)
    one = learner("PPO")
    for device, backend in (("cpu", "auto"), ("meta", "sb3"), ("meta", "auto")):
        joint = JointUpdates({"one": one}, backend)
        one.device = th.device(device)
        joint.train({})
    assert used == ["SB3", "SB3", "ours"]
