"""Continued training of a saved model: ``train.py --trained-agent``."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_matrl.common.algorithm import MultiAgentAlgorithm
from sb3_matrl.common.arguments import constructor_arguments
from sb3_matrl.common.callbacks import has_replay_buffer
from sb3_matrl.common.registry import algorithm_spec
from sb3_matrl.envs.making import EnvSource
from sb3_matrl.files.checkpoints import buffer_of
from sb3_matrl.files.foreign import is_sb3_file, load_sb3_agent
from sb3_matrl.files.model_files import read_model
from sb3_matrl.files.places import zip_path
from sb3_matrl.zoo.common.hyperparameters import Hyperparameters
from sb3_matrl.zoo.common.names import to_yaml
from sb3_matrl.zoo.training.options import TrainOptions

# Arguments from which the networks in the file were built.
ARCHITECTURE = (
    *("policy", "policy_kwargs", "learner_class", "learner_kwargs", "use_sde", "critic", "state"),
    *("mixer", "mixing_embed_dim", "hypernet_layers", "hypernet_embed", "variant", "joint_embed_dim"),
    *("feature_dim", "feature_norm"),
)


def load_pretrained(
    options: TrainOptions, env: EnvSource, hyperparameters: Hyperparameters, arguments: Mapping[str, Any]
) -> tuple[MultiAgentAlgorithm, Hyperparameters]:
    """
    Load a model to train it further: parameters, optimisers and counters from the file, all else as given.

    A file of plain SB3 holds one agent, whose policy and optimiser all agents get, but not its counters. A model that was
    saved with a replay buffer gets it back, if the buffer is still there and fits.

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
        _check_fixed(options.algo, path)
        model: MultiAgentAlgorithm = cls.load(path, env=env, **overrides, **arguments)
        if has_replay_buffer(model):
            _load_buffer(model, path)
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


def _check_fixed(algorithm: str, path: Path) -> None:
    """
    Check that a model's networks are those of the algorithm, which fixes the kind of critics, for example.

    :raises ValueError: if they are not
    """
    spec = algorithm_spec(algorithm)
    defaults, saved = constructor_arguments(spec.load_class()), read_model(path).arguments
    for name in spec.fixed.keys() & set(ARCHITECTURE):
        found = saved.get(name, defaults[name].default)
        if found != spec.fixed[name]:
            raise ValueError(f"its networks have {name}={found!r}, those of {algorithm} {name}={spec.fixed[name]!r}")


def _load_buffer(model: Any, path: Path) -> None:
    """Load the replay buffer to which a model's file refers; without a usable one, warn and begin with an empty one."""
    try:
        buffer = buffer_of(zip_path(path))
        if buffer is not None:
            model.load_replay_buffer(buffer)
        reason = f"{path} was saved without one" if buffer is None else ""
    except (OSError, ValueError) as error:
        reason = str(error)
    if reason:
        print(f"warning: the training begins with an empty replay buffer: {reason}", file=sys.stderr)


def _share_one_agent(
    learner: BaseAlgorithm, env: EnvSource, hyperparameters: Hyperparameters, arguments: Mapping[str, Any]
) -> tuple[MultiAgentAlgorithm, Hyperparameters]:
    """A new model, all of whose agents begin with the policy of one that SB3 trained."""
    cls = algorithm_spec(hyperparameters.algorithm).load_class()
    # Learners of MATRL have the policies of their own on-policy class.
    own_class = "learner_class" in hyperparameters.values and isinstance(learner, OnPolicyAlgorithm)
    aliases = type(learner).policy_aliases if own_class else cls.policy_aliases
    names = {policy: name for name, policy in aliases.items()}
    policy = names.get(learner.policy_class)
    if policy is None:
        known = ", ".join(sorted({one.__name__ for one in names}))
        raise ValueError(f"its policy is a {learner.policy_class.__name__}, expected one of {known}")
    theirs = {"policy": policy, "policy_kwargs": to_yaml(learner.policy_kwargs), "use_sde": bool(learner.use_sde)}
    kept = hyperparameters.changed(**{name: value for name, value in theirs.items() if name in hyperparameters.values})
    model: MultiAgentAlgorithm = cls(env=env, **kept.model_arguments(), **arguments)
    for agent in model.agents:
        own = model.agents[agent]
        for kind, learned, offered in (
            ("observation", learner.observation_space, own.observation_space),
            ("action", learner.action_space, own.action_space),
        ):
            if learned != offered:
                raise ValueError(f"its {kind} space is {learned}, that of {agent} is {offered}: it learned something else")
        if type(own.policy) is not learner.policy_class:
            kinds = (learner.policy_class.__name__, type(own.policy).__name__)
            raise ValueError(f"its policy is a {kinds[0]}, that of {agent} a {kinds[1]}, whose critic sees something else")
        _give_parameters(model, agent, learner.get_parameters())
    return model, kept


def _give_parameters(model: MultiAgentAlgorithm, agent: str, learned: Mapping[str, Any]) -> None:
    """Load parameters of one agent: those that the algorithm keeps for each, which may be without an optimiser of its own."""
    if not has_replay_buffer(model):
        try:
            model.agents[agent].set_parameters(learned)
        except RuntimeError as error:  # torch lists the parameters that do not fit
            raise ValueError(f"its networks are not like those of {agent}: {' '.join(str(error).split())}") from error
        return
    own = model.get_parameters()[agent]
    model.set_parameters({agent: {name: value for name, value in learned.items() if name in own}}, exact_match=False)
