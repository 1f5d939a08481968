"""Words of the command line as ``wandb agent`` sends them, turned into those that the parser of ``train.py`` reads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches

from sb3_matrl.zoo.common.cli import StrictParser

_NULLS = ("None", "null")
# Flags that take ``key:value`` words; a dot after their name gives the key.
_MAPPINGS = ("--hyperparams", "--env-kwargs", "--eval-env-kwargs")
# Similarity from which a word is a misspelt flag; no hyper-parameter is that close to one.
_MISSPELT = 0.9


def normalise_words(words: Iterable[str], parser: StrictParser) -> list[str]:
    """
    Put ``${args}`` of a W&B sweep into the parser's own form; words that have it already are left alone.

    Flags may be spelt with underscores. ``--seed=None`` leaves a flag at its default of ``None``. A hyper-parameter is a flag
    of its own: ``--learning_rate=0.001``, ``--policy_kwargs.net_arch=[64, 64]``. So is a key of a mapping:
    ``--env_kwargs.n_agents=2``. ``_wandb``, which W&B adds to resumed runs, is dropped.

    :param words: words of the command line, without the program's name; a hyper-parameter and its value are one word
    :param parser: parser of ``train.py``
    :return: words for the parser
    :raises ValueError: on a name that is neither a flag nor a hyper-parameter, or a hyper-parameter without a value
    """
    return [normal for word in words for normal in _normalise_word(word, parser)]


def _normalise_word(word: str, parser: StrictParser) -> Sequence[str]:
    name, equals, value = word.partition("=")
    head, dot, rest = name.partition(".")
    if head.lstrip("-") == "_wandb":
        return ()
    flag = head.replace("_", "-")
    if not word.startswith("--") or flag == "--":
        return (word,)
    if flag in parser.flags and not dot:
        is_default = equals and value in _NULLS and parser.default_of(flag) is None
        return () if is_default else (f"{flag}{equals}{value}",)
    if flag in _MAPPINGS:
        return (f"{flag}={rest}:{_required(name, equals, value)}",)
    if flag in parser.flags or get_close_matches(flag, parser.flags, n=1, cutoff=_MISSPELT):
        raise parser.unknown_flag(word)
    return _hyper_parameter(word, parser)


def _hyper_parameter(word: str, parser: StrictParser) -> Sequence[str]:
    # The names come from the constructors, whose import takes seconds: mistakes in flags are reported before.
    from sb3_matrl.common.registry import installed_algorithms
    from sb3_matrl.zoo.common.hyperparameters import schema_fields

    name, equals, value = word.partition("=")
    head, dot, rest = name.partition(".")
    field = head[2:].replace("-", "_")
    known = schema_fields()
    # What an algorithm fixes is no hyper-parameter, and the error that says so names the algorithm.
    if field in known or any(field in spec.fixed for spec in installed_algorithms()):
        return (f"--hyperparams={field}{dot}{rest}:{_required(name, equals, value)}",)
    if equals:
        raise parser.unknown_flag(name, [f"--{one}" for one in known])
    return (word,)


def _required(name: str, equals: str, value: str) -> str:
    if not equals:
        raise ValueError(f"{name} needs its value in the same word, as in {name}=0.5. See --help.")
    return value
