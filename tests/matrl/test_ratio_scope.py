"""Ratios over steps, windows and episodes: enumeration of all trajectories, and slow loops over rollouts."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3.common.callbacks import BaseCallback

from sb3_matrl import MATRL
from sb3_matrl.envs import matrix_game_v0
from sb3_matrl.matrl.episode_payoffs import EPISODE_PAYOFFS, AgentRollout, episode_payoffs
from sb3_matrl.matrl.mixture import opponent_weights
from sb3_matrl.matrl.ratio_scope import Episodes, check_scope, scoped_log_ratios, separately_masked
from sb3_matrl.metagame import MetaGame
from tests.vec_env import toys

# ---------------------------------------------------------------- all trajectories of a game of two steps


class TwoSteps:
    """
    Two agents with two actions each act in two steps, from one of two first states that is drawn by a coin.

    All probabilities under the current policies are quarters, so that a rollout of 512 copies can hold every trajectory in
    exact proportion. The second step's policies depend on all that happened before.

    :param acts: (step, agent) -> whether the agent acts
    """

    def __init__(self, acts: np.ndarray, seed: int = 0) -> None:
        self.acts, self.rng = acts, np.random.default_rng(seed)
        self.histories = list(product((0, 1), *[(0, 1) if acted else (0,) for acted in acts.flatten()]))
        self.current: dict[Any, float] = {}
        self.predicted: dict[Any, float] = {}
        self.rewards = {(h, i): self.rng.normal(size=2) for h in self.histories for i in range(2)}
        self.values = {(state, i): float(self.rng.normal()) for state in (0, 1) for i in range(2)}

    def factors(self, history: tuple[int, ...], policies: tuple[dict[Any, float], dict[Any, float]]) -> np.ndarray:
        """Probability (step, agent) of each action; 1 where the agent does not act."""
        found = np.ones((2, 2))
        for t, i in product(range(2), range(2)):
            if not self.acts[t, i]:
                continue
            key = (t, i, history[: 1 + 2 * t])  # the coin, and the first step's actions in the second
            if key not in self.current:
                self.current[key] = self.rng.integers(1, 4) / 4
                self.predicted[key] = float(self.rng.uniform(0.1, 0.9))
            first = policies[i][key]
            found[t, i] = first if history[1 + 2 * t + i] == 0 else 1.0 - first
        return found

    def probability(self, history: tuple[int, ...], chosen: tuple[int, int]) -> float:
        """Probability of a trajectory where agent i plays its predicted policy if ``chosen[i]``."""
        self.factors(history, (self.current, self.current))
        policies = tuple(self.predicted if one else self.current for one in chosen)
        return float(0.5 * np.prod(self.factors(history, policies)))  # type: ignore[arg-type]

    def value(self, i: int, chosen: tuple[int, int]) -> float:
        """Expected return of agent i, by enumeration."""
        return sum(self.probability(h, chosen) * self.rewards[h, i].sum() for h in self.histories)

    def rollout(self) -> tuple[np.ndarray, list[tuple[int, ...]]]:
        """Log-ratios (B, 2), copy-major, and the trajectory of each copy."""
        copies = [h for h in self.histories for _ in range(round(512 * self.probability(h, (0, 0))))]
        assert len(copies) == 512
        logs = [
            np.log(self.factors(h, (self.predicted,) * 2) / self.factors(h, (self.current,) * 2)) for h in copies
        ]  # (step, agent) each
        return np.concatenate(logs), copies


SIMULTANEOUS, TURNS = np.ones((2, 2), dtype=bool), np.eye(2, dtype=bool)
STARTS = np.array([[True] * 512, [False] * 512])


def payoffs_of(game: TwoSteps, copies: list[tuple[int, ...]], episodes: Episodes, kind: str) -> np.ndarray:
    """Payoffs (E, 2) of the rollout, with critics that are right about nothing."""
    noise = np.random.default_rng(5)
    columns = []
    for i in range(2):
        acted = np.tile(game.acts[:, i], 512)
        rewards = np.concatenate([game.rewards[h, i] for h in copies])
        values = noise.normal(size=1024)
        values[::2] = [game.values[h[0], i] for h in copies]
        advantages = np.zeros(1024)
        for row in reversed(range(1024)):  # GAE with lambda 0, gamma 1: rewards up to the next decision, and its value
            if acted[row]:
                end = (row // 2 + 1) * 2
                later = [t for t in range(row + 1, end) if acted[t]]
                until, ahead = (later[0], values[later[0]]) if later else (end, 0.0)
                advantages[row] = rewards[row:until].sum() + ahead - values[row]
        starts = STARTS.T.reshape(-1)
        columns.append(episode_payoffs(AgentRollout(rewards, values, advantages, acted, starts, 1.0), episodes, kind))
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("acts", [SIMULTANEOUS, TURNS], ids=["simultaneous", "turns"])
@pytest.mark.parametrize("kind", EPISODE_PAYOFFS)
def test_payoffs_over_episodes_are_those_of_enumerated_trajectories(acts: np.ndarray, kind: str) -> None:
    game, episodes = TwoSteps(acts), Episodes.of(STARTS)
    log_ratios, copies = game.rollout()
    ratios = np.exp(scoped_log_ratios(log_ratios, episodes, "episode"))[episodes.first]
    estimated = MetaGame(ratios, payoffs_of(game, copies, episodes, kind)).payoffs()
    for i, chosen in product(range(2), product((0, 1), repeat=2)):
        assert estimated[(i, *chosen)] == pytest.approx(game.value(i, chosen) - game.value(i, (0, 0)), abs=1e-12)


@pytest.mark.parametrize("acts", [SIMULTANEOUS, TURNS], ids=["simultaneous", "turns"])
def test_weights_over_episodes_turn_means_into_those_under_the_others_mixture(acts: np.ndarray) -> None:
    game, episodes = TwoSteps(acts, seed=1), Episodes.of(STARTS)
    log_ratios, copies = game.rollout()
    ratios = th.from_numpy(np.exp(scoped_log_ratios(log_ratios, episodes, "episode")))
    rho = np.array([0.3, 0.6])
    weights = opponent_weights(ratios, th.from_numpy(rho)).numpy()
    np.testing.assert_array_equal(weights[::2], weights[1::2])  # the same in all steps of an episode
    anything = {h: game.rng.normal() for h in game.histories}
    for i in range(2):
        mean = np.mean(weights[::2, i] * np.array([anything[h] for h in copies]))
        chosen = [(0, 0), (0, 1)] if i == 0 else [(0, 0), (1, 0)]
        shares = (rho[1 - i], 1.0 - rho[1 - i])
        expected = sum(
            share * game.probability(h, one) * anything[h]
            for share, one in zip(shares, chosen, strict=True)
            for h in game.histories
        )
        assert mean == pytest.approx(expected, abs=1e-12)


def test_products_within_a_step_see_nothing_of_the_others_where_agents_take_turns() -> None:
    game, episodes = TwoSteps(TURNS), Episodes.of(STARTS)
    log_ratios, _ = game.rollout()
    rho = th.tensor([0.0, 0.0], dtype=th.float64)

    def weights(scope: str | int) -> np.ndarray:
        acting = np.tile(TURNS, (512, 1))
        ratios = th.from_numpy(np.exp(scoped_log_ratios(log_ratios, episodes, scope)))
        return opponent_weights(ratios, rho, th.from_numpy(acting) if scope == "step" else None).numpy()[acting]

    np.testing.assert_array_equal(weights("step"), np.ones(1024))
    assert np.abs(weights("episode") - 1.0).min() > 1e-3
    window = weights(2).reshape(512, 2)  # the second agent sees the first one's step, not the other way round
    np.testing.assert_array_equal(window[:, 0], np.ones(512))
    np.testing.assert_allclose(window[:, 1], weights("episode").reshape(512, 2)[:, 1])


# ---------------------------------------------------------------- slow loops


@pytest.mark.parametrize("scope", ["step", "episode", 1, 3, 100])
def test_log_ratios_are_sums_over_the_rows_of_the_same_episode(scope: str | int) -> None:
    rng = np.random.default_rng(2)
    n_steps, n_envs = 9, 4
    starts = rng.random((n_steps, n_envs)) < 0.3
    logs = rng.normal(size=(n_envs * n_steps, 3, 2))
    found = scoped_log_ratios(logs, Episodes.of(starts), scope).reshape(n_envs, n_steps, 3, 2)
    rows = logs.reshape(n_envs, n_steps, 3, 2)
    for env, t in product(range(n_envs), range(n_steps)):
        first = t
        while first > 0 and not starts[first, env]:
            first -= 1
        end = t + 1
        while end < n_steps and not starts[end, env]:
            end += 1
        spans = {"step": (t, t + 1), "episode": (first, end)}
        begin, stop = spans[scope] if isinstance(scope, str) else (max(first, t - scope + 1), t + 1)
        np.testing.assert_allclose(found[env, t], rows[env, begin:stop].sum(axis=0), atol=1e-12)


def test_products_are_limited_in_log_space() -> None:
    logs = np.array([[15.0, -15.0], [15.0, -300.0], [2.0, -2.0]])
    starts = np.array([[True], [False], [True]])
    found = scoped_log_ratios(logs, Episodes.of(starts), "episode")
    np.testing.assert_array_equal(found, [[20.0, -20.0], [20.0, -20.0], [2.0, -2.0]])


def test_advantages_without_a_mask_have_the_payoffs_of_those_with_one() -> None:
    rng = np.random.default_rng(3)
    mask = rng.random((50, 2)) < 0.6
    advantages, ratios = rng.normal(size=(50, 2)), np.where(mask, rng.uniform(0.5, 2.0, (50, 2)), 1.0)
    masked = MetaGame(ratios, advantages, mask=mask).payoffs()
    np.testing.assert_allclose(MetaGame(ratios, separately_masked(advantages, mask)).payoffs(), masked, atol=1e-12)


@pytest.mark.parametrize("scope", ["steps", "Episode", 0, -1, 2.5, True, None])
def test_unusable_scopes_are_refused(scope: Any) -> None:
    with pytest.raises(ValueError, match="ratio_scope must be 'step', 'episode' or a number of steps"):
        check_scope(scope)


def test_a_misspelt_scope_gets_a_guess() -> None:
    with pytest.raises(ValueError, match="did you mean 'episode'"):
        MATRL("MlpPolicy", matrix_game_v0.parallel_env, ratio_scope="episodes")


# ---------------------------------------------------------------- rollouts of environments


class Dones(BaseCallback):
    """Remembers which copies ended their episode in every step."""

    def __init__(self) -> None:
        super().__init__()
        self.dones: list[np.ndarray] = []

    def _on_step(self) -> bool:
        self.dones.append(np.array(self.locals["dones"]))
        return True


class Turns(toys.ToyEnv):
    """Three agents act in turn, and are paid in every step; one ends early, the others by a time limit."""

    def __init__(self) -> None:
        names = ["x", "y", "z"]
        observations = {name: spaces.Box(-1, 1, (2,), np.float32) for name in names}
        ends = {"x": (7, "truncated"), "y": (3, "terminated"), "z": (7, "truncated")}
        super().__init__(observations, {name: spaces.Discrete(3) for name in names}, ends)

    @property
    def acting_agents(self) -> set[str]:
        return {self.possible_agents[self.time % 3]} & set(self.agents)

    def step(self, actions: dict[str, Any]) -> Any:
        waiting = [agent for agent in self.agents if agent not in actions]
        return super().step({**actions, **dict.fromkeys(waiting, 0)})


N_STEPS, N_ENVS = 11, 3
SMALL: dict[str, Any] = {"n_envs": N_ENVS, "n_steps": N_STEPS, "batch_size": 33, "n_epochs": 2, "br_n_epochs": 1, "seed": 0}
SMALL |= {"device": "cpu", "learning_rate": 0.01, "gamma": 0.9, "payoff_clip_range": None, "br_clip_range": None}
WORLDS: dict[str, dict[str, Any]] = {
    "deaths and a shared learner": {"env": toys.early_death, "share": {"team": ["c", "b"]}},
    "recurrent": {"env": toys.early_death, "policy": "MlpLstmPolicy", "learner_class": RecurrentPPO},
    "turns": {"env": Turns},
    "frozen agents": {"env": toys.early_death, "frozen": {"a": lambda observations: np.zeros((len(observations), 2))}},
}
WORLDS["recurrent"] |= {"policy_kwargs": {"net_arch": [8], "lstm_hidden_size": 8}}


def collected(world: str, **options: Any) -> tuple[MATRL, np.ndarray]:
    """A model after its second rollout, and bool (n_envs, n_steps), True where an episode begins, or the rollout does."""
    arguments = {"policy": "MlpPolicy", "policy_kwargs": {"net_arch": [8]}, **SMALL, **WORLDS[world], **options}
    model = MATRL(**arguments)
    model.learn(0)
    for _ in range(2):
        callback = Dones()
        callback.init_callback(model)
        assert model.collect_rollouts(callback)
    begins = np.ones((N_STEPS, N_ENVS), dtype=bool)
    begins[1:] = np.array(callback.dones)[:-1]
    return model, begins.T


def predicted(world: str, **options: Any) -> tuple[MATRL, Any, np.ndarray]:
    """As :func:`collected`, with the model's prediction."""
    model, begins = collected(world, **options)
    return model, model.coordinator._predict(), begins


def single_step_log_ratios(model: MATRL, prediction: Any) -> np.ndarray:
    """(n_envs, n_steps, n), sums over the agents of a learner."""
    columns = []
    for i, (name, batch) in enumerate(zip(model.learners, prediction.batches, strict=True)):
        change = (prediction.policies[1][i].log_prob - batch.old_log_prob).double().numpy()
        change[~batch.mask.numpy()] = 0.0
        columns.append(change.reshape(len(model.team.members[name]), N_ENVS, N_STEPS).sum(axis=0))
    return np.stack(columns, axis=2)


def by_episode(begins: np.ndarray) -> list[tuple[int, int, int]]:
    """Copy, first step and end of every episode."""
    found = []
    for env in range(N_ENVS):
        firsts = np.flatnonzero(begins[env]).tolist()
        found += [(env, first, end) for first, end in zip(firsts, [*firsts[1:], N_STEPS], strict=True)]
    return found


@pytest.mark.parametrize("world", WORLDS)
def test_ratios_of_rollouts_are_products_over_the_env_s_episodes(world: str) -> None:
    model, prediction, begins = predicted(world, ratio_scope="episode")
    logs = single_step_log_ratios(model, prediction)
    expected = np.zeros_like(logs)
    for env, first, end in by_episode(begins):
        expected[env, first:end] = logs[env, first:end].sum(axis=0)
    assert begins.sum() > N_ENVS and np.abs(expected).max() > 1e-3
    live = prediction.mask.numpy().any(axis=1)
    ratios = np.exp(expected).reshape(-1, logs.shape[2])[live]
    np.testing.assert_allclose(prediction.ratios.numpy()[live], ratios, rtol=1e-6)
    rho = np.full(len(model.learners), 0.25)
    weights = model.coordinator._weights(prediction, rho).numpy()[live]
    for i in range(len(rho)):
        others = np.delete(0.25 + 0.75 * ratios, i, axis=1)
        np.testing.assert_allclose(weights[:, i], others.prod(axis=1), rtol=1e-6)


@pytest.mark.parametrize("world", ["deaths and a shared learner", "turns"])
def test_payoffs_over_windows_are_means_over_each_agent_s_live_steps(world: str) -> None:
    model, prediction, begins = predicted(world, ratio_scope=3)
    logs = single_step_log_ratios(model, prediction)
    sums = np.zeros_like(logs)
    for env, first, end in by_episode(begins):
        for t in range(first, end):
            sums[env, t] = logs[env, max(first, t - 2) : t + 1].sum(axis=0)
    ratios = np.exp(sums).reshape(-1, logs.shape[2])
    np.testing.assert_allclose(prediction.ratios.numpy(), ratios, rtol=1e-6)
    game, mask = model.coordinator._metagame(prediction), prediction.mask.numpy()
    chosen = (np.arange(logs.shape[2]) % 2).astype(float)  # every second one predicted
    for i in range(logs.shape[2]):
        live, advantage = mask[:, i], prediction.advantages[:, i].numpy()
        product_of_others = np.prod(np.where(chosen == 1.0, ratios, 1.0), axis=1)
        expected = np.mean((advantage[live] - advantage[live].mean()) * product_of_others[live])
        assert game.expected_payoffs(1.0 - chosen)[i] == pytest.approx(expected, abs=1e-10)


def slow_payoffs(model: MATRL, begins: np.ndarray, kind: str, last_value: Callable[[str, int], float]) -> np.ndarray:
    """Payoffs (E, n) by a loop over episodes, agents and steps, from the learners' buffers."""
    rows = []
    for env, first, end in by_episode(begins):
        row = []
        for name, learner in model.learners.items():
            buffer: Any = learner.rollout_buffer
            values = buffer.values.reshape(-1, N_STEPS)  # flattened: column by column
            total = 0.0
            for member in range(len(model.team.members[name])):
                column, discount, acted, paid = member * N_ENVS + env, 1.0, False, 0.0
                for t in range(first, end):
                    if buffer.mask[t, column]:
                        discount *= 0.9 if acted else 1.0
                        acted = True
                    paid += discount * buffer.rewards[t, column]
                if kind == "advantages":
                    ended = model.position.episode_starts[env, model.env.agents.index(model.team.members[name][member])]  # type: ignore[union-attr]
                    if end == N_STEPS and acted and not ended:
                        paid += discount * 0.9 * last_value(name, column)
                    paid -= values[column, first] if buffer.mask[first, column] else 0.0
                total += paid
            row.append(total)
        rows.append(row)
    return np.array(rows)


@pytest.mark.parametrize("world", ["deaths and a shared learner", "turns"])
@pytest.mark.parametrize("kind", EPISODE_PAYOFFS)
def test_payoffs_of_episodes_are_discounted_returns_as_far_as_they_are_seen(world: str, kind: str) -> None:
    model, begins = collected(world, ratio_scope="episode", episode_payoffs=kind)

    def last_value(name: str, column: int) -> float:
        observation = model.team.normalized_rows(name, model.position.observations)[column : column + 1]
        return float(model.learners[name].policy.predict_values(th.as_tensor(observation)).detach())

    last = {(name, c): last_value(name, c) for name in model.learners for c in range(model.learners[name].n_envs)}
    prediction = model.coordinator._predict()
    expected = slow_payoffs(model, begins, kind, lambda name, column: last[name, column])
    np.testing.assert_allclose(prediction.samples.payoffs, expected, rtol=1e-5, atol=1e-5)
    assert prediction.samples.mask is not None and prediction.samples.mask.shape == expected.shape
    assert len(model.coordinator._metagame(prediction).expected_payoffs(np.zeros(expected.shape[1]))) == expected.shape[1]


def test_one_step_is_a_window_of_one_and_an_episode_where_episodes_have_one_step() -> None:
    def report(**options: Any) -> Any:
        arguments = {**SMALL, "policy_kwargs": {"net_arch": [8]}, "payoff_clip_range": 0.2, **options}
        return MATRL("MlpPolicy", matrix_game_v0.parallel_env, **arguments).learn(N_STEPS * N_ENVS).report

    step, window, episode = (report(ratio_scope=scope) for scope in ("step", 1, "episode"))
    for other in (window, episode):
        np.testing.assert_allclose(other.payoffs, step.payoffs, atol=1e-6)
        np.testing.assert_allclose(other.rho, step.rho)
        np.testing.assert_allclose(other.effective_sample_size, step.effective_sample_size, atol=1e-6)
        np.testing.assert_allclose(other.weight_clip_fraction, step.weight_clip_fraction)
        np.testing.assert_allclose(other.kl_next, step.kl_next, rtol=1e-3)
