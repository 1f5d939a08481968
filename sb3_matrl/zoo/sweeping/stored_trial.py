"""Hyper-parameters of a trial of a local study: ``train --trial-id 7 --study-name matrl_checkers``."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sb3_matrl.utils.suggest import unknown
from sb3_matrl.zoo.common.run_folder import safe_name
from sb3_matrl.zoo.sweeping.sweep_file import PROGRAM, sweep_from_mapping
from sb3_matrl.zoo.sweeping.sweep_options import StudyFolder
from sb3_matrl.zoo.sweeping.trial import trial_options

# What a trial says about the model and its world; how long and how it is trained is for the new run.
_KEPT = ("algo", "env", "conf_file", "env_kwargs", "eval_env_kwargs")


def trial_settings(given: Mapping[str, Any]) -> dict[str, Any]:
    """
    Options of ``train`` that give the hyper-parameters of a trial.

    :param given: ``trial_id`` and ``study_name``, perhaps ``storage``, ``optimization_log_path``, ``log_folder``, ``trust``
    :return: name -> value; ``n_timesteps`` is left to the conf file
    :raises ValueError: if there is no such study or trial, or it was not made by this program
    :raises ImportError: if Optuna is not installed
    """
    if importlib.util.find_spec("optuna") is None:
        raise ImportError("--trial-id needs Optuna: pip install 'sb3-matrl[sweep]'")
    if "study_name" not in given:
        raise ValueError("--trial-id needs --study-name")
    study, storage = _load_study(given)
    trials = {trial.number: trial for trial in study.get_trials(deepcopy=False)}
    number, place = given["trial_id"], f"study {study.study_name} in {storage}"
    if number not in trials:
        raise ValueError(f"{place}: {unknown('trial', str(number), map(str, trials))}")
    definition, values = study.user_attrs.get("sweep"), trials[number].user_attrs.get("values")
    if not isinstance(definition, Mapping) or not isinstance(values, Mapping):
        raise ValueError(f"{place}: trial {number} holds no hyper-parameters of sb3-matrl")
    config = sweep_from_mapping({"program": PROGRAM, "method": "random", **definition})
    options = trial_options(replace(config, trust=bool(given.get("trust"))), dict(values), seed=0)
    settings = {name: getattr(options, name) for name in _KEPT}
    return {**settings, "hyperparams": {name: value for name, value in options.hyperparams.items() if name != "n_timesteps"}}


def _load_study(given: Mapping[str, Any]) -> tuple[Any, str]:
    """The study and the URL of its data base."""
    import optuna

    name, folder = given["study_name"], given.get("optimization_log_path")
    study_folder = StudyFolder(Path(folder) if folder else Path(given.get("log_folder", "logs")) / "sweeps" / safe_name(name))
    if given.get("storage") is None and not study_folder.database.is_file():
        raise ValueError(f"there is no study {name}: {study_folder.database} does not exist; see --storage and --log-folder")
    storage = given.get("storage") or study_folder.storage
    try:
        names = optuna.get_all_study_names(storage)
        if name in names:
            return optuna.load_study(study_name=name, storage=storage), storage
    except Exception as error:  # of any data base's driver
        raise ValueError(f"storage {storage} cannot be used: {str(error).splitlines()[0]}") from error
    raise ValueError(f"{storage}: {unknown('study', name, names)}")
