import csv
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import yaml

from sb3_matrl.evaluation import mean_confidence_interval
from sb3_matrl.zoo.common.references import References
from sb3_matrl.zoo.report import main
from sb3_matrl.zoo.reporting.learning_section import learning
from sb3_matrl.zoo.reporting.media import FilmStrip
from sb3_matrl.zoo.reporting.metagame_section import metagames
from sb3_matrl.zoo.reporting.page import duration, number
from sb3_matrl.zoo.reporting.run_loading import load_run
from sb3_matrl.zoo.reporting.sections import differences, overview, phase_times
from sb3_matrl.zoo.train import main as train
from tests.zoo.reporting.pages import NASTY, Page, curves_of, numbers_of, report, synthetic_run

SMALL = ["-params", "n_envs:4", "n_steps:25", "batch_size:100", "n_epochs:1", "br_n_epochs:1", "policy_kwargs.net_arch:[8]"]
QUICK = ["--eval-freq", "100", "--eval-episodes", "3", "--verbose", "0", "--device", "cpu", "-n", "200", "--seed", "1"]


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    for algorithm in ("matrl", "ippo"):
        words = ["--algo", algorithm, "--env", "checkers_v0", "--env-kwargs", "max_cycles:6"]
        assert train(["-f", str(folder), *QUICK, *SMALL, *words]) == 0
    return folder


@pytest.fixture(scope="module")
def page_text(logs, tmp_path_factory):
    """The page of two trained runs."""
    out = tmp_path_factory.mktemp("report") / "new" / "page.html"
    report(logs / "matrl/checkers_v0_1", logs / "ippo/checkers_v0_1", "--out", out, "--frames", "3", "--title", "My title")
    return out.read_text(encoding="utf-8")


@pytest.mark.e2e
def test_page_of_several_runs_is_well_formed_self_contained_and_accessible(page_text):
    text, page = page_text, Page(page_text)
    links = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")]
    assert links and all(link.startswith(("data:", "#")) for link in links)
    assert "url(" not in text and "@import" not in text and not page.of("script") and not page.of("link")
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids)) and {link[1:] for link in links if link[0] == "#"} <= set(ids)
    assert len(page.of("img")) == 6 and all(image["alt"] for image in page.of("img"))
    assert all(one["role"] == "img" and one["aria-label"] for one in page.of("svg"))
    assert dict(page.of("html")[0])["lang"] == "en" and [level for level, _ in page.headings].count("h1") == 1


def test_page_shows_every_section(page_text):
    page = Page(page_text)
    charts = {one["aria-label"].split(".")[0] for one in page.of("svg")}
    assert charts >= {
        "Team return, sampled actions",
        "Team return, greedy actions",
        "Weight on the current policy",
        "NashConv",
        "Payoffs",
        "Type of the fixed point",
        "KL divergence",
        "Clip fraction, meta-game",
        "Clip fraction, best response",
        "Effective sample size",
    }
    assert ("h1", "My title") in page.headings
    assert [title for level, title in page.headings if level == "h2"] == [
        "Runs",
        "Learning curves",
        "Meta-game over time",
        "Final returns",
        "Time",
        "Videos and frames",
        "Settings",
    ]
    words = "\n".join(page.words)
    assert "--algo ippo" in words and "torch" in words and "switched off" in words


@pytest.mark.e2e
def test_final_table_holds_the_returns_of_the_last_evaluation(tmp_path):
    run = synthetic_run(tmp_path / "matrl" / "checkers_v0_1")
    report(run, "--no-frames")
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    words = page.words
    assert not page.of("img")
    arrays = np.load(run / "evaluations.npz")
    for returns in (arrays["results_greedy"][-1], arrays["agent_returns"][-1, :, 1]):
        low, high = mean_confidence_interval(returns)
        assert f"[{low:.2f}, {high:.2f}]".replace("-", "\N{MINUS SIGN}") in words
        assert f"{returns.mean():.2f}".replace("-", "\N{MINUS SIGN}") in words


def with_constant_sum(run):
    """Change the agents' returns of a synthetic run so that their sum is always 0."""
    arrays = dict(np.load(run / "evaluations.npz"))
    for ending in ("", "_greedy"):
        arrays[f"agent_returns{ending}"][..., 1] = -arrays[f"agent_returns{ending}"][..., 0]
        arrays[f"results{ending}"][:] = 0.0
    np.savez(run / "evaluations.npz", **arrays)
    return arrays


def test_competing_agents_have_charts_and_tables_of_their_own(tmp_path):
    run = synthetic_run(tmp_path / "matrl" / "checkers_v0_1")
    arrays = with_constant_sum(run)
    report(run, "--no-frames")
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    titles = [one["aria-label"].split(".")[0] for one in page.of("svg")]
    assert titles[:2] == ["Return per agent", "Episodes won"] and not any("Team" in title for title in titles)
    words = " ".join(" ".join(page.words).split())
    means, won = arrays["agent_returns"][-1].mean(axis=0), (arrays["agent_returns"][-1, :, 0] > 0).mean()
    assert f"left {means[0]:.2f} (won {won:.0%}) right {means[1]:.2f} (won {1 - won:.0%})" in words
    assert "margin" in words and not any(row == "team" for row in page.words)
    assert f"{2 * means[0]:.2f}".replace("-", "\N{MINUS SIGN}") in page.words


def test_runs_that_compete_and_runs_that_do_not_share_a_page(tmp_path):
    runs = [synthetic_run(tmp_path / f"matrl/checkers_v0_{k}") for k in (1, 2)]
    with_constant_sum(runs[1])
    group = learning([load_run(path, path.name) for path in runs])
    charts = {chart.title: [entry.label for entry in chart.legend] for chart in group.charts}
    assert charts["Team return, sampled actions"] == ["checkers_v0_1"]
    assert {"Return per agent: checkers_v0_1", "Return per agent: checkers_v0_2", "Episodes won: checkers_v0_2"} <= set(charts)
    assert "Episodes won: checkers_v0_1" not in charts


def test_agents_with_equal_returns_have_no_chart_of_their_own(tmp_path):
    run = synthetic_run(tmp_path / "run")
    arrays = dict(np.load(run / "evaluations.npz"))
    for ending in ("", "_greedy"):
        arrays[f"agent_returns{ending}"][..., 1] = arrays[f"agent_returns{ending}"][..., 0]
        arrays[f"results{ending}"] = arrays[f"agent_returns{ending}"].sum(axis=2)
    np.savez(run / "evaluations.npz", **arrays)
    assert [chart.title for chart in learning([load_run(run, "run")]).charts] == ["Team return"]


def test_curves_show_chance_and_optimum(tmp_path):
    run = synthetic_run(tmp_path / "run")
    References(-1.5, 41.26).write(run / "references.json")
    (chart, *_) = learning([load_run(run, "run")]).charts
    assert [entry.label for entry in chart.legend] == ["sampled", "greedy", "chance, \N{MINUS SIGN}1.5", "optimum, 41.26"]
    heights = [numbers_of(line)[:, 1] for (line,) in curves_of(chart)]
    assert np.ptp(heights[2]) == np.ptp(heights[3]) == 0.0
    assert heights[3].max() < min(map(np.min, heights[:3])) and heights[2].min() > heights[3].max()  # y points down
    (run / "references.json").write_text("{")
    assert load_run(run, "run").problems == ("references.json cannot be used: it is damaged (JSONDecodeError)",)


def with_options(run, env_kwargs=None, eval_env_kwargs=None, chance=-1.5):
    """Write options of the environment and references into a synthetic run."""
    for name, key, options in (("config.yml", "env_kwargs", env_kwargs), ("args.yml", "eval_env_kwargs", eval_env_kwargs)):
        content = yaml.safe_load((run / name).read_text())
        (content["checkers_v0"] if name == "config.yml" else content)[key] = options
        (run / name).write_text(yaml.safe_dump(content, sort_keys=False))
    References(chance, 41.26).write(run / "references.json")
    return load_run(run, run.name)


def learning_of(tmp_path, *options):
    """Labels in the legend of the first chart, and the notes, of runs with these options."""
    runs = [with_options(synthetic_run(tmp_path / f"matrl/checkers_v0_{k}"), *given) for k, given in enumerate(options)]
    group = learning(runs)
    return [entry.label for entry in group.charts[0].legend], group.notes


def test_runs_of_one_game_share_the_lines_of_chance_and_optimum(tmp_path):
    # The options of the two runs say the same in another order, and the evaluations undo what differs in the training.
    first = ({"step_cost": 0.0, "max_cycles": 5}, {"max_cycles": 9}, -2.0)
    labels, notes = learning_of(tmp_path, first, ({"max_cycles": 9, "step_cost": 0.0}, None, -1.0))
    assert labels[2:] == ["chance, \N{MINUS SIGN}1.5", "optimum, 41.26"]
    assert notes == (
        "The runs in checkers_v0 are trained in different games (max_cycles differ): these returns cannot be compared.",
    )


@pytest.mark.parametrize(
    ("options", "verbs"),
    [
        ([({}, {"max_cycles": 9}), ({}, {})], "evaluated"),
        ([({"max_cycles": 9}, {}), (None, None)], "trained and evaluated"),
    ],
)
def test_runs_of_different_games_have_no_common_lines_but_a_note(tmp_path, options, verbs):
    labels, notes = learning_of(tmp_path, *options)
    assert labels == ["checkers_v0_0", "checkers_v0_1"]
    assert notes == (
        f"The runs in checkers_v0 are {verbs} in different games (max_cycles differ): these returns cannot be compared.",
    )


def test_other_wrappers_are_another_game(tmp_path):
    runs = [with_options(synthetic_run(tmp_path / f"checkers_v0_{k}")) for k in (1, 2)]
    wrapped = replace(runs[1], config={**runs[1].config, "env_wrapper": "supersuit.frame_stack_v2"})
    assert "env_wrapper differ" in learning([runs[0], wrapped]).notes[0]
    assert learning(runs).notes == ()


def test_a_single_evaluation_has_lines_of_chance_and_optimum(tmp_path):
    run = with_options(synthetic_run(tmp_path / "run", evaluations=1))
    (chart, *_) = learning([run]).charts
    for (line,) in curves_of(chart)[2:]:
        assert np.ptp(numbers_of(line)[:, 0]) > 100.0


def test_an_agent_has_one_colour_in_all_charts(tmp_path):
    run = synthetic_run(tmp_path / "run")
    # The log sorts agents by their names, the evaluations have the order of the environment.
    arrays = dict(np.load(run / "evaluations.npz"))
    np.savez(run / "evaluations.npz", **{**arrays, "agents": np.array(["right", "left"])})
    runs = [load_run(run, "run"), load_run(synthetic_run(tmp_path / "other"), "other")]
    colours = {}
    for group in (learning(runs), *metagames(runs)):
        for chart in group.charts:
            for entry in chart.legend:
                colours.setdefault(entry.label.split(",")[0], set()).add(entry.colour)
    assert colours["right"] == {0} and colours["left"] == {1}


def test_numbers_that_are_not_finite_are_left_out(tmp_path):
    run = synthetic_run(tmp_path / "run")
    arrays = dict(np.load(run / "evaluations.npz"))
    arrays["results"][1, 0], arrays["agent_returns"][2, 0, 1] = np.nan, -np.inf
    np.savez(run / "evaluations.npz", **arrays)
    report(run, "--no-frames")
    charts = {chart.title: chart.curves for chart in learning([load_run(run, "run")]).charts}
    assert [len(curve.x) for curve in charts["Team return"]] == [3, 4]
    assert [len(curve.x) for curve in charts["Return per agent"]] == [4, 3, 4, 4]


def test_one_episode_has_no_interval(tmp_path):
    run = synthetic_run(tmp_path / "run")
    arrays = dict(np.load(run / "evaluations.npz"))
    np.savez(run / "evaluations.npz", **{name: array[:, :1] if array.ndim > 1 else array for name, array in arrays.items()})
    report(run, "--no-frames")
    words = Page((run / "report.html").read_text(encoding="utf-8")).words
    assert "\N{EN DASH}" in words and not any("[" in word and "\N{EN DASH}" in word for word in words)


@pytest.mark.parametrize(
    ("planned", "model", "problems"),
    [
        (2000, None, ()),
        (5000.0, None, ("the results end after 2,000 of 5,000 steps: the training goes on, or was stopped",)),
        (5000, "model.zip", ()),
        ("many", None, ()),
    ],
)
def test_page_says_that_a_run_is_unfinished(tmp_path, planned, model, problems):
    run = load_run(synthetic_run(tmp_path / "run"), "run")
    run = replace(run, config={"n_timesteps": planned}, arguments={"trained_agent": model})
    assert overview([run])[0].problems == problems


def test_page_says_what_the_meta_game_did(tmp_path):
    run = synthetic_run(tmp_path / "matrl" / "checkers_v0_1")
    report(run, "--no-frames")
    words = " ".join(" ".join(Page((run / "report.html").read_text(encoding="utf-8")).words).split())
    # rho of left is 0 and that of right 0.6 in all of the 20 rows.
    assert (
        "Meta-game of matrl/checkers_v0_1. The game restricted an agent (rho > 0) in 20 of 20 iterations, 100%: right in 20"
        in words
    )


@pytest.mark.e2e
def test_report_of_one_run_is_in_its_folder_and_of_several_in_the_current_one(tmp_path, monkeypatch):
    runs = [synthetic_run(tmp_path / f"matrl/checkers_v0_{k}") for k in (1, 2)]
    monkeypatch.chdir(tmp_path)
    report(runs[0], "--no-frames")
    report(*runs, "--no-frames")
    assert (runs[0] / "report.html").is_file() and (tmp_path / "report.html").is_file()
    report(*runs, "--no-frames")  # its own report may be replaced


def test_text_from_the_run_is_escaped(tmp_path):
    run = synthetic_run(tmp_path / "matrl" / "checkers_v0_1")
    (run / "command.txt").write_text(NASTY)
    (run / "config.yml").write_text(yaml.safe_dump({"checkers_v0": {NASTY: NASTY}}))
    text = (run / "progress.csv").read_text().replace("left/", "<b>left</b>/").replace("saddle", "<i>x</i>")
    (run / "progress.csv").write_text(text)
    report(run, "--no-frames", "--title", NASTY)
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    assert not page.of("script") and not page.of("b") and not page.of("i")
    assert "".join(page.words).count(NASTY) >= 2


@pytest.mark.e2e
def test_videos_are_embedded_up_to_a_size(tmp_path, monkeypatch):
    run = synthetic_run(tmp_path / "matrl" / "checkers_v0_1")
    (run / "a.mp4").write_bytes(b"12345")
    (run / "b.gif").write_bytes(b"123")
    (run / "c.mp4").write_bytes(b"1" * 11)
    monkeypatch.setattr("sb3_matrl.zoo.reporting.media.MAX_VIDEO_BYTES", 10)
    report(run)
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    assert [video["src"] for video in page.of("video")] == ["data:video/mp4;base64,MTIzNDU="]
    assert [image["src"] for image in page.of("img")] == ["data:image/gif;base64,MTIz"]
    assert any("c.mp4 is not shown" in words for words in page.words)


@pytest.mark.e2e
def test_page_says_why_frames_are_missing(tmp_path):
    run = synthetic_run(tmp_path / "matrl" / "checkers_v0_1")
    report(run)
    assert "No frames: there is no saved model" in (run / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("length", [1, 5, 9, 100, 1000])
def test_film_strip_spreads_frames_over_an_episode_of_any_length(length):
    strip = FilmStrip(4)
    for step in range(length):
        strip.add(np.full((2, 2, 3), step % 256, dtype=np.uint8))
    steps = [step for step, _ in strip.frames()]
    wanted = np.linspace(0, length - 1, min(4, length))
    assert steps[0] == 0 and steps[-1] == length - 1 and len(steps) == min(4, length)
    np.testing.assert_allclose(steps, wanted, atol=max(1, length / 16))
    assert all(picture[0, 0, 0] == step % 256 for step, picture in strip.frames())


def test_film_strip_rejects_what_is_no_picture():
    with pytest.raises(ValueError, match="did not return uint8"):
        FilmStrip(2).add("text")


def test_mistakes_are_explained_in_one_line(tmp_path, capsys):
    run = synthetic_run(tmp_path / "matrl" / "checkers_v0_1")
    empty = tmp_path / "matrl" / "new_1"
    empty.mkdir()
    started = synthetic_run(tmp_path / "matrl" / "started_1")
    (started / "progress.csv").unlink()
    (started / "evaluations.npz").unlink()
    cases = {
        (tmp_path / "matrl" / "checkers_v0_2",): "there is no run folder",
        (tmp_path / "matrl" / "chekers_v0_1",): "did you mean 'checkers_v0_1'?",
        (run / "args.yml",): "is a file; give the run folder",
        (empty,): "is no run of train.py",
        (tmp_path,): f"below it: {run}",
        (started,): "has no results to report (yet): progress.csv is missing; evaluations.npz is missing",
        (run, run / "."): "is given twice",
        (run, "--out", tmp_path): "is a folder; give a file",
        (run, "--out", run / "config.yml"): "is no report; nothing is overwritten",
        (run, "--frames", "0"): "at least 1",
        (run, "--no-frame"): "did you mean '--no-frames'?",
        (): "required: RUN",
    }
    before = (run / "config.yml").read_bytes()
    for words, message in cases.items():
        with pytest.raises(SystemExit) as exit_info:
            main([str(word) for word in words])
        error = capsys.readouterr().err
        assert exit_info.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1
        assert message in error
    assert (run / "config.yml").read_bytes() == before and not (run / "report.html").exists()


def test_run_of_another_algorithm_lacks_the_meta_game(tmp_path):
    run = synthetic_run(tmp_path / "run")
    with (run / "progress.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    kept = [i for i, key in enumerate(rows[0]) if "metagame/" not in key and key != "time/collect_seconds"]
    with (run / "progress.csv").open("w", newline="") as file:
        csv.writer(file).writerows([row[i] for i in kept] for row in rows)
    report(run, "--no-frames")
    page = Page((run / "report.html").read_text(encoding="utf-8"))
    titles = [title for level, title in page.headings if level == "h2"]
    assert titles == ["Runs", "Learning curves", "Final returns", "Videos and frames", "Settings"]
    links = {link["href"][1:] for link in page.of("a")}
    assert links == {"learning", "returns", "play", "settings"} == {one["id"] for one in page.of("section")} - {"runs"}


@pytest.mark.e2e
def test_large_log_gives_a_small_page(tmp_path):
    run = synthetic_run(tmp_path / "run", rows=20_000, evaluations=1000)
    report(run, "--no-frames")
    assert (run / "report.html").stat().st_size < 5_000_000


def test_differences_hold_only_what_differs(tmp_path):
    runs = [synthetic_run(tmp_path / f"matrl/checkers_v0_{k}") for k in (1, 2)]
    config = {"checkers_v0": {"gamma": 0.9, "policy_kwargs": {"net_arch": [16]}, "ent_coef": 0.1, "env_kwargs": {}}}
    (runs[1] / "config.yml").write_text(yaml.safe_dump(config))
    rows = differences([load_run(path, path.name) for path in runs])
    assert {row.key: row.values for row in rows} == {
        "policy_kwargs.net_arch": ("[8]", "[16]"),
        "ent_coef": ("\N{EN DASH}", "0.1"),
    }


def test_phase_times_are_sums_over_the_whole_run(tmp_path):
    (times,) = phase_times([load_run(synthetic_run(tmp_path / "run", rows=1000), "run")])
    assert times.total == 500.0 and times.phases[0].share == 1.0


@pytest.mark.parametrize(("seconds", "text"), [(4.21, "4.2 s"), (185, "3 min 05 s"), (3720, "1 h 02 min")])
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_numbers_have_no_negative_zero():
    assert [number(value) for value in (-0.001, -1.5, np.nan)] == ["0.00", "\N{MINUS SIGN}1.50", "\N{EN DASH}"]


@pytest.mark.expensive
def test_page_is_shown_by_a_browser(tmp_path):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("needs Chromium")
    run = synthetic_run(tmp_path / "matrl" / "checkers_v0_1")
    report(run, "--no-frames")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
    flags += ["--disable-background-networking", "--disable-component-update", f"--user-data-dir={tmp_path / 'profile'}"]
    command = [browser, *flags, "--window-size=500,4000", "--dump-dom", f"file://{run / 'report.html'}"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    ours, theirs = Page((run / "report.html").read_text(encoding="utf-8")), Page(shown)
    for tag in ("svg", "path", "circle", "section", "tr", "details"):
        assert len(theirs.of(tag)) == len(ours.of(tag)) > 0
