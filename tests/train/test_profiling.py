"""A signal traces the next steps of a run, as often as it comes, and changes nothing else."""

import signal
import threading

import pytest
import tiny_system
from test_resume import assert_same_bits, reported, spawn, wait_for_step
from tiny_system import train

from tokjax.train.profiling import ON_SIGNAL, profiler

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="needs SIGUSR1")


def traces(workdir):
    """The first steps of the traces."""
    found = [path.relative_to(workdir / "profile").parts[0] for path in (workdir / "profile").rglob("*.xplane.pb")]
    return sorted(int(name.removeprefix("step-")) for name in found)


def signals_at(*steps):
    """An evaluation during which SIGUSR1 arrives."""

    def evaluate(state):
        if state.step in steps:
            signal.raise_signal(signal.SIGUSR1)
        return tiny_system.evaluate(state)

    return evaluate


@pytest.mark.slow
def test_signals_trace_the_next_steps_and_change_no_bits(tmp_path, capsys):
    before = signal.getsignal(signal.SIGUSR1)
    # The second comes during the trace that the first asks for; the last trace is cut short by the end of the run.
    state = train(tmp_path / "traced", steps=20, eval_every=1, evaluate=signals_at(2, 4, 9, 18))
    assert traces(tmp_path / "traced") == [3, 10, 19]
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tokjax: trace")]
    assert said == [
        f"tokjax: trace of steps {first} to {last} in {tmp_path / 'traced' / 'profile' / f'step-{first}'}"
        for first, last in ((3, 3 + ON_SIGNAL - 1), (10, 14), (19, 20))
    ]
    assert signal.getsignal(signal.SIGUSR1) == before
    assert_same_bits(state, train(tmp_path / "plain", steps=20, eval_every=1))
    assert reported(tmp_path / "traced") == reported(tmp_path / "plain")


def test_steps_that_were_asked_for_beforehand_end_a_trace_on_demand(tmp_path, capsys):
    train(tmp_path, steps=8, eval_every=1, evaluate=signals_at(2), profile_steps=(5, 6))
    assert traces(tmp_path) == [3, 5]
    said = capsys.readouterr().err
    assert "steps 3 to 4 in" in said and "steps 5 to 6 in" in said


def test_outside_the_main_thread_signals_are_left_alone(tmp_path):
    before, seen = signal.getsignal(signal.SIGUSR1), []

    def run():
        with profiler(tmp_path, None) as trace:
            trace(1, ())
            seen.append(signal.getsignal(signal.SIGUSR1))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [before]


@pytest.mark.slow
def test_a_running_process_traces_each_time_it_is_told_and_ends_in_the_same_bits(tmp_path):
    process = spawn(tmp_path / "traced", 60, 0.05)
    for step in (3, 20):
        wait_for_step(tmp_path / "traced", step, process)
        process.send_signal(signal.SIGUSR1)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and "stopped=None step=60" in output
    assert len(traces(tmp_path / "traced")) == 2
    train(tmp_path / "plain", steps=60)
    assert reported(tmp_path / "traced") == reported(tmp_path / "plain")
