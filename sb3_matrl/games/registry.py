"""Learners by name."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from sb3_matrl.games.learners import IGA, IGAPP, Learner, WoLFIGA
from sb3_matrl.games.matrl import MATRL, TrustRegionMATRL
from sb3_matrl.utils.suggest import unknown


@dataclass(frozen=True)
class _Entry:
    """
    :param learner: the class
    :param fixed: options that the name stands for; they cannot be given
    """

    learner: type[Learner]
    fixed: dict[str, Any] = field(default_factory=dict)

    def options(self) -> list[str]:
        return [option.name for option in fields(self.learner) if option.name not in self.fixed]  # type: ignore[arg-type]


_ENTRIES = {
    "iga": _Entry(IGA),
    "iga-pp": _Entry(IGAPP),
    "wolf-iga": _Entry(WoLFIGA),
    "matrl": _Entry(MATRL, {"metagame": True, "best_response": True}),
    "matrl-no-br": _Entry(MATRL, {"metagame": True, "best_response": False, "best_response_step": 0.03}),
    "il-la": _Entry(MATRL, {"metagame": False, "best_response": True, "seed": 0}),
    "matrl-tr": _Entry(TrustRegionMATRL),
}
LEARNERS = tuple(_ENTRIES)


def make_learner(name: str, **options: Any) -> Learner:
    """
    A learner with Table 1's settings, or others.

    :param name: ``iga``, ``iga-pp``, ``wolf-iga``, ``matrl``, ``matrl-no-br``, ``il-la`` or ``matrl-tr``
    :param options: of the learner's class, e.g. ``step_size=0.03``
    :return: the learner
    :raises ValueError: on an unknown name or option, with the nearest one, or a step size of zero or below
    """
    if name not in _ENTRIES:
        raise ValueError(unknown("learner", name, _ENTRIES))
    entry = _ENTRIES[name]
    known = entry.options()
    for option in options:
        if option not in known:
            raise ValueError(unknown(f"option of {name!r}", option, known))
    return entry.learner(**options, **entry.fixed)
