"""The documentation: it builds, its links lead somewhere, and what it says about names, flags and code is true."""

from __future__ import annotations

import argparse
import csv
import importlib
import inspect
import json
import re
import runpy
import shlex
import subprocess
import sys
from collections import Counter
from dataclasses import fields
from fnmatch import fnmatch
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from benchmarks import env_pictures
from sb3_matrl import MATRL
from sb3_matrl.envs import mamujoco, pong_v3
from sb3_matrl.evaluation import isolated_random_streams
from sb3_matrl.zoo import train
from sb3_matrl.zoo.common.hyperparameters import Hyperparameters, find_conf_file
from sb3_matrl.zoo.training.training_run import read_hyperparameters

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.rglob("*.md")), ROOT / "README.md", ROOT / "CHANGELOG.md"]
COMMAND = re.compile(r"python (?:zoo/(?P<zoo>\w+)\.py|-m benchmarks\.(?P<benchmark>\w+))(?P<words>[^`\n]*)")
PYTHON_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# Pages whose Python is one script; the later ones of a group use what the earlier ones made.
SCRIPTS = [
    ("docs/guide.md",),
    ("docs/own_environment.md",),
    ("docs/learners.md",),
    ("docs/index.md", "docs/model_files.md"),
    ("README.md",),
]


def page_name(path: Path) -> str:
    return str(path.relative_to(ROOT))


# ---------------------------------------------------------------------- the site


class Page(HTMLParser):
    """The ids, links and embedded resources of a built page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.resources: list[str] = []
        self.images_without_text: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        elif "src" in given or (tag == "link" and "href" in given):
            self.resources.append(given.get("src") or given["href"])
        if tag == "img" and not given.get("alt"):
            self.images_without_text.append(given["src"])


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="session")
def built(site: Path) -> dict[Path, Page]:
    return {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}


def test_every_page_of_the_sources_is_in_the_site(built: dict[Path, Page], site: Path) -> None:
    sources = {str(path.relative_to(DOCS).with_suffix(".html")) for path in DOCS.rglob("*.md")}
    assert sources == {str(path.relative_to(site)) for path in built}


def test_links_and_images_of_the_site_resolve(built: dict[Path, Page]) -> None:
    broken = []
    for path, page in built.items():
        for link in page.links + page.resources:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            missing_anchor = parts.fragment and target in built and unquote(parts.fragment) not in built[target].ids
            if not target.is_file() or missing_anchor:
                broken.append(f"{path.name}: {link}")
    assert broken == []


def test_pages_fetch_nothing_from_elsewhere(built: dict[Path, Page]) -> None:
    assert [source for page in built.values() for source in page.resources if urlsplit(source).netloc] == []


def test_images_have_alternative_texts(built: dict[Path, Page]) -> None:
    assert [source for page in built.values() for source in page.images_without_text] == []


@pytest.mark.parametrize("package", ["", ".metagame", ".vec_env", ".envs", ".evaluation", ".games"])
def test_public_names_are_in_the_api_reference(package: str, built: dict[Path, Page]) -> None:
    module = importlib.import_module(f"sb3_matrl{package}")
    documented = set().union(*(page.ids for page in built.values()))
    # As it is imported, or where it is defined.
    named = {name: getattr(module, name) for name in module.__all__}
    public = {name: entry for name, entry in named.items() if inspect.isclass(entry) or inspect.isfunction(entry)}
    paths = {name: {f"{module.__name__}.{name}", f"{entry.__module__}.{name}"} for name, entry in public.items()}
    assert [name for name, both in paths.items() if not both & documented] == []


def test_docstrings_show_no_restructuredtext(site: Path) -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in (site / "api").glob("*.html"))
    assert (
        re.findall(r":(?:class|func|meth|mod|attr|data):|={5,} ={5,}|^\s*:(?:param|raises?|return)\b", text, re.MULTILINE)
        == []
    )


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_relative_links_resolve_in_the_repository(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)\s#]+)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_files_of_the_repository_that_are_named_exist(path: Path) -> None:
    names = re.findall(r"\b(?:zoo|sb3_matrl|tests|benchmarks|docs)/[\w./-]*\w\.\w+", path.read_text(encoding="utf-8"))
    assert [name for name in names if not (ROOT / name).exists()] == []


# ---------------------------------------------------------------------- commands


def on_one_line(path: Path) -> str:
    """A page whose commands are not broken by backslashes."""
    return re.sub(r"\\\n\s*", "", path.read_text(encoding="utf-8"))


def commands(folder: str) -> list[tuple[str, list[str]]]:
    """Module and words of every command in the pages that runs something of ``zoo`` or ``benchmark``."""
    found = (match for path in PAGES for match in COMMAND.finditer(on_one_line(path)))
    words = ((match[folder], shlex.split(match["words"], comments=True)) for match in found if match[folder])
    return [(module, rest) for module, rest in words if rest]


# Whatever can be run: all have a table of their flags on some page.
COMMAND_LINES = ("train", "enjoy", "benchmark", "sweep", "report", "games")


def flags_of(parser: argparse.ArgumentParser) -> set[str]:
    """All flags of a command line, those of its commands included."""
    own = set(parser._option_string_actions)
    return own.union(*map(flags_of, getattr(parser, "commands", {}).values()))


@pytest.mark.parametrize("name", COMMAND_LINES)
def test_every_flag_is_in_the_site(name: str, site: Path) -> None:
    (page,) = (path for path in DOCS.glob("*.md") if f"<!-- flags of zoo.{name} -->" in path.read_text(encoding="utf-8"))
    shown = set(re.findall(r"<code>(-[\w-]+)</code>", (site / page.with_suffix(".html").name).read_text(encoding="utf-8")))
    assert flags_of(importlib.import_module(f"sb3_matrl.zoo.{name}").build_parser()) - {"-h", "--help"} <= shown


def test_flags_that_the_text_names_exist() -> None:
    known = set().union(*(flags_of(importlib.import_module(f"sb3_matrl.zoo.{name}").build_parser()) for name in COMMAND_LINES))
    known |= {f"--{entry.name}".replace("_", "-") for entry in fields(Hyperparameters)}
    named = {flag for path in PAGES for flag in re.findall(r"`(--\w[\w-]*)", path.read_text(encoding="utf-8"))}
    # Sweeps spell flags with underscores.
    assert named and sorted(flag for flag in named if flag.replace("_", "-") not in known) == []


def as_id(value: object) -> str:
    return shlex.join(value) if isinstance(value, list) else str(value)


@pytest.mark.parametrize(("name", "words"), commands("zoo"), ids=as_id)
def test_zoo_commands_are_understood(name: str, words: list[str]) -> None:
    module = importlib.import_module(f"sb3_matrl.zoo.{name}")
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
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    text = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
    named = set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE))
    assert named and named <= targets


# ---------------------------------------------------------------------- code


@pytest.mark.parametrize("path", PAGES, ids=page_name)
def test_python_blocks_compile(path: Path) -> None:
    for block in PYTHON_BLOCK.findall(path.read_text(encoding="utf-8")):
        compile(block, page_name(path), "exec")


def small(code: str) -> str:
    """The same code with one short rollout per training and a few episodes per evaluation."""
    for pattern, value in ((r"\.learn\([\d_]+", ".learn(1"), (r"\bn_envs=\d+", "n_envs=2"), (r"episodes=\d+", "episodes=2")):
        code = re.sub(pattern, value, code)
    return code


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


def table_rows(name: str, section: str = "") -> list[list[str]]:
    """Cells of all rows of the tables of a page, or of one section of it, whose first cell is code."""
    text = (DOCS / name).read_text(encoding="utf-8")
    chosen = next(part for part in re.split(r"^## ", text, flags=re.MULTILINE) if part.startswith(section))
    lines = (chosen if section else text).replace(r"\|", "").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| `")]
    return [[row[0].strip("`"), *row[1:]] for row in rows]


def matrl_defaults() -> dict[str, object]:
    parameters = inspect.signature(MATRL.__init__).parameters
    return {name: parameter.default for name, parameter in parameters.items() if name != "self"}


def documented_hyperparameters() -> dict[str, list[str]]:
    return {row[0]: row[1:] for row in table_rows("hyperparameters.md") if len(row) == 4}


def test_every_hyperparameter_is_documented_once() -> None:
    names = [row[0] for row in table_rows("hyperparameters.md") if len(row) == 4]
    assert sorted(names) == sorted(set(matrl_defaults()) | {entry.name for entry in fields(Hyperparameters)})


@pytest.mark.parametrize("name", matrl_defaults())
def test_documented_defaults_are_those_of_matrl(name: str) -> None:
    default, documented = matrl_defaults()[name], documented_hyperparameters()[name][0].strip("`")
    if default is inspect.Parameter.empty:
        assert documented == ""
    else:
        text = default.__name__ if isinstance(default, type) else repr(default).replace("'", '"')
        assert documented == text


def test_documented_default_of_n_timesteps() -> None:
    assert documented_hyperparameters()["n_timesteps"][0].strip("`") == str(Hyperparameters().n_timesteps)


@pytest.mark.parametrize("name", matrl_defaults())
def test_documented_stars_are_those_of_the_docstring(name: str) -> None:
    per_agent = f":param {name}: (*)" in (MATRL.__doc__ or "")
    assert documented_hyperparameters()[name][1] == ("*" if per_agent else "")


@pytest.mark.parametrize("env_id", mamujoco.env_ids())
def test_documented_robots_are_those_of_the_library(env_id: str) -> None:
    env = mamujoco.factory(env_id)()
    sizes = [[space(agent).shape[0] for agent in env.possible_agents] for space in (env.observation_space, env.action_space)]
    shown = [", ".join(map(str, value if len(set(value)) > 1 else value[:1])) for value in sizes]
    env.close()
    # A pipe would end the table's cell.
    name = f"<code>{env_id.replace('|', '&#124;')}</code>" if "|" in env_id else f"`{env_id}`"
    row = " | ".join([name, str(len(env.possible_agents)), *shown])
    assert f"\n| {row} | " in (DOCS / "environments.md").read_text(encoding="utf-8")


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


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    words = ["--env", "matrix_game_v0", "-n", "64", "--eval-freq", "32", "--eval-episodes", "2", "--save-freq", "32"]
    words += ["-params", "n_envs:4", "n_steps:8", "batch_size:32", "--run-dir", str(folder), "--verbose", "0", "--seed", "0"]
    assert train.main(words) == 0
    return folder


def test_documented_logger_keys_are_those_of_a_training(run_folder: Path) -> None:
    with (run_folder / "progress.csv").open(encoding="utf-8") as file:
        logged = {re.sub(r"agent_\d", "<agent>", key) for key in next(csv.reader(file))}
    documented = {row[0] for row in table_rows("logging.md", "Keys")}
    undocumented = {key for key in logged if not any(fnmatch(key, pattern) for pattern in documented)}
    unused = {pattern for pattern in documented if not any(fnmatch(key, pattern) for key in logged)}
    assert (undocumented, unused) == (set(), set())


def test_files_of_a_run_are_documented(run_folder: Path) -> None:
    patterns = [
        row[0].replace("<env>", "matrix_game_v0").replace("<steps>", "*") for row in table_rows("logging.md", "Files of a run")
    ]
    files = [str(path.relative_to(run_folder)) for path in run_folder.rglob("*") if path.is_file()]
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


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks/results").glob("*.json")), ids=page_name)
def test_command_of_a_record_is_on_the_page_for_reproducing(path: Path) -> None:
    record = json.loads(path.read_text(encoding="utf-8"))
    command = record["machine"].get("command") or record["command"]
    lines = on_one_line(DOCS / "reproducing.md").splitlines()
    assert program_and_flags(command) in [program_and_flags(line) for line in lines if line.startswith("python ")]


def test_conf_files_that_are_named_are_shipped() -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
    named = set(re.findall(r"--conf-file (\w+)\b(?![/.])", text))
    assert named and all(find_conf_file("matrl", name).is_file() for name in named)
