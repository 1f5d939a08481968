import os
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from sb3_matrl.zoo.common.run_folder import (
    RunFolder,
    check_output_folder,
    create_run_folder,
    find_run_folder,
    run_folders,
    safe_name,
)


@pytest.mark.parametrize(
    ("env_id", "name"),
    [("checkers_v0", "checkers_v0"), ("my.module:parallel_env", "my.module-parallel_env"), ("a/b\\c d", "a-b-c-d")],
)
def test_names_are_safe_in_paths(env_id, name):
    assert safe_name(env_id) == name


def test_numbers_go_on_after_the_highest(tmp_path):
    assert create_run_folder(tmp_path, "matrl", "e_v0").path == tmp_path / "matrl" / "e_v0_1"
    (tmp_path / "matrl" / "e_v0_7").mkdir()
    for other in ("e_v0_x", "e_v0_9_old", "e_v1_30", "xe_v0_40"):
        (tmp_path / "matrl" / other).mkdir()
    assert create_run_folder(tmp_path, "matrl", "e_v0").path == tmp_path / "matrl" / "e_v0_8"
    assert list(run_folders(tmp_path, "matrl", "e_v0")) == [1, 7, 8]
    assert create_run_folder(tmp_path, "ippo", "e_v0").path == tmp_path / "ippo" / "e_v0_1"


def test_runs_that_start_together_get_folders_of_their_own(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: create_run_folder(tmp_path, "matrl", "e"), range(24)))
    assert len({folder.path for folder in folders}) == 24


def test_latest_run_is_found_by_number_not_by_text(tmp_path):
    for k in (2, 9, 10):
        (tmp_path / "matrl" / f"e_{k}").mkdir(parents=True)
    assert find_run_folder(tmp_path, "matrl", "e").path.name == "e_10"
    assert find_run_folder(tmp_path, "matrl", "e", 9).path.name == "e_9"
    with pytest.raises(FileNotFoundError, match="matrl on e has no run 3; it has: 2, 9, 10"):
        find_run_folder(tmp_path, "matrl", "e", 3)
    with pytest.raises(FileNotFoundError, match="has no run of ippo on e; it has: matrl/e_10, matrl/e_2, matrl/e_9"):
        find_run_folder(tmp_path, "ippo", "e")


def test_unique_id_is_part_of_the_name_and_not_of_the_number(tmp_path):
    create_run_folder(tmp_path, "matrl", "e")
    path = create_run_folder(tmp_path, "matrl", "e", unique=True).path
    prefix, _, suffix = path.name.rpartition("_")
    assert prefix == "e_2" and str(uuid.UUID(suffix)) == suffix
    assert find_run_folder(tmp_path, "matrl", "e").path == find_run_folder(tmp_path, "matrl", "e", 2).path == path
    assert create_run_folder(tmp_path, "matrl", "e").path.name == "e_3"
    assert find_run_folder(tmp_path, "matrl", "e", 1).path.name == "e_1"
    # Runs of an environment called e_2, not of e.
    assert list(run_folders(tmp_path, "matrl", "e_2")) == []
    (tmp_path / "matrl" / "e_2_5").mkdir()
    assert list(run_folders(tmp_path, "matrl", "e")) == [1, 2, 3]


def test_of_runs_with_one_number_the_latest_is_found(tmp_path):
    folder = tmp_path / "matrl"
    for seconds, name in ((200, f"e_4_{uuid.UUID(int=7)}"), (300, f"e_4_{uuid.UUID(int=5)}"), (100, "e_4")):
        (folder / name).mkdir(parents=True)
        os.utime(folder / name, (seconds, seconds))
    assert find_run_folder(tmp_path, "matrl", "e", 4).path.name == f"e_4_{uuid.UUID(int=5)}"


def test_missing_log_folder_is_reported(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no run of matrl on e; it has no runs; train one with sb3-matrl train"):
        find_run_folder(tmp_path / "nowhere", "matrl", "e")


def test_checkpoints_are_listed_by_steps(tmp_path):
    folder = RunFolder(tmp_path, "e")
    assert folder.checkpoint_steps() == []
    folder.checkpoints.mkdir()
    for steps in (1000, 200):
        folder.checkpoint(steps).touch()
    (folder.checkpoints / "other.zip").touch()
    assert folder.checkpoint_steps() == [200, 1000]


def test_output_folder_must_be_new_or_empty(tmp_path):
    check_output_folder(tmp_path)
    check_output_folder(tmp_path / "new")
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="exists and is not empty; nothing is overwritten"):
        check_output_folder(tmp_path)
    with pytest.raises(ValueError, match="is a file"):
        check_output_folder(tmp_path / "file")
