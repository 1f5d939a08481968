"""Large batches pass through the networks in parts, with the results of the whole batch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3.common.policies import ActorCriticCnnPolicy
from torch.distributions import Bernoulli, Categorical, Normal

from sb3_matrl import MATRL
from sb3_matrl.on_policy import batch as batches
from sb3_matrl.on_policy.batch import AgentBatch, agent_batch, chunks, log_prob_and_distribution, take_rows
from sb3_matrl.utils.distributions import join_distributions, rows_of_distribution
from tests.vec_env import toys

VIEW = spaces.Box(-1, 1, (3,), np.float32)
ROW_BYTES = 12
N_STEPS, N_ENVS = 25, 3
SMALL: dict[str, Any] = {"n_envs": N_ENVS, "n_steps": N_STEPS, "batch_size": 75, "n_epochs": 1, "br_n_epochs": 1, "seed": 0}
SMALL["device"] = "cpu"
ACTIONS: dict[str, Any] = {
    "Discrete": spaces.Discrete(4),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiBinary": spaces.MultiBinary(2),
    "Box": spaces.Box(-1, 1, (2,), np.float32),
}


def make(action: Any, policy: str = "MlpPolicy", **kwargs: Any) -> MATRL:
    spaces_of = {"a": VIEW, "b": VIEW}
    ends = {"a": (4, "terminated"), "b": (3, "truncated")}
    return MATRL(policy, lambda: toys.ToyEnv(spaces_of, dict.fromkeys("ab", action), ends), **{**SMALL, **kwargs})


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "WHOLE_BYTES", 5 * ROW_BYTES)
    monkeypatch.setattr(batches, "CHUNK_BYTES", 5 * ROW_BYTES)


LEARNERS = [(learner, kind) for learner in ("PPO", "RecurrentPPO") for kind in ACTIONS]
LEARNERS += [("MaskablePPO", kind) for kind in ACTIONS if kind != "Box"] + [("use_sde", "Box")]


@pytest.mark.cases(expensive=["RecurrentPPO-MultiDiscrete", "RecurrentPPO-MultiBinary", "MaskablePPO-MultiBinary"])
@pytest.mark.parametrize(("learner", "kind"), LEARNERS)
def test_chunks_give_the_results_of_the_whole_batch(learner: str, kind: str, request: pytest.FixtureRequest) -> None:
    options: dict[str, Any] = {"use_sde": True} if learner == "use_sde" else {}
    if learner == "RecurrentPPO":
        options = {"learner_class": RecurrentPPO, "policy": "MlpLstmPolicy", "policy_kwargs": {"lstm_hidden_size": 4}}
    elif learner == "MaskablePPO":
        options = {"learner_class": MaskablePPO}
    model = make(ACTIONS[kind], **options)
    model.learn(0)
    assert model.collect_rollouts(model._init_callback(None))
    one: Any = model.agents["a"]
    batch = agent_batch(one)
    whole = log_prob_and_distribution(one.policy, batch)
    assert chunks(one.policy, batch) == [slice(None)]
    request.getfixturevalue("small_chunks")
    parts = chunks(one.policy, batch)
    sizes = [len(take_rows(batch, rows).mask) for rows in parts]
    assert sizes == ([N_STEPS] * N_ENVS if learner == "RecurrentPPO" else [16, 16, 16, 27])
    assert th.equal(th.cat([take_rows(batch, rows).observations for rows in parts]), batch.observations)
    log_prob, distribution = log_prob_and_distribution(one.policy, batch)
    # A feed-forward policy gives the same bits; an LSTM reads the sequences of a part together.
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if learner == "RecurrentPPO" else {"rtol": 0.0, "atol": 0.0}
    th.testing.assert_close(log_prob, whole[0], **tolerance)
    pairs: Any = [(distribution, whole[1])]
    if isinstance(distribution, list):
        pairs = zip(distribution, whole[1], strict=True)  # type: ignore[arg-type]
    for mine, reference in pairs:
        name = "mean" if kind == "Box" else "logits"
        th.testing.assert_close(getattr(mine, name), getattr(reference, name), **tolerance)


@pytest.mark.parametrize("n_rows", [1, 15, 16, 31, 32, 33, 47, 2048, 2049])
def test_parts_cover_the_batch_and_are_never_small(n_rows: int, small_chunks: None) -> None:
    model = make(ACTIONS["Discrete"])
    batch = replace(agent_batch(model.agents["a"]), mask=th.ones(n_rows, dtype=th.bool))
    parts = chunks(model.agents["a"].policy, batch)
    rows = np.arange(n_rows)
    np.testing.assert_array_equal(np.concatenate([rows[part] for part in parts]), rows)
    assert min(len(rows[part]) for part in parts) >= min(n_rows, 16)


def test_images_in_chunks_give_the_bits_of_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    space = spaces.Box(0, 255, (3, 36, 36), np.uint8)
    policy: Any = ActorCriticCnnPolicy(space, spaces.Discrete(6), lambda _: 3e-4)
    n_rows = 199
    rng = np.random.default_rng(0)
    images = th.as_tensor(rng.integers(0, 256, (n_rows, 3, 36, 36), dtype=np.uint8))
    actions = th.as_tensor(rng.integers(0, 6, n_rows))
    zeros = th.zeros(n_rows)
    batch = AgentBatch(images, actions, zeros, zeros, zeros, zeros, th.ones(n_rows, dtype=th.bool))
    whole, reference = log_prob_and_distribution(policy, batch)
    monkeypatch.setattr(batches, "WHOLE_BYTES", 0)
    monkeypatch.setattr(batches, "CHUNK_BYTES", 64 * 4 * 36 * 36 * 3)
    assert len(chunks(policy, batch)) == 3
    parts, joined = log_prob_and_distribution(policy, batch)
    assert th.equal(parts, whole)
    assert th.equal(joined.logits, reference.logits)  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", ["Discrete", "MultiDiscrete", "Box"])
def test_an_iteration_in_chunks_is_that_of_whole_batches(kind: str, request: pytest.FixtureRequest) -> None:
    def trained() -> list[th.Tensor]:
        model = make(ACTIONS[kind], aggregation="distill", distill_steps=3, best_response=False)
        solution = model.coordinator._solve
        model.coordinator._solve = lambda *given: half(solution(*given))  # type: ignore[method-assign]
        model.learn(N_STEPS * N_ENVS)
        return [value.clone() for learner in model.learners.values() for value in learner.policy.parameters()]

    def half(solution: Any) -> Any:
        solution.rho[:] = solution.sigma[:] = 0.5
        return solution

    whole = trained()
    request.getfixturevalue("small_chunks")
    for mine, reference in zip(trained(), whole, strict=True):
        th.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "distribution",
    [
        Categorical(logits=th.randn(7, 3)),
        Bernoulli(logits=th.randn(7, 2)),
        Normal(th.randn(7, 2), th.rand(7, 2) + 0.1),
        [Categorical(logits=th.randn(7, 2)), Categorical(logits=th.randn(7, 4))],
    ],
)
def test_cut_and_joined_distributions_are_the_same(distribution: Any) -> None:
    parts = [rows_of_distribution(distribution, rows) for rows in (slice(0, 3), slice(3, 4), slice(4, 7))]
    joined = join_distributions(parts)
    pairs = zip(joined, distribution, strict=True) if isinstance(distribution, list) else [(joined, distribution)]
    for mine, reference in pairs:  # to the last bit
        names = ("loc", "scale") if isinstance(reference, Normal) else ("logits", "probs")
        assert all(th.equal(getattr(mine, name), getattr(reference, name)) for name in names)
    assert rows_of_distribution(distribution, slice(None)) is distribution
