"""Arguments survive JSON; nothing but known classes is ever imported by name."""

import json
import math
import sys
from functools import partial

import numpy as np
import pytest
import torch as th
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sb3_contrib import TRPO
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.noise import (
    ActionNoise,
    NormalActionNoise,
    OrnsteinUhlenbeckActionNoise,
    VectorizedActionNoise,
)
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule

from sb3_matrl.files.argument_codec import Unsaved, argument_from_json, argument_to_json

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
keys = st.one_of(st.text(max_size=5), st.integers(), st.booleans(), st.none(), st.tuples(st.integers(), st.text(max_size=2)))
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(keys, inner, max_size=4),
        st.dictionaries(st.sampled_from(["__kind__", "items", "value"]), inner, max_size=3),
    ),
    max_leaves=12,
)


def round_trip(value):
    return argument_from_json(json.loads(json.dumps(argument_to_json(value), allow_nan=False)))


def same(a, b):
    """Equal, of the same types, nan being nan, dicts in the same order."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return a == b or (math.isnan(a) and math.isnan(b))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return same([*map(list, a.items())], [*map(list, b.items())])
    return a == b


@given(values)
@settings(deadline=None, max_examples=80)
def test_nested_values_survive_json(value):
    assert same(value, round_trip(value))


@given(
    hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.float64, np.int8, np.uint64, np.bool_, ">f8", "<U3"]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
    )
)
@settings(deadline=None)
def test_arrays_survive_json(array):
    np.testing.assert_array_equal(round_trip(array), array, strict=True)


@pytest.mark.parametrize(
    ("scalar", "plain"),
    [(np.float32(0.5), 0.5), (np.float64("inf"), math.inf), (np.int8(-3), -3), (np.bool_(True), True), (np.str_("x"), "x")],
)
def test_numpy_s_scalars_become_python_s(scalar, plain):
    assert same(round_trip([scalar])[0], plain)


@pytest.mark.parametrize(
    "cls",
    [
        PPO,
        TRPO,
        ActorCriticPolicy,
        NatureCNN,
        CombinedExtractor,
        RolloutBuffer,
        DictRolloutBuffer,
        th.nn.Tanh,
        th.nn.LeakyReLU,
        th.optim.Adam,
        th.optim.SGD,
    ],
)
def test_classes_of_networks_optimisers_algorithms_and_buffers_survive(cls):
    bases = {"learner_class": (PPO, TRPO), "rollout_buffer_class": (RolloutBuffer, DictRolloutBuffer)}
    name = next((name for name, known in bases.items() if cls in known), "other")
    assert round_trip({name: cls})[name] is cls


@pytest.mark.parametrize("schedule", [0.25, LinearSchedule(1.0, 0.1, 0.5), ConstantSchedule(0.25), FloatSchedule(0.25)])
def test_sb3_s_schedules_survive(schedule):
    back = FloatSchedule(round_trip(schedule))
    for progress in np.linspace(0, 1, 11):
        assert back(progress) == FloatSchedule(schedule)(progress)
    nested = FloatSchedule(round_trip(FloatSchedule(schedule)))
    assert nested(0.3) == FloatSchedule(schedule)(0.3)


def test_schedules_of_odd_numbers_survive():
    back = round_trip(LinearSchedule(np.float32(0.5), math.inf, 1))
    assert (back.start, back.end, back.end_fraction) == (0.5, math.inf, 1)
    assert round_trip(ConstantSchedule(np.float32(0.5))) == 0.5
    assert round_trip(ConstantSchedule(math.inf)) == math.inf


@pytest.mark.parametrize(
    "noise",
    [
        NormalActionNoise(np.array([0.5, -1.0]), np.array([0.1, 2.0])),
        NormalActionNoise(np.zeros(2, np.float32), np.full(2, 0.3), np.float64),
        OrnsteinUhlenbeckActionNoise(np.zeros(2), np.array([0.1, 0.2])),
        OrnsteinUhlenbeckActionNoise(np.ones(2), np.full(2, 0.5), 0.3, 0.02, np.array([0.25, -0.25]), np.float64),
    ],
    ids=["normal", "normal float64", "ornstein-uhlenbeck", "ornstein-uhlenbeck with all arguments"],
)
def test_sb3_s_action_noise_survives(noise):
    for back in (round_trip(noise), round_trip({"a": noise})["a"], round_trip(VectorizedActionNoise(noise, 3))):
        assert type(back) is type(noise)
        draws = []
        for one in (noise, back):
            one.reset()
            np.random.seed(0)
            draws.append([one() for _ in range(5)])
        assert np.array_equal(*draws) and draws[0][0].dtype == draws[1][0].dtype


@pytest.mark.parametrize(
    ("arguments", "dtype"),
    [(["a", 0.1], "float32"), ([0.0, 0.1], "<U9"), ([0.0], "float32"), ([0.0, "b"], "float32"), (1, "float32")],
)
def test_damaged_noise_is_rejected(arguments, dtype):
    with pytest.raises(ValueError, match=r"Noise|not a description"):
        argument_from_json({"__kind__": "normal_noise", "arguments": arguments, "dtype": dtype})


class Shifted(NormalActionNoise):
    """Shares the normal noise's numbers and means something else."""

    def __call__(self):
        return super().__call__() + 1.0


class Pulse(ActionNoise):
    """Noise of no known library."""

    def __call__(self):
        return np.ones(2)


class Warmup(LinearSchedule):
    """Shares LinearSchedule's numbers and means something else."""

    def __call__(self, progress_remaining):
        return self.start * (1 - progress_remaining)


class LocalNetwork(th.nn.Module):
    """A network of no known library."""


class Odd(float):
    """A number with a face of its own."""


@pytest.mark.parametrize(
    "value",
    [
        lambda progress: 0.1 * progress,
        FloatSchedule(lambda progress: 0.1 * progress),
        partial(print, "x"),
        Warmup(1.0, 0.0, 1.0),
        Shifted(np.zeros(2), np.ones(2)),
        Pulse(),
        FloatSchedule(Warmup(1.0, 0.0, 1.0)),
        LocalNetwork,
        dict,
        th.nn.functional.relu,
        th.device("cpu"),
        th.ones(2),
        1j,
        {1, 2},
        b"bytes",
        np.longdouble(1),
        np.datetime64("2020-01-01"),
        np.array([object()]),
        np.array([1j]),
        np.array([1.0], np.longdouble),
        np.zeros(2, "i4,f4"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_has_no_json_leaves_its_text(value):
    for wrapped in (value, [value], {"x": value}):
        back = round_trip(wrapped)
        lost = back if wrapped is value else back[0] if isinstance(wrapped, list) else back["x"]
        assert isinstance(lost, Unsaved)
        assert lost.text


def test_the_text_is_the_value_s_own():
    assert round_trip({1, 2}).text == "{1, 2}"
    assert round_trip(LocalNetwork).text == repr(LocalNetwork)


def named(module, name):
    return {"__kind__": "class", "module": module, "name": name}


REFUSED = [
    ("os", "system"),
    ("posix", "system"),
    ("subprocess", "Popen"),
    ("builtins", "eval"),
    ("builtins", "dict"),
    ("torch", "load"),
    ("torch", "nn.Module"),
    ("torch.nnx", "Module"),
    ("torch.nn_evil", "Module"),
    ("torch.hub", "load"),
    ("stable_baselines3_evil", "PPO"),
    ("", "PPO"),
    (None, None),
    ("torch.nn", "functional"),
    ("torch.nn.functional", "relu"),
    ("torch.nn.init", "normal_"),
    ("torch.nn", "functional.relu"),
    ("torch.nn", "Module.forward"),
    ("torch.nn", "__class__"),
    ("torch.nn", "no_such_class"),
    ("torch.nn.no_such_module", "Module"),
    ("torch.nn.", "Linear"),
    ("torch.nn.modules.module", "OrderedDict"),
    ("torch.optim", "lr_scheduler"),
    ("torch.optim.lr_scheduler", "StepLR"),
    ("stable_baselines3.common.save_util", "open_path"),
    ("stable_baselines3.common.utils", "os"),
    ("stable_baselines3.common.base_class", "DummyVecEnv"),
    ("stable_baselines3.common.vec_env.base_vec_env", "CloudpickleWrapper"),
    ("stable_baselines3.common.buffers", "np"),
    ("torch.nn", 5),
    ("torch.nn", ["Module"]),
]


@pytest.mark.parametrize(("module", "name"), REFUSED)
def test_no_other_name_is_loaded(module, name):
    with pytest.raises(ValueError):
        argument_from_json([{"__kind__": "dict", "items": [["policy_kwargs", named(module, name)]]}])


@pytest.mark.parametrize("module", ["evil_module", "torch.nn_evil", "torchx.nn", "stable_baselines3_evil.ppo"])
def test_a_refused_module_is_not_even_imported(module, tmp_path, monkeypatch):
    *packages, last = module.split(".")
    folder = tmp_path
    for package in packages:
        folder = folder / package
        folder.mkdir()
        if package != "torch":
            (folder / "__init__.py").write_text("")
    (folder / f"{last}.py").write_text("raise SystemExit('executed')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match="is not imported: only classes of"):
        argument_from_json(named(module, "Module"))
    assert module not in sys.modules


def test_a_class_that_only_pretends_to_be_of_a_library_is_refused(monkeypatch):
    # Found under a trusted module, but defined elsewhere.
    monkeypatch.setattr(th.nn, "LocalNetwork", LocalNetwork, raising=False)
    with pytest.raises(ValueError, match=r"torch\.nn\.LocalNetwork is not a network, optimiser, algorithm or buffer class"):
        argument_from_json(named("torch.nn", "LocalNetwork"))


def test_a_missing_library_is_an_error_that_names_the_class():
    with pytest.raises(ValueError, match=r"torch\.nn\.nowhere\.Net cannot be imported: No module named"):
        argument_from_json(named("torch.nn.nowhere", "Net"))


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"__kind__": "code"},
        {"__kind__": ["dict"]},
        {"__kind__": "float"},
        {"__kind__": "float", "value": "much"},
        {"__kind__": "float", "value": None},
        {"__kind__": "tuple", "items": 3},
        {"__kind__": "dict", "items": [["x"]]},
        {"__kind__": "dict", "items": [[[1], 2]]},
        {"__kind__": "array", "items": [1], "dtype": "int64"},
        {"__kind__": "array", "items": [1], "dtype": "int65", "shape": [1]},
        {"__kind__": "array", "items": [1], "dtype": "int64", "shape": [2]},
        {"__kind__": "array", "items": ["x"], "dtype": "U500000000", "shape": [1]},
        {"__kind__": "array", "items": [1], "dtype": "O", "shape": [1]},
        {"__kind__": "array", "items": [1], "dtype": "(100000,100000)f4", "shape": [1]},
        {"__kind__": "array", "items": [300], "dtype": "uint8", "shape": [1]},
        {"__kind__": "linear", "arguments": [1.0]},
        {"__kind__": "class", "module": "torch.nn"},
        {"__kind__": "unsaved"},
    ],
)
def test_what_was_never_written_is_a_value_error(data):
    with pytest.raises(ValueError):
        argument_from_json(data)
