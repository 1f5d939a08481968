import numpy as np
import pytest

from sb3_matrl.zoo.reporting.run_loading import read_evaluations, read_progress, run_names
from tests.zoo.reporting.pages import report, synthetic_run


def test_damaged_rows_are_skipped(tmp_path):
    path = synthetic_run(tmp_path / "run") / "progress.csv"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:3], "1,2\n", *lines[3:]])[:-3])  # a short row, and the last one cut off
    progress = read_progress(path)
    assert progress.dropped == 2 and len(progress.fixed_points) == 19
    steps, values = progress.curve("metagame/nash_conv")
    np.testing.assert_array_equal(steps, 100 * np.arange(1, 20))
    np.testing.assert_array_equal(values, np.arange(19))


def test_cells_that_are_no_numbers_are_skipped_in_a_curve(tmp_path):
    path = tmp_path / "progress.csv"
    path.write_text("time/total_timesteps,a\n1,5\n2,\n3,oops\n4,nan\n5,7\n6,1e308\n")
    steps, values = read_progress(path).curve("a")
    assert steps.tolist() == [1, 5] and values.tolist() == [5, 7]
    assert not len(read_progress(path).curve("unknown")[0])


@pytest.mark.cases(expensive=["a,b\\n1,2\\n", "time/total_timesteps,a\\n1,2"])
@pytest.mark.parametrize("text", ["", "a,b\n1,2\n", "time/total_timesteps,a\n", "time/total_timesteps,a\n1,2", "\0\xff"])
def test_log_without_a_whole_row_is_named_and_the_rest_is_reported(tmp_path, capsys, text):
    run = synthetic_run(tmp_path / "run")
    (run / "progress.csv").write_text(text)
    report(run, "--no-frames")
    assert "warning: " in capsys.readouterr().err
    assert "progress.csv cannot be used" in (run / "report.html").read_text(encoding="utf-8")


@pytest.mark.e2e
def test_damaged_evaluations_are_named_and_the_rest_is_reported(tmp_path):
    run = synthetic_run(tmp_path / "run")
    whole = (run / "evaluations.npz").read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"garbage", whole[:-1]):
        (run / "evaluations.npz").write_bytes(content)
        report(run, "--no-frames")
        assert "evaluations.npz cannot be used" in (run / "report.html").read_text(encoding="utf-8")


def test_evaluations_never_run_pickles(tmp_path):
    run = synthetic_run(tmp_path / "run")
    arrays = dict(np.load(run / "evaluations.npz"))
    np.savez(run / "evaluations.npz", **{**arrays, "results": np.array([object()])})
    with pytest.raises(ValueError, match="damaged"):
        read_evaluations(run / "evaluations.npz")
    np.savez(run / "evaluations.npz", **{**arrays, "results": arrays["results"][:, 1:]})
    with pytest.raises(ValueError, match="do not fit together"):
        read_evaluations(run / "evaluations.npz")


def test_names_of_runs_are_unique(tmp_path):
    paths = [tmp_path / "a/matrl/x_1", tmp_path / "b/matrl/x_1", tmp_path / "b/matrl/x_2"]
    assert run_names(paths[1:]) == ["matrl/x_1", "matrl/x_2"]
    assert run_names(paths) == ["a/matrl/x_1", "b/matrl/x_1", "b/matrl/x_2"]
