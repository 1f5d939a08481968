import numpy as np

from sb3_matrl.evaluation import EvaluationResult
from sb3_matrl.zoo.common.run_folder import RunFolder
from sb3_matrl.zoo.training.curves import LearningCurve
from sb3_matrl.zoo.training.training_summary import Duration, final_rewards, summary


def result(agent_returns):
    returns = np.array(agent_returns, dtype=float)
    return EvaluationResult(("a", "b"), returns.sum(axis=1), returns, np.full(len(returns), 7))


TEAM = {"sampled": result([[1, 0], [2, 1]]), "greedy": result([[3, 1]])}
GAME = {"sampled": result([[1, -1], [-3, 3]]), "greedy": result([[2, -2]])}


def test_final_rewards_are_those_of_the_team_and_of_competing_agents():
    assert final_rewards(TEAM) == {"final/sampled_reward": 2.0, "final/greedy_reward": 4.0}
    agents = {"final/a/sampled_reward": -1.0, "final/b/sampled_reward": 1.0}
    agents |= {"final/a/greedy_reward": 2.0, "final/b/greedy_reward": -2.0}
    assert final_rewards(GAME) == {"final/sampled_reward": 0.0, "final/greedy_reward": 0.0, **agents}


def test_length_counts_this_start_and_all_starts():
    assert str(Duration(100, 100, 2.0)) == "100 steps in 2.0 s (50 steps/s with evaluations)"
    assert str(Duration(100, 300, 2.0)).endswith(", 300 in all")


def test_summary_names_the_files_that_there_are(tmp_path):
    folder = RunFolder(tmp_path, "my_env")
    for path in (folder.last_model, folder.best_model):
        path.touch()
    for results, which in ((TEAM, "best"), (GAME, "latest")):
        curve = LearningCurve([10, 20], [results["sampled"]] * 2, [results["greedy"]] * 2)
        lines = summary("title", Duration(1, 1, 1.0), folder, curve, results).split("\n")
        place = lines.index(f"Files in {tmp_path}:")
        assert lines[place + 1 :] == [
            "  my_env.zip      last model",
            f"  best_model.zip  model of the {which} evaluation, after 20 steps",
        ]
        assert not any(line.startswith("Meta-game") for line in lines)  # there is no log
