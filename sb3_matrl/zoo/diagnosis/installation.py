"""Checks of the installation: versions, clashes, bridges to other libraries, a short training."""

from __future__ import annotations

import importlib
import platform
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from packaging.requirements import Requirement
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

from sb3_matrl.common.registry import algorithm_spec
from sb3_matrl.envs import checkers_v0, matrix_game_v0
from sb3_matrl.stacked.native_kernel import native_obstacle
from sb3_matrl.vec_env import make_joint_vec_env
from sb3_matrl.zoo.diagnosis.findings import Finding

# Extra of setup.py -> purpose of the optional dependencies that it installs.
_EXTRAS = {
    "track": "Weights & Biases",
    "render": "windows",
    "record": "videos",
    "report": "charts of reports that can be zoomed",
    "sweep": "sweeps",
    "benchmark": "statistics of benchmarks",
    "ray": "benchmarks on clusters",
    "mujoco": "MuJoCo environments",
    "atari": "two-player Pong",
    "pettingzoo": "PettingZoo's own environments",
}
_ATARI = ("multi_agent_ale_py", "ale_py")


def check_installation(seconds: float) -> Iterator[Finding]:
    """
    :param seconds: length of the trial training
    :return: findings, each as soon as it is known
    """
    yield Finding("Python", True, platform.python_version())
    yield from check_versions()
    yield from check_clashes()
    yield check_torch()
    yield check_native_kernel()
    yield check_atari()
    yield _attempt("SuperSuit bridge", check_bridge)
    yield _attempt("training", lambda: check_training(seconds))


def check_versions() -> Iterator[Finding]:
    """Compare every dependency's version with the range in setup.py, except those for developers."""
    try:
        texts = requires("sb3-matrl") or []
    except PackageNotFoundError:
        yield Finding("sb3-matrl", False, "is not installed, so versions cannot be checked: pip install -e . in its folder")
        return
    seen: set[Finding] = set()
    for text in texts:
        requirement = Requirement(text)
        extra = re.search(r"extra == [\"'](\w+)[\"']", str(requirement.marker or ""))
        if extra is None or extra[1] in _EXTRAS:
            finding = compare_version(requirement, extra[1] if extra else None)
            if finding not in seen:  # several extras may need the same package
                yield finding
            seen.add(finding)


def compare_version(requirement: Requirement, extra: str | None) -> Finding:
    """
    :param requirement: package and range of versions
    :param extra: extra of setup.py that needs the package; ``None`` if it is always needed
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
    """Find packages that break others although their own versions are fine."""
    if find_spec("torchvision") is not None:
        hint = "does not load beside this torch: pip uninstall torchvision"
        yield _attempt("torchvision", lambda: f"{importlib.import_module('torchvision').__version__}, loads", hint)


def check_torch() -> Finding:
    """Describe the build of torch and its device."""
    device = th.cuda.get_device_name() if th.cuda.is_available() else "CPU only"
    return Finding("torch build", True, f"{th.__version__}, {device}, {th.get_num_threads()} threads")


def check_native_kernel() -> Finding:
    """Check whether learners can be updated by the compiled kernel, which is optional."""
    reason = native_obstacle()
    return Finding("native kernel", None if reason else True, reason or "compiled, loads")


def check_atari() -> Finding:
    """Check whether two-player Pong can be played."""
    missing = [name.replace("_", "-") for name in _ATARI if find_spec(name) is None]
    if missing:
        return Finding("Atari", None, f"lacks {', '.join(missing)}; for two-player Pong: pip install sb3-matrl[atari]")
    return Finding("Atari", True, "two-player Pong can be played")


def check_bridge() -> str:
    """
    Compare an environment that is stepped through SuperSuit with the batched one.

    :raises RuntimeError: if they differ
    """
    rewards = []
    for kind in ("supersuit", "batched"):
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
    """End a training after some seconds, between two iterations, but not before the first update."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.end = time.monotonic() + seconds

    def _on_step(self) -> bool:
        return self.model._n_updates == 0 or time.monotonic() < self.end


def check_training(seconds: float) -> str:
    """
    Train, save, load and act.

    :param seconds: length of the training, which has at least one iteration
    :raises ValueError: if numbers are not finite or the file cannot be read
    :raises RuntimeError: if the loaded model acts differently
    """
    small: dict[str, Any] = {"n_envs": 8, "n_steps": 32, "batch_size": 256, "policy_kwargs": {"net_arch": [32]}}
    algorithm = algorithm_spec("matrl").load_class()
    model: Any = algorithm("MlpPolicy", checkers_v0.parallel_env, seed=0, device="cpu", **small)
    model.set_logger(Logger(None, []))
    model.learn(10**9, callback=_TimeLimit(seconds), log_interval=None)
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder, "model"))
        loaded: Any = algorithm.load(Path(folder, "model"), device="cpu")
    observations = {agent: np.zeros((1, 47), dtype=np.float32) for agent in model.agents}
    ours, theirs = (one.predict(observations, deterministic=True)[0] for one in (model, loaded))
    if any(not np.array_equal(ours[agent], theirs[agent]) for agent in ours):
        raise RuntimeError("a model that was saved and loaded acts differently")
    return f"{model.num_timesteps:,} steps of checkers_v0, {model._n_updates} updates, saved, loaded, acts alike"


def _attempt(subject: str, check: Callable[[], str], hint: str = "") -> Finding:
    """Run a check; any exception is a finding."""
    try:
        return Finding(subject, True, check())
    except Exception as error:
        lines = str(error).splitlines() or [""]
        return Finding(subject, False, f"{hint}{': ' if hint else ''}{type(error).__name__}: {lines[0]}")
