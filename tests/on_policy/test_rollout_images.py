"""Rollouts whose images are in planes, against those with whole images."""

import copy
import pickle

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, PPO

from sb3_matrl import MATRL
from sb3_matrl.distributed.columns import buffer_arrays, fill_buffer
from sb3_matrl.on_policy import joint_updates
from sb3_matrl.on_policy.rollout_images import RolloutImages
from sb3_matrl.utils.image_planes import ImageRows, PlaneStore
from tests.vec_env.screens import SIZE, Screens

SMALL = {"n_envs": 2, "n_steps": 8, "batch_size": 8, "n_epochs": 2, "br_n_epochs": 1, "seed": 0, "device": "cpu"}


class InDict(Screens):
    """The images in a Dict, beside a number; dead agents in between."""

    def __init__(self):
        super().__init__()
        numbers = spaces.Box(-1, 1, (2,), np.float32)
        self._observation_spaces = {
            agent: spaces.Dict({"image": image, "x": numbers}) for agent, image in self._observation_spaces.items()
        }
        self.ends = {"left": (2, "terminated"), "right": (5, "truncated")}

    def _seen(self):
        return {agent: {"image": image, "x": np.full(2, 0.5, np.float32)} for agent, image in super()._seen().items()}

    def step(self, actions):
        acted = list(actions)
        seen, *rest = super().step(actions)
        return {agent: seen[agent] for agent in acted}, *rest


CASES = {
    "PPO": (Screens, {"policy": "CnnPolicy", "learner_class": PPO}),
    "Dict": (InDict, {"policy": "MultiInputPolicy", "learner_class": PPO}),
    "A2C": (Screens, {"policy": "CnnPolicy", "learner_class": A2C}),
    "MaskablePPO": (Screens, {"policy": "CnnPolicy", "learner_class": MaskablePPO}),
    "RecurrentPPO": (Screens, {"policy": "CnnLstmPolicy", "learner_class": RecurrentPPO}),
}


def trained(case, iterations=2):
    world, arguments = CASES[case]
    small = {key: value for key, value in SMALL.items() if key != "n_epochs" or case != "A2C"}
    small["policy_kwargs"] = {"features_extractor_kwargs": {"features_dim": 8}} if case != "Dict" else {}
    model = MATRL(env=world, **small, **arguments)
    return model.learn(iterations * 16, log_interval=None)


@pytest.mark.cases(e2e=["Dict"], expensive=["PPO", "A2C", "MaskablePPO", "RecurrentPPO"])
@pytest.mark.filterwarnings("ignore:the learners of")
@pytest.mark.parametrize("case", CASES)
def test_training_is_the_same_bit_for_bit(case, monkeypatch):
    model = trained(case)
    stores = [learner.rollout_buffer.planes for learner in model.learners.values()]
    assert stores[0] is stores[1]
    (store,) = stores[0].values()
    # A new frame per step, the frames before the first one, and two tags; the copies show the same.
    assert 8 < store.n_planes <= 8 + 2 + 2 + (4 if case == "Dict" else 0)
    monkeypatch.setattr(joint_updates, "share_images", lambda learners: None)
    other = trained(case)
    for name, learner in model.learners.items():
        assert other.learners[name].rollout_buffer.planes is None
        parameters = zip(learner.policy.parameters(), other.learners[name].policy.parameters(), strict=True)
        assert all(th.equal(one, two) for one, two in parameters)


@pytest.mark.e2e
def test_rollouts_of_workers_are_put_together():
    model = trained("PPO", iterations=1)
    learner = next(iter(model.learners.values()))
    buffer = learner.rollout_buffer
    buffer.reset()
    rng = np.random.default_rng(0)
    shown = rng.integers(256, size=(8, 2, 3, SIZE, SIZE), dtype=np.uint8)
    buffer.observations[...] = shown
    parts = pickle.loads(pickle.dumps(buffer_arrays(buffer)))
    assert isinstance(parts["observations"], ImageRows)
    whole = copy.deepcopy(buffer)
    fill_buffer(whole, [parts], [np.array([1, 0])])
    assert np.array_equal(whole.observations, shown[:, ::-1])
    assert np.array_equal(buffer.observations, shown)


@pytest.mark.parametrize("channels_last", [False, True])
def test_copies_on_a_device_have_the_images_of_the_planes(channels_last):
    shape = (40, 36, 2) if channels_last else (2, 40, 36)
    images = ImageRows((6,), shape, channels_last, PlaneStore(40, 36))
    rng = np.random.default_rng(0)
    images[1:5] = rng.integers(256, size=(4, *shape), dtype=np.uint8)
    images[3] = images[1]
    copied = RolloutImages(images, th.device("cpu"), copied=True)
    assert len(copied._planes) == 7  # six different ones, and zeros
    for rows in (slice(None), slice(2, 4), th.tensor([5, 1, 1])):
        assert np.array_equal(copied[rows].numpy(), images[rows.numpy() if isinstance(rows, th.Tensor) else rows])
        assert th.equal(copied[rows], RolloutImages(images, th.device("cpu"))[rows])
