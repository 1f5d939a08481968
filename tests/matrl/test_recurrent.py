"""Recurrent learners against a step-by-step evaluation of their policies."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.type_aliases import RNNStates

from sb3_matrl import MATRL
from sb3_matrl.common.agents import Position, SpacesVecEnv
from sb3_matrl.matrl.best_response import BestResponse, best_respond
from sb3_matrl.metagame import MetaGame, Solution
from sb3_matrl.on_policy.batch import AgentBatch, agent_batch, evaluate, minibatches, take_rows
from sb3_matrl.on_policy.buffers import install_masked_buffer
from sb3_matrl.on_policy.learners import build_learner
from sb3_matrl.on_policy.rollout import RolloutCollector
from sb3_matrl.vec_env import make_joint_vec_env
from tests.matrl.small_models import best_response_config
from tests.on_policy.test_rollout import GAMMA, LAMBDA, Recorder, beginning, go_on, late_entry, solo
from tests.vec_env import toys

N_STEPS, N_ENVS = 7, 3
LSTM = {"net_arch": [8], "lstm_hidden_size": 8}
WORLDS = {"truncated": toys.truncated, "early_death": toys.early_death, "late_entry": late_entry}


def build(env: Any, n_steps: int = N_STEPS, **policy_kwargs: Any) -> dict[str, Any]:
    """One RecurrentPPO per agent; the same networks at every call."""
    th.manual_seed(0)
    learners = {}
    arguments = {"n_steps": n_steps, "batch_size": n_steps, "gamma": GAMMA, "gae_lambda": LAMBDA, "device": "cpu"}
    for agent in env.agents:
        own = SpacesVecEnv(env.num_envs, env.observation_spaces[agent], env.action_spaces[agent])
        own_arguments = arguments | {"policy_kwargs": LSTM | policy_kwargs}
        learners[agent] = build_learner(RecurrentPPO, "MlpLstmPolicy", own, own_arguments, None)
        install_masked_buffer(learners[agent])
    return learners


def collected(world: str = "early_death", n_rollouts: int = 1) -> dict[str, Any]:
    """Learners after some rollouts, each of which begins where the last one ended."""
    env = make_joint_vec_env(WORLDS[world], N_ENVS, seed=1)
    learners = build(env)
    position = beginning(env)
    for _ in range(n_rollouts):
        position, _ = RolloutCollector(env, solo(learners)).collect(position, N_STEPS, go_on)
    return learners


def stepwise(policy: Any, batch: AgentBatch) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
    """Values, log-densities and entropies (B,), one row after the other, with states that are zero where an episode starts."""
    assert batch.columns is not None
    values, log_probs, entropies = [], [], []
    for first in range(0, len(batch.mask), N_STEPS):
        column = first // N_STEPS
        pi, vf = (tuple(state[:, column : column + 1] for state in pair) for pair in batch.columns.states)
        for row in range(first, first + N_STEPS):
            if batch.columns.begins[row]:
                pi, vf = (tuple(th.zeros_like(state) for state in pair) for pair in (pi, vf))
            observation, never = batch.observations[row : row + 1], th.zeros(1)  # type: ignore[index]
            distribution, pi = policy.get_distribution(observation, pi, never)
            log_probs.append(distribution.log_prob(batch.actions[row : row + 1]))
            entropies.append(distribution.entropy())
            values.append(policy.predict_values(observation, vf, never).flatten())
            latent = policy.extract_features(observation)
            latent = latent[1] if isinstance(latent, tuple) else latent
            _, vf = policy.lstm_critic(latent[None], vf)
    return th.cat(values), th.cat(log_probs), th.cat(entropies)


# ---------------------------------------------------------------- collection


@pytest.mark.cases(expensive=["1-truncated", "1-early_death", "2-late_entry"])
@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("n_rollouts", [1, 2])
def test_the_whole_rollout_reproduces_what_collection_stored(world: str, n_rollouts: int) -> None:
    for learner in collected(world, n_rollouts).values():
        batch = agent_batch(learner)
        assert batch.columns is not None
        starts = batch.columns.begins.reshape(N_ENVS, N_STEPS)
        assert starts[:, 1:].any(), "episodes begin in the middle"
        carried = th.cat([state.flatten() for pair in batch.columns.states for state in pair]).any()
        assert carried == (n_rollouts > 1), "the second rollout begins with the states of the first"
        with th.no_grad():
            results = [evaluate(learner.policy, batch), stepwise(learner.policy, batch)]
        for values, log_prob, _ in results:
            th.testing.assert_close(log_prob, batch.old_log_prob, rtol=1e-5, atol=1e-6)
            th.testing.assert_close(values[batch.mask], batch.old_values[batch.mask], rtol=1e-5, atol=1e-6)


def test_truncation_is_bootstrapped_with_the_state_at_the_end_of_the_episode() -> None:
    env = make_joint_vec_env(toys.truncated, 1, seed=1)
    learners, recorder = build(env), Recorder(env)
    start = beginning(env)
    RolloutCollector(env, solo(learners)).collect(start, N_STEPS, recorder)
    for column, (agent, learner) in enumerate(learners.items()):
        cut = [t for t, step in enumerate(recorder.steps) if step.truncated[0, column]]
        assert cut
        t, policy = cut[0], learner.policy
        seen = [start.observations[agent], *(step.observations[agent] for step in recorder.steps[:t])]
        state = tuple(th.zeros(1, 1, 8) for _ in range(2))
        for observation in seen:  # the first episode's
            _, state = policy.lstm_critic(th.tensor(observation, dtype=th.float32)[None], state)
        final = th.tensor(recorder.steps[t].final_observations[agent], dtype=th.float32)
        value = policy.predict_values(final, state, th.zeros(1)).item()
        expected = recorder.steps[t].rewards[0, column] + GAMMA * value
        assert learner.rollout_buffer.rewards[t, 0] == pytest.approx(expected, rel=1e-5)


# ---------------------------------------------------------------- sequences


def test_rows_are_taken_with_the_states_of_their_sequences() -> None:
    learner = collected(n_rollouts=2)["a"]
    batch = agent_batch(learner)
    rows = np.concatenate([np.arange(2 * N_STEPS, 3 * N_STEPS), np.arange(N_STEPS)])
    with th.no_grad():
        whole, part = evaluate(learner.policy, batch), evaluate(learner.policy, take_rows(batch, rows))
    for one, other in zip(whole, part, strict=True):
        assert one is not None and other is not None
        th.testing.assert_close(other, one[rows])


@pytest.mark.parametrize(("batch_size", "sizes"), [(1, [1, 1]), (2 * N_STEPS, [2]), (3 * N_STEPS - 1, [2]), (99, [2])])
def test_minibatches_are_whole_sequences(batch_size: int, sizes: list[int]) -> None:
    batch = agent_batch(collected()["a"])
    mask = batch.mask.clone()
    mask[N_STEPS : 2 * N_STEPS] = False  # nobody acted in copy 1
    rng, seen = np.random.default_rng(0), set()
    for _ in range(9):
        parts = list(minibatches(replace(batch, mask=mask), batch_size, rng))
        assert [len(part) // N_STEPS for part in parts] == sizes  # type: ignore[arg-type]
        sequences = np.concatenate(parts).reshape(-1, N_STEPS)
        np.testing.assert_array_equal(sequences - sequences[:, :1], np.tile(np.arange(N_STEPS), (2, 1)))
        assert sorted(sequences[:, 0]) == [0, 2 * N_STEPS]
        seen.add(tuple(sequences[:, 0]))
    assert len(seen) == 2, "in both orders"


def test_decisions_far_apart_are_one_minibatch_for_the_learner() -> None:
    # Two rows in all, in different minibatches of which neither has a standard deviation.
    learner = collected()["a"]
    buffer = learner.rollout_buffer
    buffer.mask[:] = False
    buffer.mask[1, 0] = buffer.mask[1, 2] = True
    assert buffer.can_train
    wanted = sorted(buffer.returns[1, [0, 2]])
    for seed in range(5):
        np.random.seed(seed)
        samples = list(buffer.get(2))
        assert len(samples) == 1
        assert sorted(samples[0].returns[samples[0].mask > 0.5].tolist()) == pytest.approx(wanted)


# ---------------------------------------------------------------- losses


def model_of(env: Any = toys.early_death, **arguments: Any) -> MATRL:
    small = {"n_envs": N_ENVS, "n_steps": N_STEPS, "batch_size": 2 * N_STEPS, "n_epochs": 2, "br_n_epochs": 2, "seed": 0}
    small |= {"policy_kwargs": LSTM, "device": "cpu", "learning_rate": 0.01}
    return MATRL("MlpLstmPolicy", env, learner_class=RecurrentPPO, **(small | arguments))


def after_rollout(**arguments: Any) -> MATRL:
    """A model with full buffers, before its second update."""
    model = model_of(**arguments)
    model.learn(N_STEPS * N_ENVS)
    assert model.collect_rollouts(model._init_callback(None))
    return model


@pytest.mark.e2e
@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
def test_rows_of_dead_agents_do_not_influence_anyone() -> None:
    def run(poison: float) -> list[th.Tensor]:
        model = after_rollout(batch_size=N_STEPS)
        assert not all(learner.rollout_buffer.mask.all() for learner in model.agents.values())  # type: ignore[attr-defined]
        for learner in model.agents.values():
            buffer: Any = learner.rollout_buffer
            dead = ~buffer.mask
            for name in ("advantages", "returns", "log_probs", "values", "observations"):
                getattr(buffer, name)[dead] += poison
        model.coordinator.update(model._best_response_configs())
        return [value for learner in model.agents.values() for value in learner.policy.state_dict().values()]

    for clean, poisoned in zip(run(0.0), run(30.0), strict=True):
        th.testing.assert_close(poisoned, clean, rtol=1e-4, atol=1e-6)


def test_one_best_response_step_equals_the_slow_loop() -> None:
    learner = collected(n_rollouts=2)["c"]
    policy, batch = learner.policy, agent_batch(learner)
    assert not batch.mask.all() and isinstance(learner.action_space, spaces.Box)
    with th.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05 * th.randn_like(parameter))
    weights = th.linspace(0.2, 1.8, len(batch.mask))
    slow = copy.deepcopy(policy)
    values, log_prob, entropy = stepwise(slow, batch)
    live = [row for row in range(len(batch.mask)) if batch.mask[row]]
    spread, mean = batch.advantages[live].std(), batch.advantages[live].mean()
    loss = th.zeros(())
    for row in live:
        q, advantage = (log_prob[row] - batch.old_log_prob[row]).exp(), (batch.advantages[row] - mean) / (spread + 1e-8)
        surrogate = th.min(q * advantage, q.clamp(0.9, 1.1) * advantage)
        loss = loss - weights[row] * surrogate - 0.03 * entropy[row] + 0.5 * (values[row] - batch.returns[row]) ** 2
    (loss / len(live)).backward()
    expected = {name: value - 0.1 * value.grad for name, value in slow.named_parameters() if value.grad is not None}
    config = best_response_config(br_learning_rate=0.1, clip_range=0.1, ent_coef=0.03, max_grad_norm=1e9)
    before = {name: value.detach().clone() for name, value in policy.named_parameters()}
    task = BestResponse(policy, th.optim.SGD(policy.parameters(), lr=1.0), batch, weights, config)
    stats = best_respond(task, np.random.default_rng(0))
    assert stats.n_updates == 1
    moved = dict(policy.named_parameters())
    assert any("lstm_actor" in name for name in expected)
    for name, value in expected.items():
        th.testing.assert_close(moved[name].detach(), value.detach(), rtol=1e-4, atol=1e-6)
        assert not th.equal(value, before[name]), name


def test_ratios_of_the_meta_game_equal_a_step_by_step_recomputation() -> None:
    model = after_rollout(br_n_epochs=0)
    prediction = model.coordinator._predict()  # the learners hold the predicted policies now
    for i, (learner, batch) in enumerate(zip(model.learners.values(), prediction.batches, strict=True)):
        with th.no_grad():
            change = stepwise(learner.policy, batch)[1] - batch.old_log_prob
        expected = th.where(batch.mask, change.exp(), 1.0)
        assert (expected - 1).abs().max() > 1e-3
        np.testing.assert_allclose(prediction.ratios[:, i], expected, rtol=1e-4)


# ---------------------------------------------------------------- acting


def test_predict_carries_states_and_forgets_them_where_an_episode_starts() -> None:
    model = model_of().learn(N_STEPS * N_ENVS)
    policy: Any = model.agents["a"].policy
    rng, state, hidden = np.random.default_rng(0), None, RNNStates((th.zeros(1, 2, 8),) * 2, (th.zeros(1, 2, 8),) * 2).pi
    for t in range(6):
        observation, starts = rng.normal(size=(2, 2)), np.array([t == 0, t in (0, 3)])
        actions, state = model.predict({"a": observation}, state, starts, deterministic=True)
        hidden = tuple(h * (1 - th.tensor(starts).float())[None, :, None] for h in hidden)
        with th.no_grad():
            distribution, hidden = policy.get_distribution(th.tensor(observation).float(), hidden, th.zeros(2))
        expected = distribution.get_actions(deterministic=True).clamp(-1, 1)
        np.testing.assert_allclose(actions["a"], expected, rtol=1e-5, atol=1e-6)
        assert state is not None and state["a"][0].shape == (1, 2, 8)


def test_collection_does_not_depend_on_the_length_of_rollouts() -> None:
    def collect(lengths: list[int]) -> list[np.ndarray]:
        env = make_joint_vec_env(toys.early_death, 2, seed=5)
        learners = build(env, n_steps=lengths[0])
        position, pieces = Position(env.reset(), np.ones_like(env.alive)), []
        th.manual_seed(9)
        for length in lengths:
            position, _ = RolloutCollector(env, solo(learners)).collect(position, length, go_on)
            buffer = learners["a"].rollout_buffer
            pieces.append(
                [getattr(buffer, name).copy() for name in ("actions", "values", "hidden_states_pi", "cell_states_vf")]
            )
        return [np.concatenate(arrays) for arrays in zip(*pieces, strict=True)]

    for whole, halves in zip(collect([8]), collect([4, 4]), strict=True):
        np.testing.assert_array_equal(whole, halves)


@pytest.mark.parametrize("backend", ["sb3", "torch"])
def test_vectors_of_binary_choices_can_be_learned(backend: str) -> None:
    worlds = (dict.fromkeys("ab", spaces.Box(-1, 1, (2,))), dict.fromkeys("ab", spaces.MultiBinary(3)))
    model = model_of(lambda: toys.ToyEnv(*worlds, dict.fromkeys("ab", (4, "truncated"))), backend=backend)
    before = [value.clone() for value in model.agents["a"].policy.parameters()]
    model.learn(N_STEPS * N_ENVS)
    assert not all(map(th.equal, before, model.agents["a"].policy.parameters()))


# ---------------------------------------------------------------- on a GPU


def _refuse(gradient: th.Tensor) -> th.Tensor:
    raise RuntimeError("cudnn RNN backward can only be called in training mode")


def test_gradients_in_evaluation_mode_do_without_cudnn(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = th.nn.LSTM.forward

    def as_cudnn(self: th.nn.LSTM, *args: Any, **kwargs: Any) -> Any:
        output, states = forward(self, *args, **kwargs)
        if output.requires_grad and th.backends.cudnn.enabled and not self.training:
            output.register_hook(_refuse)
        return output, states

    def half(game: MetaGame, **_: Any) -> Solution:
        rho = np.full(game.n_agents, 0.5)
        return Solution(rho, game.nash_conv(rho), "half", np.empty((0, game.n_agents)))

    monkeypatch.setattr(th.nn.LSTM, "forward", as_cudnn)
    monkeypatch.setattr("sb3_matrl.matrl.coordinator.solve", half)
    model = model_of(aggregation="distill")
    model.learn(N_STEPS * N_ENVS)
    assert model.report is not None and (model.report.rho == 0.5).all()
    with pytest.raises(RuntimeError, match="cudnn"):
        policy: Any = model.agents["a"].policy
        policy.set_training_mode(False)
        state = th.zeros(1, 1, 8)
        policy.get_distribution(th.zeros(1, 2), (state, state), th.zeros(1))[0].log_prob(th.zeros(1, 1)).sum().backward()
