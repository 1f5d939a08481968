"""Multi-agent trust region learning for Stable-Baselines3 and PettingZoo."""

from sb3_matrl.coordinator import MATRLCoordinator
from sb3_matrl.matrl import MATRL
from sb3_matrl.report import MetaGameReport

__all__ = ["MATRL", "MATRLCoordinator", "MetaGameReport"]
__version__ = "0.1.0"
