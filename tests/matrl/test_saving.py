"""Saving and loading models of MATRL, and files that do not fit."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import zipfile
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch as th
from stable_baselines3 import A2C
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.utils import LinearSchedule

from sb3_matrl import MATRL, load_model
from sb3_matrl.envs import checkers_v0, switch_v0
from sb3_matrl.files.archive import read_archive, write_archive
from sb3_matrl.files.argument_codec import argument_to_json
from sb3_matrl.vec_env import make_joint_vec_env
from tests.matrl.small_models import ITERATION, assert_equal, make, parameters


def test_save_and_load_restore_everything_that_training_needs(tmp_path: Path) -> None:
    model = make(selection="welfare", br_clip_range=None, learning_rate=0.01).learn(2 * ITERATION)
    model.save(tmp_path / "model")
    loaded = MATRL.load(tmp_path / "model", env=checkers_v0.parallel_env, device="cpu")
    assert loaded.arguments == model.arguments
    assert (loaded.num_timesteps, loaded._n_updates) == (model.num_timesteps, model._n_updates)
    assert_equal(parameters(loaded), parameters(model))
    assert loaded.coordinator.rng.bit_generator.state == model.coordinator.rng.bit_generator.state
    for agent, learner in model.agents.items():
        assert loaded.agents[agent]._n_updates == learner._n_updates
        for mine, theirs in (
            (loaded.agents[agent].policy.optimizer, learner.policy.optimizer),
            (loaded.coordinator.optimizers[agent], model.coordinator.optimizers[agent]),
        ):
            pairs = zip(mine.state_dict()["state"].values(), theirs.state_dict()["state"].values(), strict=True)
            assert all(th.equal(a[key], b[key]) for a, b in pairs for key in b)
    # Both go on alike from the same episode start and the same global streams.
    continued = []
    for one in (model, loaded):
        one.env.seed(9)
        one.set_env(one.env)
        one.set_random_seed(9)
        continued.append(parameters(one.learn(ITERATION, reset_num_timesteps=False)))
    assert_equal(*continued)


def test_a_loaded_model_acts_without_an_env_and_says_that_it_cannot_learn(tmp_path: Path) -> None:
    model = make()
    model.save(str(tmp_path / "model.zip"))
    loaded = MATRL.load(str(tmp_path / "model.zip"))
    observation = {"agent_0": np.ones(47, dtype=np.float32)}
    assert loaded.predict(observation, deterministic=True)[0] == model.predict(observation, deterministic=True)[0]
    with pytest.raises(ValueError, match="no env to learn in"):
        loaded.learn(10)
    loaded.set_env(checkers_v0.parallel_env)
    assert loaded.learn(ITERATION).num_timesteps == ITERATION


def test_load_may_change_arguments(tmp_path: Path) -> None:
    make().save(tmp_path / "model")
    loaded = MATRL.load(tmp_path / "model", env=checkers_v0.parallel_env, n_envs=3, learning_rate=0.5)
    assert loaded.n_envs == loaded.env.num_envs == 3
    assert loaded.agents["agent_0"].learning_rate == 0.5
    with pytest.raises(ValueError, match=r"'n_env' is no argument of this algorithm; did you mean 'n_envs'"):
        MATRL.load(tmp_path / "model", n_env=3)
    env = make_joint_vec_env(checkers_v0.parallel_env, n_envs=5)
    assert MATRL.load(tmp_path / "model", env=env).n_envs == 5


@pytest.mark.e2e
def test_wrong_arguments_to_load_are_named_and_the_file_is_not_blamed(tmp_path: Path) -> None:
    make().save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"^gamma must be between 0 and 1, got 5$"):
        MATRL.load(tmp_path / "model", gamma=5)
    with pytest.raises(ValueError, match=r"^gamma of 'agent_1' must be between 0 and 1, got 7$"):
        MATRL.load(tmp_path / "model", custom_objects={"gamma": {"agent_0": 0.9, "agent_1": 7}})
    with pytest.raises(RuntimeError, match=r"^Expected one of cpu, cuda"):
        MATRL.load(tmp_path / "model", device="cpuu")
    with pytest.raises(ValueError, match="its content with the given backend does not make a model: backend 'foo' is unknown"):
        MATRL.load(tmp_path / "model", backend="foo")
    with pytest.raises(ValueError, match=r"with the given norm_obs does not .* no running statistics of agent_0: norm_obs"):
        MATRL.load(tmp_path / "model", norm_obs=True)


def test_models_are_saved_to_open_files_and_loaded_from_them(tmp_path: Path) -> None:
    model, file = make().learn(ITERATION), io.BytesIO()
    model.save(file)
    model.learn(ITERATION, reset_num_timesteps=False)
    resumed = MATRL.load(file, env=checkers_v0.parallel_env)
    resumed.learn(ITERATION, reset_num_timesteps=False)
    assert_equal(parameters(resumed), parameters(model))
    acting = load_model(file)
    model.set_parameters(file)
    assert_equal(parameters(acting), parameters(model))
    with (tmp_path / "model.zip").open("wb") as opened:
        model.save(opened)
        with pytest.raises(ValueError, match=r"model.zip is not a saved model"):
            MATRL.load(opened)
    with (tmp_path / "model.zip").open("rb") as opened:
        assert_equal(parameters(MATRL.load(opened)), parameters(model))
        with pytest.raises(ValueError, match=r"model.zip is not open for writing: open it with mode 'wb'"):
            model.save(opened)
    with pytest.raises(ValueError, match=r"^the given file is not a saved model, or it is damaged"):
        MATRL.load(io.BytesIO(b"nothing"))
    for call in (model.save, MATRL.load, model.set_parameters):
        with pytest.raises(TypeError, match="expected a path, or a file that is open in binary mode"):
            call(io.StringIO())


def test_single_agents_load_with_plain_ppo_where_sb3_matrl_cannot_be_imported(tmp_path: Path) -> None:
    model = make().learn(ITERATION)
    model.agents["agent_1"].save(tmp_path / "agent")
    observation = np.ones(47, dtype=np.float32)
    expected, _ = model.agents["agent_1"].predict(observation, deterministic=True)
    code = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('sb3_matrl', 'pettingzoo', 'supersuit'): raise ImportError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "import warnings; warnings.simplefilter('error', UserWarning)\n"
        "import numpy as np\n"
        "from stable_baselines3 import PPO\n"
        f"model = PPO.load({str(tmp_path / 'agent')!r}, device='cpu')\n"
        "print('action', model.predict(np.ones(47, dtype=np.float32), deterministic=True)[0])\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert run.returncode == 0, run.stderr
    assert f"action {expected}" in run.stdout


def test_network_classes_and_schedules_survive_saving(tmp_path: Path) -> None:
    kwargs = {
        "net_arch": {"pi": [8], "vf": [4]},
        "activation_fn": th.nn.LeakyReLU,
        "features_extractor_class": FlattenExtractor,
    }
    model = make(policy_kwargs=kwargs, learning_rate=LinearSchedule(0.01, 0.001, 0.5), learner_class=A2C, n_epochs=10)
    model.save(tmp_path / "model")
    loaded = MATRL.load(tmp_path / "model")
    assert loaded.arguments["policy_kwargs"] == kwargs
    assert loaded.agents["agent_0"].lr_schedule(0.75) == pytest.approx(model.agents["agent_0"].lr_schedule(0.75))
    assert type(loaded.agents["agent_0"]) is A2C


def test_functions_are_asked_for_again(tmp_path: Path) -> None:
    model = make(learning_rate=lambda left: 0.01 * left)
    model.save(tmp_path / "model")
    with pytest.warns(UserWarning, match=r"learning_rate was the function .*custom_objects=\{'learning_rate'"):
        MATRL.load(tmp_path / "model")
    schedule = LinearSchedule(0.1, 0.0, 1.0)
    loaded = MATRL.load(tmp_path / "model", custom_objects={"learning_rate": schedule})
    assert loaded.arguments["learning_rate"] is schedule

    class Own(FlattenExtractor):
        pass

    make(policy_kwargs={"net_arch": [8], "features_extractor_class": Own}).save(tmp_path / "own")
    with pytest.raises(ValueError, match=r"policy_kwargs holds .*Own.*custom_objects=\{'policy_kwargs'"):
        MATRL.load(tmp_path / "own")
    policy_kwargs = {"net_arch": [8], "features_extractor_class": Own}
    restored = MATRL.load(tmp_path / "own", custom_objects={"policy_kwargs": policy_kwargs})
    assert isinstance(restored.agents["agent_0"].policy.features_extractor, Own)


def test_a_file_of_another_environment_is_refused(tmp_path: Path) -> None:
    make().save(tmp_path / "checkers")
    with pytest.raises(ValueError, match="another environment"):
        MATRL.load(tmp_path / "checkers", env=switch_v0.parallel_env)
    with pytest.raises(ValueError, match=r"agent_0's observation space.*env_kwargs"):
        MATRL.load(tmp_path / "checkers", env=partial(checkers_v0.parallel_env, clock=True))


def test_files_that_are_not_models_are_refused(tmp_path: Path) -> None:
    model = make()
    model.save(tmp_path / "model")
    with pytest.raises(FileNotFoundError, match="no saved model"):
        MATRL.load(tmp_path / "missing")
    model.agents["agent_0"].save(tmp_path / "single")
    with pytest.raises(ValueError, match="Stable-Baselines3 file"):
        MATRL.load(tmp_path / "single")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        manifest = json.loads(archive.read("manifest.json"))
        assert not any(name.endswith((".pkl", ".pickle")) for name in archive.namelist())
    manifest["format_version"] = 99
    shutil.copy(tmp_path / "model.zip", tmp_path / "newer.zip")
    with zipfile.ZipFile(tmp_path / "newer.zip", "w") as archive:
        archive.writestr("manifest.json", json.dumps(manifest))
    with pytest.raises(ValueError, match="format version 99, newer than"):
        MATRL.load(tmp_path / "newer.zip")


def test_parameters_that_do_not_fit_the_described_networks_name_the_file(tmp_path: Path) -> None:
    model, other = make(), make(policy_kwargs={"net_arch": [9]})
    model.save(tmp_path / "model")
    documents, _ = read_archive(tmp_path / "model.zip")
    tensors = {f"agents/{i}": value for i, value in enumerate(other.get_parameters().values())}
    write_archive(tmp_path / "model.zip", {"model": documents["model"]}, tensors)
    with pytest.raises(ValueError, match=r"model.*: its content does not make a model: .*size mismatch"):
        MATRL.load(tmp_path / "model")


def test_networks_that_no_memory_holds_name_the_file(tmp_path: Path) -> None:
    make().save(tmp_path / "model")
    documents, tensors = read_archive(tmp_path / "model.zip")
    documents["model"]["arguments"]["policy_kwargs"] = argument_to_json({"net_arch": [10**9, 10**9]})
    write_archive(tmp_path / "model.zip", {"model": documents["model"]}, tensors)
    with pytest.raises(ValueError, match=r"model.*: its content does not make a model: .*memory"):
        MATRL.load(tmp_path / "model")


def test_parameters_can_be_taken_and_given(tmp_path: Path) -> None:
    model, other = make(), make(seed=2)
    assert not th.equal(parameters(model)[0], parameters(other)[0])
    other.set_parameters(model.get_parameters())
    assert_equal(parameters(other), parameters(model))
    third = make(seed=3)
    model.save(tmp_path / "model")
    third.set_parameters(tmp_path / "model")
    assert_equal(parameters(third), parameters(model))
    fourth = make(seed=4)
    fourth.set_parameters({"agent_1": model.get_parameters()["agent_1"]}, exact_match=False)
    half = len(parameters(model)) // 2
    assert_equal(parameters(fourth)[half:], parameters(model)[half:])
    wrong = {**model.get_parameters(), "agent_1": make(policy_kwargs={"net_arch": [5]}).get_parameters()["agent_1"]}
    with pytest.raises(ValueError, match=r"parameters of agent_1: .* size mismatch"):
        fourth.set_parameters(wrong)
    assert_equal(parameters(fourth)[:half], parameters(make(seed=4))[:half])
    with pytest.raises(ValueError, match="those of agent_1 are missing"):
        other.set_parameters({"agent_0": model.get_parameters()["agent_0"]})
    with pytest.raises(ValueError, match="agent 'nobody' is unknown"):
        other.set_parameters({"nobody": {}}, exact_match=False)
