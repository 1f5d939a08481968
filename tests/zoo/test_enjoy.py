import numpy as np
import pytest

from sb3_matrl import MATRL
from sb3_matrl.evaluation import evaluate_policy
from sb3_matrl.vec_env import make_joint_vec_env
from tests.evaluation.worlds import RandomLength, Scripted
from zoo.enjoy import main, parse_options
from zoo.playing import play_episodes
from zoo.train import main as train

SMALL = ["-params", "n_envs:4", "n_steps:25", "batch_size:100", "n_epochs:1", "br_n_epochs:1", "policy_kwargs.net_arch:[8]"]
QUICK = ["--eval-freq", "100", "--eval-episodes", "2", "--verbose", "0", "--device", "cpu"]
WORLD = "tests.evaluation.worlds:RandomLength"


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    for seed in ("1", "2"):
        words = ["--env", "switch_v0", "-n", "200", "--env-kwargs", "n_agents:2", "--save-freq", "100", "--seed", seed]
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


def test_playing_one_copy_equals_the_vectorised_evaluation():
    vectorised = evaluate_policy(Scripted(), make_joint_vec_env(RandomLength), 5, deterministic=True, seed=3)
    single = play_episodes(Scripted(), RandomLength(), 5, None, deterministic=True, seed=3)
    np.testing.assert_array_equal(single.agent_returns, vectorised.agent_returns)
    np.testing.assert_array_equal(single.lengths, vectorised.lengths)
    assert single.agents == vectorised.agents


def test_renders_a_shipped_world_without_a_screen(logs, capsys, monkeypatch):
    pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    monkeypatch.setattr("pygame.time.Clock", lambda: type("Clock", (), {"tick": staticmethod(lambda fps: None)}))
    table = enjoy(logs, capsys, "--env", "switch_v0", "--render", "--n-episodes", "1", "--env-kwargs", "max_cycles:5")
    assert table["sampled", "team"][-1] == "1"


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
        (["--env", WORLD, "--load-last-checkpoint"], "it has: tests.evaluation.worlds-RandomLength.zip, best_model.zip"),
        (["--env", "switch_v0", "--env-kwargs", "clock:true"], "observations of shape (3,), the model was trained on (2,)"),
        (["--env", "switch_v0", "--env-kwargs", "n_agents:3"], "has agents ['agent_0', 'agent_1', 'agent_2'], the model"),
        (["--env", "switch_v0", "--env-kwargs", "agents:3"], "'agents' is unknown"),
        (["--loadbest"], "flag --loadbest is unknown; did you mean '--load-best'?"),
        (["--deterministic", "--stochastic"], "not allowed with argument --deterministic"),
    ],
)
def test_mistakes_are_told_in_one_line(logs, capsys, words, message):
    with pytest.raises(SystemExit) as exit_info:
        main(["-f", str(logs), *words])
    assert exit_info.value.code == 2
    captured = capsys.readouterr().err
    assert captured.startswith("error: ") and message in captured


def test_half_a_run_is_told(tmp_path, capsys):
    folder = tmp_path / "matrl" / "switch_v0_1"
    folder.mkdir(parents=True)
    with pytest.raises(SystemExit):
        main(["-f", str(tmp_path), "--env", "switch_v0"])
    assert "has no switch_v0.zip; it has: no model" in capsys.readouterr().err
    (folder / "switch_v0.zip").write_text("garbage")
    with pytest.raises(SystemExit):
        main(["-f", str(tmp_path), "--env", "switch_v0"])
    assert "has no config.yml" in capsys.readouterr().err
    (folder / "config.yml").write_text("other: {}")
    with pytest.raises(SystemExit):
        main(["-f", str(tmp_path), "--env", "switch_v0"])
    assert "has no entry for switch_v0" in capsys.readouterr().err
    (folder / "config.yml").write_text("switch_v0: {}")
    with pytest.raises(SystemExit):
        main(["-f", str(tmp_path), "--env", "switch_v0"])
    assert "is not a saved model, or it is damaged" in capsys.readouterr().err


def test_default_is_a_table_of_both_policies():
    options = parse_options([])
    assert options.policies == {"sampled": False, "greedy": True} and options.episodes == 100 and not options.render
