"""The files of a log can be continued: rows after a checkpoint are removed, values not yet written are kept."""

import csv
import json
import shutil
from contextlib import closing

import numpy as np
import pytest
from stable_baselines3.common.logger import FormatUnsupportedError, Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from sb3_matrl.zoo.training.output_formats import (
    CsvTable,
    EventFile,
    FileFormat,
    RunLogger,
    event_file_errors_printed_once,
)


def write(table, **values):
    table.write(values, {key: () for key in values})


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def table(tmp_path):
    table = CsvTable(tmp_path / "progress.csv")
    yield table
    table.close()


def test_rows_after_a_cut_are_forgotten_and_later_ones_take_their_place(table):
    for step in range(4):
        write(table, step=step)
    table.cut(2)
    assert table.n_rows == 2 and [row["step"] for row in rows(table.path)] == ["0", "1"]
    write(table, step=7)
    assert table.n_rows == 3 and [row["step"] for row in rows(table.path)] == ["0", "1", "7"]


def test_columns_that_only_forgotten_rows_had_stay(table):
    write(table, step=0)
    write(table, late=5, step=1)
    table.cut(1)
    write(table, late=6, step=2)
    assert rows(table.path) == [{"step": "0", "late": ""}, {"step": "2", "late": "6"}]


def test_all_rows_can_be_forgotten(table):
    write(table, step=0)
    table.cut(0)
    write(table, step=3)
    assert [row["step"] for row in rows(table.path)] == ["3"]


def test_rows_that_are_missing_are_told(table):
    write(table, step=0)
    with pytest.warns(UserWarning, match=r"progress.csv has only 1 of its 3 rows; the others are lost"):
        table.cut(3)
    write(table, step=1)
    assert table.n_rows == 2 and len(rows(table.path)) == 2


def test_row_that_was_cut_short_by_a_kill_is_left_out(tmp_path):
    path = tmp_path / "progress.csv"
    path.write_text("step,value\n1,2\n3,")
    table = CsvTable(path)
    assert table.n_rows == 1
    table.cut(1)
    write(table, step=5, value=6)
    table.close()
    assert rows(path) == [{"step": "1", "value": "2"}, {"step": "5", "value": "6"}]


HOSTILE = ("(0, 1)", "a,b", 'a "quoted" name', "'single'", "red/tank_00", " space ", "#", "=1+1", "ÄÖ")


def test_any_name_is_read_back_by_the_csv_module(table):
    write(table, **{name: 0.5 for name in HOSTILE[:4]})
    write(table, **{name: f"of {name}" for name in HOSTILE})
    table.cut(2)
    first, second = rows(table.path)
    assert second == {name: f"of {name}" for name in HOSTILE}
    assert first == {name: "0.5" if name in HOSTILE[:4] else "" for name in HOSTILE}
    with closing(CsvTable(table.path)) as again:
        write(again, **dict.fromkeys(HOSTILE, 1))
    assert rows(table.path)[-1] == dict.fromkeys(HOSTILE, "1")


def test_line_breaks_are_written_as_escapes_so_that_every_row_is_a_line(table):
    write(table, **{"a\nb": "two\r\nlines"})
    assert rows(table.path) == [{r"a\nb": r"two\r\nlines"}]
    assert table.path.read_text().count("\n") == 2


def test_pictures_are_rejected_before_anything_is_written(table):
    write(table, step=0)
    with pytest.raises(FormatUnsupportedError, match="image"):
        write(table, step=1, picture=Image(np.zeros((2, 2, 3)), "HWC"))
    assert rows(table.path) == [{"step": "0"}]


def test_error_of_tensorboard_s_thread_is_raised_without_a_traceback_of_the_thread(tmp_path, capfd):
    with event_file_errors_printed_once():
        events = EventFile(tmp_path / "run")
        write(events, value=1.0)
        events.writer.flush()
        shutil.rmtree(tmp_path / "run")
        with pytest.raises(FileNotFoundError):
            for _ in range(20):
                write(events, value=1.0)
                events.writer.flush()
    assert "Traceback" not in capfd.readouterr().err


def test_logger_goes_on_with_what_waited_to_be_written(tmp_path, table):
    logger = RunLogger(str(tmp_path), [table], table)
    logger.record("loss", np.float32(0.1))
    logger.dump(1)
    logger.record("loss", np.float32(0.3), exclude="tensorboard")
    logger.record("note", "text")
    logger.record("picture", np.zeros((2, 2)))
    for value in (1.0, 2.0):
        logger.record_mean("mean", value)
    state = json.loads(json.dumps(logger.state(), allow_nan=False))
    logger.dump(2)
    logger.record("forgotten", 1)

    resumed = RunLogger(str(tmp_path), [table], table)
    resumed.record("forgotten", 1)
    resumed.set_state(state)
    assert resumed.name_to_excluded["loss"] == ("tensorboard",) and "picture" not in resumed.name_to_value
    assert type(resumed.name_to_value["loss"]) is np.float32
    resumed.record_mean("mean", 6.0)
    resumed.dump(2)
    first, second = rows(table.path)
    assert first["loss"] == str(np.float32(0.1))
    # The mean of 1, 2 and 6 needs how many there were, too.
    assert (second["loss"], second["note"], second["mean"]) == (str(np.float32(0.3)), "text", "3.0")
    assert not second.get("forgotten")


def test_tensorboard_hides_what_is_gone_over_again(tmp_path):
    def log(purge_step, points):
        file = EventFile(tmp_path, purge_step)
        for step, value in points:
            file.write({"eval": value}, {"eval": ()}, step)
        file.close()

    log(None, [(100, 1.0), (200, 2.0), (300, 3.0)])
    log(201, [(300, 4.0), (400, 5.0)])
    events = EventAccumulator(str(tmp_path)).Reload().Scalars("eval")
    assert [(event.step, event.value) for event in events] == [(100, 1.0), (200, 2.0), (300, 4.0), (400, 5.0)]


def test_full_disk_names_the_file_once(tmp_path, table, monkeypatch):
    def fail(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(table, "write", fail)
    monkeypatch.setattr(table, "close", fail)
    output = FileFormat(table, table.path)
    with pytest.raises(OSError, match="No space left") as caught:
        output.write({}, {})
    assert caught.value.filename == str(table.path)
    output.close()  # has been told
    monkeypatch.undo()
