"""rl-zoo's texts in hyper-parameter files: read as literals, never evaluated."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import torch as th
from hypothesis import given
from hypothesis import strategies as st

from sb3_matrl.zoo.common.hyperparameters import Hyperparameters, load_hyperparameters
from sb3_matrl.zoo.common.python_text import read_python_text
from sb3_matrl.zoo.train import parse_options
from sb3_matrl.zoo.training.experiment import read_hyperparameters

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**6), 10**6)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("aé'\"\\{", max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab_", min_size=1, max_size=4), inner, max_size=3),
    max_leaves=8,
)


@given(PLAIN)
def test_literals_are_read_as_python_reads_them(value: Any) -> None:
    assert read_python_text(repr(value)) == value == ast.literal_eval(repr(value))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("dict(net_arch=[64, 64])", {"net_arch": [64, 64]}),
        (" dict( )\n", {}),
        (
            "dict(net_arch=dict(pi=[64], vf=(32, 32)), ortho_init=False)",
            {"net_arch": {"pi": [64], "vf": [32, 32]}, "ortho_init": False},
        ),
        ("dict(log_std_init=-2.5, activation_fn=nn.ReLU)", {"log_std_init": -2.5, "activation_fn": "nn.ReLU"}),
        ("{'optimizer_class': torch.optim.AdamW, 'x': +1}", {"optimizer_class": "torch.optim.AdamW", "x": 1}),
        ("dict(features_extractor_class=NatureCNN)", {"features_extractor_class": "NatureCNN"}),
    ],
)
def test_forms_of_rl_zoo(text: str, value: Any) -> None:
    assert read_python_text(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "dict(net_arch=__import__('os').sep)",
        "dict(net_arch=[64] * 2)",
        "dict(net_arch=[2**9999999999])",
        "dict(activation_fn=(lambda: 0))",
        "dict(activation_fn=nn.ReLU())",
        "dict(net_arch=nn.ReLU)",
        "dict([('a', 1)])",
        "dict(**{'a': 1})",
        "dict(a=1, a=2)",
        "{'a': 1, 'a': 2}",
        "{1: 2}",
        "{**{}}",
        "{1, 2}",
        "f'{1}'",
        "b'x'",
        "1j",
        "...",
        "-True",
        "- 'a'",
        "OrderedDict(a=1)",
        "a.dict(b=1)",
        "[x for x in (1,)]",
        "net_arch",
        "dict(",
        "",
        "\0",
        "(" * 1000,
        "-" * 1999,
        "x" * 3000,
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write YAML"):
        read_python_text(text)


def hyperparameters(tmp_path: Path, lines: str, algorithm: str = "ippo") -> Hyperparameters:
    path = tmp_path / "conf.yml"
    path.write_text("matrix_game_v0:\n" + "".join(f"  {line}\n" for line in lines.splitlines()))
    return load_hyperparameters(path, algorithm, "matrix_game_v0")


def test_entry_of_rl_zoo_is_read(tmp_path: Path) -> None:
    read = hyperparameters(
        tmp_path,
        """normalize: "{'norm_obs': True, 'norm_reward': False}"
n_timesteps: !!float 1e6
learning_rate: lin_0.002
policy: 'MlpPolicy'
policy_kwargs: "dict(net_arch=dict(pi=[64], vf=[32]), activation_fn=nn.LeakyReLU)\"""",
    )
    assert (read["norm_obs"], read["norm_reward"], read.n_timesteps, read["learning_rate"]) == (
        True,
        False,
        10**6,
        "lin_0.002",
    )
    arguments = read.model_arguments()["policy_kwargs"]
    assert arguments == {"net_arch": {"pi": [64], "vf": [32]}, "activation_fn": th.nn.LeakyReLU}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('normalize: "dict(norm_obs=1 + 1)"', "such as {norm_obs: true, norm_reward: false}"),
        ('normalize: "[1]"', "normalize: expected true, false or a mapping"),
        ('normalize: "dict(norm=True)"', "normalize: key 'norm' is unknown"),
        ('policy_kwargs: "dict(net_arch=[64] * 2)"', "policy_kwargs: 'dict(net_arch=[64] * 2)' is read without evaluating it"),
        ('policy_kwargs: "dict(activation_fn=nn.Softshrink)"', "activation_fn 'nn.Softshrink' is unknown"),
        ('policy_kwargs: "[64]"', "policy_kwargs: expected a mapping or null, got [64]"),
        ('env_kwargs: "open(1)"', "env_kwargs: 'open(1)' is read without evaluating it"),
    ],
)
def test_other_texts_are_refused_with_their_place(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ValueError) as error:
        hyperparameters(tmp_path, line)
    assert message in str(error.value) and "conf.yml, matrix_game_v0" in str(error.value)


def test_command_line_takes_the_same_texts() -> None:
    words = [
        "--algo",
        "ippo",
        "--env",
        "matrix_game_v0",
        "-params",
        "policy_kwargs:dict(net_arch=[8])",
        "normalize:dict(norm_obs=False)",
    ]
    read = read_hyperparameters(parse_options(words))
    assert read["policy_kwargs"] == {"net_arch": [8]} and (read["norm_obs"], read["norm_reward"]) == (False, True)


def test_a_text_may_have_one_value_per_agent(tmp_path: Path) -> None:
    read = hyperparameters(tmp_path, 'policy_kwargs: "dict(row=dict(net_arch=[8]), column=dict(net_arch=[16]))"')
    assert read["policy_kwargs"] == {"row": {"net_arch": [8]}, "column": {"net_arch": [16]}}
