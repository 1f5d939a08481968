"""What holds whatever code takes the gradient steps: exact resume, ablations, files, fallbacks, and one seed, one result."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback

from sb3_matrl import MATRL
from sb3_matrl.files.model_files import read_model
from sb3_matrl.on_policy.batch import agent_batch
from sb3_matrl.on_policy.joint_updates import BACKENDS
from sb3_matrl.stacked import native_kernel
from sb3_matrl.stacked.native_kernel import native_obstacle
from tests.matrl.test_exact_resume import SaveAfter, assert_same
from tests.stacked.backends import require_kernel
from tests.vec_env.toys import ToyEnv, early_death

SMALL: dict[str, Any] = {
    "n_envs": 3,
    "n_steps": 20,
    "batch_size": 16,
    "n_epochs": 2,
    "br_n_epochs": 2,
    "seed": 0,
    "device": "cpu",
}
SMALL |= {"policy_kwargs": {"net_arch": [8]}}


@pytest.fixture(params=[name for name in BACKENDS if name != "auto"])
def backend(request: pytest.FixtureRequest) -> str:
    require_kernel(request.param)
    return str(request.param)


def build(env: Any = "checkers_v0", **arguments: Any) -> MATRL:
    return MATRL("MlpPolicy", env, **{**SMALL, **arguments})


def parameters(model: MATRL) -> list[th.Tensor]:
    return [value.clone() for learner in model.learners.values() for value in learner.policy.parameters()]


WORLDS: dict[str, dict[str, Any]] = {
    "checkers": {"env": "checkers_v0"},
    "agents that leave": {"env": "switch_v0", "env_kwargs": {"n_agents": 3}},
    "masks": {"env": "checkers_v0", "learner_class": MaskablePPO},
    "normalised": {"env": "checkers_v0", "norm_obs": True, "norm_reward": True},
    "shared": {"env": "switch_v0", "env_kwargs": {"n_agents": 4}, "share": {"left": ["agent_0", "agent_1"]}},
    "mixed": {
        "env": "switch_v0",
        "env_kwargs": {"n_agents": 3},
        "learner_class": {"agent_0": PPO, "agent_1": A2C, "agent_2": PPO},
    },
}


@pytest.mark.cases(quick=["native-normalised"], e2e=["torch-mixed", "native-agents that leave"], rest="expensive")
@pytest.mark.parametrize("world", WORLDS)
def test_a_resumed_training_is_the_one_that_never_stopped(world: str, backend: str, tmp_path: Path) -> None:
    arguments = {**WORLDS[world], "backend": backend}
    whole = build(**arguments).learn(240)
    stopped = build(**arguments).learn(240, callback=SaveAfter(150, tmp_path / "half"))
    th.manual_seed(99)
    np.random.seed(99)
    kwargs = {"env": arguments["env"], "device": "cpu"}
    resumed = MATRL.load(tmp_path / "half", **kwargs)
    assert resumed.arguments["backend"] == backend
    resumed.learn(240 - stopped.resumable_timesteps, reset_num_timesteps=False)
    assert_same(resumed, whole)


@pytest.mark.cases(e2e=["sb3"])
def test_matrl_takes_the_steps_of_il_la_where_rho_is_zero(backend: str) -> None:
    matrl, il_la = (build(learning_rate=0.001, metagame=flag, backend=backend).learn(240) for flag in (True, False))
    assert matrl.report is not None
    np.testing.assert_array_equal(matrl.report.rho, 0.0)
    assert all(map(th.equal, parameters(matrl), parameters(il_la)))


@pytest.mark.cases(expensive=["sb3"])
def test_switches_off_are_independent_learners(backend: str) -> None:
    both_off = build(metagame=False, best_response=False, backend=backend).learn(120)
    assert both_off.report is not None and both_off.report.best_response == {}
    no_steps = build(metagame=False, br_n_epochs=1, br_learning_rate=0.0, backend=backend).learn(120)
    for ours, theirs in zip(parameters(both_off), parameters(no_steps), strict=True):
        assert th.equal(ours, theirs)


@pytest.mark.expensive
def test_another_process_trains_the_same(backend: str) -> None:
    code = (
        "import hashlib, torch; from tests.matrl.test_backends import build, parameters; torch.set_num_threads(1);"
        f"model = build(backend={backend!r}).learn(120);"
        "print(hashlib.sha256(b''.join(p.detach().numpy().tobytes() for p in parameters(model))).hexdigest())"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout and len(runs[0].stdout.strip()) == 64


def test_saved_agents_are_sb3_agents(backend: str, tmp_path: Path) -> None:
    model = build(backend=backend).learn(120)
    model.agents["agent_0"].save(tmp_path / "agent")
    alone = PPO.load(tmp_path / "agent", device="cpu")
    for ours, theirs in zip(model.agents["agent_0"].policy.parameters(), alone.policy.parameters(), strict=True):
        assert th.equal(ours, theirs)
    own, loaded = model.agents["agent_0"].policy.optimizer.state_dict(), alone.policy.optimizer.state_dict()
    assert all(th.equal(own["state"][key]["exp_avg"], state["exp_avg"]) for key, state in loaded["state"].items())
    assert float(loaded["state"][0]["step"]) > 0


def test_callbacks_see_every_step(backend: str) -> None:
    class Steps(BaseCallback):
        seen = 0

        def _on_step(self) -> bool:
            self.seen += 1
            return {"actions", "rewards", "new_obs", "dones", "infos"} <= self.locals.keys()

    callback = Steps()
    build(backend=backend).learn(120, callback=callback)
    assert callback.seen == 40


def test_auto_stacks_two_alike_and_leaves_one_to_sb3() -> None:
    fast = "torch" if native_obstacle() else "native"
    assert [one.backend for one in build().coordinator.joint.stacks] == [fast]
    single = build(lambda: ToyEnv({"a": box(3)}, {"a": spaces.Discrete(2)}, {"a": (4, "truncated")}))
    assert single.coordinator.joint.stacks == []
    assert "no other learner is like it" in single.coordinator.joint.describe()


def box(size: int) -> spaces.Box:
    return spaces.Box(-1, 1, (size,), np.float32)


@pytest.mark.cases(quick=["arguments0-A2C is not stacked", "arguments4-optimiser is SGD"])
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"learner_class": A2C, "n_epochs": 10}, "A2C is not stacked"),
        ({"policy_kwargs": {"net_arch": [8], "activation_fn": th.nn.ELU}}, "activation function is ELU"),
        ({"policy_kwargs": {"net_arch": {"pi": [8], "vf": [8, 8]}}}, "different numbers of layers"),
        ({"policy_kwargs": {"optimizer_kwargs": {"weight_decay": 0.1}}}, "optimiser has weight_decay"),
        ({"policy_kwargs": {"optimizer_class": th.optim.SGD}}, "optimiser is SGD"),
    ],
)
def test_other_learners_are_updated_by_sb3_and_said(arguments: dict[str, Any], reason: str) -> None:
    reference = build(**arguments, backend="sb3").learn(60)
    model = build(**arguments).learn(60)
    assert model.coordinator.joint.stacks == [] and reason in model.coordinator.joint.describe()
    assert all(map(th.equal, parameters(model), parameters(reference)))


def test_state_dependent_exploration_is_left_to_sb3() -> None:
    model = build(early_death, use_sde=True)
    assert "use_sde" in model.coordinator.joint.describe()
    model.learn(60)


def test_extractors_that_are_not_shared_and_only_flatten_change_nothing(backend: str) -> None:
    shared, own = (
        build(backend=backend, policy_kwargs={"net_arch": [8], "share_features_extractor": flag}).learn(60)
        for flag in (True, False)
    )
    assert len(own.coordinator.joint.stacks) == len(shared.coordinator.joint.stacks)
    assert all(map(th.equal, parameters(own), parameters(shared)))


def test_learners_with_many_more_features_form_a_stack_of_their_own() -> None:
    sizes = {"a": 3, "b": 40, "c": 5, "d": 50}
    worlds = ({name: box(size) for name, size in sizes.items()}, dict.fromkeys(sizes, spaces.Discrete(2)))
    model = build(lambda: ToyEnv(*worlds, dict.fromkeys(sizes, (4, "terminated"))))
    assert [one.names for one in model.coordinator.joint.stacks] == [("a", "c"), ("b", "d")]
    model.learn(60)


@pytest.mark.e2e
def test_stacks_have_at_most_sixteen_learners() -> None:
    names = [f"agent_{i}" for i in range(20)]
    worlds = (dict.fromkeys(names, box(2)), dict.fromkeys(names, spaces.Discrete(2)), dict.fromkeys(names, (4, "terminated")))
    model = build(lambda: ToyEnv(*worlds), n_steps=8, n_epochs=1)
    assert [len(one.names) for one in model.coordinator.joint.stacks] == [10, 10]
    model.learn(24)


def test_outputs_kept_from_the_rollout_are_those_of_the_policies(backend: str) -> None:
    model = build(backend=backend)
    model.learn(0)
    assert model.collect_rollouts(model._init_callback(None))
    joint = model.coordinator.joint
    batches = {name: agent_batch(learner) for name, learner in model.learners.items()}
    kept = joint.log_probs_and_distributions(batches)
    for one in joint.stacks:
        assert one._kept(one.stack.parameters(), [batches[name] for name in one.names]) is not None
        one._rollout = None
    for name, (log_prob, distribution) in joint.log_probs_and_distributions(batches).items():
        th.testing.assert_close(kept[name][0], log_prob, rtol=1e-5, atol=1e-6)
        th.testing.assert_close(kept[name][1].logits, distribution.logits, rtol=1e-5, atol=1e-6)  # type: ignore[union-attr]


def test_outputs_of_another_policy_or_rollout_are_not_used() -> None:
    model = build(backend="torch")
    model.learn(0)
    assert model.collect_rollouts(model._init_callback(None))
    (one,) = model.coordinator.joint.stacks
    batches = [agent_batch(learner) for learner in model.learners.values()]
    assert one._kept(one.stack.parameters(), batches) is not None
    assert one._kept(one.stack.parameters() + 1e-3, batches) is None
    batches[1].old_log_prob[3] += 1e-3
    assert one._kept(one.stack.parameters(), batches) is None


def test_hooks_on_gradients_see_them(backend: str) -> None:
    model, seen = build(backend=backend), []
    next(model.agents["agent_1"].policy.parameters()).register_hook(lambda gradient: seen.append(gradient.shape))
    model.learn(60)
    assert seen


def test_the_backend_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    build(verbose=1, backend="torch").learn(60)
    assert capsys.readouterr().out.count("Using backend 'torch': agent_0, agent_1 together by 'torch'") == 1


def test_a_missing_kernel_is_told(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native_kernel, "native_obstacle", lambda: "it was not compiled: install a C++ compiler")
    build(verbose=1, backend="auto")
    expected = "together by 'torch' (the native kernel is not available: it was not compiled: install a C++ compiler)"
    assert expected in capsys.readouterr().out


def test_an_unknown_backend_is_refused() -> None:
    with pytest.raises(ValueError, match=r"backend 'tourch' is unknown.*torch"):
        build(backend="tourch")


def test_files_of_earlier_versions_are_continued_by_sb3() -> None:
    path = Path(__file__).parent.parent / "data" / "model_format_2.zip"
    assert "backend" not in read_model(path).arguments
    assert MATRL.load(path, env="matrix_game_v0", device="cpu").arguments["backend"] == "sb3"


@pytest.mark.e2e
def test_an_action_space_that_is_a_vector_of_choices(backend: str) -> None:
    action = gym.spaces.MultiDiscrete([3, 2])
    worlds = ({"a": box(2), "b": box(3)}, dict.fromkeys("ab", action), dict.fromkeys("ab", (4, "truncated")))
    model = build(lambda: ToyEnv(*worlds), backend=backend).learn(120)
    actions, _ = model.predict({"a": np.zeros(2, np.float32), "b": np.zeros(3, np.float32)})
    assert all(action.contains(value) for value in actions.values())
