import io
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from rich.console import Console

from sb3_matrl.zoo.benchmark import IN_USE
from sb3_matrl.zoo.benchmarking import execution
from sb3_matrl.zoo.benchmarking.display import ProgressDisplay, last_lines
from sb3_matrl.zoo.benchmarking.execution import execute, process_launcher
from sb3_matrl.zoo.common.locking import locked_folder
from tests.zoo.benchmarking.small import Ended, plan

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(execution, "POLL_SECONDS", 0.01)


@pytest.fixture
def screen():
    return io.StringIO()


def display(screen, left, finished=()):
    return ProgressDisplay(finished, left, Console(file=screen, width=200))


def succeed(run):
    run.folder.path.mkdir(parents=True)
    run.result.write_text("{}")
    return Ended(0)


def test_failed_run_is_shown_and_does_not_stop_the_others(tmp_path, screen):
    runs = plan(tmp_path)

    def launch(run):
        if run is not runs[1]:
            return succeed(run)
        run.log.write_text("".join(f"line {i}\n\n" for i in range(20)) + "[red]ValueError: no[/red]\n")
        return Ended(1)

    outcome = execute(runs, launch, 2, display(screen, runs))
    assert outcome.failed == [runs[1]] and outcome.signal is None
    lines = [line.strip() for line in screen.getvalue().splitlines()]
    failed = next(i for i, line in enumerate(lines) if "FAILED with exit code 1" in line)
    assert runs[1].name in lines[failed] and str(runs[1].log) in lines[failed]
    assert lines[failed + 1 : failed + 9] == [*(f"line {i}" for i in range(13, 20)), "[red]ValueError: no[/red]"]
    assert [line for line in lines if line.endswith("finished")][-1].startswith("[4/4]")


def test_run_that_leaves_no_result_has_failed(tmp_path, screen):
    runs = plan(tmp_path)[:1]
    assert execute(runs, lambda run: Ended(0), 1, display(screen, runs)).failed == runs


def test_what_a_broken_run_left_is_gone_before_it_starts_again(tmp_path, screen):
    (run,) = plan(tmp_path)[:1]
    run.folder.path.mkdir(parents=True)
    (run.folder.path / "args.yml").write_text("half")
    seen = []

    def launch(run):
        seen.append(run.folder.path.exists())
        return succeed(run)

    assert execute([run], launch, 1, display(screen, [run])).failed == [] and seen == [False]


def test_no_more_runs_at_a_time_than_jobs(tmp_path, screen):
    active, most = set(), []

    class Slow:
        def __init__(self, run):
            self.run, self.polls = run, 0
            active.add(run.name)
            most.append(len(active))

        def poll(self):
            self.polls += 1
            if self.polls < 3:
                return None
            active.discard(self.run.name)
            return succeed(self.run).exit_code

    runs = plan(tmp_path, seeds=range(4))
    assert execute(runs, Slow, 3, display(screen, runs)).failed == []
    assert max(most) == 3 and len(most) == 8


def sleeping_launcher(processes):
    def launch(run):
        processes.append(subprocess.Popen(SLEEP, start_new_session=True))
        return processes[-1]

    return launch


@pytest.mark.cases(e2e=["2"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_ends_all_runs(tmp_path, screen, number):
    runs, processes, before = plan(tmp_path), [], signal.getsignal(number)
    timer = threading.Timer(0.3, os.kill, (os.getpid(), number))
    timer.start()
    outcome = execute(runs, sleeping_launcher(processes), 2, display(screen, runs))
    assert outcome.signal is number and outcome.failed == []
    assert [process.poll() for process in processes] == [-signal.SIGTERM] * 2
    assert signal.getsignal(number) is before


def test_runs_that_ignore_the_request_are_killed(tmp_path, screen, monkeypatch):
    monkeypatch.setattr(execution, "GRACE_SECONDS", 0.2)
    (run,), processes = plan(tmp_path)[:1], []
    ready = tmp_path / "ready"
    stubborn = "import signal, sys, time; signal.signal(15, signal.SIG_IGN); open(sys.argv[1], 'w'); time.sleep(60)"

    def launch(run):
        processes.append(subprocess.Popen([sys.executable, "-c", stubborn, str(ready)]))
        while not ready.exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        return processes[0]

    execute([run], launch, 1, display(screen, [run]))
    assert processes[0].wait(10) == -signal.SIGKILL


def test_error_while_starting_leaves_no_run_behind(tmp_path, screen):
    runs, processes = plan(tmp_path), []
    launch = sleeping_launcher(processes)

    def failing(run):
        if processes:
            raise OSError("no more processes")
        return launch(run)

    with pytest.raises(OSError, match="no more processes"):
        execute(runs, failing, 2, display(screen, runs))
    assert processes[0].poll() == -signal.SIGTERM


def test_folder_is_locked_as_long_as_a_run_lives(tmp_path, monkeypatch):
    monkeypatch.setattr(execution, "worker_command", lambda run: SLEEP)
    (run,) = plan(tmp_path)[:1]
    run.log.parent.mkdir(parents=True)
    with locked_folder(tmp_path / "out", IN_USE) as lock:
        process = process_launcher(lock)(run)
        with pytest.raises(ValueError, match="in use by another benchmark"), locked_folder(tmp_path / "out", IN_USE):
            pass
    with pytest.raises(ValueError, match="a run that one left behind"), locked_folder(tmp_path / "out", IN_USE):
        pass
    process.kill()
    process.wait()
    with locked_folder(tmp_path / "out", IN_USE):
        assert (tmp_path / "out").is_dir()


def test_local_run_gets_its_words_threads_and_log(tmp_path, monkeypatch):
    (run,) = plan(tmp_path, num_threads=3)[:1]
    command = execution.worker_command(run)
    assert command[:3] == [sys.executable, "-m", "sb3_matrl.zoo.benchmarking.worker"] and command[3:] == list(run.words)
    script = "import os, sys; print(os.environ['OMP_NUM_THREADS']); print('oops', file=sys.stderr)"
    monkeypatch.setattr(execution, "worker_command", lambda run: [sys.executable, "-c", script])
    run.log.parent.mkdir(parents=True)
    with locked_folder(tmp_path, IN_USE) as lock:
        assert process_launcher(lock)(run).wait() == 0
    assert sorted(last_lines(run.log)) == ["3", "oops"]


def test_bars_show_steps_of_every_run_and_of_all(tmp_path, screen):
    done, first, second, _ = runs = plan(tmp_path)
    with ProgressDisplay([done], runs[1:], Console(file=screen, width=150, force_terminal=True)) as bars:
        bars.started(first)
        bars.advanced(first, 100)
        bars.started(second)
        bars.advanced(second, 10_000)
        tasks = {task.description: (task.completed, task.total) for task in bars._progress.tasks}
        assert tasks == {"1 of 4 runs": (200 + 100 + 200, 800), first.name: (100, 200), second.name: (200, 200)}
        bars.finished(second)
        bars.failed(first, 1)
        tasks = {task.description: (task.completed, task.total) for task in bars._progress.tasks}
        # A failed run's steps are no longer to be done.
        assert tasks == {"3 of 4 runs": (400, 600)}
    assert "1 of 4 runs were finished before" in screen.getvalue()
