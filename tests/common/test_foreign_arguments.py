"""An argument that an algorithm does not have is named with its owner, in Python as on the command lines."""

from __future__ import annotations

import pytest

from sb3_matrl import MADDPG, QMIX
from sb3_matrl.common.arguments import constructor_arguments
from sb3_matrl.common.foreign_arguments import _COUNTERPARTS, unknown_argument
from sb3_matrl.common.registry import installed_algorithms


@pytest.mark.parametrize(
    ("cls", "name", "message"),
    [
        (QMIX, "n_epochs", "argument 'n_epochs' is MATRL's; QMIX has 'gradient_steps'"),
        (QMIX, "joint_embed_dim", "argument 'joint_embed_dim' is QTRAN's; QMIX has 'mixing_embed_dim'"),
        (MADDPG, "exploration_final_eps", "is IQL's and 4 others'; MADDPG has 'action_noise'"),
        (QMIX, "gradient_step", "argument 'gradient_step' is unknown; did you mean 'gradient_steps'"),
    ],
)
def test_constructors_say_so(cls: type, name: str, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        cls("MlpPolicy", "checkers_v0", **{name: 3})


def test_counterparts_are_arguments_of_some_algorithm() -> None:
    known = {name for spec in installed_algorithms() for name in constructor_arguments(spec.load_class())}
    assert {*_COUNTERPARTS, *(one for others in _COUNTERPARTS.values() for one in others)} <= known


def test_an_argument_that_cannot_be_given_here_is_no_other_algorithms() -> None:
    # A file cannot set it although the class has it.
    assert unknown_argument(QMIX, "seed", ["gamma"], "hyper-parameter").startswith("hyper-parameter 'seed' is unknown")
