"""Multi-agent trust region learning for Stable-Baselines3 and PettingZoo."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sb3_matrl.common.algorithm import MultiAgentAlgorithm
    from sb3_matrl.common.loading import load_model
    from sb3_matrl.matrl import MATRL
    from sb3_matrl.matrl.coordinator import MATRLCoordinator
    from sb3_matrl.matrl.metagame_report import MetaGameReport
    from sb3_matrl.off_policy.comix import COMIX
    from sb3_matrl.off_policy.iddpg import IDDPG
    from sb3_matrl.off_policy.iql import IQL
    from sb3_matrl.off_policy.maddpg import MADDPG
    from sb3_matrl.off_policy.qdpp import QDPP
    from sb3_matrl.off_policy.qmix import QMIX
    from sb3_matrl.off_policy.qtran import QTRAN
    from sb3_matrl.off_policy.vdn import VDN

__all__ = [
    "COMIX",
    "IDDPG",
    "IQL",
    "MADDPG",
    "MATRL",
    "QDPP",
    "QMIX",
    "QTRAN",
    "VDN",
    "MATRLCoordinator",
    "MetaGameReport",
    "MultiAgentAlgorithm",
    "load_model",
]
__version__ = "0.2.0"

# Name -> module; imported on first use, so that importing the package alone is fast.
_HOMES = {
    "MATRL": "matrl.matrl",
    "MATRLCoordinator": "matrl.coordinator",
    "MetaGameReport": "matrl.metagame_report",
    "MultiAgentAlgorithm": "common.algorithm",
    "IQL": "off_policy.iql",
    "VDN": "off_policy.vdn",
    "QMIX": "off_policy.qmix",
    "QTRAN": "off_policy.qtran",
    "QDPP": "off_policy.qdpp",
    "IDDPG": "off_policy.iddpg",
    "MADDPG": "off_policy.maddpg",
    "COMIX": "off_policy.comix",
    "load_model": "common.loading",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
