import pytest
from hypothesis import given
from hypothesis import strategies as st

from sb3_matrl.utils.suggest import did_you_mean, unknown

ENVS = ["checkers_v0", "switch_v0"]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("checkers_v1", "; did you mean 'checkers_v0'?"),
        ("Switch_V0", "; did you mean 'switch_v0'?"),
        ("hopper", ""),
        ("", ""),
    ],
)
def test_closest_known_name_is_suggested(word, expected):
    assert did_you_mean(word, ENVS) == expected


def test_known_names_may_be_any_iterable():
    assert did_you_mean("lrr", (name for name in ["lr", "seed"])) == "; did you mean 'lr'?"


def test_sentence_says_what_was_wrong_and_what_is_known():
    assert unknown("env", "checkers_v1", ENVS) == (
        "env 'checkers_v1' is unknown; did you mean 'checkers_v0'? Known: checkers_v0, switch_v0"
    )


def test_sentence_without_a_suggestion():
    assert unknown("env", "hopper", ENVS) == "env 'hopper' is unknown. Known: checkers_v0, switch_v0"
    assert unknown("env", "hopper", []) == "env 'hopper' is unknown. Known: none"


@pytest.mark.e2e
@given(st.text(), st.lists(st.text(min_size=1)))
def test_sentence_always_has_its_stop_before_the_known_names(word, names):
    sentence = unknown("agent", word, names)
    assert sentence.startswith(f"agent {word!r} is unknown")
    rest = sentence.removeprefix(f"agent {word!r} is unknown")
    known = f" Known: {', '.join(names) or 'none'}"
    assert rest == f".{known}" or any(rest == f"; did you mean {name!r}?{known}" for name in names)
