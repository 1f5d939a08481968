"""Names of classes and schedules in configuration files: fixed tables, nothing is evaluated."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch as th
from sb3_contrib import TRPO, MaskablePPO, RecurrentPPO
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.torch_layers import CombinedExtractor, FlattenExtractor, NatureCNN
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.dqn.policies import DQNPolicy
from stable_baselines3.td3.policies import TD3Policy

from sb3_matrl.utils.suggest import unknown

ACTIVATIONS: dict[str, type[th.nn.Module]] = {
    "elu": th.nn.ELU,
    "gelu": th.nn.GELU,
    "leaky_relu": th.nn.LeakyReLU,
    "mish": th.nn.Mish,
    "relu": th.nn.ReLU,
    "selu": th.nn.SELU,
    "sigmoid": th.nn.Sigmoid,
    "silu": th.nn.SiLU,
    "softplus": th.nn.Softplus,
    "tanh": th.nn.Tanh,
}
OPTIMIZERS: dict[str, type[th.optim.Optimizer]] = {
    "adam": th.optim.Adam,
    "adamw": th.optim.AdamW,
    "rmsprop": th.optim.RMSprop,
    "sgd": th.optim.SGD,
}
EXTRACTORS: dict[str, type[th.nn.Module]] = {
    "combined": CombinedExtractor,
    "flatten": FlattenExtractor,
    "nature_cnn": NatureCNN,
}
LEARNERS: dict[str, type[OnPolicyAlgorithm]] = {
    "PPO": PPO,
    "A2C": A2C,
    "TRPO": TRPO,
    "RecurrentPPO": RecurrentPPO,
    "MaskablePPO": MaskablePPO,
}
POLICIES = ("MlpPolicy", "CnnPolicy", "MultiInputPolicy", *RecurrentPPO.policy_aliases)
ON_POLICY_CLASSES: tuple[type[BasePolicy], ...] = (ActorCriticPolicy, RecurrentActorCriticPolicy)

#: Constructor arguments that are classes -> the classes that files may name.
CLASS_ARGUMENTS: dict[str, Mapping[str, type]] = {"learner_class": LEARNERS}
_CLASS_TABLES: dict[str, Mapping[str, type]] = {
    "activation_fn": ACTIVATIONS,
    "optimizer_class": OPTIMIZERS,
    "features_extractor_class": EXTRACTORS,
}
_LINEAR = re.compile(r"lin_(?P<start>[0-9.]+(?:e[+-]?[0-9]+)?)", re.IGNORECASE)


def policy_options(policies: Iterable[type[BasePolicy]] = (*ON_POLICY_CLASSES, DQNPolicy, TD3Policy)) -> list[str]:
    """
    Keys of ``policy_kwargs``.

    :param policies: classes of policies; those of SB3 by default, recurrent ones included
    :return: names of their arguments
    """
    given_by_sb3 = {"self", "observation_space", "action_space", "lr_schedule", "use_sde"}
    names = dict.fromkeys(name for cls in policies for name in inspect.signature(cls.__init__).parameters)
    return [name for name in names if name not in given_by_sb3]


def resolve_policy_kwargs(options: Mapping[str, Any], known: Iterable[str] | None = None) -> dict[str, Any]:
    """
    Arguments of an SB3 policy from ``policy_kwargs`` in YAML.

    :param options: e.g. ``{"net_arch": [64, 64], "activation_fn": "leaky_relu"}``
    :param known: keys that the policy has; those of all policies by default
    :return: a copy with classes in place of their names
    :raises ValueError: on an unknown key or name, or a ``net_arch`` that holds no layer sizes
    """
    known = policy_options() if known is None else list(known)
    for name in options:
        if name not in known:
            raise ValueError(unknown("policy_kwargs key", str(name), known))
    if options.get("net_arch") is not None:
        check_net_arch(options["net_arch"], _parts(known))
    return {
        name: resolve_class(name, value) if name in _CLASS_TABLES and value is not None else value
        for name, value in options.items()
    }


def _parts(options: Iterable[str]) -> tuple[str, ...]:
    """Parts of a policy that ``net_arch`` may name, by the options that the policy has."""
    if "ortho_init" in options:
        return "pi", "vf"
    return ("pi", "qf") if "n_critics" in options else ()


def resolve_class(kind: str, name: Any) -> type:
    """
    :param kind: ``"activation_fn"``, ``"optimizer_class"`` or ``"features_extractor_class"``
    :param name: ``"leaky_relu"``, or the class's own name with or without its module (``"nn.LeakyReLU"``)
    :return: the class
    :raises ValueError: if the name is unknown
    """
    table = _CLASS_TABLES[kind]
    short = str(name).rsplit(".", 1)[-1]
    by_class_name = {entry.__name__: entry for entry in table.values()}
    found = table.get(short.lower()) or by_class_name.get(short)
    if found is None:
        raise ValueError(unknown(kind, str(name), table))
    return found


def check_net_arch(layers: Any, parts: tuple[str, ...] = ("pi", "vf")) -> None:
    """
    :param layers: sizes of the hidden layers, ``[64, 64]`` or ``{pi: [64], vf: [64, 64]}``
    :param parts: parts of the policy that may have their own layers
    :raises ValueError: if the value has another form
    """
    given = list(layers.values()) if parts and isinstance(layers, Mapping) and set(layers) <= set(parts) else [layers]
    if not all(isinstance(part, list) and all(map(_is_size, part)) for part in given):
        own = f", or {{{': [64], '.join(parts)}: [64]}}" if parts else ""
        raise ValueError(f"net_arch must be a list of layer sizes like [64, 64]{own}, got {layers!r}")


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def resolve_argument(argument: str, name: str) -> type:
    """
    :param argument: one of :data:`CLASS_ARGUMENTS`
    :param name: name of the class
    :return: the class
    :raises ValueError: if the name is unknown
    """
    if name not in CLASS_ARGUMENTS[argument]:
        raise ValueError(unknown(argument, name, CLASS_ARGUMENTS[argument]))
    return CLASS_ARGUMENTS[argument][name]


def resolve_schedule(value: float | str) -> float | Schedule:
    """
    :param value: a number, or ``"lin_0.002"``: from 0.002 down to 0 over the training
    :return: the number, or SB3's linear schedule
    :raises ValueError: if a text has another form
    """
    if not isinstance(value, str):
        return value
    match = _LINEAR.fullmatch(value)
    try:
        return LinearSchedule(float(match["start"]), 0.0, 1.0) if match else _reject_schedule(value)
    except ValueError:
        return _reject_schedule(value)


def _reject_schedule(value: str) -> float:
    raise ValueError(f"expected a number or a linear schedule like lin_0.002, got {value!r}") from None


def to_yaml(value: Any) -> Any:
    """
    A constructor's argument as files write it.

    :param value: plain values, classes, and lists, tuples and mappings of them
    :return: classes by their names, tuples as lists
    """
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, Mapping):
        return {key: to_yaml(one) for key, one in value.items()}
    return [to_yaml(one) for one in value] if isinstance(value, (list, tuple)) else value
