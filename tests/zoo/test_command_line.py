"""The real commands: help, mistakes, forms, shell completion; and what an installation contains."""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import setuptools

from sb3_matrl.common.registry import algorithm_names
from sb3_matrl.zoo import main as console
from sb3_matrl.zoo.common.invocation import CONSOLE, MODULE, VARIABLE, command_prefix, in_used_form, script_form
from sb3_matrl.zoo.common.words import _MISSPELT
from sb3_matrl.zoo.completion import completion_script
from sb3_matrl.zoo.main import COMMANDS

ROOT = Path(console.__file__).parents[2]
HEAVY = {"torch", "stable_baselines3", "matplotlib", "pettingzoo", "gymnasium", "pandas", "optuna", "wandb"}
SCRIPTS = [name for name in COMMANDS if name != "completion"]
DEFAULTS = {
    "train": "(default: checkers_v0)",
    "enjoy": "(default: logs)",
    "benchmark": "(default: 10000)",
    "sweep": "(default: optuna)",
    "report": "(default: 8)",
    "games table1": "(default: 1000)",
    "games rotational": "(default: 0.02)",
    "games dynamics": "(default: 0.3)",
    "doctor": "(default: 5.0)",
    "plot all": "(default: logs)",
}


@pytest.fixture(autouse=True)
def form(monkeypatch: pytest.MonkeyPatch) -> None:
    """The form of printed commands is an environment variable, which is restored after each test."""
    monkeypatch.setenv(VARIABLE, CONSOLE)


def run(*words: str, cwd: Path = ROOT, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a Python command line in a process of its own."""
    environ = {name: value for name, value in os.environ.items() if name not in (VARIABLE, "PYTHONPATH")}
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=cwd, env=environ | variables, capture_output=True, text=True, check=False)


def imported(errors: str) -> set[str]:
    """Top-level packages that a process with ``-X importtime`` imported."""
    return {line.rsplit("|", 1)[1].strip().split(".")[0] for line in errors.splitlines() if line.startswith("import time:")}


# ---------------------------------------------------------------- help and mistakes


@pytest.mark.cases(e2e=["games table1", "games rotational"])
@pytest.mark.parametrize("command", [*DEFAULTS, "games", "completion"])
def test_help_shows_defaults_without_heavy_imports(command: str) -> None:
    name, *rest = command.split()
    program = ["-m", "sb3_matrl.zoo", name] if name == "completion" else [f"zoo/{name}.py"]
    done = run("-X", "importtime", *program, *rest, "--help")
    text = " ".join(done.stdout.split())
    assert done.returncode == 0 and DEFAULTS.get(command, "") in text and "examples:" in text
    assert not re.search(r"object at 0x|default: None|SUPPRESS|\bNone:|PosixPath", text)
    assert imported(done.stderr) & HEAVY == set()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("trian", "command 'trian' is unknown; did you mean 'train'? Known: train, enjoy"),
        ("--vresion", "flag --vresion is unknown; did you mean '--version'?"),
        ("train --evalfreq=3", "flag --evalfreq is unknown; did you mean '--eval-freq'?"),
        ("train --eval-freqs 3", "flag --eval-freqs is unknown; did you mean '--eval-freq'?"),
        ("train --algo matrix", "algorithm 'matrix' is unknown; did you mean 'matrl'?"),
        ("enjoy --load-bets", "flag --load-bets is unknown; did you mean '--load-best'?"),
        ("benchmark --device gpu", "expected auto, cpu, cuda or cuda:<index>, got 'gpu'"),
        (
            "sweep matrl_checkers --sampler tpr",
            "--sampler: value 'tpr' is unknown; did you mean 'tpe'? Known: tpe, random, grid. See",
        ),
        ("report", "the following arguments are required: RUN"),
        ("games table2", "command 'table2' is unknown; did you mean 'table1'?"),
        ("doctor --second 1", "flag --second is unknown; did you mean '--seconds'?"),
        ("completion csh", "value 'csh' is unknown; did you mean 'zsh'? Known: bash"),
    ],
)
def test_mistakes_are_reported_without_heavy_imports(words: str, message: str) -> None:
    done = run("-X", "importtime", "-m", "sb3_matrl.zoo", *words.split())
    (error,) = (line for line in done.stderr.splitlines() if not line.startswith("import time:"))
    assert done.returncode == 2 and error.startswith("error: ") and message in error
    assert imported(done.stderr) & HEAVY == set()


def test_no_hyper_parameter_is_close_to_a_flag() -> None:
    from difflib import get_close_matches

    from sb3_matrl.zoo.common.hyperparameters import schema_fields
    from sb3_matrl.zoo.train import build_parser

    flags = build_parser().flags
    names = [f"--{name}".replace("_", "-") for name in schema_fields()]
    assert [name for name in names if name not in flags and get_close_matches(name, flags, cutoff=_MISSPELT)] == []


def test_without_a_command_the_commands_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(any(re.match(rf"  {name} +{purpose}", line) for line in lines) for name, purpose in COMMANDS.items())
    with pytest.raises(SystemExit) as exit_info:
        console.main(["--version"])
    assert exit_info.value.code == 0 and re.fullmatch(r"sb3-matrl \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_a_command_gets_the_words_after_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert console.main(["completion", "fish"]) == 0
    assert capsys.readouterr().out.startswith("# Completion of sb3-matrl for fish.")


# ---------------------------------------------------------------- forms


def test_every_command_but_completion_has_a_script() -> None:
    names = [name.replace("-", "_") for name in SCRIPTS]
    assert sorted(path.stem for path in (ROOT / "zoo").glob("*.py")) == sorted([*names, "_script"])


@pytest.mark.parametrize(
    ("program", "shown"),
    [
        (["zoo/train.py"], "python zoo/train.py"),
        ([str(ROOT / "zoo" / "train.py")], f"python {ROOT}/zoo/train.py"),
        (["-m", "sb3_matrl.zoo", "train"], "python -m sb3_matrl.zoo train"),
        (["-c", "import sys; from sb3_matrl.zoo.main import main; sys.exit(main())", "train"], "sb3-matrl train"),
    ],
)
def test_help_names_the_form_that_was_used(program: list[str], shown: str) -> None:
    text = run(*program, "--help").stdout
    assert text.startswith(f"usage: {shown} [options]\n") and f"\n  {shown} --resume logs/matrl/checkers_v0_1\n" in text


@pytest.mark.parametrize("program", [[str(ROOT / "zoo" / "train.py")], ["-m", "sb3_matrl.zoo", "train"], ["-m", "console"]])
def test_current_folder_is_on_the_path_and_the_scripts_folder_is_not(tmp_path: Path, program: list[str]) -> None:
    """``console.py`` stands for the console script, whose own folder Python puts first."""
    site, here = tmp_path / "site", tmp_path / "here"
    for folder in (site, here):
        folder.mkdir()
    (site / "sitecustomize.py").write_text("import atexit, sys; atexit.register(lambda: print(*sys.path, sep='\\n'))")
    (site / "console.py").write_text(
        "import os, sys; sys.path[:] = [one for one in sys.path if one not in ('', os.getcwd())]\n"
        "from sb3_matrl.zoo.main import main; sys.exit(main(['train', *sys.argv[1:]]))"
    )
    done = run(*program, "--help", cwd=here, PYTHONPATH=os.pathsep.join([str(site), str(ROOT)]))
    places = done.stdout.splitlines()
    assert str(here) in places and str(ROOT / "zoo") not in places


@pytest.mark.e2e
def test_environment_in_the_current_folder_is_trained(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("from sb3_matrl.envs.matrix_game_v0 import parallel_env as Game\n")
    small = ["-n", "50", "--eval-episodes", "2", "--verbose", "0", "-params", "n_envs:2", "n_steps:25", "batch_size:50"]
    done = run(str(ROOT / "zoo/train.py"), "--env", "mine:Game", "--run-dir", "run", "-vec", "subproc", *small, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    command = (tmp_path / "run" / "command.txt").read_text()
    assert command.startswith(f"python {ROOT}/zoo/train.py --env mine:Game") and (tmp_path / "run" / "mine-Game.zip").is_file()


def test_printed_commands_have_the_form_that_was_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert command_prefix("train") == ["sb3-matrl", "train"] and command_prefix("") == ["sb3-matrl"]
    assert in_used_form("  sb3-matrl train -n 5\n(sb3-matrl games)") == "  sb3-matrl train -n 5\n(sb3-matrl games)"
    monkeypatch.setenv(VARIABLE, MODULE)
    assert command_prefix("sweep") == ["python", "-m", "sb3_matrl.zoo", "sweep"]
    assert command_prefix("") == ["python", "-m", "sb3_matrl.zoo"]
    monkeypatch.setenv(VARIABLE, script_form("my runs/zoo/benchmark.py"))
    assert command_prefix("train") == ["python", "my runs/zoo/train.py"]
    assert in_used_form("  sb3-matrl train -n 5") == "  python 'my runs/zoo/train.py' -n 5"


# ---------------------------------------------------------------- shell completion


@pytest.fixture(scope="module")
def scripts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("completion")
    for shell in ("bash", "zsh", "fish"):
        (folder / shell).write_text(completion_script(shell))
    (folder / "here").mkdir()
    (folder / "here" / "my sweep.yaml").touch()
    return {shell: folder / shell for shell in ("bash", "zsh", "fish")}


def in_bash(script: Path, *words: str) -> list[str]:
    """Completions of the last word."""
    typed = shlex.join(["sb3-matrl", *words])
    code = f"source {script}; COMP_WORDS=({typed}); COMP_CWORD={len(words)}; _sb3_matrl; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    done = subprocess.run(["bash", "-c", code], cwd=script.parent / "here", capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split("\n")[:-1]


def in_fish(script: Path, *words: str) -> list[str]:
    """Completions of the last word."""
    code = f"source {script}; complete -C '{' '.join(['sb3-matrl', *words])}'"
    done = subprocess.run(["fish", "-N", "-c", code], cwd=script.parent / "here", capture_output=True, text=True, check=True)
    return [line.split("\t")[0].replace("|", r"\|") for line in done.stdout.splitlines()]


COMPLETIONS: list[tuple[tuple[str, ...], list[str]]] = [
    (("tr",), ["train"]),
    (("train", "--algo", ""), algorithm_names()),
    (("train", "--algo", "matrl-"), ["matrl-no-br", "matrl-optimistic"]),
    (("train", "--env", "check"), ["checkers_v0"]),
    (("train", "--env", "humanoid_"), [r"humanoid_9\|8"]),
    (("train", "--wandb-p"), ["--wandb-project-name"]),
    (("train", "--record", "--resu"), ["--resume"]),
    (("sweep", "--sampler", "r"), ["random"]),
    (("sweep", "my"), ["my sweep.yaml"]),
    (("train", "--conf-file", "my"), ["my sweep.yaml"]),
    (("train", "--seed", ""), []),
    (("games", "ro"), ["rotational"]),
    (("games", "rotational", "--lo"), ["--look-ahead"]),
    (("completion", "z"), ["zsh"]),
    (("enjoy", "--pretrained", "clim"), ["climbing"]),
]
# Words in bash's own splitting, and several values of one flag, which fish does not know.
IN_BASH: list[tuple[tuple[str, ...], list[str]]] = [
    (("train", "--algo", "=", "matrl-"), ["matrl-no-br", "matrl-optimistic"]),
    (("train", "--algo", "="), algorithm_names()),
    (("benchmark", "--algos", "matrl", "ip"), ["ippo"]),
]


@pytest.mark.parametrize(("words", "expected"), [*COMPLETIONS, *IN_BASH])
def test_bash_completes(scripts: dict[str, Path], words: tuple[str, ...], expected: list[str]) -> None:
    found = [one for one in in_bash(scripts["bash"], *words) if one]
    assert sorted(found) == sorted(expected)


def test_bash_completes_all_commands_and_all_flags(scripts: dict[str, Path]) -> None:
    from sb3_matrl.zoo.enjoy import build_parser

    assert set(COMMANDS) <= set(in_bash(scripts["bash"], ""))
    assert sorted(in_bash(scripts["bash"], "enjoy", "-")) == sorted(build_parser().flags)


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
@pytest.mark.parametrize(("words", "expected"), COMPLETIONS)
def test_fish_completes(scripts: dict[str, Path], words: tuple[str, ...], expected: list[str]) -> None:
    assert sorted(in_fish(scripts["fish"], *words)) == sorted(expected)


@pytest.mark.e2e
@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_completes(scripts: dict[str, Path]) -> None:
    code = f"""
    zmodload zsh/zpty; zpty shell zsh -f -i; zpty -w shell 'autoload -U compinit; compinit -D'
    zpty -w shell 'source {scripts["zsh"]}; echo rea''dy'
    zpty -r -m shell text '*ready*'; zpty -w -n shell $'sb3-matrl train --algo matrl-n\\t'
    zpty -r -m shell text '*matrl-no-br*' && print completed
    zpty -w -n shell $'\\C-u'; zpty -w -n shell $'sb3-matrl train --env humanoid_\t'
    zpty -r -m shell text '*humanoid_9*8*' && print completed; zpty -d shell
    """
    done = subprocess.run(["zsh", "-f", "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.stdout.count("completed") == 2, done


# ---------------------------------------------------------------- installation


def test_an_installation_contains_the_package_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", given.update)
    monkeypatch.chdir(ROOT)
    runpy.run_path("setup.py")
    assert {name.split(".")[0] for name in given["packages"]} == {"sb3_matrl"}
    scripts = given["entry_points"]["console_scripts"]
    assert sorted(line.split("=")[0].strip() for line in scripts) == ["sb3-matrl", "sb3-matrl-doctor"]
    folders = {path.parent for path in (ROOT / "sb3_matrl").rglob("*.py")}
    assert {str(folder.relative_to(ROOT)).replace("/", ".") for folder in folders} == set(given["packages"])
