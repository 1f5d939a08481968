"""Models of several agents: parameters and files, beside arguments, environment, agents and acting."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar, TypeVar

import torch as th
from stable_baselines3.common.utils import get_device
from stable_baselines3.common.vec_env import VecEnv

from sb3_matrl.common.acting_model import ActingModel, takes_arguments
from sb3_matrl.common.argument_checks import checked_argument
from sb3_matrl.common.arguments import ArgumentSpec, constructor_arguments
from sb3_matrl.common.frozen import FrozenAgent
from sb3_matrl.common.policy_view import PolicyView
from sb3_matrl.common.training_state import TrainingState, normalizer_states
from sb3_matrl.common.transaction import all_or_nothing
from sb3_matrl.files.budget import check_rollout, choices_of, networks_within, stored_numbers
from sb3_matrl.files.model_files import SavedModel, blame_file, check_names, read_model, restore_arguments, write_model
from sb3_matrl.files.optimizer_state import check_optimizers
from sb3_matrl.files.places import UserFile, name_of
from sb3_matrl.files.trees import arrays_for_tensors, tensors_for_arrays
from sb3_matrl.utils.agent_names import keyed_by_text
from sb3_matrl.utils.one_line import one_line
from sb3_matrl.utils.random_state import set_bit_generator
from sb3_matrl.utils.suggest import unknown

# Arguments that decide how large the networks are: those of the caller are not limited by what a file stores.
_NETWORKS = {"policy", "policy_kwargs", "learner_class", "learner_kwargs", "frozen"}
SelfModel = TypeVar("SelfModel", bound="MultiAgentModel")


class MultiAgentModel(ActingModel):
    """
    What every multi-agent algorithm has beside its training: arguments, environment, agents, acting, parameters and files.

    :class:`~sb3_matrl.common.algorithm.MultiAgentAlgorithm` adds the training loop, and says what a subclass defines.

    :param given: the constructor's local variables: arguments by name
    :raises ValueError: if an argument or the env is not usable; the message says what to do
    """

    #: Values of arguments that files of earlier versions lack, where they are not the defaults of today.
    missing_in_files: ClassVar[Mapping[str, Any]] = {}
    #: Class of the state of a training that files hold.
    training_state_class: ClassVar[type[TrainingState]] = TrainingState

    _policy_view: PolicyView | None = None

    # ------------------------------------------------------------------ parameters

    def get_parameters(self) -> dict[str, dict[str, Any]]:
        """
        Parameters and optimiser states.

        :return: learner -> state dicts of its policy and optimisers, those of :attr:`extra_optimizers` included
        """
        return {
            name: {**learner.get_parameters(), **{part: one.state_dict() for part, one in self._optimizers_of(name).items()}}
            for name, learner in self.learners.items()
        }

    @property
    def policy(self) -> PolicyView:  # type: ignore[override]  # SB3's is the policy of its only agent
        """
        The learners' policies as one module, for tools that look at parameters and gradients such as ``wandb.watch``; it
        cannot be set. Dots in the names of learners are underscores here.
        """
        return self._view_of({name: learner.policy for name, learner in self.learners.items()})

    def _view_of(self, policies: Mapping[str, th.nn.Module]) -> PolicyView:
        """The view of the policies: always the same one, so that ``wandb.unwatch(model.policy)`` finds what was watched."""
        if self._policy_view is None or not self._policy_view.shows(policies):
            self._policy_view = PolicyView(policies)
        return self._policy_view

    def optimizers(self) -> list[th.optim.Optimizer]:
        """:return: all optimisers that updates use, those of the learners and :attr:`extra_optimizers`"""
        extra = [optimizer for of_learner in self.extra_optimizers.values() for optimizer in of_learner.values()]
        return [*(learner.policy.optimizer for learner in self.learners.values()), *extra]

    def _optimizers_of(self, learner: str) -> dict[str, th.optim.Optimizer]:
        return self.extra_optimizers.get(learner, {})

    def set_parameters(  # type: ignore[override]
        self, load_path_or_dict: UserFile | Mapping[str, Mapping[str, Any]], exact_match: bool = True, device: Any = "auto"
    ) -> None:
        """
        Load parameters.

        :param load_path_or_dict: path of a saved model, open binary file, or what :meth:`get_parameters` returned
        :param exact_match: require all learners, and every part of each
        :param device: device that the tensors are loaded to first
        :raises ValueError: if learners are missing or unknown, or parameters do not fit; all are loaded, or none
        """
        if not isinstance(load_path_or_dict, Mapping):
            saved = read_model(load_path_or_dict)
            with blame_file(load_path_or_dict, Exception), all_or_nothing(self):
                self.set_parameters(saved.parameters, exact_match, device)
                check_optimizers(self.optimizers())
            return
        given = load_path_or_dict
        check_learners(given, self.learners, exact_match)
        with all_or_nothing(self):
            for name, parameters in given.items():
                with parameters_of(name):
                    self._set_learner_parameters(name, parameters, exact_match, device)

    def _set_learner_parameters(self, learner: str, given: Mapping[str, Any], exact_match: bool, device: Any) -> None:
        optimizers = self._optimizers_of(learner)
        own = {part: value for part, value in given.items() if part not in optimizers}
        self.learners[learner].set_parameters(own, exact_match=exact_match, device=device)
        for part in optimizers.keys() & given.keys():
            optimizers[part].load_state_dict(dict(given[part]))

    # ------------------------------------------------------------------ files

    @property
    def resumable_timesteps(self) -> int:
        """Steps of the training that :meth:`save` stores: in the middle of a rollout those before it."""
        return self.num_timesteps if self._state is None else self._state.num_timesteps

    def save(self, path: UserFile, documents: Mapping[str, Any] | None = None) -> None:  # type: ignore[override]
        """
        Save the model: a zip of JSON and weights-only tensors, written atomically.

        During and after ``learn`` the state of the training is saved as well, as it was before the rollout under way.

        A single agent is saved by ``model.agents[name].save(path)``, as plain SB3.

        :param path: path of the file; ``.zip`` is added if it has no suffix; or open binary file such as ``io.BytesIO``
        :param documents: name -> value in JSON types, stored beside the model
        """
        write_model(path, self._saved_model(), documents)

    def _saved_model(self) -> SavedModel:
        counters = {
            "n_envs": self.n_envs,
            "num_timesteps": self.resumable_timesteps,
            "total_timesteps": self._total_timesteps,
            "n_updates": self._n_updates,
            "skipped_updates": self.skipped_updates,
            "learner_n_updates": [learner._n_updates for learner in self.learners.values()],
        }
        state = self._state
        return SavedModel(
            algorithm=type(self).__name__,
            observation_spaces=self._spaces["observation"],
            action_spaces=self._spaces["action"],
            arguments={name: value for name, value in self.arguments.items() if name != "frozen"},
            counters=counters,
            generators={name: dict(generator.bit_generator.state) for name, generator in self.generators.items()},
            parameters=self.get_parameters(),
            training=None if state is None else state.as_tree(),
            normalizers=tensors_for_arrays(normalizer_states(self.team) if state is None else state.normalizers),
            frozen={agent: frozen.to_file() for agent, frozen in self.team.frozen.items()},
            state_space=self.state_space,
        )

    @classmethod
    def load(  # type: ignore[override]
        cls: type[SelfModel],
        path: UserFile,
        env: Any = None,
        device: th.device | str = "auto",
        custom_objects: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> SelfModel:
        """
        Load a model; nothing in the file is executed.

        With an env, ``learn(reset_num_timesteps=False)`` resumes the saved training: in the same episodes if the env can save
        its state, and with the same states of the random generators, so that it is bit for bit the training that was never
        stopped. A changed ``seed`` or ``n_envs`` begins new episodes with fresh draws instead.

        :param path: path of the file, with or without ``.zip``, or open binary file
        :param env: environment to continue training in, as in the constructor; ``None`` for a model that only acts
        :param device: device of the networks
        :param custom_objects: argument name -> value for what a file cannot hold (functions, classes of your own)
        :param kwargs: constructor arguments to change, e.g. ``n_envs``
        :raises FileNotFoundError: if there is no such file
        :raises ValueError: if the file is not a saved model of this class, is damaged, of a newer format or of another
            environment
        """
        saved = read_model(path)
        if saved.algorithm != cls.__name__:
            held = f"{name_of(path)} holds a model of {saved.algorithm}"
            raise ValueError(f"{held}, not of {cls.__name__}: load it with load_model")
        specs = constructor_arguments(cls)
        defaults = {name: spec.default for name, spec in specs.items()}
        schedules = [name for name, spec in specs.items() if spec.is_schedule]
        given = {**(custom_objects or {}), **kwargs}
        check_given(given, specs)  # before a wrong one is taken for damage of the file
        get_device(device)
        with blame_file(path, Exception):
            written = {**cls.missing_in_files, **saved.arguments}
            arguments = restore_arguments(written, defaults, schedules, custom_objects or {}, kwargs)
        n_envs = env.num_envs if isinstance(env, VecEnv) else kwargs.get("n_envs", saved.counters["n_envs"])
        building = {"env": None, "device": device, "n_envs": n_envs, "_init_setup_model": False}
        trees = [saved.parameters, *(tensors for _, tensors in saved.frozen.values())]
        stored = math.inf if _NETWORKS & set(given) else stored_numbers(trees)
        with blame_file(path, Exception, given=given), networks_within(stored):
            check_rollout(arguments, n_envs, choices_of(saved.action_spaces), kwargs)
            frozen = {agent: FrozenAgent.from_file(*content, device) for agent, content in saved.frozen.items()}
            if "frozen" in specs:
                arguments["frozen"] = {**frozen, **(arguments.get("frozen") or {})} or None
            model = cls(**{**arguments, **building})
            model._set_spaces(saved.observation_spaces, saved.action_spaces, n_envs, saved.state_space)
        if env is not None:
            model._set_env(env, True, arguments.get("env_kwargs") if "env_kwargs" in kwargs or takes_arguments(env) else None)
        with blame_file(path, Exception, given=given), networks_within(stored):
            model._setup_model()
            model._restore(saved, device)
            if saved.training is not None and cls._resumes(saved.arguments, kwargs):
                model._resume_from = cls.training_state_class.from_tree(saved.training)
                if model._resume_from.num_timesteps != model.num_timesteps:
                    raise ValueError("training.pt: its number of steps is not that of model.json")
        model.loaded_from = name_of(path)
        return model

    @classmethod
    def _resumes(cls, saved: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
        """
        Whether a loaded training continues in its own episodes.

        :param saved: constructor arguments in the file
        :param given: arguments that the caller changes
        """
        return not {"seed", "n_envs"} & set(given)

    def _restore(self, saved: SavedModel, device: Any) -> None:
        """Put in place what a file holds beside the constructor's arguments, but not the state of the training."""
        self.set_parameters(saved.parameters, device=device)
        check_optimizers(self.optimizers())
        counters = saved.counters
        self.num_timesteps, self._total_timesteps = counters["num_timesteps"], counters["total_timesteps"]
        self._n_updates, self.skipped_updates = counters["n_updates"], counters["skipped_updates"]
        for learner, n_updates in zip(self.learners.values(), counters["learner_n_updates"], strict=True):
            learner._n_updates, learner.num_timesteps = n_updates, self.num_timesteps
        for name, generator in self.generators.items():
            set_bit_generator(generator.bit_generator, saved.generators[name])
        states = arrays_for_tensors(saved.normalizers)
        for name, normalizer in self.team.normalizers.items():
            if name not in states:
                raise ValueError(f"it has no running statistics of {name}: norm_obs and norm_reward stay as they were saved")
            # Another number of copies has no use for the running returns of the saved ones.
            normalizer.restore(states[name], with_running=len(states[name]["running"]) == len(normalizer.running))


def check_given(given: Mapping[str, Any], specs: Mapping[str, ArgumentSpec]) -> None:
    """
    Check constructor arguments that are to replace those of a file.

    :param given: name -> value
    :param specs: name -> argument of the constructor
    :raises ValueError: if there is no such argument, or a value is of a wrong type or out of range
    """
    check_names(given, specs)
    for name, value in given.items():
        checked_argument(specs[name], keyed_by_text(value))


@contextmanager
def parameters_of(learner: str) -> Iterator[None]:
    """
    Name the learner in errors about its parameters.

    :param learner: name of the learner
    :raises ValueError: in place of any error
    """
    try:
        yield
    except Exception as error:  # PyTorch and SB3 raise many kinds
        reason = one_line(error) if isinstance(error, (ValueError, RuntimeError)) else repr(error)
        raise ValueError(f"parameters of {learner}: {reason}") from error


def check_learners(given: Collection[str], learners: Collection[str], exact_match: bool) -> None:
    """
    :param given: learners whose parameters are given
    :param learners: learners of the model
    :param exact_match: require all of them
    :raises ValueError: if one is unknown or missing
    """
    for name in given:
        if name not in learners:
            raise ValueError(f"parameters: {unknown('agent', str(name), learners)}")
    missing = [name for name in learners if name not in given]
    if missing and exact_match:
        raise ValueError(f"parameters: those of {', '.join(missing)} are missing")
