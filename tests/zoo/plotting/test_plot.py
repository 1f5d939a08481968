"""The command ``plot``: pictures of run folders that a training left, and of records."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from sb3_matrl.zoo.benchmarking.figure import PANEL
from sb3_matrl.zoo.plot import main
from sb3_matrl.zoo.plotting.curve_panels import Look, draw_log
from sb3_matrl.zoo.train import main as train
from tests.zoo.reporting.pages import synthetic_run

RECORD = Path(__file__).parents[3] / "benchmarks" / "results" / "value_based_switch.json"
WORLD = "tests.evaluation.worlds:RandomLength"
SMALL = ["-params", "n_envs:4", "n_steps:25", "batch_size:100", "n_epochs:1", "br_n_epochs:1", "policy_kwargs.net_arch:[8]"]
QUICK = ["--eval-freq", "100", "--eval-episodes", "2", "--verbose", "0", "--device", "cpu", "-n", "200"]


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Log folder with two runs of ippo and one of matrl."""
    folder = tmp_path_factory.mktemp("logs")
    for algo, seed in (("ippo", "0"), ("ippo", "1"), ("matrl", "0")):
        assert train(["--algo", algo, "--env", WORLD, "--seed", seed, "-f", str(folder), *QUICK, *SMALL]) == 0
    return folder


def text_of(picture: Path) -> str:
    """Texts in an SVG, which Matplotlib leaves as comments."""
    return "\n".join(re.findall(r"<!-- (.*?) -->", picture.read_text(encoding="utf-8")))


@pytest.mark.e2e
def test_logs_are_drawn_one_curve_per_run(logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = sorted(str(path) for path in (logs / "ippo").iterdir())
    out = tmp_path / "new" / "training.svg"
    assert main(["train", *runs, "-y", "time/fps", "-l", "first", "second", "-o", str(out), "--title", "mine"]) == 0
    shown = text_of(out)
    assert all(name in shown for name in ("first", "second", "mine", "time/fps", "environment steps"))
    assert capsys.readouterr().out == f"The curves are in {out}.\n"


@pytest.mark.cases(e2e=[".svg-<?xml"])
@pytest.mark.parametrize(("suffix", "start"), [(".png", b"\x89PNG"), (".svg", b"<?xml"), (".pdf", b"%PDF")])
def test_the_suffix_is_the_format(tmp_path: Path, suffix: str, start: bytes) -> None:
    out = tmp_path / f"picture{suffix}"
    assert main(["from-file", str(RECORD), "-s", "vdn", "-o", str(out), "--figsize", "3", "2"]) == 0
    assert out.read_bytes().startswith(start)


@pytest.mark.e2e
def test_runs_of_an_algorithm_are_aggregated_and_drawn_again(
    logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, data = tmp_path / "all.svg", tmp_path / "all.json"
    assert main(["all", "-a", "matrl", "ippo", "-f", str(logs), "-o", str(out), "--data", str(data)]) == 0
    printed = capsys.readouterr()
    assert "warning: 1 seed says little about a method" in printed.err and "differ" not in printed.err
    assert [line.split()[1] for line in printed.out.splitlines()[1:3]] == ["matrl", "ippo"]
    assert [line.split()[-1] for line in printed.out.splitlines()[1:3]] == ["1", "2"]
    assert [run["seed"] for run in json.loads(data.read_text())["runs"]] == [0, 0, 1]
    again = tmp_path / "again.svg"
    assert main(["from-file", str(data), "-s", "ippo", "-l", "IPPO", "-o", str(again)]) == 0
    assert "IPPO" in text_of(again) and "matrl" not in text_of(again)
    assert capsys.readouterr().out.splitlines()[1].split() == printed.out.splitlines()[2].split()


@pytest.mark.e2e
def test_runs_that_are_not_alike_are_told(logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(logs, tmp_path / "logs")
    second = tmp_path / "logs" / "ippo" / sorted(path.name for path in (logs / "ippo").iterdir())[1]
    for name, old, new in (("config.yml", "n_epochs: 1", "n_epochs: 2"), ("args.yml", "seed: 1", "seed: 0")):
        file = second / name
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))
    assert main(["all", "-a", "ippo", "-f", str(tmp_path / "logs"), "-o", str(tmp_path / "a.png")]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert any("differ in" in line and "n_epochs" in line for line in lines)
    assert any("have a seed in common" in line for line in lines)


def test_a_run_without_results_is_skipped_with_a_warning(
    logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(logs, tmp_path / "logs")
    (tmp_path / "logs" / "ippo" / "other_1").mkdir()
    (tmp_path / "logs" / "ippo" / "other_1" / "args.yml").write_text("algo: ippo\nenv: other\n")
    assert main(["train", "-f", str(tmp_path / "logs"), "-o", str(tmp_path / "a.png")]) == 0
    assert "has no results to report" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "-y", "rollout/ep_rew"], "key of the log 'rollout/ep_rew' is unknown; did you mean 'rollout/ep_rew_mean'?"),
        (["train", "-a", "qmix"], "among the runs the algo 'qmix' is unknown"),
        (["all", "-l", "one"], "--labels: 2 curves need 2 labels, got 1: ippo, matrl"),
        (["all", "-o", "a.gif"], "picture a.gif: suffix '.gif' is unknown"),
        (["train", "-x", "secnds"], "did you mean 'seconds'"),
        (["train", "-a", "matrl", "-w", "100"], "nothing to draw: no run has 100 rows up to the last step"),
        (["train", "-a", "matrl", "-max", "10"], "see --window and --max-timesteps"),
        (["all", "--figsize", "1e9", "3"], "--figsize: expected a number above 0, at most 100, got '1e9'"),
        (["train", "--fontsize", "nan"], "--fontsize: expected a number above 0, at most 100, got 'nan'"),
        (["tain"], "command 'tain' is unknown; did you mean 'train'"),
        (["from-file", str(RECORD), "-e", "switch"], "env 'switch' is unknown; did you mean 'switch_v0'"),
        (["from-file", "nothing.json"], "error: nothing.json: No such file or directory"),
    ],
)
def test_mistakes_are_one_line(logs: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main([*words, *(["-f", str(logs)] if words[0] in ("train", "all") else [])])
    error = capsys.readouterr().err.splitlines()[-1]
    assert exit_info.value.code == 2 and error.startswith("error: ") and message in error


def seeds_of(printed: str) -> dict[str, int]:
    """Method -> number of seeds, the last column of the table."""
    rows = [line.split() for line in printed.splitlines() if line.startswith(("switch_v0", "tests."))]
    return {row[1]: int(row[-1]) for row in rows}


def test_what_is_given_twice_counts_once(logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ["-o", str(tmp_path / "curves.svg")]
    assert main(["from-file", str(RECORD), *out]) == 0
    seeds = seeds_of(capsys.readouterr().out)
    assert set(seeds.values()) == {5} and "qmix" in seeds
    twice = [str(RECORD), str(RECORD.parent / ".." / "results" / RECORD.name), "-s", "qmix", "vdn", "qmix"]
    assert main(["from-file", *twice, "-e", "switch_v0", "switch_v0", *out]) == 0
    printed = capsys.readouterr()
    assert seeds_of(printed.out) == {"qmix": 5, "vdn": 5} and "in common" not in printed.err
    copy = tmp_path / "copy.json"
    shutil.copy(RECORD, copy)
    assert main(["from-file", str(RECORD), str(copy), "-s", "vdn", *out]) == 0
    assert "warning: runs of vdn in switch_v0 have a seed in common: they are not independent\n" in capsys.readouterr().err
    assert main(["all", "-a", "ippo", "ippo", "-f", str(logs), str(logs / "ippo" / ".."), *out]) == 0
    printed = capsys.readouterr()
    assert seeds_of(printed.out) == {"ippo": 2} and "in common" not in printed.err
    run = str(next((logs / "ippo").iterdir()))
    assert main(["all", run, run, *out]) == 0
    assert seeds_of(capsys.readouterr().out) == {"ippo": 1}


def test_runs_are_named_or_found_but_not_both(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["all", str(next((logs / "ippo").iterdir())), "-a", "ippo"])
    assert "leave one of them out" in capsys.readouterr().err


def with_constant_sum(run: Path) -> None:
    """Change the agents' returns of a run so that their sum is always 0."""
    with np.load(run / "evaluations.npz") as file:
        arrays = dict(file)
    for ending in ("", "_greedy"):
        returns = np.random.default_rng(0).normal(size=arrays[f"results{ending}"].shape)
        arrays[f"agent_returns{ending}"] = np.stack([returns, -returns], axis=2)
        arrays[f"results{ending}"] = np.full_like(returns, -1e-17)
    np.savez(run / "evaluations.npz", **arrays)


def test_returns_that_say_nothing_or_cannot_be_compared_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [synthetic_run(tmp_path / name / "checkers_v0_1") for name in ("a", "b")]
    with_constant_sum(runs[0])
    with (runs[1] / "args.yml").open("a") as file:
        file.write("eval_env_kwargs: {max_cycles: 9}\n")
    log = runs[0] / "progress.csv"
    log.write_text(log.read_text().replace("metagame/nash_conv", "rollout/ep_rew_mean"))
    words = [*map(str, runs), "-o", str(tmp_path / "a.png")]
    nothing = "warning: the agents' returns in checkers_v0 have a constant sum: the team return says nothing"
    assert main(["train", *words]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(nothing)
    assert main(["all", *words]) == 0
    printed = capsys.readouterr()
    assert "warning: runs in checkers_v0 are evaluated in different games (max_cycles differ)" in printed.err
    assert nothing in printed.err
    with_constant_sum(runs[1])
    assert main(["all", *words]) == 0
    assert " 0.00 " in capsys.readouterr().out


@pytest.mark.parametrize("font_size", [10.0, 20.0])
def test_the_legend_is_inside_the_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, font_size: float) -> None:
    figures, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *rest, **more: figures.append(self) or save(self, *rest, **more))
    curves = {rf"_a name of $\{k}$ that is long": (np.arange(3.0), np.arange(3.0)) for k in range(12)}
    draw_log(tmp_path / "a.png", curves, ("x", "y"), Look(font_size=font_size))
    (figure,) = figures
    assert [text.get_text() for text in figure.legends[0].get_texts()] == list(curves)
    legend, axes = figure.legends[0].get_window_extent(), figure.axes[0].get_window_extent()
    assert 0 <= legend.x0 and legend.x1 <= figure.bbox.width and 0 <= legend.y0 and legend.y1 < axes.y0
    assert axes.height > 0.5 * PANEL[1] * figure.dpi
