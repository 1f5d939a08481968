"""MATRL's constructor arguments, looked up for every learner, and what is built from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_matrl.common.normalize import Normalizer, NormalizerConfig
from sb3_matrl.matrl.coordinator import BestResponseArguments
from sb3_matrl.on_policy.learners import SpacesVecEnv, accepted_arguments, build_learner, per_agent

# Arguments of SB3's learners that may differ per agent, and with which agents' learners are built.
_LEARNER_ARGUMENTS = (
    "learning_rate",
    "batch_size",
    "n_epochs",
    "gamma",
    "gae_lambda",
    "clip_range",
    "clip_range_vf",
    "normalize_advantage",
    "ent_coef",
    "vf_coef",
    "max_grad_norm",
    "use_sde",
    "sde_sample_freq",
    "rollout_buffer_class",
    "rollout_buffer_kwargs",
    "target_kl",
    "policy_kwargs",
)
# MATRL's argument -> the best response's, likewise per agent.
_BEST_RESPONSE_ARGUMENTS = {
    "br_learning_rate": "learning_rate",
    "br_n_epochs": "n_epochs",
    "batch_size": "batch_size",
    "clip_range": "clip_range",
    "br_clip_range": "weight_clip_range",
    "clip_range_vf": "clip_range_vf",
    "normalize_advantage": "normalize_advantage",
    "ent_coef": "ent_coef",
    "vf_coef": "vf_coef",
    "br_kl_coef": "kl_coef",
    "max_grad_norm": "max_grad_norm",
    "target_kl": "target_kl",
}
_NORMALIZER_ARGUMENTS = ("norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma")


class Arguments:
    """
    The constructor's arguments, one value per learner.

    :param values: as given to the constructor; a dict may have one entry per learner
    :param defaults: the constructor's
    :param learners: their names
    :raises ValueError: if a dict lacks a learner or names an unknown one
    """

    def __init__(self, values: Mapping[str, Any], defaults: Mapping[str, Any], learners: Sequence[str]) -> None:
        self.values = values
        self.defaults = defaults
        self.learners = list(learners)

    def of(self, name: str, learner: str) -> Any:
        """Value of the argument ``name`` for one learner."""
        return per_agent(name, self.values[name], self.learners)[learner]

    def check_accepted(self) -> None:
        """
        Refuse an argument that was set but that no learner, nor the best response, would read.

        :raises ValueError: names it
        """
        classes = per_agent("learner_class", self.values["learner_class"], self.learners).values()
        accepted = set().union(*(accepted_arguments(cls) for cls in classes)) | set(_BEST_RESPONSE_ARGUMENTS)
        for name in _LEARNER_ARGUMENTS:
            if name not in accepted and self.values[name] != self.defaults[name]:
                raise ValueError(
                    f"{name} is no argument of {', '.join(sorted({cls.__name__ for cls in classes}))}: leave it out"
                )

    def learner(self, name: str, env: SpacesVecEnv, device: th.device | str) -> OnPolicyAlgorithm:
        """
        Build a learner.

        :param name: of the learner
        :param env: its spaces and the number of its columns
        :param device: of its networks
        """
        arguments = {argument: self.of(argument, name) for argument in _LEARNER_ARGUMENTS}
        arguments |= {argument: self.values[argument] for argument in ("n_steps", "stats_window_size")} | {"device": device}
        if arguments["policy_kwargs"] is not None:
            arguments["policy_kwargs"] = dict(arguments["policy_kwargs"])  # SB3 writes into it
        return build_learner(
            self.of("learner_class", name), self.of("policy", name), env, arguments, self.of("learner_kwargs", name)
        )

    def best_response(self, name: str) -> BestResponseArguments:
        """The best response's arguments of one learner."""
        values = {theirs: self.of(ours, name) for ours, theirs in _BEST_RESPONSE_ARGUMENTS.items()}
        if values["learning_rate"] is None:
            values["learning_rate"] = self.of("learning_rate", name)
        return BestResponseArguments(**values)

    def normalizers(self, envs: Mapping[str, SpacesVecEnv]) -> dict[str, Normalizer]:
        """
        :param envs: learner -> its spaces and the number of its columns
        :return: learner -> normaliser, of those for which something is normalised
        """
        configs = {name: NormalizerConfig(**{part: self.of(part, name) for part in _NORMALIZER_ARGUMENTS}) for name in envs}
        return {
            name: Normalizer(config, envs[name].observation_space, envs[name].num_envs)
            for name, config in configs.items()
            if config.norm_obs or config.norm_reward
        }
