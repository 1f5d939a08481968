"""Resuming a run that was stopped: ``train.py --resume``."""

from __future__ import annotations

import argparse
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast, get_args, get_origin, get_type_hints

from sb3_matrl.common.algorithm import MultiAgentAlgorithm
from sb3_matrl.common.loading import load_model
from sb3_matrl.common.registry import algorithm_spec
from sb3_matrl.envs.making import env_source
from sb3_matrl.files.archive import read_archive
from sb3_matrl.files.argument_codec import argument_to_json
from sb3_matrl.files.budget import MAX_COPIES
from sb3_matrl.files.checkpoints import buffer_of, latest_checkpoint, restore_parts
from sb3_matrl.utils.suggest import unknown
from sb3_matrl.zoo.common.cli import device, log_interval, non_negative_count, positive_count, seed, thread_count
from sb3_matrl.zoo.common.hyperparameters import (
    Hyperparameters,
    apply_overrides,
    expand_exploration,
    expand_normalize,
    load_hyperparameters,
)
from sb3_matrl.zoo.common.run_folder import RunFolder, RunStart
from sb3_matrl.zoo.common.trusted_envs import check_env_of_file
from sb3_matrl.zoo.common.yaml_files import read_yaml
from sb3_matrl.zoo.playing.players import open_run_folder
from sb3_matrl.zoo.training.experiment import (
    Experiment,
    accepted_arguments,
    check_options,
    evaluation_env,
    fixed_arguments,
)
from sb3_matrl.zoo.training.options import MAY_CHANGE, TrainOptions

# Options of a run folder that are checked as on the command line.
_RANGES: dict[str, Callable[[str], Any]] = {
    "seed": seed,
    "n_timesteps": positive_count,
    "eval_episodes": positive_count,
    "n_eval_envs": positive_count,
    "rollout_workers": positive_count,
    "keep_checkpoints": non_negative_count,
    "snapshots": non_negative_count,
    "log_interval": log_interval,
    "num_threads": thread_count,
    "kernel_threads": thread_count,
    "device": device,
}
# Largest values of options in a run folder; on the command line they are the user's own.
_LARGEST = {"n_eval_envs": MAX_COPIES, "rollout_workers": MAX_COPIES, "num_threads": 1024, "kernel_threads": 1024}


def prepare_resumed(path: Path, given: Mapping[str, Any], override: bool) -> tuple[Experiment, RunFolder]:
    """
    Check everything and load the newest checkpoint of a run; nothing is written.

    :param path: path of the run folder
    :param given: options of the command line beside ``--resume``
    :param override: accept options of ``MAY_CHANGE`` that differ from the run's
    :return: the experiment and the run folder
    :raises ValueError: if the run cannot be resumed with these options
    :raises FileNotFoundError: if there is no such run, or it has no checkpoint
    """
    folder, algorithm = open_run_folder(path)
    check_env_of_file(folder.env_id, folder.arguments, [given.get("env")], given.get("trust", False))
    given = {name: value for name, value in given.items() if name != "trust"}
    stored = _Description(folder, read_options(folder), _hyperparameters(folder, algorithm))
    run = stored.changed(given, override)
    check_options(run.options, run.hyperparameters)
    checkpoint, start = _find_checkpoint(folder), RunStart()
    restore_parts(checkpoint, {"start": start})
    run.check_origin(checkpoint)
    model = run.load(checkpoint)
    run.check_model(model)
    fewer = run.hyperparameters.n_timesteps < stored.hyperparameters.n_timesteps
    _check_steps(model.num_timesteps, start.steps + run.hyperparameters.n_timesteps, fewer, folder)
    env = evaluation_env(run.options, run.hyperparameters, model)
    return Experiment(run.options, run.hyperparameters, model, env, start, checkpoint), folder


def _hyperparameters(folder: RunFolder, algorithm: str) -> Hyperparameters:
    """Hyper-parameters of a run; those that earlier versions did not have, as these versions trained."""
    entry = read_yaml(folder.config).get(folder.env_id)
    missing = getattr(algorithm_spec(algorithm).load_class(), "missing_in_files", {})
    older = {name: value for name, value in missing.items() if isinstance(entry, dict) and name not in entry}
    return load_hyperparameters(folder.config, algorithm, folder.env_id, older)


def read_options(folder: RunFolder) -> TrainOptions:
    """
    The options that a run was started with; options that it does not have get their defaults.

    :param folder: run folder
    :raises ValueError: if ``args.yml`` has unknown options, or values of other types
    """
    values, kinds = read_yaml(folder.arguments), get_type_hints(TrainOptions)
    for name, value in values.items():
        if name not in kinds:
            raise ValueError(f"{folder.arguments}: {unknown('option', name, kinds)}")
        if type(value) not in _types(kinds[name]):
            expected = " or ".join(kind.__name__ for kind in _types(kinds[name]))
            raise ValueError(f"{folder.arguments}, {name}: expected {expected}, got {value!r}")
        _check_range(folder, name, value)
    if "seed" not in values:
        raise ValueError(f"{folder.arguments} has no seed: it is not as train.py wrote it")
    return TrainOptions(**values)


def _check_range(folder: RunFolder, name: str, value: Any) -> None:
    """
    :raises ValueError: if the command line would not accept the value, or it would fill the machine
    """
    if value is None or name not in _RANGES:
        return
    try:
        _RANGES[name](str(value))
        if name in _LARGEST and value > _LARGEST[name]:
            raise ValueError(f"expected at most {_LARGEST[name]:,}, got {value}")
    except (argparse.ArgumentTypeError, ValueError) as error:
        raise ValueError(f"{folder.arguments}, {name}: {error}") from None


def _types(annotation: Any) -> list[type]:
    members = get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    return [get_origin(member) or member for member in members]


@dataclass(frozen=True)
class _Description:
    """
    Description of a run in the files of its folder.

    :param folder: run folder
    :param options: options of the run
    :param hyperparameters: hyper-parameters of the run
    """

    folder: RunFolder
    options: TrainOptions
    hyperparameters: Hyperparameters

    def changed(self, given: Mapping[str, Any], override: bool) -> _Description:
        """
        The run with the options of the command line, if they are accepted.

        :raises ValueError: if they are not
        """
        differences = self._differences(given)
        fixed = [text for name, text in differences.items() if name not in MAY_CHANGE]
        resume = f"--resume {self.folder.path}"
        if fixed:
            raise ValueError(f"{resume}: a run keeps what it trains, so these cannot change: {'; '.join(fixed)}")
        if differences and not override:
            listed = "; ".join(differences.values())
            raise ValueError(f"{resume}: this differs from the run: {listed}. Add --override to change it")
        names = [name for name in given if name in MAY_CHANGE or name == "n_timesteps"]
        options = replace(self.options, **{name: given[name] for name in names})
        n_timesteps = options.n_timesteps or self.hyperparameters.n_timesteps
        return _Description(self.folder, options, self.hyperparameters.changed(n_timesteps=n_timesteps))

    def _differences(self, given: Mapping[str, Any]) -> dict[str, str]:
        """Option -> its value on the command line and in the run, if they differ; ``n_timesteps`` may always change."""
        world = {"hyperparams": self.hyperparameters.as_mapping(), "env_kwargs": self.hyperparameters.env_kwargs}
        run = {**asdict(self.options), **world}
        found = {}
        for name, wanted in given.items():
            has = run[name]
            if name in ("hyperparams", "env_kwargs", "eval_env_kwargs"):
                spelt_out = self._spelt_out(wanted) if name == "hyperparams" else wanted
                changed = apply_overrides(has, spelt_out)
                same, has = changed == has, {key: has.get(key) for key, value in changed.items() if value != has.get(key)}
            else:
                same = wanted == has
            if not same and name != "n_timesteps":
                found[name] = f"--{name.replace('_', '-')} {wanted} (the run has {has})"
        return found

    def _spelt_out(self, hyperparams: Mapping[str, Any]) -> dict[str, Any]:
        """Hyper-parameters of the command line without the keys that stand for others."""
        n_timesteps = self.hyperparameters.n_timesteps
        return expand_exploration(expand_normalize(hyperparams, "command line"), n_timesteps, "command line")

    def load(self, checkpoint: Path) -> MultiAgentAlgorithm:
        """The model in a checkpoint, with its replay buffer if it has one."""
        source = env_source(self.options.env, self.hyperparameters.env_wrapper)
        changed = {"verbose": self.options.verbose, "worker_backend": self.options.worker_backend}
        arguments = accepted_arguments(self.options.algo, changed)
        model: Any = load_model(checkpoint, env=source, device=self.options.device, **arguments)
        buffer = buffer_of(checkpoint)
        if buffer is not None:
            model.load_replay_buffer(buffer)
        return cast(MultiAgentAlgorithm, model)

    def check_origin(self, checkpoint: Path) -> None:
        """
        :raises ValueError: if the files name another environment, wrapper or algorithm than the checkpoint
        """
        origin = read_archive(checkpoint)[0].get("run", {})
        if not isinstance(origin, dict):
            raise ValueError(f"{checkpoint} is damaged: run.json must be a mapping, got {origin!r:.100}")
        written = {"env": self.options.env, "algo": self.options.algo, "env_wrapper": self.hyperparameters.env_wrapper}
        differing = [name for name, value in written.items() if origin.get(name, value) != value]
        if differing:
            raise self._edited({name: (written[name], origin[name]) for name in differing})

    def check_model(self, model: MultiAgentAlgorithm) -> None:
        """
        :raises ValueError: if the files name other arguments than the checkpoint
        """
        written = {**self.hyperparameters.model_arguments(), **fixed_arguments(self.options)}
        stored = model.arguments
        edited = [name for name, value in written.items() if _comparable(name, value) != _comparable(name, stored[name])]
        if edited:
            raise self._edited({name: (written[name], stored[name]) for name in edited})

    def _edited(self, values: Mapping[str, tuple[Any, Any]]) -> ValueError:
        """:param values: name -> its value in the run's files, and in the checkpoint"""
        texts = [
            f"{name} is {written!r}, the checkpoint was trained with {stored!r}" for name, (written, stored) in values.items()
        ]
        return ValueError(
            f"{self.folder.arguments.name} and {self.folder.config.name} in {self.folder.path} were changed: "
            f"{'; '.join(texts)}. Undo that, or train a new run with --trained-agent"
        )


def _comparable(name: str, value: Any) -> Any:
    """A value as a file stores it, because schedules have no equality; frozen agents, which a loaded model holds, by name."""
    return sorted(value or {}) if name == "frozen" else argument_to_json(value)


def _find_checkpoint(folder: RunFolder) -> Path:
    """
    The newest checkpoint that can be read.

    :raises FileNotFoundError: if there is none; names the command that starts the run again
    :raises ValueError: if all are damaged
    """
    try:
        with _warnings_on_screen():
            return latest_checkpoint(folder.checkpoints)
    except FileNotFoundError as error:
        command = folder.command.read_text(encoding="utf-8").splitlines() if folder.command.is_file() else []
        again = f"; begin again with: {command[0]}" if command else ""
        raise FileNotFoundError(f"{folder.path} ended before a checkpoint was saved{again}") from error


@contextmanager
def _warnings_on_screen() -> Iterator[None]:
    """Print warnings in one line each, without their place in the code."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        print(f"warning: {warning.message}", file=sys.stderr)


def _check_steps(steps: int, total: int, fewer: bool, folder: RunFolder) -> None:
    """
    :param steps: steps of the checkpoint
    :param total: steps after which the training ends; the last rollout may go beyond them
    :param fewer: whether the run is to have fewer steps than before
    :raises ValueError: if the training is complete
    """
    if steps >= total and (folder.is_finished or (fewer and steps > total)):
        state = "is finished: it" if folder.is_finished else "was stopped after it"
        raise ValueError(f"{folder.path} {state} has trained for {steps} steps; to continue, ask for more with -n")
