"""NaN and infinite numbers are found when they happen, named, and undone."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure

from sb3_matrl import MATRL
from sb3_matrl.common.finite import NonFiniteError
from tests.matrl.test_exact_resume import assert_same, build, flat
from tests.vec_env.toys import early_death

ITERATION = 120  # joint steps of ``build``'s models


class Poison(BaseCallback):
    """Put a number into an agent's rollout, at the end of its collection."""

    def __init__(self, attribute: str, value: float, at: int = ITERATION, place: tuple[int, int] = (7, 2)) -> None:
        super().__init__()
        self.attribute, self.value, self.at, self.place = attribute, value, at, place

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if self.model.num_timesteps == self.at:
            buffer: Any = self.model.agents["agent_1"].rollout_buffer  # type: ignore[attr-defined]
            getattr(buffer, self.attribute)[self.place] = self.value


class Remember(BaseCallback):
    """Everything that is trained, before each rollout."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[list[Any]] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self.seen.append(copies(self.model))


def copies(model: Any) -> list[Any]:
    return [one.clone() if isinstance(one, th.Tensor) else one for one in flat(model.get_parameters())]


def equal(ours: list[Any], theirs: list[Any]) -> bool:
    pairs = zip(ours, theirs, strict=True)
    return all(th.equal(a, b) if isinstance(a, th.Tensor) else a == b for a, b in pairs)


def fail(model: MATRL, callback: Any = None, match: str = "") -> None:
    with pytest.raises(NonFiniteError, match=match):
        model.learn(4 * ITERATION, callback=callback, reset_num_timesteps=model.num_timesteps == 0)


# ---------------------------------------------------------------- found and named


@pytest.mark.parametrize(
    ("attribute", "what"),
    [
        ("rewards", "reward"),
        ("values", "value"),
        ("log_probs", "log-probability"),
        ("advantages", "advantage"),
        ("returns", "return"),
    ],
)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_bad_number_of_a_rollout_is_named(attribute: str, what: str, value: float) -> None:
    where = rf"agent 'agent_1', env copy 2, step 7 of the rollout: the {what} is {value} \(1 of 120 are not finite\)"
    fail(build(), Poison(attribute, value), where)


def test_rows_of_agents_that_did_not_act_may_hold_anything() -> None:
    class Dead(Poison):
        def _on_rollout_end(self) -> None:
            super()._on_rollout_end()
            self.model.agents["agent_1"].rollout_buffer.mask[self.place] = False  # type: ignore[attr-defined]

    model = build().learn(ITERATION, callback=Dead("advantages", np.nan))
    assert model._n_updates == 1


class Surrounding:
    """Replace a learner's ``train`` by one that breaks its agent afterwards."""

    def __init__(self, model: MATRL, agent: str, change: Any) -> None:
        learner: Any = model.agents[agent]
        train = learner.train

        def broken() -> None:
            train()
            with th.no_grad():
                change(learner.policy)

        learner.train = broken


def first_weight(policy: Any) -> th.Tensor:
    weight: th.Tensor = policy.mlp_extractor.policy_net[0].weight
    return weight


def test_bad_parameters_after_the_predicted_step_are_named() -> None:
    model = build()
    Surrounding(model, "agent_1", lambda policy: first_weight(policy)[0, :3].fill_(np.nan))
    fail(model, match=r"agent 'agent_1', after the predicted step: 3 of 376 numbers in parameter mlp_extractor\.policy_net\.0")


def test_bad_moments_of_an_optimiser_are_named() -> None:
    # Infinite second moments freeze a parameter for ever, without a sign in the parameter.
    model = build()
    Surrounding(
        model,
        "agent_0",
        lambda policy: policy.optimizer.state[first_weight(policy)]["exp_avg_sq"].fill_(np.inf),
    )
    fail(model, match=r"agent 'agent_0', after the predicted step: 376 of 376 .*exp_avg_sq of parameter mlp_extractor\.policy")


def test_a_rate_that_explodes_is_found_in_the_update_it_happens_in() -> None:
    fail(build(learning_rate=3e37), match=r"agent 'agent_0', (after the predicted step|during the update): .* NaN or infinite")
    fail(build(br_learning_rate=3e37), match=r"agent 'agent_0', (after the best response|during the update): .* NaN")


def test_an_infinite_loss_with_finite_gradients_is_named() -> None:
    # A squared error beyond float32 is infinite; its gradient is not, and is clipped.
    with np.errstate(over="ignore"):
        fail(
            build(normalize_advantage=True),
            Poison("returns", 1e30),
            r"agent 'agent_1', predicted step: loss is inf|value_loss is inf",
        )


def test_the_message_says_what_to_do() -> None:
    fail(build(), Poison("values", np.nan), r"The update was not applied.*can be saved.*on_nan='skip'")


def test_on_nan_wants_one_of_its_words() -> None:
    with pytest.raises(ValueError, match=r"on_nan 'skp' is unknown; did you mean 'skip'\? Known: stop, skip"):
        build(on_nan="skp")


class Overflow(BaseCallback):
    """Set an agent's parameters to the brink of float32, in the middle of a rollout."""

    def __init__(self, agent: str, at: int) -> None:
        super().__init__()
        self.agent, self.at = agent, at

    def _on_step(self) -> bool:
        if self.num_timesteps == self.at:
            with th.no_grad():
                for parameter in self.model.agents[self.agent].policy.parameters():  # type: ignore[attr-defined]
                    parameter.fill_(1e38)
        return True


def test_a_policy_that_overflows_while_it_acts_is_named_and_the_model_can_be_saved(tmp_path: Path) -> None:
    model = build(backend="sb3")
    before = copies(model)
    # Three copies: after step 4 of the second rollout.
    where = r"agent 'agent_1', step 5 of the rollout: the policy's output is NaN or infinite, on finite observations"
    fail(model, Overflow("agent_1", ITERATION + 15), where)
    assert not equal(copies(model), before), "the first update was applied"
    model.save(tmp_path / "model")
    loaded = MATRL.load(tmp_path / "model", env="checkers_v0", device="cpu")
    assert loaded.num_timesteps == ITERATION
    assert equal(copies(loaded), copies(model))


@pytest.mark.parametrize("use_sde", [False, True])
def test_a_policy_of_continuous_actions_that_overflows_is_named_too(use_sde: bool, tmp_path: Path) -> None:
    model = build(env=early_death, n_steps=20, use_sde=use_sde, backend="sb3")
    with np.errstate(invalid="ignore"):
        fail(model, Overflow("a", 15), r"agent 'a', (env copy \d, )?step 5 of the rollout: .*(NaN|nan|inf)")
    model.save(tmp_path / "model")
    assert equal(copies(MATRL.load(tmp_path / "model", device="cpu")), copies(model))


@pytest.mark.parametrize(("env", "agent"), [("checkers_v0", "agent_1"), (early_death, "a")])
def test_a_stack_whose_policy_overflows_names_it(env: Any, agent: str) -> None:
    model = build(env=env, backend="torch")
    model.learn(ITERATION)
    with th.no_grad():
        first_weight(model.agents[agent].policy).fill_(3e38)
        model.agents[agent].policy.action_net.weight.fill_(3e38)
    where = rf"agent {agent!r}, step \d of the rollout: the policy's output is NaN or infinite, on finite observations"
    with np.errstate(invalid="ignore"):
        fail(model, match=where)


# ---------------------------------------------------------------- undone


@pytest.mark.parametrize("arguments", [{"learning_rate": 3e37}, {"br_learning_rate": 3e37}])
def test_all_agents_are_put_back(arguments: dict[str, float]) -> None:
    model = build(**arguments)
    before, draws = copies(model), model.coordinator.rng.bit_generator.state
    fail(model, match="NaN or infinite")
    assert equal(copies(model), before)
    assert model.coordinator.rng.bit_generator.state == draws
    assert model._n_updates == 0 and [learner._n_updates for learner in model.agents.values()] == [0, 0]


def test_a_stopped_training_is_saved_and_goes_on_as_if_it_had_never_failed(tmp_path: Path) -> None:
    whole = build().learn(4 * ITERATION)
    stopped = build()
    fail(stopped, Poison("advantages", np.nan, at=3 * ITERATION), "advantage is nan")
    assert stopped.num_timesteps == 3 * ITERATION and stopped.resumable_timesteps == 2 * ITERATION
    stopped.save(tmp_path / "last_good")
    resumed = MATRL.load(tmp_path / "last_good", env="checkers_v0", device="cpu")
    resumed.learn(2 * ITERATION, reset_num_timesteps=False)
    assert_same(resumed, whole)


def test_any_other_error_undoes_the_update_too(tmp_path: Path) -> None:
    model = build()
    before = copies(model)

    def interrupt() -> None:
        raise KeyboardInterrupt

    model.agents["agent_1"].train = interrupt  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        model.learn(ITERATION)
    assert equal(copies(model), before)  # agent_0 had been updated
    assert model.resumable_timesteps == 0


def test_a_skipped_update_is_left_out_counted_and_said_once(tmp_path: Path) -> None:
    class Twice(Poison):
        def _on_rollout_end(self) -> None:
            for self.at in (ITERATION, 3 * ITERATION):
                super()._on_rollout_end()

    model, remember = build(on_nan="skip"), Remember()
    model.set_logger(configure(str(tmp_path), ["csv"]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.learn(4 * ITERATION, callback=[remember, Twice("values", np.inf)])
    said = [str(one.message) for one in caught if "on_nan" in str(one.message)]
    assert len(said) == 1 and "agent 'agent_1', env copy 2, step 7" in said[0]
    # Rollouts 1 and 3 changed nothing, rollout 2 did.
    assert equal(remember.seen[0], remember.seen[1]) and equal(remember.seen[2], remember.seen[3])
    assert not equal(remember.seen[1], remember.seen[2])
    assert (model._n_updates, model.skipped_updates, model.num_timesteps) == (2, 2, 4 * ITERATION)
    rows = (tmp_path / "progress.csv").read_text().splitlines()
    column = rows[0].split(",").index("train/skipped_updates")
    assert float(rows[-1].split(",")[column]) == 2


@pytest.mark.e2e
def test_after_a_skipped_update_a_resumed_training_is_the_one_that_never_stopped(tmp_path: Path) -> None:
    def train(steps: int) -> MATRL:
        model = build(on_nan="skip")
        with pytest.warns(UserWarning, match="on_nan='skip'"):
            return model.learn(steps, callback=Poison("values", np.nan, at=2 * ITERATION))

    whole = train(4 * ITERATION)
    train(2 * ITERATION).save(tmp_path / "half")
    resumed = MATRL.load(tmp_path / "half", env="checkers_v0", device="cpu")
    assert (resumed.on_nan, resumed.skipped_updates) == ("skip", 1)
    resumed.learn(2 * ITERATION, reset_num_timesteps=False)
    assert_same(resumed, whole)
    assert whole.report is not None and resumed.skipped_updates == 1


def test_a_skipped_update_leaves_no_report() -> None:
    model = build(on_nan="skip")
    with pytest.warns(UserWarning, match="on_nan='skip'"):
        model.learn(ITERATION, callback=Poison("values", np.nan))
    assert model.report is None
