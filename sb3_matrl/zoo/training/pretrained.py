"""Continued training of a saved model: ``train.py --trained-agent``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_matrl.common.algorithm import MultiAgentAlgorithm
from sb3_matrl.common.registry import algorithm_spec
from sb3_matrl.envs.making import EnvSource
from sb3_matrl.files.foreign import is_sb3_file, load_sb3_agent
from sb3_matrl.zoo.common.hyperparameters import Hyperparameters
from sb3_matrl.zoo.common.names import to_yaml
from sb3_matrl.zoo.training.options import TrainOptions

# Arguments from which the networks in the file were built.
ARCHITECTURE = ("policy", "policy_kwargs", "learner_class", "learner_kwargs", "use_sde")


def load_pretrained(
    options: TrainOptions, env: EnvSource, hyperparameters: Hyperparameters, arguments: Mapping[str, Any]
) -> tuple[MultiAgentAlgorithm, Hyperparameters]:
    """
    Load a model to train it further: parameters, optimisers and counters from the file, all else as given.

    A file of plain SB3 holds one agent, whose policy and optimiser all agents get, but not its counters.

    :param options: options of the command line, with ``trained_agent``
    :param env: the environment, with the agents and spaces of the model's
    :param hyperparameters: hyper-parameters that replace those in the file, except ``ARCHITECTURE``
    :param arguments: other arguments of the constructor
    :return: the model, and its hyper-parameters
    :raises ValueError: if the user wants another architecture, the file is not a model, or the environment does not fit it
    :raises FileNotFoundError: if there is no such file
    """
    flag, path = f"--trained-agent {options.trained_agent}", Path(str(options.trained_agent))
    rejected = sorted({key for key in options.hyperparams if key.partition(".")[0] in ARCHITECTURE})
    if rejected:
        raise ValueError(f"{', '.join(rejected)} cannot be changed: {flag} has its networks already")
    try:
        if is_sb3_file(path):
            return _share_one_agent(load_sb3_agent(path, options.trust, "cpu"), env, hyperparameters, arguments)
        overrides = {key: value for key, value in hyperparameters.model_arguments().items() if key not in ARCHITECTURE}
        cls = algorithm_spec(options.algo).load_class()
        model: MultiAgentAlgorithm = cls.load(path, env=env, **overrides, **arguments)
    except ValueError as error:
        raise ValueError(f"{flag}: {error}") from error
    lost = model.lost_agents()
    if lost:
        raise ValueError(
            f"{flag}: {', '.join(lost)} was played by a Python function, which a file cannot hold: name a saved model that "
            f"plays it by 'frozen' in the hyper-parameters, or continue in Python with {cls.__name__}.load(frozen=...)"
        )
    kept = {key: to_yaml(model.arguments[key]) for key in ARCHITECTURE if key in hyperparameters.values}
    return model, hyperparameters.changed(**kept)


def _share_one_agent(
    learner: OnPolicyAlgorithm, env: EnvSource, hyperparameters: Hyperparameters, arguments: Mapping[str, Any]
) -> tuple[MultiAgentAlgorithm, Hyperparameters]:
    """A new model, all of whose agents begin with the policy of one that SB3 trained."""
    names = {policy: name for name, policy in type(learner).policy_aliases.items()}
    policy = names.get(learner.policy_class)
    if policy is None:
        raise ValueError(f"its policy is a {learner.policy_class.__name__}, expected one of {', '.join(names.values())}")
    theirs = {"policy": policy, "policy_kwargs": to_yaml(learner.policy_kwargs), "use_sde": bool(learner.use_sde)}
    kept = hyperparameters.changed(**{name: value for name, value in theirs.items() if name in hyperparameters.values})
    cls = algorithm_spec(hyperparameters.algorithm).load_class()
    model: MultiAgentAlgorithm = cls(env=env, **kept.model_arguments(), **arguments)
    for agent, own in model.agents.items():
        for kind, learned, offered in (
            ("observation", learner.observation_space, own.observation_space),
            ("action", learner.action_space, own.action_space),
        ):
            if learned != offered:
                raise ValueError(f"its {kind} space is {learned}, that of {agent} is {offered}: it learned something else")
        own.set_parameters(learner.get_parameters())
    return model, kept
