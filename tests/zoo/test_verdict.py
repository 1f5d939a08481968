import numpy as np
import pytest

from sb3_matrl.zoo.reporting.run_loading import Progress
from sb3_matrl.zoo.reporting.verdict import verdict


def progress(rho, clipped=0.1, sizes=0.9, equilibria=1, best_response=True, iterations=None):
    """
    The log of a run with two agents, in which every second row is that of an evaluation.

    :param rho: weights on the current policies, shape (iterations, 2)
    """
    rho = np.array(rho, dtype=float)
    count = len(rho)
    columns = {
        "time/iterations": np.arange(1, count + 1) if iterations is None else np.array(iterations),
        "metagame/n_equilibria": np.full(count, equilibria),
    }
    for i, agent in enumerate(("left", "right")):
        numbers = {"rho": rho[:, i], "clip_fraction": np.full(count, clipped)}
        if best_response:
            numbers |= {"weight_clip_fraction": np.full(count, 0.02), "effective_sample_size": np.full(count, sizes)}
            columns[f"{agent}/br/n_updates"] = np.full(count, 5)
        columns |= {f"{agent}/metagame/{name}": column for name, column in numbers.items()}
    table = {"time/total_timesteps": 100.0 * np.arange(1, 2 * count + 1)}
    for key, column in columns.items():
        table[key] = np.full(2 * count, np.nan)
        table[key][::2] = column
    return Progress(table, [], 0)


@pytest.mark.parametrize(("best_response", "other"), [(True, "il-la"), (False, "ippo")])
def test_a_game_that_restricts_nobody_is_called_by_its_name(best_response, other):
    first, *_ = verdict(progress(np.zeros((7, 2)), best_response=best_response))
    assert first == (
        "rho was 0 in 7 of 7 iterations: the game kept no agent at its current policy, and this run took the steps of "
        f"{other}; see 'Which method' in the documentation."
    )


def test_with_other_strategies_it_is_no_other_algorithm():
    log = progress(np.zeros((7, 2)))
    more = Progress({**log.numbers, "left/metagame/sigma_current": log.numbers["left/metagame/rho"]}, [], 0)
    assert verdict(more)[0] == "rho was 0 in 7 of 7 iterations: the game kept no agent at its current policy."


def test_restrictions_are_counted_per_agent():
    rho = [[0, 0], [1, 1], [0.5, 0], [1, 0], [0, 1e-6], [0, 0], [0, 0], [0, 0]]
    first, second = verdict(progress(rho))
    assert first == (
        "The game restricted an agent (rho > 0) in 3 of 8 iterations, 38%: left in 3, right in 1; mean rho 0.22. In 1, all "
        "agents kept their current policies. The other 5 were steps of il-la; see 'Which method' in the documentation."
    )
    assert second == (
        "On average 10% of the ratios in the payoffs were clipped, 2.0% of the best-response weights, the effective sample "
        "size was 90%."
    )


def test_a_game_that_always_restricts_took_no_other_steps():
    first, *_ = verdict(progress([[0.5, 0.5]] * 3))
    assert "in 3 of 3 iterations, 100%" in first and "The other" not in first


def test_much_clipping_and_few_samples_are_remarked():
    *_, clipping, samples = verdict(progress([[0, 0]], clipped=0.5, sizes=0.2))
    assert clipping.startswith("So many clipped ratios") and samples.startswith("The best responses rest on few samples")
    assert len(verdict(progress([[0, 0]]))) == 2


def test_rows_that_were_not_logged_are_not_claimed():
    assert "in 2 of 2 logged iterations" in verdict(progress([[0, 0]] * 2, iterations=[10, 20]))[0]


def test_rows_between_the_numbered_ones_are_logged_iterations():
    # Rows of evaluations, which have no number, hold the meta-game if the log has not every iteration.
    log = progress([[0, 0]] * 2, iterations=[np.nan, np.nan])
    assert "in 2 of 2 logged iterations" in verdict(log)[0]
    unnumbered = {key: column for key, column in log.numbers.items() if key != "time/iterations"}
    assert "in 2 of 2 logged iterations" in verdict(Progress(unnumbered, [], 0))[0]


def test_a_run_that_continues_a_model_has_logged_all_its_iterations():
    assert "in 2 of 2 iterations" in verdict(progress([[0, 0]] * 2, iterations=[5, 6]))[0]
    assert "in 1 of 1 iterations" in verdict(progress([[0, 0]], iterations=[1]))[0]


def test_without_a_meta_game_there_is_nothing_to_say():
    assert verdict(progress([[0, 0]] * 3, equilibria=-1)) == ()
    assert verdict(Progress({"time/total_timesteps": np.arange(3.0)}, [], 0)) == ()
