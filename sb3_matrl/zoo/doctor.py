"""
Is everything in order?

    python -m sb3_matrl.zoo.doctor               # the installation: versions, bridges, a training of a few seconds
    python -m sb3_matrl.zoo.doctor CHECKPOINT    # a saved model: format, hashes, content

The exit code is 0 if nothing is wrong, else 1.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import platform
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from packaging.requirements import Requirement
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from sb3_matrl.envs import checkers_v0, matrix_game_v0
from sb3_matrl.files.archive import read_archive
from sb3_matrl.files.argument_codec import Unsaved, argument_from_json, argument_to_json
from sb3_matrl.files.model_file import SavedModel, read_model, zip_path
from sb3_matrl.matrl import MATRL
from sb3_matrl.vec_env import make_joint_vec_env

# What optional dependencies are for, by the extra of setup.py that installs them.
_EXTRAS = {
    "track": "Weights & Biases",
    "render": "windows",
    "record": "videos",
    "sweep": "sweeps",
    "benchmark": "statistics of benchmarks",
    "ray": "benchmarks on clusters",
    "mujoco": "MuJoCo environments",
    "atari": "two-player Pong",
    "pettingzoo": "PettingZoo's own environments",
}
_ATARI = ("multi_agent_ale_py", "ale_py")


@dataclass(frozen=True)
class Finding:
    """
    One line of the report.

    :param subject: what was looked at
    :param ok: whether it is in order; ``None`` for what is optional and not there
    :param text: what was found, and what to do if it is not in order
    """

    subject: str
    ok: bool | None
    text: str

    def __str__(self) -> str:
        mark = {True: "ok", False: "WRONG", None: "-"}[self.ok]
        return f"{mark:<7}{self.subject:<24}{self.text}"


# ---------------------------------------------------------------- the installation


def check_installation(seconds: float) -> Iterator[Finding]:
    """
    :param seconds: how long to train
    :return: findings, each as soon as it is known
    """
    yield Finding("Python", True, platform.python_version())
    yield from check_versions()
    yield from check_clashes()
    yield check_torch()
    yield check_atari()
    yield _attempt("SuperSuit bridge", check_bridge)
    yield _attempt("training", lambda: check_training(seconds))


def check_versions() -> Iterator[Finding]:
    """Every dependency's version against the range in setup.py; what only developers need is left out."""
    try:
        texts = requires("sb3-matrl") or []
    except PackageNotFoundError:
        yield Finding("sb3-matrl", False, "is not installed, so versions cannot be checked: pip install -e . in its folder")
        return
    for text in texts:
        requirement = Requirement(text)
        extra = re.search(r"extra == [\"'](\w+)[\"']", str(requirement.marker or ""))
        if extra is None or extra[1] in _EXTRAS:
            yield compare_version(requirement, extra[1] if extra else None)


def compare_version(requirement: Requirement, extra: str | None) -> Finding:
    """
    :param requirement: a range of versions
    :param extra: the extra that it belongs to; ``None`` where it is always needed
    """
    try:
        found = version(requirement.name)
    except PackageNotFoundError:
        if extra is None:
            return Finding(requirement.name, False, f'not installed: pip install "{requirement}"')
        hint = f"not installed; for {_EXTRAS[extra]}: pip install sb3-matrl[{extra}]"
        return Finding(requirement.name, None, hint)
    if requirement.specifier.contains(found, prereleases=True):
        return Finding(requirement.name, True, found)
    wanted = f'pip install "{requirement.name}{requirement.specifier}"'
    return Finding(requirement.name, False, f"{found} is outside of {requirement.specifier}: {wanted}")


def check_clashes() -> Iterator[Finding]:
    """Packages that break others beside them, although their own versions are fine."""
    if find_spec("torchvision") is not None:
        hint = "does not load beside this torch: pip uninstall torchvision"
        yield _attempt("torchvision", lambda: f"{importlib.import_module('torchvision').__version__}, loads", hint)


def check_torch() -> Finding:
    """The build of torch and what it computes on."""
    device = th.cuda.get_device_name() if th.cuda.is_available() else "CPU only"
    return Finding("torch build", True, f"{th.__version__}, {device}, {th.get_num_threads()} threads")


def check_atari() -> Finding:
    """Whether two-player Pong can be played."""
    missing = [name.replace("_", "-") for name in _ATARI if find_spec(name) is None]
    if missing:
        return Finding("Atari", None, f"lacks {', '.join(missing)}; for two-player Pong: pip install sb3-matrl[atari]")
    return Finding("Atari", True, "two-player Pong can be played")


def check_bridge() -> str:
    """
    Step an env through SuperSuit and compare with the batched one.

    :raises RuntimeError: when they differ
    """
    rewards = []
    for kind in ("dummy", "batched"):
        env = make_joint_vec_env(matrix_game_v0.parallel_env, n_envs=2, vec_env=kind)
        env.seed(0)
        env.reset()
        actions = {agent: np.array([0, 1]) for agent in env.agents}
        env.step(actions)  # type: ignore[arg-type]
        assert env.last_step is not None
        rewards.append(env.last_step.rewards)
        env.close()
    if not np.array_equal(rewards[0], rewards[1]):
        raise RuntimeError(f"rewards through SuperSuit are {rewards[0].tolist()}, expected {rewards[1].tolist()}")
    return "steps matrix_game_v0 as the batched environment does"


class _TimeLimit(BaseCallback):
    """End a training after some seconds, between two iterations."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.end = time.monotonic() + seconds

    def _on_step(self) -> bool:
        return self.model._n_updates == 0 or time.monotonic() < self.end


def check_training(seconds: float) -> str:
    """
    Train, save, load, and act.

    :param seconds: of training; at least one iteration is done
    :raises ValueError: when numbers are not finite or the file cannot be read
    :raises RuntimeError: when the loaded model acts differently
    """
    small: dict[str, Any] = {"n_envs": 8, "n_steps": 32, "batch_size": 256, "policy_kwargs": {"net_arch": [32]}}
    model = MATRL("MlpPolicy", checkers_v0.parallel_env, seed=0, device="cpu", **small)
    model.set_logger(Logger(None, []))
    model.learn(10**9, callback=_TimeLimit(seconds), log_interval=None)
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder, "model"))
        loaded = MATRL.load(Path(folder, "model"), device="cpu")
    observations = {agent: np.zeros((1, 47), dtype=np.float32) for agent in model.agents}
    ours, theirs = (one.predict(observations, deterministic=True)[0] for one in (model, loaded))
    if any(not np.array_equal(ours[agent], theirs[agent]) for agent in ours):
        raise RuntimeError("a model that was saved and loaded acts differently")
    return f"{model.num_timesteps:,} steps of checkers_v0, {model._n_updates} updates, saved, loaded, acts alike"


def _attempt(subject: str, check: Callable[[], str], hint: str = "") -> Finding:
    """Whatever goes wrong in a check is what the doctor was asked for."""
    try:
        return Finding(subject, True, check())
    except Exception as error:
        lines = str(error).splitlines() or [""]
        return Finding(subject, False, f"{hint}{': ' if hint else ''}{type(error).__name__}: {lines[0]}")


# ---------------------------------------------------------------- a saved model


def check_checkpoint(path: Path) -> Iterator[Finding]:
    """
    :param path: of the saved model, with or without ``.zip``
    :return: findings; a single one when the file cannot be read
    """
    try:
        documents, tensors = read_archive(zip_path(path))
        saved = read_model(path)
    except (OSError, ValueError) as error:
        yield Finding("file", False, str(error))
        return
    manifest = documents["manifest"]
    versions = ", ".join(f"{name} {number}" for name, number in manifest.get("versions", {}).items())
    yield Finding("file", True, f"{zip_path(path)}, {zip_path(path).stat().st_size:,} bytes")
    yield Finding("format", True, f"{manifest['format']}, version {manifest['format_version']}")
    yield Finding("written with", True, versions or "unknown versions")
    yield Finding("hashes", True, f"right for all {len(manifest['sha256'])} members: {', '.join(manifest['sha256'])}")
    yield _describe_environment(documents.get("run"), saved)
    yield _describe_arguments(saved)
    yield from _describe_model(saved)
    others = sorted(set(documents) - {"manifest", "model", "run"}) + sorted(
        set(tensors) - {"training"} - _agent_members(saved)
    )
    if others:
        yield Finding("beside the model", True, ", ".join(others))


def _agent_members(saved: SavedModel) -> set[str]:
    return {f"agents/{i}" for i in range(len(saved.parameters))}


def _describe_environment(run: Any, saved: SavedModel) -> Finding:
    """Which environment the model learned in; a model that was not saved by the zoo does not know its id."""
    name = run.get("env") if isinstance(run, dict) else None
    options = _readable(saved.arguments.get("env_kwargs")) or "no options"
    copies = f"{saved.counters['n_envs']} copies, {options}"
    return Finding("environment", None if name is None else True, f"{name or 'its id is not in the file'}, {copies}")


def _describe_arguments(saved: SavedModel) -> Finding:
    """The arguments that are not MATRL's defaults."""
    defaults = {name: one.default for name, one in inspect.signature(MATRL.__init__).parameters.items()}
    elsewhere = ("n_envs", "env_kwargs", "verbose")
    changed = [
        f"{name}={_readable(value)}"
        for name, value in saved.arguments.items()
        if name not in elsewhere and (name not in defaults or value != argument_to_json(defaults[name]))
    ]
    return Finding("hyper-parameters", True, ", ".join(changed) or "MATRL's defaults")


def _readable(value: Any) -> str:
    """An argument in the file's JSON types as Python writes it; nothing where there is none."""
    try:
        value = argument_from_json(value)
    except ValueError:
        return str(value)
    if isinstance(value, (type, Unsaved)):
        return value.__name__ if isinstance(value, type) else value.text
    return "" if value is None or value == {} else str(value)


def _describe_model(saved: SavedModel) -> Iterator[Finding]:
    for agent, parameters in saved.parameters.items():
        numbers = sum(value.numel() for value in parameters["policy"].values())
        spaces = f"observes {saved.observation_spaces[agent]}, acts in {saved.action_spaces[agent]}"
        yield Finding(f"agent {agent}", True, f"{numbers:,} parameters; {spaces}")
        bad = [name for name, value in parameters["policy"].items() if not bool(th.isfinite(value).all())]
        if bad:
            yield Finding(f"agent {agent}", False, f"parameters that are NaN or infinite: {', '.join(bad)}")
    counters = saved.counters
    skipped = f" ({counters['skipped_updates']} more were left out)" if counters["skipped_updates"] else ""
    done = f"{counters['num_timesteps']:,} of {counters['total_timesteps']:,}, {counters['n_updates']:,} updates{skipped}"
    yield Finding("steps", True, done)
    yield _describe_resuming(saved)


def _describe_resuming(saved: SavedModel) -> Finding:
    if saved.training is None:
        return Finding("resuming", None, "the model was not saved in a training: parameters and optimisers only")
    if saved.training.get("env") is None:
        return Finding("resuming", None, "goes on with new episodes: the environment could not save its state")
    return Finding("resuming", True, "goes on exactly, as if the training had never stopped")


def main(argv: Sequence[str] | None = None) -> int:
    """:return: 0 if nothing is wrong, else 1"""
    parser = argparse.ArgumentParser(
        prog="sb3-matrl-doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", nargs="?", type=Path, help="a saved model to look at instead of the installation")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long to train (default: 5)")
    args = parser.parse_args(argv)
    wrong = 0
    for finding in check_checkpoint(args.checkpoint) if args.checkpoint else check_installation(args.seconds):
        print(finding, flush=True)
        wrong += finding.ok is False
    print("\nEverything is in order." if wrong == 0 else f"\n{wrong} thing{'s are' if wrong > 1 else ' is'} wrong.")
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
