"""Constructor arguments: types and ranges are checked before anything is built."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from sb3_matrl import MATRL
from sb3_matrl.common.argument_checks import RANGES, checked_argument
from sb3_matrl.common.arguments import constructor_arguments
from sb3_matrl.common.registry import algorithm_names, algorithm_spec
from tests.worlds.continuous_games import ContinuousGame

SPECS = constructor_arguments(MATRL)


def never() -> None:
    raise AssertionError("the env was made")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("gamma", 1.5, "gamma must be between 0 and 1, got 1.5"),
        ("gamma", -0.1, "between 0 and 1"),
        ("gae_lambda", float("nan"), "gae_lambda must be between 0 and 1, got nan"),
        ("n_steps", 0, "n_steps must be at least 1, got 0"),
        ("n_steps", 2.0, "n_steps must be an integer, got 2.0"),
        ("n_steps", True, "n_steps must be an integer, got True"),
        ("n_epochs", 10**400, "n_epochs must be at least 1"),
        ("batch_size", "64", "batch_size must be an integer, got '64'"),
        ("batch_size", np.float64(64.0), "batch_size must be an integer, got 64.0"),
        ("n_envs", -1, "n_envs must be at least 1"),
        ("sde_sample_freq", -2, "sde_sample_freq must be at least -1"),
        ("learning_rate", -1e-3, "learning_rate must be a finite number that is not negative"),
        ("learning_rate", float("inf"), "a finite number"),
        ("learning_rate", "lin_0.001", "must be a number or a function of the remaining progress, got 'lin_0.001'"),
        ("learning_rate", lambda left: -left, "got -1.0 from its schedule where 100% of the training is left"),
        ("clip_range", lambda left: left - 1 + 1e-9, "got -0.99.* from its schedule where 0% of the training is left"),
        ("clip_range", lambda left: "0.2", "must return a number, got '0.2' from its schedule"),
        ("clip_range", 0.0, "clip_range must be greater than 0"),
        ("clip_range_vf", -0.1, "clip_range_vf must be greater than 0"),
        ("max_grad_norm", -1, "max_grad_norm must be greater than 0"),
        ("target_kl", 0.0, "target_kl must be greater than 0"),
        ("ent_coef", float("inf"), "ent_coef must be a finite number"),
        ("seed", -1, r"seed must be between 0 and 2\*\*32 - 1, got -1"),
        ("seed", 1.5, "seed must be an integer or None"),
        ("metagame", "yes", "metagame must be True or False, got 'yes'"),
        ("normalize_advantage", 1, "normalize_advantage must be True or False, got 1"),
        ("policy_kwargs", "dict(net_arch=[8])", "policy_kwargs must be a dict or None"),
        ("policy_kwargs", {"net_arch": [64, 0]}, r"policy_kwargs needs integers of at least 1 as net_arch, got \[64, 0\]"),
        ("policy_kwargs", {"net_arch": {"pi": [8.0]}}, "as net_arch"),
        ("policy_kwargs", {"a": {"net_arch": [-1]}}, "as net_arch"),
        ("policy_kwargs", {"features_extractor_kwargs": {"features_dim": 0}}, "as features_dim, got 0"),
        ("gamma", {"a": 0.9, "b": 2.0}, "gamma of 'b' must be between 0 and 1, got 2.0"),
        ("n_epochs", {"a": None}, "n_epochs of 'a' must be an integer, got None"),
    ],
)
def test_wrong_types_and_ranges_are_named(name: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checked_argument(SPECS[name], value)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("n_envs", np.int64(2), 2),
        ("seed", np.uint32(2**32 - 1), 2**32 - 1),
        ("n_steps", np.array(8), 8),
        ("gamma", np.float32(0.5), 0.5),
        ("gamma", 1, 1),
        ("gae_lambda", Fraction(1, 2), 0.5),
        ("metagame", np.True_, True),
        ("verbose", True, True),
        ("target_kl", None, None),
        ("learning_rate", 0.0, 0.0),
        ("max_grad_norm", float("inf"), float("inf")),
        ("tensorboard_log", Path("logs"), "logs"),
        ("batch_size", {"a": np.int32(4), "b": 8}, {"a": 4, "b": 8}),
        ("policy_kwargs", {"net_arch": [np.int64(4)]}, {"net_arch": [4]}),
    ],
)
def test_numbers_of_numpy_count_as_python_s(name: str, value: Any, expected: Any) -> None:
    found = checked_argument(SPECS[name], value)
    assert found == expected
    assert not isinstance(found, np.generic | np.ndarray)


def test_a_schedule_may_end_at_zero() -> None:
    for name in ("learning_rate", "clip_range", "br_learning_rate"):
        schedule = lambda left: 0.1 * left  # noqa: E731
        assert checked_argument(SPECS[name], schedule) is schedule


def test_defaults_are_in_range_and_every_number_has_a_range() -> None:
    for name, spec in SPECS.items():
        if name not in ("policy", "env"):
            checked_argument(spec, spec.default)
        if type(spec.default) in (int, float) and name != "verbose":
            assert name in RANGES


def test_a_rollout_that_the_memory_cannot_hold_is_refused() -> None:
    with pytest.raises(ValueError, match=r"n_steps=1000000000000 in n_envs=2 copies makes rollouts of .* GiB, and this mach"):
        MATRL("MlpPolicy", "matrix_game_v0", n_steps=10**12, n_envs=2)
    with pytest.raises(ValueError, match=r"n_steps=2048 in n_envs=1000000000 copies makes rollouts of"):
        MATRL("MlpPolicy", "matrix_game_v0", n_envs=10**9)


def test_the_size_of_observations_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_matrl.on_policy.learners.memory_size", lambda: 2 * 100 * 2 * (24 + 4 * 47 + 4) - 1)
    with pytest.raises(ValueError, match="n_steps=100 in n_envs=2 copies"):
        MATRL("MlpPolicy", "checkers_v0", n_steps=100, n_envs=2)
    MATRL("MlpPolicy", "checkers_v0", n_steps=99, n_envs=2, batch_size=99)
    MATRL("MlpPolicy", "checkers_v0", n_steps=99, n_envs=2, batch_size=99, share={"both": ["agent_0", "agent_1"]})


def test_numpy_numbers_train_and_are_saved(tmp_path: Path) -> None:
    numbers = {name: np.int64(value) for name, value in {"n_envs": 2, "seed": 3, "n_steps": 8, "batch_size": 16}.items()}
    model = MATRL("MlpPolicy", "matrix_game_v0", n_epochs=np.int64(1), gamma=np.float64(0.9), **numbers).learn(16)
    model.save(tmp_path / "model")
    assert MATRL.load(tmp_path / "model").arguments["n_steps"] == 8


def test_the_constructor_names_the_agent_before_it_makes_the_env() -> None:
    with pytest.raises(ValueError, match="gamma of 'agent_1' must be between 0 and 1"):
        MATRL("MlpPolicy", never, gamma={"agent_0": 0.9, "agent_1": 9})


ALGORITHMS = dict.fromkeys(algorithm_spec(name).load_class() for name in algorithm_names())
SWITCHES = [(cls, name) for cls in ALGORITHMS for name, spec in constructor_arguments(cls).items() if spec.annotation is bool]


@pytest.mark.parametrize(("cls", "name"), SWITCHES, ids=lambda value: getattr(value, "__name__", value))
def test_every_switch_of_every_algorithm_takes_only_true_and_false(cls: type[Any], name: str) -> None:
    for value in ("yes", "True", 1, 0.0, None):
        with pytest.raises(ValueError, match=f"{name} must be True or False, got {value!r}"):
            cls("MlpPolicy", never, **{name: value})


@pytest.mark.parametrize("cls", sorted(ALGORITHMS, key=lambda cls: cls.__name__))
def test_a_typo_in_the_name_of_a_policy_is_guessed(cls: type[Any]) -> None:
    world = ContinuousGame if spaces.Box in getattr(cls, "action_kinds", ()) else "matrix_game_v0"
    with pytest.raises(ValueError, match=r"policy 'MlpPolcy' is unknown; did you mean 'MlpPolicy'\? Known: "):
        cls("MlpPolcy", world, device="cpu")
