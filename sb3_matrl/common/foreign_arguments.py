"""Messages about arguments that an algorithm does not have: whose they are, and what it has instead."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from sb3_matrl.common.arguments import constructor_arguments
from sb3_matrl.common.registry import installed_algorithms
from sb3_matrl.utils.suggest import unknown

#: Argument -> arguments of other algorithms with the same purpose.
_COUNTERPARTS: dict[str, tuple[str, ...]] = {
    "n_steps": ("train_freq",),
    "train_freq": ("n_steps",),
    **dict.fromkeys(("n_epochs", "br_n_epochs"), ("gradient_steps",)),
    "gradient_steps": ("n_epochs",),
    "ent_coef": ("exploration_final_eps", "action_noise"),
    **dict.fromkeys(("exploration_fraction", "exploration_final_eps"), ("action_noise", "ent_coef")),
    "action_noise": ("exploration_final_eps", "ent_coef"),
    "team_reward": ("share_reward",),
    "share_reward": ("team_reward",),
    "mixing_embed_dim": ("joint_embed_dim",),
    "joint_embed_dim": ("mixing_embed_dim",),
    **dict.fromkeys(("rollout_buffer_class", "rollout_buffer_kwargs"), ("replay_buffer_kwargs",)),
}


def unknown_argument(cls: type[Any], name: str, own: Iterable[str], kind: str = "argument") -> str:
    """
    Describe an argument that an algorithm does not have.

    :param cls: class of the algorithm
    :param name: name of the argument
    :param own: names of the arguments that may be given
    :param kind: kind of the argument, such as ``"hyper-parameter"``
    :return: whose argument it is and what the algorithm has instead, or the nearest of its own names
    """
    own = list(own)
    classes = dict.fromkeys(spec.load_class() for spec in installed_algorithms())
    owners = [other.__name__ for other in classes if other is not cls and name in constructor_arguments(other)]
    if not owners or name in constructor_arguments(cls):
        return unknown(kind, name, own)
    others = {1: "", 2: " and another's"}.get(len(owners), f" and {len(owners) - 1} others'")
    counterpart = next((one for one in _COUNTERPARTS.get(name, ()) if one in own), None)
    has = f"has {counterpart!r}" if counterpart else f"has: {', '.join(own)}"
    return f"{kind} {name!r} is {owners[0]}'s{others}; {cls.__name__} {has}"
