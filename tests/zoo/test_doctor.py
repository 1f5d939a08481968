"""The doctor finds what is wrong, says what to do, and its exit code tells."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch as th
from packaging.requirements import Requirement

from sb3_matrl import MATRL
from sb3_matrl.files.archive import FORMAT_VERSION
from sb3_matrl.stacked.native_kernel import native_obstacle
from sb3_matrl.zoo import doctor
from sb3_matrl.zoo.diagnosis import installation
from tests.matrl.test_exact_resume import build
from tests.vec_env.toys import plain


def report(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, str]]:
    """Exit code, and subject -> mark and text."""
    code = doctor.main(words)
    lines = [line for line in capsys.readouterr().out.splitlines() if line[:7].strip() in ("ok", "WRONG", "-")]
    return code, {line[7:31].strip(): f"{line[:7].strip()} {line[31:]}" for line in lines}


# ---------------------------------------------------------------- the installation


def test_this_installation_is_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = report(capsys, "--seconds", "0.1")
    assert code == 0
    assert lines["torch"] == f"ok {th.__version__}" and lines["numpy"] == f"ok {np.__version__}"
    assert lines["SuperSuit bridge"] == "ok steps matrix_game_v0 as the batched environment does"
    assert "saved, loaded, acts alike" in lines["training"] and lines["training"].startswith("ok ")
    assert "pytest" not in lines and "mkdocs" not in lines


def test_packages_that_several_extras_need_are_listed_once() -> None:
    findings = list(installation.check_versions())
    assert "pettingzoo" in {finding.subject for finding in findings} and len(findings) == len(set(findings))


@pytest.mark.parametrize(
    ("requirement", "extra", "ok", "text"),
    [
        (f"numpy>={np.__version__}", None, True, np.__version__),
        ("numpy<2", None, False, r'is outside of <2: pip install "numpy<2"'),
        ("numpy<2", "benchmark", False, r'is outside of <2: pip install "numpy<2"'),
        ("no-such-package>=1", None, False, 'not installed: pip install "no-such-package>=1"'),
        ("no-such-package>=1", "track", None, "not installed; for Weights & Biases: pip install sb3-matrl[track]"),
    ],
)
def test_versions_are_compared_with_their_ranges(requirement: str, extra: str | None, ok: bool | None, text: str) -> None:
    finding = installation.compare_version(Requirement(requirement), extra)
    assert finding.ok is ok and finding.text.endswith(text)


def test_a_torchvision_that_does_not_load_is_a_clash(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> ModuleType:
        raise RuntimeError("operator torchvision::nms does not exist\nand more")

    assert list(installation.check_clashes()) == [] or "torchvision" in sys.modules
    monkeypatch.setattr(installation, "find_spec", lambda name: name)
    monkeypatch.setattr(installation.importlib, "import_module", fail)
    (finding,) = installation.check_clashes()
    assert finding.ok is False
    assert finding.text.endswith("pip uninstall torchvision: RuntimeError: operator torchvision::nms does not exist")


def test_a_missing_native_kernel_is_no_fault(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert installation.check_native_kernel().ok is (True if native_obstacle() is None else None)
    monkeypatch.setattr(installation, "native_obstacle", lambda: "it was not compiled: install a C++ compiler")
    code, lines = report(capsys, "--seconds", "0")
    assert code == 0 and lines["native kernel"] == "- it was not compiled: install a C++ compiler"


def test_what_goes_wrong_in_a_training_is_reported(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = MATRL.predict

    def unlike(self: MATRL, *args: Any, **kwargs: Any) -> Any:
        actions, state = predict(self, *args, **kwargs)
        return {agent: action + self.num_timesteps + id(self) for agent, action in actions.items()}, state

    monkeypatch.setattr(MATRL, "predict", unlike)
    code, lines = report(capsys, "--seconds", "0")
    assert code == 1
    assert lines["training"] == "WRONG RuntimeError: a model that was saved and loaded acts differently"


# ---------------------------------------------------------------- a saved model


def test_a_checkpoint_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build().learn(240).save(tmp_path / "model", {"evaluation": [1]})
    code, lines = report(capsys, str(tmp_path / "model"))
    assert code == 0
    assert (
        lines["format"] == f"ok sb3-matrl, version {FORMAT_VERSION}, a model of MATRL"
        and f"torch {th.__version__}" in lines["written with"]
    )
    assert lines["hashes"] == "ok right for all 5 members: evaluation.json, model.json, agents/0.pt, agents/1.pt, training.pt"
    # 47 observations, two towers of 8, 5 actions, 1 value.
    assert (
        "Discrete(5)" in lines["agent agent_0"] and f"{2 * (47 * 8 + 8) + 8 * 5 + 5 + 8 + 1:,} par" in lines["learner agent_0"]
    )
    assert lines["steps"] == "ok 240 of 240, 2 updates"
    assert lines["resuming"].startswith("ok continues exactly")
    assert lines["beside the model"] == "ok evaluation"
    assert lines["environment"].startswith("- its id is not in the file, ")


def test_environment_and_hyper_parameters_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options: dict[str, Any] = {"n_envs": 3, "env_kwargs": {"max_cycles": 9}, "n_steps": 10, "batch_size": 30, "seed": 5}
    model = MATRL("MlpPolicy", "checkers_v0", learning_rate=lambda left: left, device="cpu", **options)
    model.save(tmp_path / "model", {"run": {"env": "checkers_v0"}})
    lines = report(capsys, str(tmp_path / "model"))[1]
    assert lines["environment"] == "ok checkers_v0, 3 copies, {'max_cycles': 9}"
    start, _, end = lines["hyper-parameters"].partition("learning_rate=<function")
    assert start == "ok policy=MlpPolicy, " and end.endswith(">, n_steps=10, batch_size=30, seed=5")
    assert "beside the model" not in lines


def test_what_cannot_be_resumed_exactly_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build().save(tmp_path / "fresh")
    assert "not saved in a training" in report(capsys, str(tmp_path / "fresh"))[1]["resuming"]
    build(env=plain, n_steps=20, vec_env="dummy").learn(60).save(tmp_path / "plain")
    assert report(capsys, str(tmp_path / "plain"))[1]["resuming"].startswith("- continues with new episodes")


def test_parameters_that_are_not_finite_are_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = build()
    with th.no_grad():
        model.agents["agent_1"].policy.action_net.bias.fill_(float("nan"))  # type: ignore[union-attr]
    model.save(tmp_path / "model")
    code, lines = report(capsys, str(tmp_path / "model"))
    assert code == 1
    assert lines["learner agent_1"] == "WRONG parameters that are NaN or infinite: action_net.bias"


def test_damaged_and_missing_files_are_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = report(capsys, str(tmp_path / "nothing"))
    assert code == 1 and lines["file"].startswith("WRONG no saved model at")
    build().save(tmp_path / "model")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        offset = archive.getinfo("agents/1.pt").header_offset
    content = bytearray((tmp_path / "model.zip").read_bytes())
    content[offset + 500] ^= 1
    (tmp_path / "model.zip").write_bytes(bytes(content))
    code, lines = report(capsys, str(tmp_path / "model"))
    assert code == 1 and "damaged" in lines["file"]
