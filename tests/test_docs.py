"""What the documentation says about files, commands, flags, arguments, logger keys and records is true."""

from __future__ import annotations

import argparse
import csv
import importlib
import inspect
import json
import re
import runpy
import shlex
import sys
from collections import Counter
from fnmatch import fnmatch
from pathlib import Path

import pytest

from benchmarks import env_pictures
from sb3_matrl import MATRL
from sb3_matrl.envs import mamujoco, pong_v3
from sb3_matrl.evaluation import isolated_random_streams
from sb3_matrl.zoo import train
from sb3_matrl.zoo.common.hyperparameters import find_conf_file
from sb3_matrl.zoo.common.schema import ZOO_ARGUMENTS, Schema
from sb3_matrl.zoo.main import COMMANDS, module_of
from sb3_matrl.zoo.training.experiment import read_hyperparameters
from tests.documentation import DOCS, PAGES, ROOT, flags_of, on_one_line, page_name, table_rows

COMMAND = re.compile(r"python (?:zoo/(?P<zoo>\w+)\.py|-m benchmarks\.(?P<benchmark>\w+))(?P<words>[^`\n]*)")
PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Pages whose Python is one script; the later ones of a group use what the earlier ones made.
SCRIPTS = [
    ("docs/guide.md",),
    ("docs/own_environment.md",),
    ("docs/learners.md",),
    ("docs/index.md", "docs/model_files.md"),
    ("README.md",),
    ("docs/from_sb3.md",),
    ("docs/from_pettingzoo.md",),
    ("docs/pretrained.md",),
    ("docs/value_based.md",),
]


# ---------------------------------------------------------------------- files


def found_in_pages(pattern: str) -> list[tuple[Path, str]]:
    """Every match of a pattern, with its page."""
    return [(path, match) for path in PAGES for match in re.findall(pattern, path.read_text(encoding="utf-8"))]


def test_relative_links_resolve_in_the_repository() -> None:
    links = found_in_pages(r"\]\((?!https?:|#)([^)\s#]+)")
    assert links and [f"{path.name}: {link}" for path, link in links if not (path.parent / link).exists()] == []


def test_files_of_the_repository_that_are_named_exist() -> None:
    names = found_in_pages(r"\b(?:zoo|sb3_matrl|tests|benchmarks|docs)/[\w./-]*\w\.\w+")
    assert names and [f"{path.name}: {name}" for path, name in names if not (ROOT / name).exists()] == []


# ---------------------------------------------------------------------- commands


def commands(folder: str) -> list[tuple[str, list[str]]]:
    """Module and words of every command in the pages that runs something of ``zoo`` or ``benchmark``."""
    found = (match for path in PAGES for match in COMMAND.finditer(on_one_line(path)))
    words = ((match[folder], shlex.split(match["words"], comments=True)) for match in found if match[folder])
    return [(module, rest) for module, rest in words if rest]


def test_flags_that_the_text_names_exist() -> None:
    known = set().union(*(flags_of(importlib.import_module(module_of(name)).build_parser()) for name in COMMANDS))
    known |= {f"--{name}".replace("_", "-") for name in Schema.of("matrl").arguments}
    scripts = (path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").rglob("*.py"))
    known |= {flag for text in scripts for flag in re.findall(r'"(--\w[\w-]*)"', text)}
    named = {flag for path in PAGES for flag in re.findall(r"`(--\w[\w-]*)", path.read_text(encoding="utf-8"))}
    # Sweeps spell flags with underscores.
    assert named and sorted(flag for flag in named if flag.replace("_", "-") not in known) == []


def test_page_of_flags_is_that_of_the_parsers() -> None:
    made = runpy.run_path(str(DOCS / "flag_tables.py"))["page"]()
    assert (DOCS / "flags.md").read_text(encoding="utf-8") == made, "run `make flags`"


def as_id(value: object) -> str:
    return shlex.join(value) if isinstance(value, list) else str(value)


@pytest.mark.parametrize(("name", "words"), commands("zoo"), ids=as_id)
def test_zoo_commands_are_understood(name: str, words: list[str]) -> None:
    module = importlib.import_module(f"sb3_matrl.zoo.{name}")
    if module is train and {"--optimize", "--trial-id"} & set(words):  # they need a study
        assert train.given_options(words)
        return
    if hasattr(module, "parse_options"):
        options = module.parse_options(words)
    else:
        options = module.build_parser().parse_strictly(words)
    assert options is not None
    if module is train and (options.conf_file is None or "/" not in options.conf_file):
        assert read_hyperparameters(options).n_timesteps > 0


class _Parsed(Exception):
    pass


@pytest.mark.parametrize(("name", "words"), commands("benchmark"), ids=as_id)
def test_benchmark_commands_are_understood(name: str, words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    parse_args = argparse.ArgumentParser.parse_args

    def stop_after_parsing(parser: argparse.ArgumentParser) -> None:
        parse_args(parser)
        raise _Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop_after_parsing)
    monkeypatch.setattr(sys, "argv", [name, *words])
    with pytest.raises(_Parsed):
        importlib.import_module(f"benchmarks.{name}").main()


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
    named = set(re.findall(r"(?:`|^)make ([\w-]+)", text, re.MULTILINE))
    assert named and named <= targets


# ---------------------------------------------------------------------- code


def test_python_blocks_compile() -> None:
    for path in PAGES:
        for block in PYTHON_BLOCK.findall(path.read_text(encoding="utf-8")):
            compile(block, page_name(path), "exec")


def small(code: str) -> str:
    """The same code with one short rollout per training and a few episodes per evaluation."""
    for pattern, value in ((r"\.learn\([\d_]+", ".learn(1"), (r"\bn_envs=\d+", "n_envs=2"), (r"episodes=\d+", "episodes=2")):
        code = re.sub(pattern, value, code)
    return code


@pytest.mark.e2e
@pytest.mark.parametrize("names", SCRIPTS, ids=" ".join)
def test_python_blocks_run(names: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = [block for name in names for block in PYTHON_BLOCK.findall((ROOT / name).read_text(encoding="utf-8"))]
    assert blocks
    script = tmp_path / "script.py"
    script.write_text(small("\n".join(blocks)), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with isolated_random_streams(0):
        runpy.run_path(str(script))


# ---------------------------------------------------------------------- reference tables


def matrl_defaults() -> dict[str, object]:
    parameters = inspect.signature(MATRL.__init__).parameters
    return {name: parameter.default for name, parameter in parameters.items() if name != "self"}


def documented_hyperparameters() -> dict[str, list[str]]:
    return {row[0]: row[1:] for row in table_rows("hyperparameters.md") if len(row) == 4}


def test_every_hyperparameter_is_documented_once() -> None:
    names = [row[0] for row in table_rows("hyperparameters.md") if len(row) == 4]
    assert sorted(names) == sorted(set(matrl_defaults()) | set(Schema.of("matrl").arguments))


def as_documented(default: object) -> str:
    if default is inspect.Parameter.empty:
        return ""
    return default.__name__ if isinstance(default, type) else repr(default).replace("'", '"')


def test_documented_defaults_are_those_of_matrl() -> None:
    defaults = {name: as_documented(default) for name, default in matrl_defaults().items()}
    documented = documented_hyperparameters()
    assert {name: documented[name][0].strip("`") for name in defaults} == defaults


def test_documented_default_of_n_timesteps() -> None:
    assert documented_hyperparameters()["n_timesteps"][0].strip("`") == str(ZOO_ARGUMENTS["n_timesteps"].default)


def test_documented_stars_are_those_of_the_docstring() -> None:
    stars = {name: "*" if f":param {name}: (*)" in (MATRL.__doc__ or "") else "" for name in matrl_defaults()}
    documented = documented_hyperparameters()
    assert "*" in stars.values() and {name: documented[name][1] for name in stars} == stars


def row_of_robot(env_id: str) -> str:
    env = mamujoco.factory(env_id)()
    sizes = [[space(agent).shape[0] for agent in env.possible_agents] for space in (env.observation_space, env.action_space)]
    shown = [", ".join(map(str, value if len(set(value)) > 1 else value[:1])) for value in sizes]
    env.close()
    # A pipe would end the table's cell.
    name = f"<code>{env_id.replace('|', '&#124;')}</code>" if "|" in env_id else f"`{env_id}`"
    return " | ".join([name, str(len(env.possible_agents)), *shown])


@pytest.mark.e2e
def test_documented_robots_are_those_of_the_library() -> None:
    page = (DOCS / "environments.md").read_text(encoding="utf-8")
    assert [row for row in map(row_of_robot, mamujoco.env_ids()) if f"\n| {row} | " not in page] == []


def test_documented_options_of_pong_are_its_own() -> None:
    documented = {row[0]: row[1].strip("`") for row in table_rows("environments.md", "pong_v3") if not row[0].startswith('"')}
    parameters = inspect.signature(pong_v3.parallel_env).parameters.values()
    defaults = {entry.name: repr(entry.default).replace("'", '"') for entry in parameters if entry.name != "render_mode"}
    assert documented.pop("observation") == defaults.pop("observation") and documented == defaults


def test_pictures_of_environments_are_those_that_are_drawn_and_small() -> None:
    files = {path.stem: path.stat().st_size for path in (DOCS / "images/envs").glob("*.png")}
    assert files.keys() == env_pictures.PICTURES.keys() and max(files.values()) < 60_000
    text = (DOCS / "environments.md").read_text(encoding="utf-8")
    assert [name for name in files if f"(images/envs/{name}.png)" not in text] == []


def test_films_of_the_gallery_are_small_and_have_their_commands() -> None:
    files = {path.name: path.stat().st_size for path in (DOCS / "images/gallery").iterdir()}
    assert files and sum(files.values()) < 1_000_000
    text = on_one_line(DOCS / "gallery.md")
    shown = [name for name in files if f"(images/gallery/{name})" in text and f"--record docs/images/gallery/{name}" in text]
    assert shown == list(files)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    words = ["--env", "matrix_game_v0", "-n", "64", "--eval-freq", "32", "--eval-episodes", "2", "--save-freq", "32"]
    words += ["-params", "n_envs:4", "n_steps:8", "batch_size:32", "--run-dir", str(folder), "--verbose", "0", "--seed", "0"]
    assert train.main(words) == 0
    return folder


@pytest.fixture(scope="module")
def off_policy_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs that log all keys of value-based algorithms and of actor-critics."""
    folder = tmp_path_factory.mktemp("off_policy")
    words = ["--env", "matrix_game_v0", "-n", "64", "--eval-freq", "32", "--eval-episodes", "2", "--save-freq", "32"]
    words += ["--seed", "0", "--verbose", "0", "--log-interval", "1", "--env-kwargs", "max_cycles:4"]
    words += ["-params", "n_envs:4", "learning_starts:8", "batch_size:4", "train_freq:1", "gradient_steps:1"]
    found = {algo: folder / algo for algo in ("iql", "qtran", "qdpp", "maddpg")}
    for algo, path in found.items():
        assert train.main([*words, "--algo", algo, "--run-dir", str(path)]) == 0
    return found


def logged_keys(folder: Path) -> set[str]:
    with (folder / "progress.csv").open(encoding="utf-8") as file:
        return {re.sub(r"agent_\d", "<agent>", key) for key in next(csv.reader(file))}


def test_documented_logger_keys_of_off_policy_algorithms_are_those_of_trainings(off_policy_folders: dict[str, Path]) -> None:
    cells = [row[0].replace("`", "") for row in table_rows("logging.md", "Off-policy algorithms")]
    documented = {key for cell in cells for key in cell.split(", ")}
    # Of the tables before that one; a run has no further keys of them.
    shared = {"time/total_timesteps", "time/time_elapsed", "time/fps"}
    shared |= {row[0] for row in table_rows("logging.md", "Keys") if re.search(r"\b(rollout|eval)/", row[0])}
    logged = set[str]().union(*map(logged_keys, off_policy_folders.values()))
    assert {key for key in logged if not any(fnmatch(key, pattern) for pattern in documented | shared)} == set()
    assert documented - logged == set()


def test_documented_logger_keys_are_those_of_a_training(run_folder: Path) -> None:
    logged = logged_keys(run_folder)
    documented = {row[0] for row in table_rows("logging.md", "Keys")}
    undocumented = {key for key in logged if not any(fnmatch(key, pattern) for pattern in documented)}
    unused = {pattern for pattern in documented if not any(fnmatch(key, pattern) for key in logged)}
    assert (undocumented, unused) == (set(), set())


def test_files_of_a_run_are_documented(run_folder: Path, off_policy_folders: dict[str, Path]) -> None:
    rows = table_rows("logging.md", "Files of a run")
    patterns = [re.sub("<steps>|<hash>", "*", row[0].replace("<env>", "matrix_game_v0")) for row in rows]
    for folder in (run_folder, *off_policy_folders.values()):
        files = [str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()]
        assert len(files) > 5 and [name for name in files if not any(fnmatch(name, pattern) for pattern in patterns)] == []


class RecordedWandbRun:
    """Stands in for a run of W&B and remembers what it is sent."""

    def __init__(self, folder: Path) -> None:
        self.id, self.dir = "made_up", str(folder / "run" / "files")
        self.keys: set[str] = set()
        self.summary: dict[str, object] = {}

    def log(self, values: dict[str, object], step: int) -> None:
        self.keys |= set(values)

    def define_metric(self, *_: object, **__: object) -> None: ...

    def log_artifact(self, artifact: object) -> None: ...

    def finish(self, exit_code: int) -> None: ...


@pytest.mark.e2e
def test_documented_wandb_keys_are_those_of_a_tracked_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb = pytest.importorskip("wandb")
    run = RecordedWandbRun(tmp_path)
    monkeypatch.setattr(wandb, "init", lambda **_: run)
    monkeypatch.setenv("WANDB_MODE", "offline")
    words = ["--env", "checkers_v0", "-n", "40", "--env-kwargs", "max_cycles:5", "--eval-episodes", "2", "--verbose", "0"]
    words += ["-params", "n_envs:2", "n_steps:20", "batch_size:40", "n_epochs:1", "br_n_epochs:1", "--track", "--record"]
    assert train.main([*words, "--run-dir", str(tmp_path / "run"), "--seed", "0"]) == 0
    with (tmp_path / "run" / "progress.csv").open(encoding="utf-8") as file:
        sent = (run.keys | set(run.summary)) - set(next(csv.reader(file))) - {"global_step"}
    documented = {row[0] for row in table_rows("logging.md", "Weights & Biases")}
    assert [key for key in sent if not any(fnmatch(key, pattern) for pattern in documented)] == []
    assert [pattern for pattern in documented if not any(fnmatch(key, pattern) for key in sent)] == []


# ---------------------------------------------------------------------- records


def test_sweep_study_is_that_of_its_record() -> None:
    page = (DOCS / "sweeps.md").read_text(encoding="utf-8")
    record = json.loads((ROOT / "benchmarks/results/sweep_checkers.json").read_text(encoding="utf-8"))
    for name, row in record["comparison"]["table"].items():
        seeds, (low, high) = " | ".join(f"{value:.2f}" for value in row["values"]), row["ci95"]
        assert f"| {name} | {seeds} | {row['mean']:.2f} [{low:.2f}, {high:.2f}] |" in page
    states = Counter(trial["state"] for trial in record["trials"])
    assert f"{states['complete']} trials were complete, {states['pruned']} were stopped early" in page
    assert f"trial {record['best']['trial']}, {record['best']['value']:.2f}" in page
    for name in list(record["importances"])[:2]:
        assert f"`{name}` with {record['importances'][name]:.2f}" in page
    steps = record["n_timesteps_per_trial"]
    for hyperparameters in (record["best"]["hyperparameters"], read_hyperparameters(train.parse_options([])).as_mapping()):
        rollout = hyperparameters["n_envs"] * hyperparameters["n_steps"]
        epochs = hyperparameters["n_epochs"], hyperparameters["br_n_epochs"]
        assert hyperparameters["batch_size"] >= rollout
        assert f"({steps // rollout} iterations of {epochs[0]} + {epochs[1]}" in page
        assert f"{steps // rollout * sum(epochs)} " in page


def program_and_flags(command: str) -> tuple[str, list[str]]:
    """``python -m benchmarks.speed --jobs 1`` and ``python benchmarks/speed.py --jobs 1`` are the same."""
    _, program, *flags = (word for word in shlex.split(command) if word != "-m")
    return re.findall(r"\w+", program.removesuffix(".py"))[-1], flags


def test_commands_of_records_are_on_the_page_for_reproducing() -> None:
    lines = on_one_line(DOCS / "reproducing.md").splitlines()
    documented = [program_and_flags(line) for line in lines if line.startswith("python ")]
    for path in (ROOT / "benchmarks/results").glob("*.json"):
        record = json.loads(path.read_text(encoding="utf-8"))
        if "preset" in record:  # of an earlier script, in whose place there is a study
            study = f"benchmarks/studies/grid_worlds_{record['preset']}.yml"
            assert any(study in flags for _, flags in documented), path.name
        else:
            assert program_and_flags(record["machine"].get("command") or record["command"]) in documented, path.name


def test_conf_files_that_are_named_are_shipped() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
    named = set(re.findall(r"--conf-file (\w+)\b(?![/.])", text))
    assert named and all(find_conf_file("matrl", name).is_file() for name in named)
