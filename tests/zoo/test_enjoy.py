import errno
import shutil

import imageio.v2 as imageio
import pytest
import torch as th

from sb3_matrl import MATRL
from sb3_matrl.envs.rendering import Window
from sb3_matrl.evaluation import evaluate_policy
from sb3_matrl.vec_env import make_joint_vec_env
from sb3_matrl.zoo.enjoy import main, parse_options
from sb3_matrl.zoo.train import main as train
from tests.evaluation.worlds import RandomLength

SMALL = ["-params", "n_envs:4", "n_steps:25", "batch_size:100", "n_epochs:1", "br_n_epochs:1", "policy_kwargs.net_arch:[8]"]
QUICK = ["--eval-freq", "100", "--eval-episodes", "2", "--verbose", "0", "--device", "cpu"]
WORLD = "tests.evaluation.worlds:RandomLength"


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    for seed in ("1", "2"):
        words = ["--env", "switch_v0", "--env-kwargs", "n_agents:2", "clock:false"]
        words += ["-n", "200", "--save-freq", "100", "--seed", seed]
        assert train(["-f", str(folder), *QUICK, *SMALL, *words]) == 0
    assert train(["-f", str(folder), *QUICK, *SMALL, "--env", WORLD, "-n", "100", "--env-kwargs", "long:4"]) == 0
    return folder


def enjoy(logs, capsys, *words):
    """Run enjoy and return the table: (policy, return of) -> cells."""
    assert main(["-f", str(logs), *words]) == 0
    lines = capsys.readouterr().out.strip().split("\n")
    table = lines[[line.startswith("policy ") for line in lines].index(True) + 1 :]
    return {tuple(line.split()[:2]): line.split()[2:] for line in table}


def expected(logs, path, deterministic, episodes=6):
    model = MATRL.load(logs / "matrl" / path)
    env = make_joint_vec_env("switch_v0", n_envs=episodes, env_kwargs={"n_agents": 2})
    return evaluate_policy(model, env, episodes, deterministic=deterministic, seed=0)


def error_of(capsys, *words):
    with pytest.raises(SystemExit) as exit_info:
        main(words)
    assert exit_info.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    return message


def test_table_holds_the_returns_of_the_latest_run(logs, capsys):
    table = enjoy(logs, capsys, "--env", "switch_v0", "--n-episodes", "6")
    policies = ("sampled", "greedy")
    assert list(table) == [(policy, name) for policy in policies for name in ("team", "agent_0", "agent_1")]
    for policy in policies:
        result = expected(logs, "switch_v0_2/switch_v0.zip", policy == "greedy")
        assert table[policy, "team"][:2] == [f"{result.mean:.2f}", f"{result.std:.2f}"]
        assert table[policy, "agent_1"][0] == f"{result.agent_means['agent_1']:.2f}"
        assert table[policy, "team"][-2:] == [f"{result.mean_length:.1f}", "6"]


@pytest.mark.parametrize(
    ("words", "path"),
    [
        (["--exp-id", "1"], "switch_v0_1/switch_v0.zip"),
        (["--load-best"], "switch_v0_2/best_model.zip"),
        (["--load-checkpoint", "100"], "switch_v0_2/checkpoints/rl_model_100_steps.zip"),
        (["--load-last-checkpoint"], "switch_v0_2/checkpoints/rl_model_200_steps.zip"),
    ],
)
def test_model_can_be_chosen(logs, capsys, words, path):
    assert main(["-f", str(logs), "--env", "switch_v0", "--n-episodes", "6", "--stochastic", *words]) == 0
    printed = capsys.readouterr().out
    result = expected(logs, path, deterministic=False)
    assert f"{path}, trained for" in printed and f"{result.mean:.2f}" in printed


@pytest.mark.e2e
def test_one_kind_of_policy_can_be_chosen(logs, capsys):
    assert {policy for policy, _ in enjoy(logs, capsys, "--env", "switch_v0", "--deterministic", "--n-episodes", "2")} == {
        "greedy"
    }
    assert {policy for policy, _ in enjoy(logs, capsys, "--env", "switch_v0", "--stochastic", "--n-episodes", "2")} == {
        "sampled"
    }


def test_seed_determines_what_is_played(logs, capsys):
    words = ["--env", WORLD, "--stochastic", "--n-episodes", "5"]
    first, second, other = (enjoy(logs, capsys, *words, "--seed", seed) for seed in ("3", "3", "4"))
    assert first == second != other


def test_options_of_the_training_are_used_and_can_be_changed(logs, capsys):
    words = ["--env", WORLD, "--n-episodes", "40", "--stochastic"]
    assert float(enjoy(logs, capsys, *words)["sampled", "left"][0]) <= 4
    assert float(enjoy(logs, capsys, *words, "--env-kwargs", "long:3")["sampled", "left"][0]) <= 3


@pytest.mark.parametrize("words", [["-n", "30"], ["-n", "30", "--deterministic"]])
def test_number_of_steps_can_be_given(logs, capsys, words):
    (cells,) = [
        cells
        for (_, name), cells in enjoy(logs, capsys, "--env", WORLD, *words, *["--stochastic"] * (len(words) == 2)).items()
        if name == "team"
    ]
    assert float(cells[-2]) * int(cells[-1]) == pytest.approx(30, abs=4)


def test_rendering_draws_every_step(logs, capsys, monkeypatch):
    drawn = []
    monkeypatch.setattr(RandomLength, "render", lambda self: drawn.append((self.render_mode, self.remaining)))
    table = enjoy(logs, capsys, "--env", WORLD, "--render", "--n-episodes", "3")
    length, episodes = table["sampled", "team"][-2:]
    assert {policy for policy, _ in table} == {"sampled"} and episodes == "3"
    assert len(drawn) == pytest.approx(float(length) * 3 + 3, abs=0.2)
    assert {mode for mode, _ in drawn} == {"human"}


def test_renders_a_shipped_world_without_a_screen(logs, capsys, monkeypatch):
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setattr("pygame.time.Clock", lambda: type("Clock", (), {"tick": staticmethod(lambda fps: None)}))
    table = enjoy(logs, capsys, "--env", "switch_v0", "--render", "--n-episodes", "1", "--env-kwargs", "max_cycles:5")
    assert table["sampled", "team"][-1] == "1"


@pytest.mark.parametrize("driver", ["offscreen", "dummy"])
def test_rendering_without_a_screen_ends_with_the_first_frame(logs, capsys, monkeypatch, driver):
    pygame = pytest.importorskip("pygame")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    shown = []
    # What SDL falls back to depends on how it was built.
    monkeypatch.setattr(Window, "show", lambda self, frame: shown.append(frame))
    monkeypatch.setattr(pygame.display, "get_init", lambda: True)
    monkeypatch.setattr(pygame.display, "get_driver", lambda: driver)
    assert main(["-f", str(logs), "--env", "switch_v0", "--render", "--verbose", "0"]) == 2
    printed = capsys.readouterr()
    assert len(shown) == 1 and printed.out == ""
    reason = f"(pygame draws to the driver {driver!r})"
    assert printed.err == (
        f"error: --render found no screen to show the game on {reason}: set DISPLAY, or write a video by --record game.mp4\n"
    )


def test_an_error_of_pygame_is_told_in_one_line(logs, capsys, monkeypatch):
    pygame = pytest.importorskip("pygame")

    def fail(self, frame):
        raise pygame.error("No available video device")

    monkeypatch.setattr(Window, "show", fail)
    assert main(["-f", str(logs), "--env", "switch_v0", "--render", "--verbose", "0"]) == 2
    assert "no screen to show the game on (No available video device)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--env", "checkers_v0"], "has no run of matrl on checkers_v0; it has: matrl/switch_v0_1, matrl/switch_v0_2"),
        (["--algo", "ippo", "--env", "switch_v0"], "has no run of ippo on switch_v0"),
        (["--env", "switch_v0", "--exp-id", "7"], "matrl on switch_v0 has no run 7; it has: 1, 2"),
        (
            ["--env", "switch_v0", "--load-checkpoint", "5"],
            "has no checkpoints/rl_model_5_steps.zip; it has: switch_v0.zip, best_model.zip, checkpoint 100, checkpoint 200",
        ),
        (
            ["--env", WORLD, "--load-checkpoint", "5"],
            "it has: tests.evaluation.worlds-RandomLength.zip, best_model.zip, checkpoint 100",
        ),
        (
            ["--env", "switch_v0", "--env-kwargs", "clock:true"],
            "gives agent_0 observations Box(0.0, 1.0, (3,), float32), but agent_0 of",
        ),
        (["--env", "switch_v0", "--env-kwargs", "n_agents:3"], "has agents ['agent_0', 'agent_1', 'agent_2'], the model"),
        (["--env", "switch_v0", "--env-kwargs", "agents:3"], "'agents' is unknown"),
        (["--loadbest"], "flag --loadbest is unknown; did you mean '--load-best'?"),
        (["--deterministic", "--stochastic"], "not allowed with argument --deterministic"),
        (["--exp-id", "1", "--run-dir", "x"], "not allowed with argument --exp-id"),
        (["--run-dir", "nowhere"], "there is no run folder nowhere"),
        (["--render", "--record", "a.mp4"], "--render shows the game, --record writes it to a file: choose one"),
        (["--fps", "5"], "--fps is the speed of a video: it needs --record"),
        (["--env", "switch_v0", "--record", "a.avi"], "suffix '.avi' is unknown"),
        (["--env", WORLD, "--record", "a.mp4"], "it has no render_mode 'rgb_array', only human"),
        (["--agent", "agent_0"], "--agent: expected agent=RUN or agent=RUN:agent_there, got 'agent_0'"),
        (["--agent", "agent_0=a", "--agent", "agent_0=b"], "--agent: agent_0 is given twice"),
        (
            ["--env", "switch_v0", "--agent", "agent_0=matrl/switch_v0_3"],
            "there is no run or model matrl/switch_v0_3, neither as a path nor in",
        ),
        (["--env", "switch_v0", "--agent", "agent_0=matrl/switch_v0_3"], "did you mean 'matrl/switch_v0_"),
        (
            ["--env", "switch_v0", "--agent", "agent_0=matrl/switch_v0_1:agent_x"],
            "switch_v0.zip: agent 'agent_x' is unknown; did you mean",
        ),
        (
            ["--env", "switch_v0", "--agent", "agent_7=matrl/switch_v0_1:agent_0"],
            "agent 'agent_7' is unknown; did you mean 'agent_1'? Known: agent_0, agent_1; it would be played by agent_0 of",
        ),
        (
            ["--env", "switch_v0", "--agent", f"agent_1=matrl/{WORLD.replace(':', '-')}_1:left"],
            "gives agent_1 observations Box(0.0, 1.0, (2,), float32), but left of",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(logs, capsys, words, message):
    assert message in error_of(capsys, "-f", str(logs), *words)


def test_half_a_run_is_told(tmp_path, capsys):
    def error():
        return error_of(capsys, "-f", str(tmp_path), "--env", "switch_v0")

    folder = tmp_path / "matrl" / "switch_v0_1"
    folder.mkdir(parents=True)
    assert "has no switch_v0.zip; it has: no model" in error()
    (folder / "switch_v0.zip").write_text("garbage")
    assert "has no args.yml: it is not a run of train.py, or incomplete" in error()
    (folder / "args.yml").write_text("{env: switch_v0, algo: matrl}")
    assert "has no config.yml: it is not a run of train.py, or incomplete" in error()
    (folder / "config.yml").write_text("other: {}")
    assert "has no entry for switch_v0" in error()
    (folder / "config.yml").write_text("switch_v0: {}")
    assert "is not a saved model, or it is damaged" in error()


def test_half_a_run_by_its_path_is_told(tmp_path, capsys):
    def error():
        return error_of(capsys, "--run-dir", str(tmp_path))

    assert "has no args.yml: it is not a run of train.py, or incomplete" in error()
    (tmp_path / "args.yml").write_text("env: switch_v0")
    assert "args.yml must say 'env' and 'algo'; it has: env" in error()
    (tmp_path / "args.yml").write_text("env: [")
    assert "is not valid YAML" in error()
    (tmp_path / "args.yml").write_text("{env: switch_v0, algo: matrl}")
    assert "has no switch_v0.zip; it has: no model" in error()


@pytest.mark.e2e
def test_run_can_be_given_by_its_path(logs, tmp_path, capsys):
    shutil.copytree(logs / "matrl" / "switch_v0_1", tmp_path / "mine")
    path = str(tmp_path / "mine")
    words = ["--run-dir", path, "--n-episodes", "6"]
    assert enjoy(logs, capsys, *words) == enjoy(logs, capsys, "--env", "switch_v0", "--exp-id", "1", "--n-episodes", "6")
    assert "is a run of matrl on switch_v0, not with --algo ippo: leave --algo out" in error_of(
        capsys, "--run-dir", path, "--algo", "ippo"
    )
    assert "not with --env checkers_v0: leave --env out" in error_of(capsys, "--run-dir", path, "--env", "checkers_v0")


@pytest.mark.cases(quick=[":left-2-model"])
@pytest.mark.parametrize("form", ["run in the log folder", "path of the run", "model"])
@pytest.mark.parametrize(
    ("name", "action"),
    [(":left", 2), (":right", 0), ("", 0)],
)
def test_an_agent_can_come_from_another_run(logs, tmp_path, capsys, form, name, action):
    world = WORLD.replace(":", "-")
    home, run = logs / "matrl" / f"{world}_1", tmp_path / "ippo" / f"{world}_7"
    shutil.copytree(home, run)
    # In the other run, left always plays 2 and right always 0; right earns its action in every step.
    model = MATRL.load(run / f"{world}.zip")
    for agent, favourite in (("left", 2), ("right", 0)):
        model.agents[agent].policy.action_net.bias.data[favourite] = 1000.0
    model.save(run / f"{world}.zip")
    source = {"run in the log folder": f"ippo/{world}_7", "path of the run": run, "model": run / f"{world}.zip"}[form]
    words = ["--run-dir", str(home), "--trust", "--stochastic", "--n-episodes", "9"]
    table = enjoy(tmp_path, capsys, *words, "--agent", f"right={source}{name}")
    left, right = (float(table["sampled", agent][0]) for agent in ("left", "right"))
    assert right == pytest.approx(action * left, abs=0.02) and left > 1


@pytest.mark.e2e
def test_what_plays_is_said(logs, capsys):
    words = ["-f", str(logs), "--env", "switch_v0", "--n-episodes", "1", "--load-checkpoint", "100"]
    assert main([*words, "--agent", "agent_1=matrl/switch_v0_1:agent_0"]) == 0
    model = "checkpoints/rl_model_100_steps.zip, trained for 100 steps"
    assert capsys.readouterr().out.split("\n")[:2] == [
        f"agent_0: agent_0 of {logs}/matrl/switch_v0_2/{model}",
        f"agent_1: agent_0 of {logs}/matrl/switch_v0_1/{model}",
    ]
    assert main([*words, "--verbose", "0"]) == 0
    assert capsys.readouterr().out.startswith("policy ")


@pytest.mark.e2e
@pytest.mark.parametrize(("words", "name"), [(["--n-episodes", "2"], "a.gif"), (["-n", "8", "--deterministic"], "a.mp4")])
def test_video_is_recorded(logs, tmp_path, capsys, words, name):
    path = tmp_path / name
    more = ["--env-kwargs", "max_cycles:5", "--record", str(path), "--fps", "25", "-P"]
    assert main(["-f", str(logs), "--env", "switch_v0", *words, *more]) == 0
    printed = capsys.readouterr()
    assert f"The video is in {path}." in printed.out
    (team,) = [line.split() for line in printed.out.split("\n") if " team " in line]
    policy = "greedy" if "--deterministic" in words else "sampled"
    assert (team[0], team[-1]) == (policy, "2")
    assert len(imageio.mimread(path)) == round(float(team[-2]) * 2) + 2
    assert f"{policy}: 100%" in printed.err if "-n" not in words else "2episode" in printed.err


@pytest.mark.e2e
def test_progress_counts_episodes(logs, capsys):
    assert main(["-f", str(logs), "--env", "switch_v0", "--n-episodes", "40", "--progress"]) == 0
    printed = capsys.readouterr().err
    assert "sampled: 100%" in printed and "greedy: 100%" in printed and "40/40" in printed


def test_errors_while_playing_are_one_line(logs, tmp_path, capsys, monkeypatch):
    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("sb3_matrl.zoo.playing.match.record_video", full)
    assert main(["-f", str(logs), "--env", "switch_v0", "--record", str(tmp_path / "a.gif")]) == 2
    assert capsys.readouterr().err == "error: [Errno 28] No space left on device\n"


@pytest.mark.cases(e2e=["words0"])
@pytest.mark.parametrize("words", [["--n-episodes", "3"], ["-n", "20"]])
def test_an_environment_that_fails_is_told_in_one_line(logs, capsys, monkeypatch, words):
    def fails(self, actions):
        raise RuntimeError("a bug\nin the world")

    monkeypatch.setattr(RandomLength, "step", fails)
    assert main(["-f", str(logs), "--env", WORLD, *words]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ") and "step() raised RuntimeError: a bug in the world" in errors
    assert errors.count("\n") == 1


def test_number_of_threads_is_set(logs, capsys):
    before = th.get_num_threads()
    try:
        enjoy(logs, capsys, "--env", "switch_v0", "--n-episodes", "1", "--num-threads", "2")
        assert th.get_num_threads() == 2
    finally:
        th.set_num_threads(before)


def test_default_is_a_table_of_both_policies():
    options = parse_options([])
    assert options.policies == {"sampled": False, "greedy": True} and options.episodes == 100 and not options.render


@pytest.mark.e2e
def test_agent_of_plain_sb3_plays_if_it_is_trusted(logs, tmp_path, capsys):
    run = logs / "matrl" / "switch_v0_1"
    MATRL.load(run / "switch_v0", device="cpu").agents["agent_1"].save(tmp_path / "agent")
    game = ["-f", str(logs), "--run-dir", str(run), "--n-episodes", "6"]
    guest = ["--agent", f"agent_1={tmp_path / 'agent.zip'}"]
    assert "holds pickles: loading it can run arbitrary code" in error_of(capsys, *game, *guest)
    # The same agent as before, out of another file.
    assert enjoy(logs, capsys, *game[2:], *guest, "--trust") == enjoy(logs, capsys, *game[2:])
    guest[1] += ":agent_1"
    assert "agent 'agent_1' is unknown; did you mean 'agent'?" in error_of(capsys, *game, *guest, "--trust")
