"""Callbacks that files of hyper-parameters may name: a fixed list; nothing else is imported or called."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any, get_type_hints

from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EventCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    ProgressBarCallback,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)

from sb3_matrl.common.argument_checks import value_fault
from sb3_matrl.common.arguments import ArgumentSpec
from sb3_matrl.common.callbacks import ResumableCheckpointCallback
from sb3_matrl.files.argument_codec import argument_from_json, argument_to_json
from sb3_matrl.utils.suggest import unknown

#: Name -> class of the callbacks that files may name.
CALLBACKS: dict[str, type[BaseCallback]] = {
    cls.__name__: cls
    for cls in (
        CheckpointCallback,
        EveryNTimesteps,
        LogEveryNTimesteps,
        ProgressBarCallback,
        StopTrainingOnMaxEpisodes,
        StopTrainingOnNoModelImprovement,
        StopTrainingOnRewardThreshold,
        ResumableCheckpointCallback,
    )
}
# What takes the place of other callbacks of SB3, rl-baselines3-zoo and W&B.
_INSTEAD = {
    "EvalCallback": "train evaluates by itself: see --eval-freq and --eval-episodes",
    "MultiAgentEvalCallback": "train evaluates by itself: see --eval-freq and --eval-episodes",
    "WandbCallback": "use --track",
    "SaveVecNormalizeCallback": "the statistics of norm_obs and norm_reward are saved with every model",
    "ParallelTrainCallback": "rollouts and updates are not run at the same time",
    "RawStatisticsCallback": "rollout/ep_rew_mean is the return before normalisation",
}
# Callbacks that an evaluation calls, and those that call another one.
_OF_EVALUATIONS = (StopTrainingOnNoModelImprovement, StopTrainingOnRewardThreshold)
_FOLDERS = ("save_path", "folder")
_COUNTS = ("save_freq", "n_steps", "max_episodes", "max_no_improvement_evals")
# Arguments that cannot be plain values, or are given by the training.
_NOT_IN_FILES = ("self", "parts", "documents")
_OWN_FOLDERS = ("checkpoints", "wandb", "snapshots")
# Attributes that change while callbacks run.
_STATE = ("n_calls", "n_episodes", "last_time_trigger", "last_best_mean_reward", "no_improvement_evals")

Entry = tuple[str, dict[str, Any]]


def read_callbacks(value: Any) -> list[Entry]:
    """
    Check callbacks and their arguments.

    :param value: name, ``{name: arguments}``, or a list of these, as in rl-baselines3-zoo: e.g.
        ``[{StopTrainingOnMaxEpisodes: {max_episodes: 100}}]``; ``None`` for no callbacks
    :return: name and arguments of each callback; the callback of ``EveryNTimesteps`` is such a pair
    :raises ValueError: if a callback is not in the list, an argument is unknown, missing or of a wrong type
    """
    entries = [value] if isinstance(value, str) else value
    if isinstance(value, Mapping):
        entries = [{name: arguments} for name, arguments in value.items()]
    return [_read_entry(entry) for entry in entries or ()]


def _read_entry(entry: Any) -> Entry:
    named = {entry: None} if isinstance(entry, str) else entry
    if not isinstance(named, Mapping) or len(named) != 1:
        raise ValueError(f"expected the name of a callback or {{name: {{argument: value}}}} per entry, got {entry!r}")
    ((given, arguments),) = named.items()
    name = _listed_name(str(given))
    if not isinstance(arguments or {}, Mapping):
        raise ValueError(f"{name}: expected a mapping of arguments, got {arguments!r}")
    return name, _read_arguments(name, dict(arguments or {}))


def _listed_name(given: str) -> str:
    """Name in the list, with or without the module of its class."""
    module, _, name = given.rpartition(".")
    if name in _INSTEAD:
        raise ValueError(f"{name} is not for files: {_INSTEAD[name]}")
    if name in CALLBACKS and module in ("", CALLBACKS[name].__module__):
        return name
    raise ValueError(
        f"{unknown('callback', given, CALLBACKS)}. A file chooses no code beyond this list: "
        "pass callbacks of your own to model.learn(callback=...) in Python"
    )


def _read_arguments(name: str, given: dict[str, Any]) -> dict[str, Any]:
    known = _arguments_of(CALLBACKS[name])
    for argument in given:
        if argument not in known:
            raise ValueError(unknown(f"{name}: argument", str(argument), known))
    missing = [
        argument for argument, spec in known.items() if spec.default is inspect.Parameter.empty and argument not in given
    ]
    if missing:
        raise ValueError(f"{name} needs {', '.join(missing)}: write {{{name}: {{{missing[0]}: ...}}}}")
    return {argument: _read_argument(name, known[argument], value) for argument, value in given.items()}


def _arguments_of(cls: type[BaseCallback]) -> dict[str, ArgumentSpec]:
    hints, parameters = get_type_hints(cls.__init__), inspect.signature(cls.__init__).parameters
    return {
        name: ArgumentSpec(name, one.default, hints[name], per_agent=False)
        for name, one in parameters.items()
        if name not in _NOT_IN_FILES
    }


def _read_argument(name: str, spec: ArgumentSpec, value: Any) -> Any:
    where = f"{name}: {spec.name}"
    if spec.annotation is BaseCallback:
        inner = read_callbacks(value)
        if len(inner) != 1 or issubclass(CALLBACKS[inner[0][0]], _OF_EVALUATIONS):
            raise ValueError(f"{where} must be one callback that is not called by evaluations, got {value!r}")
        return inner[0]
    if spec.name in _FOLDERS:
        return _read_folder(where, value)
    if spec.annotation is int and isinstance(value, float) and value.is_integer():
        value = int(value)  # 1e5
    fault = value_fault(spec, value)
    if fault is not None:
        raise ValueError(f"{where} {fault}")
    if spec.name in _COUNTS and value < 1 and name != ResumableCheckpointCallback.__name__:
        raise ValueError(f"{where} must be at least 1, got {value}")
    return value


def _read_folder(where: str, value: Any) -> str:
    """Name of a folder in the run folder: a file does not choose other places of the disk."""
    path = PurePath(value) if isinstance(value, str) and value else PurePath("/")
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"{where} must be the name of a folder in the run folder, such as models, got {value!r}")
    if path.parts[0] in _OWN_FOLDERS:
        raise ValueError(f"{where}: {path.parts[0]} is a folder of the training itself; choose another name")
    return str(path)


class ListedCallbacks(CallbackList):
    """
    The callbacks of a training that its hyper-parameters name.

    Those about evaluations are not called with the steps; they are in :attr:`after_evaluation`. A checkpoint stores the state
    of all of them, so that a resumed training counts on.

    :param entries: names and arguments, as :func:`read_callbacks` returns them
    :param folder: run folder, below which callbacks save
    """

    def __init__(self, entries: Sequence[Entry], folder: Path) -> None:
        built = [_build(entry, folder) for entry in entries]
        super().__init__([one for one in built if not isinstance(one, _OF_EVALUATIONS)])
        #: Callbacks for :class:`~sb3_matrl.evaluation.MultiAgentEvalCallback`.
        self.after_evaluation = [one for one in built if isinstance(one, _OF_EVALUATIONS)]
        self._all = [one for outer in built for one in _with_inner(outer)]
        self._before_rollout = self._now()

    def _on_rollout_start(self) -> None:
        self._before_rollout = self._now()
        super()._on_rollout_start()

    def _now(self) -> list[dict[str, Any]]:
        return [{name: value for name, value in vars(one).items() if name in _STATE} for one in self._all]

    def state(self) -> dict[str, Any]:
        """
        State for a checkpoint: that at the steps which the checkpoint holds.

        :return: counters of each callback, in JSON types
        """
        model: Any = self.model
        between = model.resumable_timesteps == model.num_timesteps
        states = self._now() if between else self._before_rollout
        return {
            "callbacks": [
                {name: argument_to_json(float(value) if isinstance(value, float) else value) for name, value in state.items()}
                for state in states
            ]
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """
        Restore the state from a checkpoint.

        :param state: return value of :meth:`state`
        :raises ValueError: if it is the state of other callbacks
        """
        names = [sorted(one) for one in self._now()]
        if [sorted(one) for one in state["callbacks"]] != names:
            raise ValueError("the checkpoint has the state of other callbacks")
        for callback, saved in zip(self._all, state["callbacks"], strict=True):
            for name, value in saved.items():
                setattr(callback, name, argument_from_json(value))


def _with_inner(callback: BaseCallback) -> Iterator[BaseCallback]:
    """A callback, and those that it calls."""
    yield callback
    if isinstance(callback, EventCallback) and callback.callback is not None:
        yield from _with_inner(callback.callback)


def _build(entry: Entry, folder: Path) -> BaseCallback:
    name, arguments = entry
    built = {key: _build(value, folder) if key == "callback" else value for key, value in arguments.items()}
    placed = {key: str(folder / arguments[key]) for key in _FOLDERS if key in arguments}
    cls: Callable[..., BaseCallback] = CALLBACKS[name]
    return cls(**{**built, **placed})
