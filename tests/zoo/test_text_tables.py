import numpy as np

from sb3_matrl.evaluation import EvaluationResult
from sb3_matrl.zoo.common.text_tables import as_markdown, markdown, returns_table


def result(agent_returns, agents=("left", "right")):
    agent_returns = np.array(agent_returns, dtype=float)
    return EvaluationResult(agents, agent_returns.sum(axis=1), agent_returns, np.full(len(agent_returns), 7))


def test_columns_hold_the_numbers_of_team_and_agents():
    lines = returns_table({"sampled": result([[1, 0], [2, 0], [3, 3]])}).split("\n")
    # Returns of the team 1, 2, 6: mean 3, variance 14/3; interval 3 -+ 4.303 * sqrt(7 / 3).
    assert lines[1].split() == ["sampled", "team", "3.00", "2.16", "[-3.57,", "9.57]", "7.0", "3"]
    # Returns 1, 2, 3: interval 2 -+ 4.303 / sqrt(3).
    assert lines[2].split() == ["sampled", "left", "2.00", "0.82", "[-0.48,", "4.48]", "7.0", "3"]
    assert lines[3].split()[:3] == ["sampled", "right", "1.00"]


def test_a_single_episode_has_no_interval():
    (line, *_) = returns_table({"greedy": result([[1.5, 1.0]])}).split("\n")[1:]
    assert line.split() == ["greedy", "team", "2.50", "0.00", "-", "7.0", "1"]


def test_long_names_keep_the_columns_straight():
    agents = ("a", "adversary_of_all_others_0")
    lines = returns_table({"sampled": result([[1, 2], [3, 4]], agents)}).split("\n")
    assert {line.index(number) + len(number) for line, number in zip(lines[1:], ("5.00", "2.00", "3.00"), strict=True)} == {
        lines[0].index("mean") + len("mean")
    }
    assert len({len(line) for line in lines}) == 1


def test_agents_with_equal_returns_have_no_lines_of_their_own():
    lines = returns_table({"sampled": result([[1, 1], [2, 2]]), "greedy": result([[3, 3]])}).split("\n")[1:]
    assert [line.split()[:3] for line in lines] == [["sampled", "team", "3.00"], ["greedy", "team", "6.00"]]


def test_competing_agents_have_wins_and_margins_and_no_team():
    # One greedy game alone does not show whether the sum is constant; all policies together do.
    lines = returns_table({"sampled": result([[3, 1], [4, 0], [1, 3]]), "greedy": result([[4, 0]])}).split("\n")
    assert lines[0].split()[-4:] == ["won", "margin", "length", "episodes"]
    assert [line.split()[:3] for line in lines[1:]] == [
        ["sampled", "left", "2.67"],
        ["sampled", "right", "1.33"],
        ["greedy", "left", "4.00"],
        ["greedy", "right", "0.00"],
    ]
    assert lines[1].split()[-4:] == ["67%", "1.33", "7.0", "3"] and lines[4].split()[-4:] == ["0%", "-4.00", "7.0", "1"]
    assert len({len(line) for line in lines}) == 1


def test_lines_of_many_agents_can_be_left_out():
    many = result([[1, 2, 4], [4, 5, 6]], ("a", "b", "c"))
    assert len(returns_table({"sampled": many}, most_agents=2).split("\n")) == 2
    assert len(returns_table({"sampled": many}, most_agents=3).split("\n")) == 5


def test_no_text_breaks_a_markdown_table():
    lines = markdown(["a|b", "c"], [["x\ny", "1|2"]]).split("\n")
    assert lines == [r"| a\|b |    c |", "| ---- | ---: |", r"| x y  | 1\|2 |"]


def test_names_are_shown_as_they_are():
    assert as_markdown("agent_0") == "agent_0"
    assert as_markdown("_a_ *b* `c` <d> [e](f)") == r"\_a\_ \*b\* \`c\` \<d> \[e\](f)"
