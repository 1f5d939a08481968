import math
from datetime import date

import numpy as np
import optuna
import pytest
from scipy.stats import kstest, loguniform, uniform

from sb3_matrl.zoo.sweeping.parameters import read_parameter


def draws(spec, n=400):
    """Values that a random search draws."""
    parameter = read_parameter("x", spec)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [parameter.suggest(study.ask()) for _ in range(n)]


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.ERROR)


@pytest.mark.parametrize(
    ("spec", "law"),
    [
        ({"min": -1.0, "max": 3.0}, uniform(-1, 4)),
        ({"min": 0, "max": 3.0}, uniform(0, 3)),
        ({"distribution": "uniform", "min": 1, "max": 3}, uniform(1, 2)),
        ({"distribution": "log_uniform_values", "min": 1e-4, "max": 1.0}, loguniform(1e-4, 1.0)),
    ],
)
def test_continuous_parameters_follow_their_law(spec, law):
    assert kstest(draws(spec), law.cdf).pvalue > 0.01


@pytest.mark.parametrize("spec", [{"min": 2, "max": 5}, {"distribution": "int_uniform", "min": 2, "max": 5}])
def test_integers_are_uniform_with_both_ends(spec):
    values, counts = np.unique(draws(spec), return_counts=True)
    assert values.tolist() == [2, 3, 4, 5]
    # Binomial(400, 1/4): four standard deviations are 35.
    assert all(abs(count - 100) < 35 for count in counts)
    assert all(type(value) is int for value in draws(spec, 5))


def test_quantised_numbers_are_multiples_without_rounding_errors():
    values = draws({"distribution": "q_uniform", "min": 0.1, "max": 0.3, "q": 0.05})
    assert set(values) == {0.1, 0.15, 0.2, 0.25, 0.3}
    whole = draws({"distribution": "q_uniform", "min": 4, "max": 16, "q": 4})
    assert set(whole) == {4, 8, 12, 16} and all(type(value) is int for value in whole)


def test_quantised_logarithmic_numbers_are_rounded_draws_of_the_plain_ones():
    plain = draws({"distribution": "log_uniform_values", "min": 5, "max": 100})
    rounded = draws({"distribution": "q_log_uniform_values", "min": 5, "max": 100, "q": 5})
    assert rounded == [5 * round(value / 5) for value in plain]


def test_values_of_every_type_come_back_as_they_are():
    values = [[64, 64], None, True, 1, "relu", {"pi": [8], "vf": [16]}, 0.5]
    drawn = draws({"values": values}, 200)
    assert all(any(type(one) is type(value) and one == value for one in drawn) for value in values)
    assert all(any(type(one) is type(value) and one == value for value in values) for one in drawn)


def test_constant_is_not_a_choice():
    parameter = read_parameter("x", {"value": [1, 2]})
    trial = optuna.create_study().ask()
    assert parameter.suggest(trial) == [1, 2] and trial.params == {} and parameter.is_constant


@pytest.mark.parametrize(
    ("spec", "extremes"),
    [
        ({"values": [3, 1, None]}, [3, 1, None]),
        ({"value": 7}, [7]),
        ({"min": 2, "max": 9}, [2, 9]),
        ({"min": 0.5, "max": 9}, [0.5, 9]),
        ({"distribution": "q_uniform", "min": 3, "max": 10, "q": 4}, [4, 8]),
    ],
)
def test_extremes_are_what_a_trial_can_get(spec, extremes):
    assert read_parameter("x", spec).extremes() == extremes


def test_grid_counts_values_and_integers():
    assert read_parameter("x", {"values": [[1], None]}).grid() == ["[1]", "null"]
    assert read_parameter("x", {"min": 1, "max": 3}).grid() == [1, 2, 3]
    with pytest.raises(ValueError, match="parameter x: a grid needs values"):
        read_parameter("x", {"min": 1.0, "max": 3}).grid()
    with pytest.raises(ValueError, match="a grid of 1,000,000,000,001 values is too large"):
        read_parameter("x", {"min": 0, "max": 10**12}).grid()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ([1, 2], "expected a mapping such as"),
        ({}, "expected value, values, or min and max; got nothing"),
        ({"minimum": 1}, "expected value, values, or min and max; got minimum"),
        ({"min": 1}, "needs min and max; max is missing"),
        ({"min": 1, "max": 2, "step": 1}, "key of parameters with distribution int_uniform, 'step' is unknown"),
        ({"min": 2, "max": 1}, "min must be smaller than max, got 2 and 1"),
        ({"min": "small", "max": 1}, "min must be a number, got 'small'"),
        ({"min": True, "max": 2}, "min must be an integer, got True"),
        ({"distribution": "int_uniform", "min": 1, "max": 2.5}, "max must be an integer, got 2.5"),
        ({"distribution": "log_uniform_values", "min": 0, "max": 1}, "needs a min above 0, got 0"),
        ({"distribution": "q_uniform", "min": 0, "max": 1, "q": 0}, "q must be above 0"),
        ({"distribution": "q_uniform", "min": 0.0, "max": 0.3, "q": 1}, "rounds every value from 0.0 to 0.3 to 0"),
        ({"distribution": "q_uniform", "min": 0.0, "max": 0.3}, "rounds every value from 0.0 to 0.3 to 0: give a smaller q"),
        ({"distribution": "q_uniform", "min": 5, "max": 7, "q": 6}, "rounds every value from 5 to 7 to 6"),
        ({"distribution": "q_log_uniform_values", "min": 1e-4, "max": 1e-2, "q": 0.1}, "rounds every value"),
        ({"distribution": "q_log_uniform_values", "min": 1, "max": 100, "q": 5}, "rounds min = 1 to 0, out of the range"),
        ({"distribution": "q_uniform", "min": 4, "max": 15, "q": 4}, "rounds max = 15 to 16, out of the range"),
        ({"distribution": "q_uniform", "min": 0, "max": 1, "q": -1}, "q must be above 0"),
        ({"distribution": "q_uniform", "min": 0, "max": 1, "q": math.nan}, "q must be a number"),
        ({"distribution": "q_uniform", "min": 0, "max": 1, "q": 1e-300}, "is too small for numbers from 0 to 1"),
        ({"min": 1, "max": 1}, "min must be smaller than max"),
        ({"min": 0.5, "max": math.nan}, "max must be a number"),
        ({"min": 0, "max": 10**400}, "max must be a number between"),
        ({"min": -1e308, "max": 1e308}, "min must be a number"),
        ({"distribution": "log_uniform_values", "min": -1, "max": 1}, "needs a min above 0, got -1"),
        ({"distribution": ["uniform"], "min": 1, "max": 2}, "is unknown"),
        ({"values": [1, 2, 1.0]}, "value 1.0 is given twice"),
        ({"values": [[8], [8]]}, "value [8] is given twice"),
        ({"values": [0.1, math.nan]}, "value nan is no number"),
        ({"value": math.inf}, "value inf is no number"),
        ({"value": date(2020, 1, 1)}, "that both backends can hold"),
        ({"distribution": "log_uniform_value", "min": 1, "max": 2}, "did you mean 'log_uniform_values'"),
        ({"distribution": "normal", "mu": 0, "sigma": 1}, "distribution 'normal' is unknown"),
        ({"values": []}, "values must be a list with at least one entry"),
        ({"values": 3}, "values must be a list"),
        ({"values": [1, 2, 1]}, "value 1 is given twice"),
        ({"values": [1, 2], "probabilities": [0.1, 0.9]}, "probabilities are not supported"),
        ({"parameters": {"net_arch": {"value": [8]}}}, "give each its own entry, x.<key>"),
    ],
)
def test_wrong_entries_are_refused(spec, message):
    with pytest.raises(ValueError) as error:
        read_parameter("x", spec)
    assert message in str(error.value)


def test_infinite_range_is_refused():
    with pytest.raises(ValueError, match="must be a number"):
        read_parameter("x", {"min": 0.0, "max": math.inf})
