import json

import pytest
import yaml

from sb3_matrl.zoo.benchmarking.plan import Setting, plan_runs, read_settings, split_finished
from sb3_matrl.zoo.common.hyperparameters import find_conf_file, load_hyperparameters
from sb3_matrl.zoo.training.training_run import TrainingRun
from tests.zoo.benchmarking.small import CHANGES, options, plan


def finish(run):
    """What a finished run leaves for the next start of the benchmark."""
    TrainingRun.begin(run.options, "sb3-matrl train").close()
    run.result.write_text(json.dumps({}))


def test_every_setting_meets_every_env_and_seed(tmp_path):
    runs = plan(tmp_path, envs=("matrix_game_v0", "checkers_v0"), seeds=(3, 7))
    found = {(run.env, run.setting, run.seed) for run in runs}
    assert found == {(env, algo, s) for env in ("matrix_game_v0", "checkers_v0") for algo in ("matrl", "ippo") for s in (3, 7)}
    assert len({run.folder.path for run in runs}) == len({run.log for run in runs}) == len(runs) == 8
    assert runs[0].folder.path == tmp_path / "runs" / "matrix_game_v0" / "matrl" / "3"
    # Seed by seed: the first results compare all methods.
    assert [run.seed for run in runs] == [3] * 4 + [7] * 4


def test_words_say_what_train_reads(tmp_path):
    hard = {
        "learning_rate": 1e-05,
        "policy_kwargs": {"net_arch": {"pi": [4], "vf": [8]}},
        "target_kl": None,
        "policy": "MlpPolicy",
    }
    setting = Setting("odd: name, 1", "il-la", {**hard, "n_epochs": 7})
    env_kwargs = {"matrix_game_v0": {"game": "stag_hunt", "payoffs": None, "max_cycles": 3}}
    (run,) = plan(tmp_path, settings=(setting,), seeds=(5,), env_kwargs=env_kwargs, hyperparams={"n_epochs": 2, "gamma": 0.5})
    assert (run.options.algo, run.options.seed, run.options.n_timesteps) == ("il-la", 5, 200)
    shipped = load_hyperparameters(find_conf_file("il-la", None), "il-la", "matrix_game_v0").as_mapping()
    expected = {**shipped, **hard, "n_timesteps": 200, "gamma": 0.5, "n_epochs": 7, "env_kwargs": env_kwargs["matrix_game_v0"]}
    assert run.hyperparameters.as_mapping() == expected


def test_settings_come_from_algorithms_and_mappings():
    named = {"ippo, 15 epochs": {"algo": "ippo", "n_epochs": 15}, "il-la": {"gamma": 0.9}}
    assert read_settings(["matrl"], named) == (
        Setting("matrl", "matrl", {}),
        Setting("ippo, 15 epochs", "ippo", {"n_epochs": 15}),
        Setting("il-la", "il-la", {"gamma": 0.9}),
    )


@pytest.mark.parametrize(
    ("algos", "named", "message"),
    [
        ([], {}, "nothing to compare"),
        (["ippo", "ippo"], {}, "'ippo' and 'ippo' have the same folder"),
        ([], {"a b": {"algo": "ippo"}, "a/b": {"algo": "ippo"}}, "'a b' and 'a/b' have the same folder 'a-b'"),
        ([], {"mine": {"n_epochs": 3}}, "setting 'mine': algo 'mine' is unknown"),
        ([], {"mine": {"algo": "ipo"}}, "did you mean 'ippo'"),
        ([], {"mine": 3}, "setting 'mine': expected a mapping"),
    ],
)
def test_wrong_settings_are_refused(algos, named, message):
    with pytest.raises(ValueError, match=message):
        read_settings(algos, named)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"settings": (Setting("mine", "ippo", {"n_epoch": 3}),)},
            "setting 'mine'.*'n_epoch' is unknown; did you mean 'n_epochs'",
        ),
        ({"envs": ("matrix_game",)}, "did you mean 'matrix_game_v0'"),
        ({"envs": ("matrix_game_v0", "matrix_game_v0")}, "environments .* have the same folder"),
        (
            {"env_kwargs": {"matrix_game_v1": {}}},
            "--env-kwargs: env 'matrix_game_v1' is unknown; did you mean 'matrix_game_v0'",
        ),
        ({"env_kwargs": {"matrix_game_v0": {"gme": "rps"}}}, "gme"),
    ],
)
def test_everything_is_checked_before_anything_is_written(tmp_path, changes, message):
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=message):
        plan_runs(options(out, **changes))
    assert not out.exists()


def test_only_runs_with_a_result_are_finished(tmp_path):
    done, half, *untouched = plan(tmp_path)
    for run in (done, half):
        finish(run)
    half.result.unlink()
    assert split_finished([done, half, *untouched]) == ([done], [half, *untouched])


@pytest.mark.cases(e2e=["changes1-eval_freq was 100, now 50", "changes2-gamma was 0.99, now 0.5"])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_timesteps": 400}, "n_timesteps was 200, now 400"),
        ({"eval_freq": 50}, "eval_freq was 100, now 50"),
        ({"hyperparams": {**CHANGES, "gamma": 0.5}}, "gamma was 0.99, now 0.5"),
        ({"env_kwargs": {"matrix_game_v0": {"game": "chicken"}}}, "env_kwargs was {}, now {'game': 'chicken'}"),
    ],
)
def test_changed_options_are_told(tmp_path, changes, message):
    for run in plan(tmp_path)[:2]:
        finish(run)
    with pytest.raises(ValueError, match="finished runs have other options") as error:
        split_finished(plan(tmp_path, **changes))
    assert message in str(error.value) and "and 1 more runs differ" in str(error.value)


def test_more_seeds_and_settings_are_no_change(tmp_path):
    first = plan(tmp_path)[0]
    finish(first)
    more = (Setting("matrl", "matrl", {}), Setting("other", "matrl", {"gamma": 0.5}))
    finished, left = split_finished(plan(tmp_path, seeds=(0, 1, 2), settings=more))
    assert [run.name for run in finished] == [first.name] and len(left) == 5


def test_edited_conf_file_counts_as_a_change(tmp_path):
    conf = tmp_path / "mine.yml"
    conf.write_text(yaml.safe_dump({"default": {"gamma": 0.9}}))
    (run,) = plan(tmp_path, settings=(Setting("ippo", "ippo", {}),), seeds=(0,), conf_file=str(conf))
    finish(run)
    conf.write_text(yaml.safe_dump({"default": {"gamma": 0.8}}))
    with pytest.raises(ValueError, match=r"gamma was 0.9, now 0.8"):
        split_finished(plan(tmp_path, settings=(Setting("ippo", "ippo", {}),), seeds=(0,), conf_file=str(conf)))
