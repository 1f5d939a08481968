import json

import numpy as np
import pytest

from sb3_matrl.evaluation import EvaluationResult
from sb3_matrl.zoo.common.references import References, best_team_return
from tests.evaluation.worlds import RandomLength

RANDOM = EvaluationResult(("a", "b"), np.array([1.0, 2.0]), np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([3, 3]))


class KnowsItsBest(RandomLength):
    best_team_return = 60


class SaysNonsense(RandomLength):
    best_team_return = "a lot"


def test_environment_says_the_optimum():
    assert best_team_return("checkers_v0", {}) == 41.26
    assert best_team_return("checkers_v0", {"step_cost": 0.0}) is None
    assert best_team_return("tests.zoo.test_references:KnowsItsBest", {"long": 30}) == 60.0
    assert best_team_return("tests.zoo.test_references:SaysNonsense", {}) is None


def test_wrappers_may_change_rewards_so_the_optimum_is_unknown():
    assert References.of(RANDOM, "checkers_v0", {}, wrapped=False).levels == {"chance": 1.5, "optimum": 41.26}
    assert References.of(RANDOM, "checkers_v0", {}, wrapped=True).levels == {"chance": 1.5}


@pytest.mark.parametrize("references", [References(), References(0.5), References(-0.5, 41.26)])
def test_file_is_read_back(tmp_path, references):
    references.write(tmp_path / "new" / "references.json")
    assert References.read(tmp_path / "new" / "references.json") == references


def test_file_that_is_missing_holds_nothing_and_a_damaged_one_is_told(tmp_path):
    path = tmp_path / "references.json"
    assert References.read(path) == References()
    for text in ("{", "[1, 2]", json.dumps({"chance": 1}), "\0"):
        path.write_text(text)
        with pytest.raises(ValueError, match="it is damaged"):
            References.read(path)
    path.write_text(json.dumps({"chance": [1], "optimum": True}))
    assert References.read(path) == References()
