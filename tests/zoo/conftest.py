"""Trainings of the command line leave a small picture, so that tests do not draw the same curve a hundred times."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from sb3_matrl.utils.atomic_file import atomic_file
from sb3_matrl.zoo.training import training_run
from sb3_matrl.zoo.training.curves import LearningCurve


class SmallCurve(LearningCurve):
    """A curve whose picture has one pixel. The real picture is tested in test_curves.py and by end-to-end tests."""

    def draw(self, path: Path, title: str) -> None:
        with atomic_file(path) as file:
            Image.new("RGB", (1, 1)).save(file, format=path.suffix[1:])


@pytest.fixture(scope="package", autouse=True)
def small_pictures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_run, "LearningCurve", SmallCurve)
        yield
