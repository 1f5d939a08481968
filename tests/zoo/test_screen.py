"""A command continues after the reader of its output has left."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.e2e

SCRIPT = """
import sys
from sb3_matrl.zoo.common.screen import output_without_reader_discarded
with output_without_reader_discarded():
    {use}
    for _ in range(3000):
        print("x" * 100, file=sys.{stream})
    sys.{stream}.flush()
    open(sys.argv[1], "w").write(sys.{stream}.name)
"""
TABLE = """from stable_baselines3.common.logger import HumanOutputFormat
    HumanOutputFormat(sys.stdout).write({"a": 1}, {"a": ()})"""


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_output_is_discarded(stream, tmp_path):
    done = tmp_path / "done"
    script = SCRIPT.format(use="pass", stream=stream)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", script, str(done)], **pipes)
    getattr(process, stream).readline()
    getattr(process, stream).close()
    other = process.stderr if stream == "stdout" else process.stdout
    assert other.read() == b"" and process.wait(60) == 0
    assert done.read_text() == f"<{stream}>"


def test_sb3_s_table_is_printed_in_order_with_the_rest(tmp_path):
    script = SCRIPT.format(use=TABLE, stream="stdout")
    output = subprocess.run([sys.executable, "-c", script, str(tmp_path / "done")], capture_output=True, text=True, check=True)
    assert output.stderr == "" and output.stdout.startswith("-") and "| a | 1 |" in output.stdout
    assert output.stdout.count("x" * 100) == 3000


def test_streams_of_a_caller_stay(capsys):
    from sb3_matrl.zoo.common.screen import output_without_reader_discarded

    before = sys.stdout, sys.stderr
    with output_without_reader_discarded():
        assert (sys.stdout, sys.stderr) == before
        print("seen")
    assert capsys.readouterr().out == "seen\n"
