"""``device="auto"`` where there is a GPU, without one."""

from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_matrl import MATRL
from sb3_matrl.common.agents import SpacesVecEnv
from sb3_matrl.common.arguments import LearnerArguments
from sb3_matrl.on_policy import device_choice
from sb3_matrl.on_policy.device_choice import WORK_FOR_A_GPU, choose_device, minibatch_work
from sb3_matrl.on_policy.learners import build_learner
from sb3_matrl.stacked.native_kernel import set_kernel_threads
from tests.stacked.backends import require_kernel
from tests.vec_env import toys

BOX = spaces.Box(-1.0, 1.0, (3, 2), np.float32)
GIVEN = {"policy": "MlpPolicy", "policy_kwargs": None, "learner_class": PPO, "batch_size": 500, "backend": "auto"}


def work(*pairs: tuple[Any, Any], **changes: Any) -> int | None:
    envs = {f"agent_{i}": SpacesVecEnv(1, *pair) for i, pair in enumerate(pairs)}
    return minibatch_work(envs, LearnerArguments({**GIVEN, **changes}, envs))


@pytest.mark.parametrize(
    ("observations", "actions"),
    [(BOX, spaces.Discrete(4)), (spaces.Discrete(5), spaces.Box(-1.0, 1.0, (2,))), (BOX, spaces.MultiDiscrete([2, 3]))],
    ids=["Discrete", "Box", "MultiDiscrete"],
)
@pytest.mark.parametrize("net_arch", [None, [8], {"pi": [8, 4], "vf": [16]}, []], ids=str)
def test_work_counts_the_parameters_of_the_networks(observations: Any, actions: Any, net_arch: Any) -> None:
    settings = None if net_arch is None else {"net_arch": net_arch}
    arguments = {"policy_kwargs": settings, "device": "cpu", "n_steps": 4, "batch_size": 4}
    policy = build_learner(PPO, "MlpPolicy", SpacesVecEnv(1, observations, actions), arguments, None).policy
    counted = sum(one.numel() for name, one in policy.named_parameters() if name != "log_std")
    assert work((observations, actions), policy_kwargs=settings) == 500 * counted


def test_learners_that_are_updated_together_add_up() -> None:
    pair = BOX, spaces.Discrete(4)
    one = work(pair)
    assert one and work(pair, pair) == 2 * one == work(pair, pair, learner_class=MaskablePPO)
    assert work(pair, pair, backend="sb3") == one == work(pair, policy=ActorCriticPolicy)
    assert work(pair, pair, batch_size={"agent_0": 500, "agent_1": 1000}) == 3 * one


@pytest.mark.parametrize(
    "changes",
    [
        {"policy": "CnnPolicy"},
        {"policy": "MlpLstmPolicy", "learner_class": RecurrentPPO},
        {"policy_kwargs": {"features_extractor_class": th.nn.Identity}},
    ],
    ids=str,
)
def test_other_networks_have_no_known_work(changes: dict[str, Any]) -> None:
    assert work((BOX, spaces.Discrete(4)), **changes) is None
    assert work((spaces.Dict({"x": BOX}), spaces.Discrete(4))) is None


@pytest.fixture
def with_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_choice.th.cuda, "is_available", lambda: True)


def chosen(monkeypatch: pytest.MonkeyPatch, amount: int | None, n_learners: int = 2) -> str:
    monkeypatch.setattr(device_choice, "minibatch_work", lambda *_: amount)
    envs = {f"agent_{i}": SpacesVecEnv(1, BOX, BOX) for i in range(n_learners)}
    return choose_device(envs, LearnerArguments(GIVEN, envs)).type


@pytest.mark.skipif(th.cuda.is_available(), reason="the device is there")
def test_a_gpu_that_is_not_there_is_a_warning() -> None:
    """SB3 takes the CPU in silence."""
    with pytest.warns(UserWarning, match="device='cuda': PyTorch finds no GPU, the networks are on the CPU"):
        model = MATRL("MlpPolicy", "switch_v0", n_envs=1, n_steps=4, batch_size=4, device="cuda")
    assert model.device.type == "cpu"


@pytest.mark.usefixtures("with_gpu")
def test_a_gpu_is_for_much_work_per_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    require_kernel("native")
    try:
        set_kernel_threads(1)
        assert chosen(monkeypatch, WORK_FOR_A_GPU) == "cuda" == chosen(monkeypatch, None)
        assert chosen(monkeypatch, WORK_FOR_A_GPU - 1) == "cpu"
        set_kernel_threads(8)
        assert chosen(monkeypatch, 2 * WORK_FOR_A_GPU - 1) == "cpu", "each of the learners has a thread"
        assert chosen(monkeypatch, 2 * WORK_FOR_A_GPU) == "cuda"
        monkeypatch.setattr(device_choice, "native_obstacle", lambda: "it was not compiled")
        assert chosen(monkeypatch, WORK_FOR_A_GPU) == "cuda", "only the native backend has threads"
    finally:
        set_kernel_threads(None)


def test_without_a_gpu_it_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_choice.th.cuda, "is_available", lambda: False)
    assert chosen(monkeypatch, None) == "cpu"


@pytest.mark.usefixtures("with_gpu")
def test_small_learners_stay_on_the_cpu_and_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    model = MATRL("MlpPolicy", toys.truncated, n_envs=2, n_steps=8, batch_size=8, verbose=1)
    assert model.device.type == "cpu"
    assert all(learner.device.type == "cpu" for learner in model.learners.values())
    assert "On the CPU, which is faster for networks" in capsys.readouterr().out
    model.learn(16)
    MATRL("MlpPolicy", toys.truncated, n_envs=2, n_steps=8, batch_size=8, verbose=1, device="cpu")
    assert "On the CPU" not in capsys.readouterr().out
