"""Going on from a trained model: ``train.py --trained-agent``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_matrl import MATRL
from sb3_matrl.envs.making import EnvSource
from sb3_matrl.files.foreign import is_sb3_file, load_sb3_agent
from sb3_matrl.zoo.common.hyperparameters import Hyperparameters
from sb3_matrl.zoo.playing.players import is_lost

# What the networks in the file were built from.
ARCHITECTURE = ("policy", "policy_kwargs", "learner_class", "learner_kwargs", "use_sde")


def load_pretrained(
    path: Path, env: EnvSource, hyperparameters: Hyperparameters, changed: Mapping[str, Any], trust: bool, **arguments: Any
) -> tuple[MATRL, Hyperparameters]:
    """
    Load a model to train it further: parameters, optimisers and counters from the file, all else as given.

    A file of plain SB3 has one agent's policy and optimiser, which all agents get; its counters are not taken over.

    :param path: of the model
    :param env: the environment, with the agents and spaces of the model's
    :param hyperparameters: take the place of those in the file, except ``ARCHITECTURE``
    :param changed: the hyper-parameters among them that the user asked for
    :param trust: load files of plain SB3, too, which can run code
    :param arguments: others of ``MATRL.load``
    :return: the model, and the hyper-parameters that it has now
    :raises ValueError: when the user wants another architecture, the file is not a model, or the environment does not fit it
    :raises FileNotFoundError: when there is no such file
    """
    refused = sorted({key for key in changed if key.partition(".")[0] in ARCHITECTURE})
    if refused:
        raise ValueError(f"{', '.join(refused)} cannot be changed: --trained-agent {path} has its networks already")
    try:
        if is_sb3_file(path):
            return _share_one_agent(load_sb3_agent(path, trust, "cpu"), env, hyperparameters, arguments)
        overrides = {key: value for key, value in hyperparameters.model_arguments().items() if key not in ARCHITECTURE}
        model = MATRL.load(path, env=env, **overrides, **arguments)
    except ValueError as error:
        raise ValueError(f"--trained-agent {path}: {error}") from error
    lost = [agent for agent in model.possible_agents if is_lost(model, agent)]
    if lost:
        raise ValueError(
            f"--trained-agent {path}: {', '.join(lost)} was played by a Python function, which a file cannot hold: say by "
            "'frozen' in the hyper-parameters which saved model plays it, or go on in Python with MATRL.load(frozen=...)"
        )
    kept = {key: _in_yaml(model.arguments[key]) for key in ARCHITECTURE}
    return model, replace(hyperparameters, **kept)


def _share_one_agent(
    learner: OnPolicyAlgorithm, env: EnvSource, hyperparameters: Hyperparameters, arguments: Mapping[str, Any]
) -> tuple[MATRL, Hyperparameters]:
    """A new model, all of whose agents begin with the policy of one that SB3 trained."""
    names = {policy: name for name, policy in type(learner).policy_aliases.items()}
    policy = names.get(learner.policy_class)
    if policy is None:
        raise ValueError(f"its policy is a {learner.policy_class.__name__}, expected one of {', '.join(names.values())}")
    kept = replace(
        hyperparameters, policy=policy, policy_kwargs=_in_yaml(learner.policy_kwargs), use_sde=bool(learner.use_sde)
    )
    model = MATRL(env=env, **kept.model_arguments(), **arguments)
    for agent, own in model.agents.items():
        for kind, theirs, ours in (
            ("observation", learner.observation_space, own.observation_space),
            ("action", learner.action_space, own.action_space),
        ):
            if theirs != ours:
                raise ValueError(f"its {kind} space is {theirs}, that of {agent} is {ours}: it learned something else")
        own.set_parameters(learner.get_parameters())  # type: ignore[arg-type]
    return model, kept


def _in_yaml(value: Any) -> Any:
    """An argument of MATRL as hyper-parameter files write it: classes by their names."""
    if isinstance(value, type):
        return value.__name__
    if isinstance(value, Mapping):
        return {key: _in_yaml(one) for key, one in value.items()}
    return [_in_yaml(one) for one in value] if isinstance(value, (list, tuple)) else value
