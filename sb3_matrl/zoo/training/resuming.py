"""Going on with a run that was stopped: ``train.py --resume``."""

from __future__ import annotations

import sys
import types
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from sb3_matrl import MATRL
from sb3_matrl.envs.making import env_source
from sb3_matrl.files.archive import read_archive
from sb3_matrl.files.argument_codec import argument_to_json
from sb3_matrl.files.checkpoints import latest_checkpoint, restore_parts
from sb3_matrl.utils.suggest import unknown
from sb3_matrl.zoo.common.hyperparameters import (
    ALGORITHMS,
    Hyperparameters,
    apply_overrides,
    expand_normalize,
    load_hyperparameters,
)
from sb3_matrl.zoo.common.run_folder import RunFolder, RunStart
from sb3_matrl.zoo.common.yaml_files import read_yaml
from sb3_matrl.zoo.playing.players import open_run_folder
from sb3_matrl.zoo.training.options import TrainOptions
from sb3_matrl.zoo.training.training_run import Experiment, check_options, evaluation_env

# Options that say how a training is watched and saved, not what is trained. The number of episodes per evaluation is not among
# them: the evaluations of a run are one table.
MAY_CHANGE = frozenset(
    {"eval_freq", "n_eval_envs", "save_freq", "save_every_minutes", "keep_checkpoints", "log_interval", "record", "verbose"}
    | {"progress", "device", "num_threads", "track", "wandb_project_name", "wandb_entity", "wandb_group", "wandb_tags"}
)


def prepare_resumed(path: Path, given: Mapping[str, Any], override: bool) -> tuple[Experiment, RunFolder]:
    """
    Check everything and load what a run had when it was stopped; writes nothing.

    :param path: of the run's folder
    :param given: the options that the command line has beside ``--resume``
    :param override: accept those of ``MAY_CHANGE`` that differ from the run's
    :return: the experiment, and the folder
    :raises ValueError: when the run cannot go on like this; says why
    :raises FileNotFoundError: when it is no run, or nothing was saved
    """
    folder, _ = open_run_folder(path)
    stored, hyperparameters = read_options(folder), load_hyperparameters(folder.config, folder.env_id)
    options = _with_changes(folder, stored, hyperparameters, given, override)
    hyperparameters = replace(hyperparameters, n_timesteps=options.n_timesteps or hyperparameters.n_timesteps)
    check_options(options, hyperparameters)
    checkpoint, start = _find_checkpoint(folder), RunStart()
    restore_parts(checkpoint, {"start": start})
    _check_origin(checkpoint, options, hyperparameters, folder)
    source = env_source(options.env, hyperparameters.env_wrapper)
    model = MATRL.load(checkpoint, env=source, device=options.device, verbose=options.verbose)
    _check_model(model, options, hyperparameters, folder)
    _check_steps(model.num_timesteps, start.steps + hyperparameters.n_timesteps, folder)
    env = evaluation_env(options, hyperparameters, model)
    return Experiment(options, hyperparameters, model, env, start, checkpoint), folder


def read_options(folder: RunFolder) -> TrainOptions:
    """
    The options that a run was started with; new ones have their defaults.

    :raises ValueError: when ``args.yml`` has unknown options, or values of other types
    """
    values, kinds = read_yaml(folder.arguments), get_type_hints(TrainOptions)
    for name, value in values.items():
        if name not in kinds:
            raise ValueError(f"{folder.arguments}: {unknown('option', name, kinds)}")
        if type(value) not in _types(kinds[name]):
            expected = " or ".join(kind.__name__ for kind in _types(kinds[name]))
            raise ValueError(f"{folder.arguments}, {name}: expected {expected}, got {value!r}")
    if "seed" not in values:
        raise ValueError(f"{folder.arguments} does not say the seed: it is not as train.py wrote it")
    return TrainOptions(**values)


def _types(annotation: Any) -> list[type]:
    members = get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    return [get_origin(member) or member for member in members]


def _with_changes(
    folder: RunFolder, stored: TrainOptions, hyperparameters: Hyperparameters, given: Mapping[str, Any], override: bool
) -> TrainOptions:
    """The run's options with those that were given, if they are accepted."""
    differences = _differences(stored, hyperparameters, given)
    fixed = [text for name, text in differences.items() if name not in MAY_CHANGE]
    if fixed:
        raise ValueError(f"--resume {folder.path}: a run keeps what it trains, so these cannot change: {'; '.join(fixed)}")
    if differences and not override:
        listed = "; ".join(differences.values())
        raise ValueError(f"--resume {folder.path}: this differs from the run: {listed}. Add --override to change it")
    names = [name for name in given if name in MAY_CHANGE or name == "n_timesteps"]
    return replace(stored, **{name: given[name] for name in names})


def _differences(stored: TrainOptions, hyperparameters: Hyperparameters, given: Mapping[str, Any]) -> dict[str, str]:
    """Option -> what is asked for and what the run has; ``n_timesteps`` may always change."""
    run = asdict(stored) | {"hyperparams": hyperparameters.as_mapping(), "env_kwargs": hyperparameters.env_kwargs}
    found = {}
    for name, wanted in given.items():
        has = run[name]
        if name in ("hyperparams", "env_kwargs", "eval_env_kwargs"):
            spelt_out = expand_normalize(wanted, "command line") if name == "hyperparams" else wanted
            changed = apply_overrides(has, spelt_out)
            same, has = changed == has, {key: has.get(key) for key, value in changed.items() if value != has.get(key)}
        else:
            same = wanted == has
        if not same and name != "n_timesteps":
            found[name] = f"--{name.replace('_', '-')} {wanted} (the run has {has})"
    return found


def _find_checkpoint(folder: RunFolder) -> Path:
    """
    The newest checkpoint that can be read; of damaged ones it is said on the screen.

    :raises FileNotFoundError: when there is none; says how to begin again
    :raises ValueError: when all are damaged
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
    """Warnings as one line each, without the place in the code."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        print(f"warning: {warning.message}", file=sys.stderr)


def _check_origin(checkpoint: Path, options: TrainOptions, hyperparameters: Hyperparameters, folder: RunFolder) -> None:
    """
    :raises ValueError: when the files of the run name another environment, wrapper or algorithm than its checkpoint
    """
    origin = read_archive(checkpoint)[0].get("run", {})
    written = {"env": options.env, "algo": options.algo, "env_wrapper": hyperparameters.env_wrapper}
    differing = [name for name, value in written.items() if origin.get(name, value) != value]
    if differing:
        raise _changed(folder, {name: (written[name], origin[name]) for name in differing})


def _changed(folder: RunFolder, values: Mapping[str, tuple[Any, Any]]) -> ValueError:
    """:param values: name -> what is written in the run's files, and what the checkpoint has"""
    texts = [
        f"{name} is {written!r}, the checkpoint was trained with {stored!r}" for name, (written, stored) in values.items()
    ]
    return ValueError(
        f"{folder.arguments.name} and {folder.config.name} in {folder.path} were changed: {'; '.join(texts)}. "
        "Undo that, or train a new run with --trained-agent"
    )


def _check_model(model: MATRL, options: TrainOptions, hyperparameters: Hyperparameters, folder: RunFolder) -> None:
    """
    :raises ValueError: when the files of the run say something else than its checkpoint
    """
    written = {
        **hyperparameters.model_arguments(),
        **ALGORITHMS[options.algo],
        "vec_env": options.vec_env,
        "seed": options.seed,
    }
    changed = [name for name, value in written.items() if _comparable(name, value) != _comparable(name, model.arguments[name])]
    if changed:
        raise _changed(folder, {name: (written[name], model.arguments[name]) for name in changed})


def _comparable(name: str, value: Any) -> Any:
    """As a file would hold it, because schedules have no equality; frozen agents, which a loaded model has whole, by name."""
    return sorted(value or {}) if name == "frozen" else argument_to_json(value)


def _check_steps(steps: int, total: int, folder: RunFolder) -> None:
    """
    :raises ValueError: when there is nothing left to do
    """
    if steps >= total and (folder.is_finished or steps > total):
        state = "is finished: it" if folder.is_finished else "was stopped after it"
        raise ValueError(f"{folder.path} {state} has trained for {steps} steps; to go on, ask for more with -n")
