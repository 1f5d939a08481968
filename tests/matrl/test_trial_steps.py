"""Strategies beyond current and predicted: the optimistic step, steps of the user's own, cross-fitted payoffs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from sb3_contrib import RecurrentPPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.logger import Logger

from sb3_matrl import MATRL
from sb3_matrl.envs import checkers_v0
from sb3_matrl.matrl.trial_steps import Strategy, TrialSteps, optimistic_advantages, read_strategies
from tests.matrl.test_exact_resume import SaveAfter, assert_same
from tests.matrl.test_ratio_scope import Turns
from tests.stacked.backends import require_kernel
from tests.vec_env.toys import early_death

SMALL: dict[str, Any] = {"n_envs": 4, "n_steps": 16, "batch_size": 32, "n_epochs": 3, "br_n_epochs": 2, "learning_rate": 0.01}
SMALL |= {"policy_kwargs": {"net_arch": [8]}, "seed": 0, "device": "cpu"}
MENU = ("current", "predicted", "optimistic")


def build(env: Any = checkers_v0.parallel_env, policy: str = "MlpPolicy", **arguments: Any) -> MATRL:
    return MATRL(policy, env, **{**SMALL, **arguments})


def after_rollout(**arguments: Any) -> MATRL:
    model = build(**arguments)
    model.learn(0)
    assert model.collect_rollouts(model._init_callback(None))
    model._total_timesteps = 1000
    return model


def states(model: MATRL) -> list[dict[str, th.Tensor]]:
    return [copy.deepcopy(learner.policy.state_dict()) for learner in model.learners.values()]


def assert_equal(ours: dict[str, th.Tensor], theirs: dict[str, th.Tensor], names: Any = None) -> None:
    for name in names or theirs:
        assert th.equal(ours[name], theirs[name]), name


# ---------------------------------------------------------------- the optimistic step


def test_optimistic_advantages_are_those_of_the_formula() -> None:
    rng = np.random.default_rng(0)
    advantages, mask = rng.normal(3.0, 2.0, size=40), rng.random(40) < 0.7
    live = advantages[mask]
    normalized = (live - live.mean()) / live.std()
    bent = 0.25 * (np.exp(np.minimum(normalized / 0.25, 20.0)) - 1.0)
    expected = np.zeros(40)
    expected[mask] = (bent - bent.mean()) / bent.std()
    found = optimistic_advantages(th.tensor(advantages), th.tensor(mask), 0.25)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    assert found.max() > 3.0 * -found.min()  # what went well counts


def test_great_optimism_is_finite_and_little_optimism_leaves_the_order() -> None:
    advantages, mask = th.linspace(-50.0, 50.0, 101), th.ones(101, dtype=th.bool)
    assert th.isfinite(optimistic_advantages(advantages, mask, 0.01)).all()
    mild = optimistic_advantages(advantages, mask, 1e3)
    np.testing.assert_allclose(mild, (advantages - advantages.mean()) / advantages.std(correction=0), atol=2e-3)
    assert not optimistic_advantages(th.ones(5), mask[:5], 0.25).any()


@pytest.mark.parametrize("world", [checkers_v0.parallel_env, early_death], ids=["all live", "deaths"])
def test_the_optimistic_step_is_ppo_from_the_current_policy_on_other_advantages(world: Any) -> None:
    model = after_rollout(env=world, strategies=MENU, optimism=0.5, optimistic_n_epochs=2, backend="sb3")
    references = []
    for learner in model.learners.values():
        other: Any = copy.deepcopy(learner)
        other.set_logger(Logger(None, []))
        buffer, other.n_epochs = other.rollout_buffer, 2
        other.policy.optimizer = th.optim.Adam(other.policy.parameters(), lr=0.01, eps=1e-5)
        rows = th.tensor(buffer.advantages)
        buffer.advantages = (
            optimistic_advantages(rows.flatten(), th.tensor(buffer.mask).flatten(), 0.5).view(rows.shape).numpy()
        )
        references.append(other)
    take, before = TrialSteps.take, states(model)

    def seeded(self: TrialSteps, strategy: Strategy, *rest: Any) -> None:
        np.random.seed(7)
        take(self, strategy, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrialSteps, "take", seeded)
        prediction = model.coordinator._predict()
    np.random.seed(7)
    for i, other in enumerate(references):
        other.train()
        found = prediction.policies[2][i].parameters
        assert_equal(found, other.policy.state_dict(), found)
        assert any(not th.equal(found[name], before[i][name]) for name in found)
        optimizer = model.coordinator.trials.optimizers["optimistic"][list(model.learners)[i]]
        kept = optimizer.state_dict()["state"]
        for key, state in other.policy.optimizer.state_dict()["state"].items():
            assert th.equal(kept[key]["exp_avg"], state["exp_avg"]) and kept[key]["step"] == state["step"]


def test_buffers_settings_and_the_predicted_policy_are_as_without_the_step() -> None:
    plain, menu = (after_rollout(strategies=one, backend="sb3") for one in (MENU[:2], MENU))
    for model in (plain, menu):
        np.random.seed(3)
        model.coordinator._predict()
    for ours, theirs in zip(menu.learners.values(), plain.learners.values(), strict=True):
        assert_equal(ours.policy.state_dict(), theirs.policy.state_dict())  # critic included
        assert ours._n_updates == theirs._n_updates and ours.n_epochs == theirs.n_epochs  # type: ignore[attr-defined]
        np.testing.assert_array_equal(ours.rollout_buffer.advantages, theirs.rollout_buffer.advantages)
        mine, other = (one.policy.optimizer.state_dict()["state"] for one in (ours, theirs))
        assert all(th.equal(mine[key]["exp_avg"], other[key]["exp_avg"]) for key in other)


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_stacked_learners_take_the_optimistic_step_up_to_rounding(backend: str) -> None:
    require_kernel(backend)
    found = []
    for one in ("sb3", backend):
        model = after_rollout(strategies=MENU, backend=one, learning_rate=0.001, batch_size=64)
        if found:  # the same rollout: draws of stacked actors differ
            for ours, theirs in zip(model.learners.values(), found[0].learners.values(), strict=True):
                ours.policy.load_state_dict(theirs.current)  # type: ignore[attr-defined]
                ours.rollout_buffer = copy.deepcopy(theirs.untouched)  # type: ignore[attr-defined]
        for learner in model.learners.values():
            learner.current, learner.untouched = states_of(learner), copy.deepcopy(learner.rollout_buffer)  # type: ignore[attr-defined]
        model.coordinator.joint.refresh()
        model.policies = model.coordinator._predict().policies  # type: ignore[attr-defined]
        found.append(model)
    for k in (1, 2):
        for ours, theirs in zip(found[1].policies[k], found[0].policies[k], strict=True):  # type: ignore[attr-defined]
            for name, value in theirs.parameters.items():
                th.testing.assert_close(ours.parameters[name], value, rtol=1e-3, atol=1e-5)


def states_of(learner: Any) -> dict[str, th.Tensor]:
    return copy.deepcopy(learner.policy.state_dict())


# ---------------------------------------------------------------- steps of the user's own


def twice_as_far(learner: Any, batch: Any) -> None:
    """The learner's own update with twice the advantages."""
    learner.rollout_buffer.advantages *= 2.0
    learner.train()


def backwards(learner: Any, batch: Any) -> None:
    """One step of gradient ascent on the losses of the actions that were taken."""
    loss = learner.policy.evaluate_actions(batch.observations, batch.actions)[1][batch.mask].mean()
    learner.policy.optimizer.zero_grad()
    loss.backward()
    learner.policy.optimizer.step()


def test_steps_of_the_user_s_own_change_only_the_parameters_of_their_strategy() -> None:
    model = after_rollout(strategies=("current", "predicted", twice_as_far, ("back", backwards)))
    advantages = [learner.rollout_buffer.advantages.copy() for learner in model.learners.values()]
    report = model.coordinator.update(model._best_response_configs())
    assert report.strategies == ("current", "predicted", "twice_as_far", "back") and report.sigma.shape == (2, 4)
    assert (report.kl_strategies[:, 1:] > 0.0).all()
    for i, (name, learner) in enumerate(model.learners.items()):
        flat = learner.rollout_buffer.advantages.reshape(4, 16).T  # flattened by the update
        np.testing.assert_array_equal(flat, advantages[i])
        assert f"{name}/twice_as_far/train/loss" in model.logger.name_to_value
        for strategy in ("twice_as_far", "back"):
            assert model.coordinator.trials.optimizers[strategy][name].state_dict()["state"]
        assert list(model.extra_optimizers[name]) == [
            "best_response.optimizer",
            "strategies.twice_as_far.optimizer",
            "strategies.back.optimizer",
        ]


def test_a_step_that_fails_leaves_the_model_as_it_was() -> None:
    def broken(learner: Any, batch: Any) -> None:
        backwards(learner, batch)
        raise RuntimeError("broken step")

    model = build(strategies=("current", "predicted", broken)).learn(0)
    before, optimizers = states(model), [learner.policy.optimizer for learner in model.learners.values()]
    with pytest.raises(RuntimeError, match="broken step"):
        model.learn(64)
    for ours, theirs in zip(states(model), before, strict=True):
        assert_equal(ours, theirs)
    for learner, optimizer in zip(model.learners.values(), optimizers, strict=True):
        assert learner.policy.optimizer is optimizer and learner.n_epochs == 3  # type: ignore[attr-defined]


def test_files_do_not_choose_code(tmp_path: Path) -> None:
    given = ("current", "predicted", ("back", backwards))
    build(strategies=given).learn(64).save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"strategies holds .*backwards.*, which a file cannot hold: pass custom_objects"):
        MATRL.load(tmp_path / "model")
    loaded = MATRL.load(tmp_path / "model", env=checkers_v0.parallel_env, custom_objects={"strategies": given})
    whole = build(strategies=given).learn(128)
    loaded.learn(64, reset_num_timesteps=False)
    assert_same(loaded, whole)


def test_strategies_may_change_between_two_trainings(tmp_path: Path) -> None:
    build(strategies=("current", "predicted", ("back", backwards))).learn(64).save(tmp_path / "more")
    fewer = MATRL.load(tmp_path / "more", env=checkers_v0.parallel_env, strategies=MENU[:2], device="cpu")
    fewer.learn(64, reset_num_timesteps=False).save(tmp_path / "fewer")
    more = MATRL.load(tmp_path / "fewer", env=checkers_v0.parallel_env, strategies=MENU, device="cpu")
    more.learn(64, reset_num_timesteps=False)
    assert more.num_timesteps == 192 and more.report is not None and more.report.sigma.shape == (2, 3)


# ---------------------------------------------------------------- cross-fitted payoffs


def test_trial_steps_and_payoffs_have_no_copies_in_common() -> None:
    fitted = np.array([True, False, False, True])

    def parameters_after(poison: bool) -> list[dict[str, th.Tensor]]:
        model = after_rollout(strategies=MENU, backend="sb3")
        for learner in model.learners.values():
            if poison:
                learner.rollout_buffer.advantages[:, ~fitted] = 99.0
                learner.rollout_buffer.returns[:, ~fitted] = -99.0
        model.coordinator._fitted_copies = lambda n_envs: fitted  # type: ignore[method-assign]
        np.random.seed(0)
        prediction = model.coordinator._predict()
        assert model.learners["agent_0"].rollout_buffer.mask.all()  # type: ignore[attr-defined]
        rows = prediction.samples.rows
        np.testing.assert_array_equal(rows // 16, np.repeat([1, 2], 16))
        np.testing.assert_array_equal(prediction.samples.payoffs, prediction.advantages.numpy()[rows])
        return [one.parameters for policies in prediction.policies[1:] for one in policies]

    for ours, theirs in zip(parameters_after(True), parameters_after(False), strict=True):
        assert_equal(ours, theirs)


def test_halves_are_drawn_anew_and_need_two_copies() -> None:
    model = after_rollout(payoff_fit="cross", n_envs=5, batch_size=16)
    halves = np.array([model.coordinator._fitted_copies(5) for _ in range(20)])
    assert (halves.sum(axis=1) == 2).all() and len(np.unique(halves, axis=0)) > 3
    with pytest.raises(ValueError, match="payoff_fit='cross' needs two copies of the environment or more"):
        build(payoff_fit="cross", n_envs=1, batch_size=16)


# ---------------------------------------------------------------- resume, kinds of learners, wrong values

WORLDS: dict[str, dict[str, Any]] = {
    "checkers": {"env": checkers_v0.parallel_env},
    "turns": {"env": Turns, "ratio_scope": 2},
    "deaths, shared": {"env": early_death, "share": {"team": ["c", "b"]}, "payoff_fit": "same"},
    "recurrent": {"env": early_death, "policy": "MlpLstmPolicy", "learner_class": RecurrentPPO},
    "mixed": {"learner_class": {"agent_0": PPO, "agent_1": A2C}, "strategies": (*MENU, twice_as_far)},
}
WORLDS["recurrent"] |= {"policy_kwargs": {"net_arch": [8], "lstm_hidden_size": 8}}


@pytest.mark.e2e
@pytest.mark.parametrize("world", WORLDS)
def test_trainings_with_everything_resume_bit_for_bit(world: str, tmp_path: Path) -> None:
    options = {"strategies": MENU, "ratio_scope": "episode", "payoff_fit": "cross", "optimistic_n_epochs": 1, "n_epochs": 2}
    options |= WORLDS[world]
    given = {"custom_objects": {"strategies": options["strategies"]}} if world == "mixed" else {}
    env = options.get("env", checkers_v0.parallel_env)
    if world not in ("checkers", "mixed"):  # envs that cannot save their state: resumed where an update ended
        model = build(**options).learn(64)
        model.save(tmp_path / "half")
        loaded = MATRL.load(tmp_path / "half", device="cpu", **given)
        ours, theirs = loaded.get_parameters(), model.get_parameters()
        assert [list(parts) for parts in ours.values()] == [list(parts) for parts in theirs.values()]
        assert_same_parameters(ours, theirs)
        return
    whole = build(**options).learn(192)
    build(**options).learn(192, callback=SaveAfter(150, tmp_path / "half"))
    th.manual_seed(99)
    np.random.seed(99)
    resumed = MATRL.load(tmp_path / "half", env=env, device="cpu", **given)
    resumed.learn(192 - resumed.num_timesteps, reset_num_timesteps=False)
    assert_same(resumed, whole)


def assert_same_parameters(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, th.Tensor):
        assert th.equal(ours, theirs)
    elif isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for key, value in theirs.items():
            assert_same_parameters(ours[key], value)
    elif isinstance(theirs, (list, tuple)):
        for mine, other in zip(ours, theirs, strict=True):
            assert_same_parameters(mine, other)
    else:
        assert ours == theirs


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("current", "strategies must be a list such as"),
        (("current",), "must be 'current' and at least one other one"),
        (("predicted", "current"), "must be 'current' and at least one other one, in this order"),
        (("current", "optimistik"), "did you mean 'optimistic'"),
        (("current", "predicted", "predicted"), "'predicted' is there twice"),
        (("current", lambda learner, batch: None), "'<lambda>' is no name for a trial step"),
        (("current", ("optimistic", backwards)), "'optimistic' is no name for a trial step"),
        (("current", ("a b", backwards)), "'a b' is no name for a trial step"),
        (("current", 3), "must be a name, a function or a pair"),
    ],
)
def test_unusable_strategies_are_named(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_strategies(given)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"optimism": 0.0}, "optimism must be greater than 0"),
        ({"optimistic_n_epochs": 0}, "optimistic_n_epochs must be at least 1"),
        ({"payoff_fit": "crossed"}, "did you mean 'cross'"),
        ({"episode_payoffs": "return"}, "did you mean 'returns'"),
        ({"selection": "wellfare"}, "did you mean 'welfare'"),
        ({"strategies": ("current", "optimistic"), "best_response_start": "predicted"}, "which is none of the strategies"),
        ({"strategies": MENU, "solver": "closed-form"}, "closed-form"),
    ],
)
def test_unusable_settings_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build(**arguments)
