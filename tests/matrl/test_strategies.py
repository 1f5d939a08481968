"""The meta-game of several strategies: payoffs, aggregation, ablations, reports, selection."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch as th

from sb3_matrl import MATRL
from sb3_matrl.envs import matrix_game_v0
from sb3_matrl.matrl import coordinator
from sb3_matrl.matrl.joint_samples import Samples
from sb3_matrl.metagame import Solution
from tests.matrl.test_trial_steps import MENU, after_rollout, assert_equal, build, states


def forced(model: MATRL, sigma: Any) -> MATRL:
    """The same model with a solver that returns sigma."""
    chosen = np.asarray(sigma, dtype=float)
    model.coordinator._solve = lambda game, _: Solution(chosen[:, 0], 0.0, "forced", chosen[None], chosen)  # type: ignore[method-assign]
    return model


def test_payoffs_are_means_of_products_over_the_strategies() -> None:
    model = after_rollout(strategies=MENU, payoff_clip_range=0.1)
    prediction = model.coordinator._predict()
    ratios = np.concatenate([np.ones((64, 2, 1)), prediction.ratios.numpy().clip(0.9, 1.1)], axis=2)
    advantages = prediction.advantages.numpy() - prediction.advantages.numpy().mean(axis=0)
    payoffs = model.coordinator._metagame(prediction).payoffs()
    assert payoffs.shape == (2, 3, 3)
    expected = np.einsum("bi,bk,bl->ikl", advantages, ratios[:, 0], ratios[:, 1]) / 64
    np.testing.assert_allclose(payoffs, expected, atol=1e-12)


def test_a_strategy_that_nobody_plays_changes_nothing() -> None:
    plain = forced(after_rollout(strategies=MENU[:2], backend="sb3"), [[0.25, 0.75], [1.0, 0.0]])
    menu = forced(after_rollout(strategies=MENU, backend="sb3"), [[0.25, 0.75, 0.0], [1.0, 0.0, 0.0]])
    reports = []
    for model in (plain, menu):
        np.random.seed(3)
        reports.append(model.coordinator.update(model._best_response_configs()))
    for ours, theirs in zip(states(menu), states(plain), strict=True):
        for name, value in theirs.items():
            th.testing.assert_close(ours[name], value, rtol=0.0, atol=1e-6)
    np.testing.assert_allclose(reports[1].effective_sample_size, reports[0].effective_sample_size)
    np.testing.assert_allclose(
        reports[1].lower_bound - reports[1].expected_payoffs, reports[0].lower_bound - reports[0].expected_payoffs
    )


@pytest.mark.parametrize("chosen", [0, 1, 2])
def test_without_best_response_the_chosen_strategy_is_next_and_the_critic_is_the_first_step_s(chosen: int) -> None:
    model = forced(after_rollout(strategies=MENU, best_response=False), np.eye(3)[[chosen, chosen]])
    seen: list[Any] = []
    predict = model.coordinator._predict

    def watched() -> Any:
        prediction = predict()
        seen.extend([prediction, states(model)])
        return prediction

    model.coordinator._predict = watched  # type: ignore[method-assign]
    report = model.coordinator.update(model._best_response_configs())
    prediction, after_steps = seen
    for i, state in enumerate(states(model)):
        actor = prediction.policies[chosen][i].parameters
        assert_equal(state, actor)
        assert_equal(state, after_steps[i], state.keys() - actor.keys())
    assert report.sigma[0, chosen] == 1.0 and report.kl_next[0] == pytest.approx(report.kl_strategies[0, chosen], abs=1e-7)


def test_ablations_without_the_game_take_the_last_strategy() -> None:
    # Always optimistic, with and without the predicted step in the meta-game that is not played.
    for strategies in (("current", "optimistic"), MENU):
        model = after_rollout(strategies=strategies, metagame=False, best_response=False)
        seen: list[Any] = []
        predict = model.coordinator._predict
        model.coordinator._predict = lambda predict=predict, seen=seen: seen.append(predict()) or seen[0]  # type: ignore[method-assign, misc]
        report = model.coordinator.update(model._best_response_configs())
        for i, state in enumerate(states(model)):
            assert_equal(state, seen[0].policies[-1][i].parameters)
        assert report.method == "none" and report.n_equilibria == -1 and not report.rho.any()
    responding = after_rollout(strategies=("current", "optimistic"), metagame=False, best_response=True)
    report = responding.coordinator.update(responding._best_response_configs())
    assert all(stats.n_updates > 0 for stats in report.best_response.values())


def test_reports_name_the_strategies() -> None:
    model = build(matrix_game_v0.parallel_env, strategies=MENU).learn(64)
    report = model.report
    assert report is not None and report.payoffs is not None and report.payoffs.shape == (2, 3, 3)
    values = report.scalars()
    np.testing.assert_allclose(report.sigma.sum(axis=1), 1.0)
    for i, agent in enumerate(report.agents):
        for k, name in enumerate(MENU):
            assert values[f"{agent}/metagame/sigma_{name}"] == report.sigma[i, k]
            assert values[f"{agent}/metagame/{name}_payoffs"] == report.strategy_payoffs[i, k]
        assert values[f"{agent}/metagame/kl_optimistic"] == report.kl_strategies[i, 2] > 0.0
        assert np.isfinite(model.logger.name_to_value.get(f"{agent}/optimistic/train/loss", 0.0))
    ordinary = build(matrix_game_v0.parallel_env).learn(64).report
    assert ordinary is not None and not [key for key in ordinary.scalars() if "sigma" in key]
    renamed = build(matrix_game_v0.parallel_env, strategies=("current", "optimistic")).learn(64).report
    assert renamed is not None and "agent_0/metagame/optimistic_lower_bound" in renamed.scalars()
    assert not [key for key in renamed.scalars() if "predicted" in key]


def test_selection_by_welfare_needs_payoffs_that_are_nearly_common() -> None:
    rng = np.random.default_rng(0)
    common = rng.normal(size=(60, 1))
    acted = np.ones((60, 3), dtype=bool)

    def nearly_common(payoffs: np.ndarray, acted: np.ndarray = acted) -> bool:
        return Samples(np.arange(60), payoffs, acted, acted).nearly_common()

    assert nearly_common(common * [1.0, 2.0, 5.0] + 0.1 * rng.normal(size=(60, 3)))
    assert not nearly_common(common * [1.0, 1.0, -1.0])
    assert not nearly_common(rng.normal(size=(60, 3)))
    assert nearly_common(common * [1.0, 0.0, 1.0])  # an agent to whom all is equal
    apart = np.eye(3, dtype=bool)[np.arange(60) % 3]  # never two at once
    assert not nearly_common(common * np.ones(3), apart)
    some = acted.copy()
    some[::2, 0] = False
    assert nearly_common(np.where(some, common * [1.0, 2.0, 5.0], 99.0), some)


@pytest.mark.parametrize(("team_reward", "expected"), [(True, "welfare"), (False, "random")])
def test_automatic_selection_follows_the_payoffs(team_reward: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    solve = coordinator.solve
    monkeypatch.setattr(coordinator, "solve", lambda *a, **kwargs: seen.append(kwargs["selection"]) or solve(*a, **kwargs))
    options = {"game": "rps"} | ({"team_reward": True} if team_reward else {})
    payoffs = {"payoffs": [[[3.0, 0.0], [0.0, 1.0]]] * 2} if team_reward else options
    build(matrix_game_v0.parallel_env, env_kwargs=payoffs, selection="auto").learn(64)
    assert seen == [expected]


def test_one_agent_alone_takes_its_best_strategy() -> None:
    model = after_rollout(
        env=matrix_game_v0.parallel_env, frozen={"agent_1": lambda o: np.zeros(len(o), dtype=int)}, strategies=MENU
    )
    report = model.coordinator.update(model._best_response_configs())
    assert report.sigma.shape == (1, 3) and report.strategy_payoffs[0] @ report.sigma[0] == report.strategy_payoffs.max()
    np.testing.assert_array_equal(report.effective_sample_size, [1.0])
