"""The distribution: metadata, what wheel and sdist contain, and an installation of the wheel alone."""

from __future__ import annotations

import email
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from email.message import Message
from pathlib import Path
from typing import Any

import pytest
import setuptools
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from sb3_matrl import __version__
from tests.documentation import ROOT
from tests.shared_folders import built_once


@pytest.fixture(scope="module")
def given() -> dict[str, Any]:
    """What setup.py passes to setuptools."""
    arguments: dict[str, Any] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", arguments.update)
        patch.chdir(ROOT)
        runpy.run_path("setup.py")
    return arguments


def test_pinned_versions_are_in_the_ranges(given: dict[str, Any]) -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = {one.name.lower().replace("_", "-"): one.specifier for line in lines if (one := _requirement(line)) is not None}
    ranges = [Requirement(one) for one in sum(given["extras_require"].values(), given["install_requires"])]
    pinned = [(one, pins[one.name.lower().replace("_", "-")]) for one in ranges if one.name.lower().replace("_", "-") in pins]
    assert len(pinned) > 15
    assert [f"{one} {pin}" for one, pin in pinned if next(iter(pin)).version not in one.specifier] == []


def _requirement(line: str) -> Requirement | None:
    text = line.split("#")[0].strip()
    return Requirement(text) if text and not text.startswith("-") else None


def test_versions_of_python_agree(given: dict[str, Any]) -> None:
    listed = {line.rsplit(" ", 1)[1] for line in given["classifiers"] if re.search(r"Python :: 3\.\d+$", line)}
    assert listed and all(version in SpecifierSet(given["python_requires"]) for version in listed)
    image = re.search(r"^FROM python:(\S+)-slim", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    assert image is not None and image[1] in listed


def test_files_that_the_docker_image_copies_exist() -> None:
    lines = re.findall(r"^COPY (.+) \S+$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    names = [name for line in lines for name in line.split()]
    assert names and all((ROOT / name).exists() for name in names)


# ---------------------------------------------------------------- wheel and sdist


def tracked_files() -> list[str]:
    """Files of the repository, without those that only lie in the folder."""
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def build_dist(folder: Path) -> None:
    """Build wheel and sdist as `make dist` does, in a copy of the repository."""
    for name in tracked_files():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    command = ["make", "-o", "setup", f"BIN={Path(sys.executable).parent}", "dist"]  # with what is installed here
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the wheel and the sdist."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("no git repository")
    return built_once(tmp_path_factory, "copy", build_dist) / "dist"


def names_in_wheel(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def metadata_of(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(archive.read(name))


@pytest.mark.e2e
def test_wheel_contains_the_package_and_nothing_else(dist: Path) -> None:
    (wheel,) = dist.glob("*.whl")
    names = names_in_wheel(wheel)
    assert {name.split("/")[0] for name in names} == {"sb3_matrl", f"sb3_matrl-{__version__}.dist-info"}
    of_package = {name for name in tracked_files() if name.startswith("sb3_matrl/") and not name.endswith(".cpp")}
    assert of_package - set(names) == set()
    others = {name for name in names if name.startswith("sb3_matrl/")} - of_package
    assert all(re.fullmatch(r"sb3_matrl/stacked/_kernel\..*\.so", name) for name in others), others
    left_of_runs = re.compile(r"checkpoints/|progress\.csv|evaluations\.npz|events\.out|(^|/)wandb/|logs/|(^|/)test_\w+\.py")
    assert [name for name in names if left_of_runs.search(name)] == []
    assert wheel.stat().st_size < 5_000_000


@pytest.mark.e2e
def test_metadata_of_the_wheel(dist: Path) -> None:
    metadata = metadata_of(next(dist.glob("*.whl")))
    assert (metadata["Name"], metadata["Version"]) == ("sb3-matrl", __version__)
    assert metadata["Author"] == "The sb3-matrl developers" and metadata["License-File"] == "LICENSE"
    assert metadata["Requires-Python"] == ">=3.11" and "multi-agent" in metadata["Keywords"]
    assert str(metadata.get_payload()).startswith("# sb3-matrl\n")


@pytest.mark.expensive
def test_wheel_of_the_sdist_is_the_same(dist: Path, tmp_path: Path) -> None:
    (sdist,), (wheel,) = dist.glob("*.tar.gz"), dist.glob("*.whl")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), "."]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert sorted(names_in_wheel(next(tmp_path.glob("*.whl")))) == sorted(names_in_wheel(wheel))


@pytest.mark.e2e
def test_wheel_works_in_an_environment_of_its_own(dist: Path, tmp_path: Path) -> None:
    """A virtual environment with nothing but the wheel, which sees the installed libraries but not the repository."""
    home = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(home)], check=True)
    python = home / "bin/python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-index", "--no-deps"]
    done = subprocess.run([*install, str(next(dist.glob("*.whl")))], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    paths = {"base": str(home), "platbase": str(home)}
    site = Path(sysconfig.get_path("purelib", vars=paths))
    libraries = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    (site / "libraries.pth").write_text("\n".join(libraries), encoding="utf-8")

    def run(*words: str) -> str:
        ended = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    assert run(str(python), "-c", "import sb3_matrl; print(sb3_matrl.__file__)").startswith(str(site))
    command = str(home / "bin/sb3-matrl")
    assert run(command, "--version") == f"sb3-matrl {__version__}\n"
    table = run(command, "enjoy", "--pretrained", "--n-episodes", "3")
    assert str(site) in table and "agent_1" in table
    small = ["-params", "n_envs:4", "n_steps:25", "batch_size:100", "n_epochs:1", "br_n_epochs:1", "--verbose", "0"]
    run(command, "train", "--env", "checkers_v0", "-n", "100", "--eval-episodes", "2", *small)
    assert "agent_1" in run(command, "enjoy", "--env", "checkers_v0", "--n-episodes", "3")
