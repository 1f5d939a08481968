"""Learners that the user changes after the model was made, classes of the user, and what pickle makes of a model."""

from __future__ import annotations

import copy
import gc
import pickle
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback

from sb3_matrl import COMIX, IQL, MADDPG, MATRL, QMIX
from sb3_matrl.common.finite import NonFiniteError
from tests.off_policy.continuous_trio import SETTINGS as CONTINUOUS
from tests.off_policy.continuous_trio import ContinuousTrio

BACKENDS = ("sb3", "torch", "native", "auto")
SMALL: dict[str, Any] = {"n_envs": 4, "n_steps": 8, "batch_size": 16, "n_epochs": 2, "seed": 0, "learning_rate": 0.01}
PLAIN: dict[str, Any] = {"metagame": False, "best_response": False}


def make(env: str = "checkers_v0", **settings: Any) -> MATRL:
    return MATRL("MlpPolicy", env, **{**SMALL, "device": "cpu", "policy_kwargs": {"net_arch": [8]}, **settings})


def numbers(module: th.nn.Module) -> th.Tensor:
    return th.cat([one.detach().flatten() for one in module.parameters()]).clone()


@pytest.mark.parametrize("backend", BACKENDS)
def test_fixed_layers_stay_as_they_are(backend: str) -> None:
    model = make(backend=backend)
    actor = model.agents["agent_0"].policy.mlp_extractor.policy_net  # type: ignore[union-attr]
    actor.requires_grad_(False)
    before, other = numbers(actor), numbers(model.agents["agent_1"].policy)
    model.learn(64)
    assert th.equal(numbers(actor), before) and not th.equal(numbers(model.agents["agent_1"].policy), other)
    actor.requires_grad_(True)
    model.learn(64, reset_num_timesteps=False)
    assert not th.equal(numbers(actor), before)


@pytest.mark.parametrize("backend", ["sb3", "torch"])
@pytest.mark.parametrize("algorithm", [IQL, QMIX])
def test_fixed_q_networks_stay_as_they_are(algorithm: Any, backend: str) -> None:
    settings = {"buffer_size": 500, "learning_starts": 16, "batch_size": 8, "train_freq": 1, "learning_rate": 0.01, "seed": 0}
    model = algorithm("MlpPolicy", "checkers_v0", n_envs=4, backend=backend, device="cpu", **settings)
    fixed, free = (model.parts[agent]["policy"].q_net for agent in ("agent_0", "agent_1"))
    fixed.requires_grad_(False)
    before, other = numbers(fixed), numbers(free)
    model.learn(64)
    assert th.equal(numbers(fixed), before) and not th.equal(numbers(free), other)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("best_response", [False, True])
def test_a_replaced_layer_is_trained(backend: str, best_response: bool) -> None:
    model = make(backend=backend, metagame=False, best_response=best_response, strategies=("current", "predicted"))
    policy: Any = model.agents["agent_0"].policy
    policy.action_net = th.nn.Linear(8, 5)
    policy.optimizer = th.optim.Adam(policy.parameters(), lr=0.01)
    before = numbers(policy.action_net)
    model.learn(64)
    assert not th.equal(numbers(policy.action_net), before)
    assert model.get_parameters().keys() == set(model.possible_agents)
    own = {id(one) for one in policy.parameters()}
    for optimizer in (policy.optimizer, model.coordinator.optimizers["agent_0"]):
        assert {id(one) for one in optimizer.param_groups[0]["params"]} == own


@pytest.mark.parametrize("kind", ["SGD", "AdamW", "decay"])
def test_a_replaced_optimiser_takes_the_steps(kind: str) -> None:
    found = []
    for backend in ("sb3", "auto"):
        model = make(backend=backend, **PLAIN)
        policy: Any = model.agents["agent_0"].policy
        if kind == "SGD":
            policy.optimizer = th.optim.SGD(policy.parameters(), lr=0.1)
        else:
            maker = th.optim.AdamW if kind == "AdamW" else th.optim.Adam
            policy.optimizer = maker(policy.parameters(), lr=0.01, weight_decay=10)
        model.learn(32)
        found.append(numbers(policy))
    assert th.allclose(*found, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_rollout_buffer_of_the_user_is_filled_by_its_own_method(backend: str) -> None:
    class Rich(RolloutBuffer):
        def add(self, obs: Any, action: Any, reward: Any, *rest: Any, **options: Any) -> None:
            super().add(obs, action, reward * 0 + 100, *rest, **options)

    model = make("matrix_game_v0", rollout_buffer_class=Rich, backend=backend, **PLAIN).learn(32)
    assert (model.learners["agent_0"].rollout_buffer.rewards == 100).all()
    assert backend == "sb3" or "its rollout buffer is a Rich" in model.joint.describe()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["clip_range", "clip_range_vf"])
def test_a_clip_range_that_is_no_number_is_noticed(backend: str, name: str) -> None:
    model = make(backend=backend)
    setattr(model.agents["agent_1"], name, lambda left: float("nan"))
    before = numbers(model.policy)
    with pytest.raises(NonFiniteError, match=r"agent 'agent_1', (predicted step|during the update|after the predicted step)"):
        model.learn(32)
    assert th.equal(numbers(model.policy), before)


class ExchangeBuffer(BaseCallback):
    """Exchanges a learner's rollout buffer at the end of the first rollout."""

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        exchange_buffer(self.model, n_steps=8)


def exchange_buffer(model: Any, n_steps: int) -> None:
    learner = model.agents["agent_0"]
    spaces = learner.observation_space, learner.action_space
    learner.rollout_buffer = RolloutBuffer(n_steps, *spaces, device="cpu", n_envs=4)


@pytest.mark.parametrize("backend", ["sb3", "torch"])
def test_a_rollout_buffer_that_was_exchanged_is_noticed(backend: str) -> None:
    model = make(backend=backend)
    model.agents["agent_0"].rollout_buffer = copy.deepcopy(model.agents["agent_0"].rollout_buffer)
    model.agents["agent_0"].n_steps = 3  # which the whole model decides
    model.learn(32)
    expected = "^'agent_0': its rollout buffer was exchanged for a RolloutBuffer .* pass rollout_buffer_class"
    with pytest.raises(ValueError, match=expected):
        model.learn(32, callback=ExchangeBuffer())
    for n_steps in (8, 2):
        exchange_buffer(model, n_steps)
        with pytest.raises(ValueError, match=expected):
            model.learn(32)


def test_a_trial_step_of_the_user_leaves_settings_and_rollout() -> None:
    seen = []

    def bold(learner: Any, batch: Any) -> None:
        learner.ent_coef, learner.gamma, learner.clip_range = 5.0, 0.1, lambda _: 0.9
        seen.append(learner.rollout_buffer.returns.mean())
        learner.rollout_buffer.returns += 100
        batch.returns[:] += 1000
        batch.old_log_prob[:] = 0
        learner.train()

    changed = make(strategies=("current", "predicted", ("bold", bold)))
    kept = dict(vars(changed.learners["agent_0"]))
    changed.learn(32)
    learner = changed.learners["agent_0"]
    assert (learner.ent_coef, learner.gamma, learner.clip_range) == (kept["ent_coef"], kept["gamma"], kept["clip_range"])
    assert len(seen) == 2 and abs(learner.rollout_buffer.returns).max() < 50


class WithMore(MATRL):
    """Passes on what it does not know, as subclasses of SB3's algorithms do."""

    def __init__(self, *args: Any, extra: int = 1, **kwargs: Any) -> None:
        self.extra = extra
        super().__init__(*args, **kwargs)


class QmixWithMore(QMIX):
    def __init__(self, policy, env, extra=3, **kwargs):  # type: ignore[no-untyped-def]
        self.extra = extra
        super().__init__(policy, env, **kwargs)


def test_subclasses_may_pass_on_arguments(tmp_path: Any) -> None:
    model = WithMore("MlpPolicy", "checkers_v0", extra=2, device="cpu", **SMALL).learn(32)
    assert model.extra == 2 and model.arguments["n_steps"] == 8
    model.save(tmp_path / "model")
    assert WithMore.load(tmp_path / "model", device="cpu").extra == 1
    assert QmixWithMore("MlpPolicy", "checkers_v0", device="cpu", batch_size=7).batch_size == 7


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"learner_class": "TRPO"}, TypeError, r"learner_class must be an SB3 on-policy algorithm .* got 'TRPO'"),
        ({"learner_class": None}, TypeError, "got None"),
        ({"learner_kwargs": {"n_steps": 4}}, ValueError, "n_steps is an argument of the whole model: give it there"),
        ({"learner_kwargs": {"_init_setup_model": False}}, ValueError, "_init_setup_model is an argument of the whole model"),
        ({"frozen": {"agent_0": None}}, TypeError, "frozen: 'agent_0': None plays nothing"),
    ],
)
def test_arguments_that_make_no_learner_are_told(settings: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(**settings)


def test_agents_cannot_be_replaced_in_the_mapping() -> None:
    model = make()
    other = make().agents["agent_1"]
    for change in (lambda: model.agents.update(agent_0=other), lambda: model.agents.pop("agent_0"), model.agents.clear):
        with pytest.raises(TypeError, match="cannot be replaced here"):
            change()
    with pytest.raises(TypeError, match="cannot be replaced here"):
        model.agents["agent_0"] = other
    model.agents["agent_0"].set_parameters(other.get_parameters())
    assert th.equal(numbers(model.agents["agent_0"].policy), numbers(other.policy))


def make_off_policy(algorithm: Any, env: Any, policy: Any = "MlpPolicy", **settings: Any) -> Any:
    small = {"n_envs": 2, "buffer_size": 100, "learning_starts": 16, "batch_size": 8, "learning_rate": 0.01, "seed": 0}
    return algorithm(policy, env, device="cpu", policy_kwargs={"net_arch": [8]}, **small, **settings)


@pytest.mark.parametrize(
    "build",
    [
        make,
        partial(make, vec_env="dummy"),
        partial(make, rollout_workers=2, worker_backend="in-turn"),
        partial(make_off_policy, QMIX, "checkers_v0"),
        partial(make_off_policy, MADDPG, "checkers_v0"),
        partial(make_off_policy, COMIX, ContinuousTrio, CONTINUOUS["policy"], cem_samples=8),
    ],
)
def test_copies_and_pickles_of_models_learn_as_the_model(build: Any) -> None:
    model = build().learn(32)
    results = []
    for one in (model, pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        one.set_random_seed(5)
        one.learn(64)
        results.append(numbers(one.policy))
    assert th.equal(results[0], results[1]) and th.equal(results[0], results[2])


@pytest.mark.parametrize("settings", [{"vec_env": "subproc"}, pytest.param({"rollout_workers": 2}, marks=pytest.mark.e2e)])
def test_a_model_with_processes_is_not_copied_and_goes_on(settings: dict[str, Any]) -> None:
    model = make(**settings).learn(32)
    with pytest.raises(
        TypeError, match=r"in (worker )?processes cannot be copied or pickled: save\(\) and load\(\) the model"
    ):
        copy.deepcopy(model)
    gc.collect()
    model.learn(32)
    assert model.env is not None
    model.env.close()


def test_agents_can_be_pickled() -> None:
    model = make().learn(32)
    agent = pickle.loads(pickle.dumps(model.agents["agent_0"]))
    assert np.array_equal(agent.rollout_buffer.rewards, model.agents["agent_0"].rollout_buffer.rewards)  # type: ignore[attr-defined]


def test_set_random_seed_determines_the_minibatches_of_best_responses() -> None:
    results = []
    for seed in (1, 2):
        model = make(seed=seed)
        model.set_parameters(make(seed=0).get_parameters())
        model.set_random_seed(3)
        results.append(numbers(model.learn(64).policy))
    assert th.equal(*results)
