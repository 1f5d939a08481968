"""Import paths of version 0.1 that still work, with a warning."""

import pytest

from sb3_matrl.common import callbacks
from sb3_matrl.evaluation import MultiAgentEvalCallback
from sb3_matrl.files import model_files


def test_evaluation_callback_is_found_under_its_old_path():
    with pytest.warns(DeprecationWarning, match="from sb3_matrl.evaluation"):
        assert callbacks.MultiAgentEvalCallback is MultiAgentEvalCallback
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        _ = callbacks.Nonsense


def test_model_files_are_found_under_their_old_path():
    with pytest.warns(DeprecationWarning, match="sb3_matrl.files.model_files"):
        from sb3_matrl.common import model_file
    assert model_file.read_model is model_files.read_model
