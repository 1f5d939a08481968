"""Deprecated path of :mod:`sb3_matrl.files.model_files`."""

from __future__ import annotations

import warnings

from sb3_matrl.files.model_files import *  # noqa: F403

warnings.warn("import sb3_matrl.files.model_files instead of sb3_matrl.common.model_file", DeprecationWarning, stacklevel=2)
