import json

import numpy as np
import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, StopTrainingOnRewardThreshold
from stable_baselines3.common.logger import KVWriter, Logger

from sb3_matrl import MATRL, VDN
from sb3_matrl.evaluation import EvaluationResult, evaluate_policy, exact_nash_conv
from sb3_matrl.evaluation.eval_callback import MultiAgentEvalCallback
from sb3_matrl.files.archive import read_archive
from sb3_matrl.vec_env import make_joint_vec_env
from tests.evaluation.worlds import OtherAgents, RandomLength


def small_model(**changes):
    arguments = {"n_envs": 4, "n_steps": 10, "batch_size": 40, "n_epochs": 1, "br_n_epochs": 1, "seed": 0, "device": "cpu"}
    return MATRL("MlpPolicy", RandomLength, **{**arguments, **changes})


def evaluation(**changes):
    env = make_joint_vec_env(RandomLength, n_envs=2)
    return MultiAgentEvalCallback(env, **{"n_eval_episodes": 4, "eval_freq": 60, "verbose": 0, **changes})


def flat_parameters(model):
    return th.cat([p.detach().flatten() for agent in model.agents.values() for p in agent.policy.parameters()])


def result_of(means):
    mean = next(means)
    return EvaluationResult(("left", "right"), np.array([mean]), np.array([[mean, 0.0]]), np.array([1]))


class Recorder(BaseCallback):
    """Keeps what the model looked like whenever it is called."""

    def __init__(self, limit=None):
        super().__init__()
        self.steps, self.parameters, self.limit = [], [], limit

    def _on_step(self):
        self.steps.append(self.model.num_timesteps)
        self.parameters.append(flat_parameters(self.model))
        return self.limit is None or len(self.steps) < self.limit


class Rows(KVWriter):
    def __init__(self):
        self.rows = []

    def write(self, key_values, key_excluded, step=0):
        self.rows.append((step, dict(key_values)))

    def close(self):
        pass


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model after 200 steps, and its evaluations, which are only read."""
    folder = tmp_path_factory.mktemp("evaluations") / "new"
    callback = evaluation(log_path=folder)
    return small_model().learn(200, callback), callback, folder


@pytest.mark.e2e
def test_evaluates_after_the_iteration_that_reaches_a_multiple_and_at_the_end(trained):
    _, callback, _ = trained
    # Iterations end at 40, 80, 120, 160, 200; multiples of 60 are 60, 120, 180.
    assert callback.timesteps == [80, 120, 200]


def off_policy_model(**changes):
    arguments = {"n_envs": 2, "train_freq": 5, "learning_starts": 10, "buffer_size": 100, "batch_size": 4}
    small = {"policy_kwargs": {"net_arch": [8]}, "exploration_final_eps": 0.5, "seed": 0, "device": "cpu"}
    return VDN("MlpPolicy", RandomLength, **{**arguments, **small, **changes})


class AtEvaluations(BaseCallback):
    """Keeps the numbers of updates and the exploration rates at evaluations."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def _on_step(self):
        self.seen.append((self.model.num_timesteps, self.model._n_updates, self.model.exploration_rate))
        return True


def test_evaluates_off_policy_algorithms_after_the_block_of_steps_that_reaches_a_multiple():
    callback = evaluation(eval_freq=25, callback_after_eval=(at := AtEvaluations()))
    off_policy_model(exploration_fraction=1.0).learn(100, callback)
    # Blocks end at 10, 20, 30, ...; gradient steps follow all but the first, where 10 steps are not more than the warm-up.
    assert callback.timesteps == [30, 50, 80, 100]
    assert [(steps, updates) for steps, updates, _ in at.seen] == [(30, 2), (50, 4), (80, 7), (100, 9)]
    np.testing.assert_allclose([rate for *_, rate in at.seen], [0.85, 0.75, 0.6, 0.5])


def test_off_policy_training_is_the_same_with_and_without_evaluation():
    # Evaluations explore, too, and must not draw from the generators of the training.
    with_it, without = off_policy_model().learn(60, evaluation(eval_freq=25)), off_policy_model().learn(60)
    for agent, policy in with_it.utilities.policies.items():
        parameters, others = policy.parameters(), without.utilities.policies[agent].parameters()
        assert all(map(th.equal, parameters, others))
    for agent, space in with_it.exploration_spaces.items():
        assert space.np_random.bit_generator.state == without.exploration_spaces[agent].np_random.bit_generator.state


def test_off_policy_training_that_stops_within_a_block_evaluates_as_one_that_did_not(tmp_path):
    class StopAt(BaseCallback):
        def _on_step(self):
            return self.model.num_timesteps < 28

    whole, stopped, resumed = (evaluation(eval_freq=25) for _ in range(3))
    off_policy_model().learn(60, whole)
    stopped.evaluate_at_end = False  # as where a signal stops the training
    model = off_policy_model().learn(60, [StopAt(), stopped])
    assert model.num_timesteps == 28 and stopped.timesteps == []
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    model = VDN.load(tmp_path / "model", env=RandomLength, device="cpu")
    model.load_replay_buffer(tmp_path / "buffer")
    resumed.set_state(stopped.state())
    model.learn(32, resumed, reset_num_timesteps=False)
    assert resumed.timesteps == whole.timesteps == [30, 50, 60]


@pytest.mark.parametrize("eval_freq", [0, -1])
def test_without_a_frequency_it_evaluates_only_at_the_end(eval_freq):
    callback = evaluation(eval_freq=eval_freq)
    small_model().learn(120, callback)
    assert callback.timesteps == [120]


def test_goes_on_where_an_earlier_training_stopped():
    callback, model = evaluation(), small_model()
    model.learn(80, callback)
    model.learn(80, callback, reset_num_timesteps=False)
    assert callback.timesteps == [80, 120, 160]


def test_results_are_those_of_the_model_at_that_time(trained):
    model, callback, _ = trained
    env = make_joint_vec_env(RandomLength, n_envs=2)
    seed = int(np.random.SeedSequence([0, 200]).generate_state(1)[0])
    for results, deterministic in ((callback.sampled, False), (callback.greedy, True)):
        expected = evaluate_policy(model, env, 4, deterministic=deterministic, seed=seed)
        np.testing.assert_array_equal(results[-1].agent_returns, expected.agent_returns)


def test_training_is_the_same_with_and_without_evaluation(trained):
    # As in SB3, a model seeds the global streams when it is made.
    with_it, _, _ = trained
    without = small_model().learn(200)
    assert th.equal(flat_parameters(with_it), flat_parameters(without))


def test_logs_the_means_at_the_step_they_belong_to():
    callback, model, rows = evaluation(), small_model(), Rows()
    model.set_logger(Logger(None, [rows]))
    model.learn(120, callback)
    logged = [(step, row) for step, row in rows.rows if "eval/mean_reward" in row]
    assert [step for step, _ in logged] == [80, 120]
    for (step, row), sampled, greedy in zip(logged, callback.sampled, callback.greedy, strict=True):
        assert row["time/total_timesteps"] == step
        assert row["eval/mean_reward"] == sampled.returns.mean()
        assert row["eval/mean_reward_greedy"] == greedy.returns.mean()
        assert row["eval/mean_ep_length"] == sampled.lengths.mean()
        assert row["eval/mean_ep_length_greedy"] == greedy.lengths.mean()
        assert row["eval/left/mean_reward"] == sampled.agent_returns[:, 0].mean()
        assert row["eval/right/mean_reward"] == sampled.agent_returns[:, 1].mean()


def test_evaluations_file_holds_every_evaluation(trained):
    _, callback, folder = trained
    with np.load(folder / "evaluations.npz") as file:
        np.testing.assert_array_equal(file["timesteps"], [80, 120, 200])
        np.testing.assert_array_equal(file["results"], [result.returns for result in callback.sampled])
        np.testing.assert_array_equal(file["results_greedy"], [result.returns for result in callback.greedy])
        np.testing.assert_array_equal(file["ep_lengths"], [result.lengths for result in callback.sampled])
        np.testing.assert_array_equal(file["ep_lengths_greedy"], [result.lengths for result in callback.greedy])
        assert file["agent_returns"].shape == file["agent_returns_greedy"].shape == (3, 4, 2)
        np.testing.assert_allclose(file["agent_returns"].sum(axis=2), file["results"])
        assert file["agents"].tolist() == ["left", "right"]
    assert [path.name for path in folder.iterdir()] == ["evaluations.npz"]


@pytest.mark.cases(e2e=["True"], rest="expensive")
@pytest.mark.parametrize("deterministic", [False, True])
def test_best_model_is_that_of_the_best_evaluation(tmp_path, deterministic):
    after, best = Recorder(), Recorder()
    callback = evaluation(
        eval_freq=40,
        best_model_save_path=tmp_path,
        callback_after_eval=after,
        callback_on_new_best=best,
        deterministic=deterministic,
    )
    small_model().learn(320, callback)
    means = [result.mean for result in (callback.greedy if deterministic else callback.sampled)]
    assert after.steps == callback.timesteps == list(range(40, 321, 40))
    assert best.steps == [step for i, step in enumerate(callback.timesteps) if means[i] > max(means[:i], default=-np.inf)]
    assert callback.best_mean_reward == max(means)
    assert callback.last_mean_reward == means[-1]
    saved = MATRL.load(tmp_path / "best_model")
    assert means.count(max(means)) == 1
    assert th.equal(flat_parameters(saved), after.parameters[int(np.argmax(means))])


def test_of_equally_good_models_the_latest_is_kept(tmp_path, monkeypatch):
    returns = iter([1.0, 3.0, 3.0, 2.0, float("nan")])
    monkeypatch.setattr(
        "sb3_matrl.evaluation.eval_callback.evaluate_policy",
        lambda *arguments: result_of(returns if arguments[3] is False else iter([0.0])),
    )
    after, best = Recorder(), Recorder()
    callback = evaluation(eval_freq=40, best_model_save_path=tmp_path, callback_after_eval=after, callback_on_new_best=best)
    small_model().learn(200, callback)
    assert best.steps == [40, 80]
    assert callback.best_mean_reward == 3.0
    assert th.equal(flat_parameters(MATRL.load(tmp_path / "best_model")), after.parameters[2])


def test_of_models_with_a_constant_sum_the_latest_is_kept(tmp_path, monkeypatch):
    # Rounding makes the second team return the largest one.
    returns = iter([[2.0, -2.0], [1.0 + 1e-9, -1.0], [-3.0, 3.0 - 1e-9]])

    def play(*arguments):
        pair = next(returns) if arguments[3] is False else [4.0, -4.0]
        return EvaluationResult(("left", "right"), np.array([sum(pair)]), np.array([pair]), np.array([1]))

    monkeypatch.setattr("sb3_matrl.evaluation.eval_callback.evaluate_policy", play)
    after, best = Recorder(), Recorder()
    callback = evaluation(eval_freq=40, best_model_save_path=tmp_path, callback_after_eval=after, callback_on_new_best=best)
    small_model().learn(120, callback)
    assert best.steps == [40] and callback.best_mean_reward == 0.0
    assert th.equal(flat_parameters(MATRL.load(tmp_path / "best_model")), after.parameters[2])


def test_callback_after_evaluation_can_stop_the_training():
    callback, model = evaluation(eval_freq=40, callback_after_eval=Recorder(limit=2)), small_model()
    model.learn(10_000, callback)
    assert callback.timesteps == [40, 80]
    assert model.num_timesteps == 80


def test_sb3_stopping_rule_works():
    rule = StopTrainingOnRewardThreshold(reward_threshold=-1.0)
    callback, model = evaluation(eval_freq=40, callback_on_new_best=rule), small_model()
    model.learn(10_000, callback)
    assert model.num_timesteps == 40


@pytest.mark.cases(
    quick=[
        "none-callback_on_new_best-small_model",
        "none-callback_after_eval-off_policy_model",
        "before-callback_after_eval-small_model",
        "after-callback_on_new_best-off_policy_model",
    ],
    rest="expensive",
)
@pytest.mark.parametrize("make", [small_model, off_policy_model])
@pytest.mark.parametrize("argument", ["callback_on_new_best", "callback_after_eval"])
@pytest.mark.parametrize("others", ["none", "before", "after"])
def test_a_stop_by_an_evaluation_ends_the_training_at_once_and_evaluates_no_more(make, argument, others):
    rule = Recorder(limit=1) if argument == "callback_after_eval" else StopTrainingOnRewardThreshold(-1.0, verbose=0)
    callback, watcher = evaluation(eval_freq=40, **{argument: rule}), Recorder()
    model = make()
    model.learn(10_000, {"none": callback, "before": [watcher, callback], "after": [callback, watcher]}[others])
    assert callback.timesteps == [40] and model.num_timesteps == 40
    assert others == "none" or watcher.steps[-1] == 40


def test_sb3_checkpoints_work(tmp_path):
    class AtStep(Recorder):
        def _on_step(self):
            return super()._on_step() if self.model.num_timesteps in (80, 160) else True

    recorder = AtStep()
    small_model().learn(200, [recorder, CheckpointCallback(20, str(tmp_path), name_prefix="model")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model_160_steps.zip", "model_80_steps.zip"]
    for step, parameters in zip(recorder.steps, recorder.parameters, strict=True):
        assert th.equal(flat_parameters(MATRL.load(tmp_path / f"model_{step}_steps.zip")), parameters)


def test_refuses_an_environment_with_other_agents():
    callback = MultiAgentEvalCallback(OtherAgents, verbose=0)
    with pytest.raises(ValueError, match=r"eval_env has agents \['left', 'middle'\], the model has \['left', 'right'\]"):
        small_model().learn(40, callback)


def test_prints_the_results_when_verbose(capsys):
    callback = evaluation(verbose=1)
    small_model().learn(40, callback)
    sampled, greedy = callback.sampled[-1], callback.greedy[-1]
    agents = ", ".join(f"{agent} {mean:.2f}" for agent, mean in sampled.agent_means.items())
    assert capsys.readouterr().out == (
        f"Eval num_timesteps=40, episode_reward={sampled.mean:.2f} +/- {sampled.std:.2f} "
        f"(greedy {greedy.mean:.2f} +/- {greedy.std:.2f}); {agents}; new best\n"
    )


def test_prints_one_line_per_evaluation_beside_the_short_table(capsys):
    small_model(verbose=1).learn(200, evaluation(verbose=1))
    printed = capsys.readouterr().out
    assert printed.count("Eval num_timesteps=") == 3 and printed.count("new best") in (1, 2, 3)
    # A table per iteration, none for the evaluations.
    assert printed.count("|    total_timesteps") == 5 and "mean_reward" not in printed


def test_competing_agents_are_told_apart(capsys):
    callback = MultiAgentEvalCallback("matrix_game_v0", n_eval_episodes=10, eval_freq=0)
    model = MATRL("MlpPolicy", "matrix_game_v0", n_steps=40, batch_size=40, seed=0, device="cpu")
    model.set_logger(Logger(None, [rows := Rows()]))
    model.learn(40, callback)
    sampled, greedy = callback.sampled[-1], callback.greedy[-1]
    agents = (
        f"{agent} {mean:.2f} (greedy {greedy.agent_means[agent]:.2f}), won {sampled.win_rates[agent]:.0%}"
        for agent, mean in sampled.agent_means.items()
    )
    exact = f"NashConv {exact_nash_conv(model, 'matrix_game_v0').nash_conv:.3f}"
    assert capsys.readouterr().out == f"Eval num_timesteps=40, episode_reward of {', '.join(agents)}; {exact}\n"
    (row,) = (row for _, row in rows.rows if "eval/mean_reward" in row)
    assert row["eval/agent_1/win_rate"] == np.mean(sampled.agent_returns[:, 1] > 0)


def test_continues_from_a_saved_state(tmp_path, trained):
    _, stopped, _ = trained
    resumed = evaluation(log_path=tmp_path)
    document = json.loads(json.dumps(stopped.state(), allow_nan=False))
    resumed.set_state(document)
    assert (resumed.timesteps, resumed.best_mean_reward) == (stopped.timesteps, stopped.best_mean_reward)
    assert resumed.last_mean_reward == stopped.last_mean_reward
    assert resumed.state() == stopped.state()
    for ours, theirs in zip(resumed.sampled + resumed.greedy, stopped.sampled + stopped.greedy, strict=True):
        np.testing.assert_array_equal(ours.agent_returns, theirs.agent_returns)
        assert (ours.agents, ours.lengths.dtype) == (theirs.agents, theirs.lengths.dtype)


def test_an_evaluation_that_is_due_is_made_up_for():
    callback, model = evaluation(), small_model()
    callback.set_state({**evaluation().state(), "next_evaluation": 80})
    model.num_timesteps = 80
    model.learn(80, callback, reset_num_timesteps=False)
    assert callback.timesteps == [80, 120, 160]


def test_state_before_the_first_evaluation_has_no_best():
    callback = evaluation()
    callback.set_state(json.loads(json.dumps(evaluation().state(), allow_nan=False)))
    assert callback.best_mean_reward == callback.last_mean_reward == -np.inf


def test_evaluation_that_fails_leaves_no_trace(monkeypatch):
    callback, before = evaluation(), evaluation().state()

    def fail(model, env, n_eval_episodes, deterministic, *_):
        if deterministic:
            raise RuntimeError("broken")
        return result_of(iter([1.0]))

    monkeypatch.setattr("sb3_matrl.evaluation.eval_callback.evaluate_policy", fail)
    with pytest.raises(RuntimeError, match="broken"):
        small_model().learn(200, callback)
    assert callback.state() == {**before, "next_evaluation": 60}


@pytest.mark.e2e
@pytest.mark.parametrize("at_look", [1, 2, 9, 15])
def test_evaluation_that_is_to_stop_leaves_no_trace_and_is_made_up_for(tmp_path, trained, at_look):
    looks = []

    def should_stop():
        looks.append(model.num_timesteps)
        return len(looks) >= at_look

    stopped = evaluation(should_stop=should_stop, log_path=tmp_path, best_model_save_path=tmp_path)
    before, model = stopped.state(), small_model()
    model.learn(200, stopped)
    assert looks == [80] * at_look and model.num_timesteps == 80  # no step more, and no other evaluation at the end
    assert stopped.state() == {**before, "next_evaluation": 60} and list(tmp_path.iterdir()) == []
    model.save(tmp_path / "model")
    resumed, (_, whole, _) = evaluation(), trained
    resumed.set_state(stopped.state())
    MATRL.load(tmp_path / "model", env=RandomLength, device="cpu").learn(120, resumed, reset_num_timesteps=False)
    assert resumed.timesteps == whole.timesteps == [80, 120, 200]
    for ours, theirs in zip(resumed.sampled + resumed.greedy, whole.sampled + whole.greedy, strict=True):
        np.testing.assert_array_equal(ours.lengths, theirs.lengths)


def test_documents_stand_beside_the_best_model(tmp_path):
    small_model().learn(40, evaluation(best_model_save_path=tmp_path, documents={"run": {"env": "mine"}}))
    assert read_archive(tmp_path / "best_model.zip")[0]["run"] == {"env": "mine"}


def test_state_of_something_else_is_refused():
    with pytest.raises(ValueError, match="not the state of evaluations"):
        evaluation().set_state({"timesteps": []})


def test_the_environment_object_of_the_training_is_evaluated_in_a_copy():
    """Evaluations in the object itself would reset the training's episodes."""

    def trained(evaluated):
        env = RandomLength(long=7)
        model = MATRL("MlpPolicy", env, n_steps=10, batch_size=10, n_epochs=1, br_n_epochs=1, seed=0, device="cpu")
        callback = MultiAgentEvalCallback(env, n_eval_episodes=2, eval_freq=10, verbose=0) if evaluated else None
        return model.learn(40, callback=callback), callback

    (alone, _), (model, callback) = trained(False), trained(True)
    assert len(callback.timesteps) == 4
    lengths, expected = ([one["l"] for one in each.ep_info_buffer] for each in (model, alone))
    assert lengths and lengths == expected
    assert th.equal(flat_parameters(model), flat_parameters(alone))
