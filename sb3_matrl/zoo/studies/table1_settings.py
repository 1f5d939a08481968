"""Settings of the learners in Table 1, and their published numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sb3_matrl.games import Learner, make_learner


@dataclass(frozen=True)
class Reference:
    """
    Published numbers of one learner on one class of the paper's games.

    :param converged: share of games within 0.05 of an equilibrium after at most 1,000 steps, in per cent
    :param mean_step: mean first such step over these games
    """

    converged: float
    mean_step: float


#: Per class: coordination, anticoordination, cyclic.
References = tuple[Reference, Reference, Reference]


@dataclass(frozen=True)
class Setting:
    """
    One line of the table.

    :param label: unique label
    :param group: name of the comparison that the line belongs to
    :param learner: learner with all its options
    :param paper: Table 1's numbers
    :param independent: numbers of an independent second implementation, rounded to the digits given
    """

    label: str
    group: str
    learner: Learner[Any]
    paper: References | None = None
    independent: References | None = None

    def options(self) -> dict[str, Any]:
        """Options of the learner."""
        return asdict(self.learner)  # type: ignore[call-overload,no-any-return]


PAPER = "the paper's settings"
EQUAL = "the other learners with MATRL's best-response step"
LARGE = "a predicted step of 1"
TRUST_REGION = "trust region"


def _references(*pairs: tuple[float, float]) -> References:
    first, second, third = (Reference(*pair) for pair in pairs)
    return first, second, third


SETTINGS = (
    Setting(
        "IGA",
        PAPER,
        make_learner("iga"),
        paper=_references((99, 140.67), (97.5, 88.95), (78.0, 452.92)),
        independent=_references((98.8, 128), (97.5, 97), (76, 444)),
    ),
    Setting(
        "IGA-PP, projected forecast",
        PAPER,
        make_learner("iga-pp", project_forecast=True),
        paper=_references((99, 138.56), (97.5, 83.11), (80.9, 432.98)),
    ),
    Setting(
        "IGA-PP",
        PAPER,
        make_learner("iga-pp"),
        paper=_references((99, 138.56), (97.5, 83.11), (80.9, 432.98)),
        independent=_references((98.8, 127), (98.4, 95), (81, 429)),
    ),
    Setting(
        "WoLF-IGA, 0.01 and 0.06",
        PAPER,
        make_learner("wolf-iga"),
        independent=_references((99.4, 70), (98.7, 48), (95.3, 164)),
    ),
    Setting(
        "MATRL",
        PAPER,
        make_learner("matrl"),
        paper=_references((99, 86.54), (98.3, 75.52), (84.6, 369.40)),
        independent=_references((99.2, 88), (98.3, 69), (85, 337)),
    ),
    Setting("MATRL w/o BR", PAPER, make_learner("matrl-no-br")),
    Setting("IL-LA", PAPER, make_learner("il-la")),
    Setting(
        "IGA, 0.03",
        EQUAL,
        make_learner("iga", step_size=0.03),
        independent=_references((99.2, 89), (98.3, 71), (83, 338)),
    ),
    Setting(
        "IGA-PP, 0.03",
        EQUAL,
        make_learner("iga-pp", step_size=0.03),
    ),
    Setting("IGA, 1", LARGE, make_learner("iga", step_size=1.0)),
    Setting("IL-LA, predicted 1", LARGE, make_learner("il-la", predicted_step=1.0)),
    Setting("MATRL, predicted 1", LARGE, make_learner("matrl", predicted_step=1.0)),
    Setting("MATRL-TR w/o meta-game", TRUST_REGION, make_learner("matrl-tr", metagame=False)),
    Setting("MATRL-TR", TRUST_REGION, make_learner("matrl-tr")),
)
