"""The process that runs one artifact: what it answers, and what is said when it dies, hangs or raises."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy
import pytest

from optlang.interfaces import Refusal
from optlang.measure.process import BareProcess, Begun, Environment, ProcessDied, ProcessError, ProcessTimeout, cores

ROOT = Path(__file__).parents[2]


def gone(number):
    """Whether the process ends within ten seconds."""
    for _ in range(1000):
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            return True
        # A child that nobody has waited for is there, but dead.
        status = Path(f"/proc/{number}/stat")
        if status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.01)
    return False


def test_outputs_come_in_batches_of_any_size_under_their_names(member_of, inputs):
    with BareProcess(member_of(factor=3)) as process:
        for batch in (1, 2, 5, 100):
            found = process.outputs(inputs, batch)
            assert set(found) == {"file", "pid"}
            assert (found["file"] == inputs["x"] * 3).all()
            assert (found["pid"] == process.pid).all()
            assert process.pid != os.getpid()


def test_fixed_batch_is_filled_up_and_cut_off(member_of, inputs):
    with BareProcess(member_of(about={"batch": 3})) as process:
        assert (process.outputs(inputs)["file"] == inputs["x"] * 2).all()


def test_a_process_that_was_begun_before_is_the_one_that_runs_it(member_of, inputs):
    member = member_of()
    begun = Begun(Environment.of(member))
    with BareProcess(member, begun=begun) as process:
        assert process.pid == begun.child.pid
        assert (process.outputs(inputs)["pid"] == process.pid).all()
        assert process.import_time > 0
    assert gone(begun.child.pid)
    assert not begun.folder.exists()


def test_what_goes_wrong_before_it_is_taken_is_raised_where_it_is_taken(member_of):
    member = member_of()
    with Begun(Environment.of(member)) as begun:
        os.kill(begun.child.pid, signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(ProcessDied, match=r"it in plain was ended by signal 9 \(SIGKILL\) during `import`"):
                BareProcess(member, begun=begun)
    (member.study / "mine.py").write_text("import nowhere_to_be_found")
    with Begun(Environment.of(member)) as begun, pytest.raises(ProcessError, match="nowhere_to_be_found"):
        BareProcess(member, begun=begun)


def test_rounds_are_as_long_as_asked(member_of, inputs):
    with BareProcess(member_of()) as process:
        process.warm({"x": inputs["x"][:1]}, seconds=0.0, calls=1)
        assert len(process.round(seconds=0.0, calls=7)) == 7
        durations = process.round(seconds=0.01, calls=1)
        assert durations.dtype == numpy.float64
        assert len(durations) > 7
        assert (durations > 0).all()


def test_a_call_of_another_shape_goes_before_each_that_is_timed(member_of, inputs):
    one, other = {"x": inputs["x"][:1]}, {"x": numpy.zeros((1, 5))}
    with BareProcess(member_of(wish="reshape")) as process:
        process.warm(one, seconds=0.0, calls=2, between=other)
        durations = process.round(seconds=0.0, calls=5)
        assert len(durations) == 5
        assert durations.min() > 0.02
        process.warm(one, seconds=0.0, calls=2)
        assert process.round(seconds=0.0, calls=5).min() < 0.02
        with pytest.raises(ProcessError, match="not 1 samples"):
            process.warm(one, between=inputs)


def test_a_session_with_a_clock_of_its_own_is_timed_by_it(member_of, inputs):
    with BareProcess(member_of(elsewhere=12_345)) as process:
        process.warm({"x": inputs["x"][:1]}, seconds=0.0, calls=1)
        assert (process.load_time, process.compile_time, process.memory) == (0.25, 1.5, 12_345)
        numpy.testing.assert_allclose(process.round(seconds=0.0, calls=7, skip=2), [1.002e-6] * 7)
        assert len(process.round(seconds=1e-4, calls=7)) == 100


def test_inputs_to_time_are_the_targets_batch(member_of, inputs):
    with BareProcess(member_of(batch=2)) as process, pytest.raises(ProcessError, match="not 2 samples"):
        process.warm(inputs)


def test_other_input_names_are_told(member_of):
    with BareProcess(member_of()) as process, pytest.raises(ProcessError, match="takes x, and was given y"):
        process.outputs({"y": numpy.zeros((2, 2))})


def test_printing_and_reading_do_not_touch_the_protocol(member_of, inputs):
    with BareProcess(member_of(wish="read")) as process:
        assert (process.outputs(inputs)["file"] == inputs["x"] * 2).all()


def test_exceptions_come_with_the_users_own_line_and_the_process_lives_on(member_of, inputs):
    with BareProcess(member_of(wish="raise")) as process:
        with pytest.raises(ProcessError, match=r"ValueError: bad luck \(mine.py:\d+: in run\)") as caught:
            process.outputs(inputs)
        assert 'raise ValueError("bad luck")' in caught.value.details
        assert "bare.py" not in caught.value.details
        assert process.alive


def test_memory_that_does_not_suffice_is_told(member_of, inputs):
    with BareProcess(member_of(wish="memory")) as process, pytest.raises(ProcessError, match="plain ran out of memory"):
        process.outputs(inputs)


def test_refusals_stay_refusals(member_of):
    with pytest.raises(Refusal, match="no such operator: Magic") as caught:
        BareProcess(member_of(refuse=True))
    assert caught.value.help == "use another"


def test_exit_code_and_last_words_are_told(member_of, inputs):
    with BareProcess(member_of(wish="exit")) as process:
        with pytest.raises(ProcessDied, match="ended with exit code 3 during `outputs`") as caught:
            process.outputs(inputs)
        assert "last words" in caught.value.details


@pytest.mark.skipif(sys.platform == "win32", reason="no signals")
def test_crash_names_its_signal_and_where(member_of, inputs):
    with BareProcess(member_of(wish="crash")) as process:
        with pytest.raises(ProcessDied) as caught:
            process.outputs(inputs)
        assert "it in plain was ended by signal 11 (SIGSEGV) during `outputs`" in caught.value.message
        assert "mine.py" in caught.value.details
        assert caught.value.help


@pytest.mark.skipif(sys.platform == "win32", reason="no signals")
def test_killed_process_names_its_signal(member_of, inputs):
    with BareProcess(member_of()) as process:
        os.kill(process.pid, signal.SIGKILL)
        with pytest.raises(ProcessDied, match=r"signal 9 \(SIGKILL\)"):
            process.outputs(inputs)
        assert not process.alive
        with pytest.raises(ProcessDied, match=r"signal 9 \(SIGKILL\)"):
            process.outputs(inputs)


def test_hanging_process_is_ended(member_of, inputs, monkeypatch):
    monkeypatch.setattr("optlang.measure.process._CALL_TIMEOUT", 0.3)
    with BareProcess(member_of(wish="hang")) as process:
        with pytest.raises(ProcessTimeout, match="no answer to `outputs`"):
            process.outputs(inputs)
        assert gone(process.pid)


def test_closing_a_busy_process_does_not_wait(member_of):
    process = BareProcess(member_of(wish="hang"))
    process._child.send({"do": "round", "seconds": 1, "calls": 1, "skip": 0})
    process.close()
    assert gone(process.pid)
    process.close()


def test_files_are_taken_away(member_of, inputs):
    with BareProcess(member_of()) as process:
        process.outputs(inputs)
        folder = process._folder
        assert folder.exists()
    assert not folder.exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no signals")
def test_process_ends_with_its_parent_even_in_mid_call(member_of, inputs):
    for wish in (None, "hang"):
        member = member_of(wish=wish) if wish else member_of()
        code = (
            "import sys, time, pickle, threading\n"
            "from optlang.measure.process import BareProcess\n"
            "member, inputs = pickle.loads(bytes.fromhex(sys.stdin.read()))\n"
            "process = BareProcess(member)\n"
            "threading.Thread(target=process.outputs, args=(inputs,)).start()\n"
            "print(process.pid, process._folder, flush=True)\n"
            "time.sleep(600)\n"
        )
        import pickle

        with subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True
        ) as parent:
            parent.stdin.write(pickle.dumps((member, inputs)).hex())
            parent.stdin.close()
            number, folder = parent.stdout.readline().split()
            parent.kill()
            parent.wait()
        assert gone(int(number))
        assert not Path(folder).exists()


def test_nothing_heavy_is_in_a_process_that_runs_numpy(member_of, inputs):
    code = (
        "import sys; sys.argv = ['bare']; import optlang.measure.child;"
        "print([m for m in ('numpy', 'torch', 'onnx', 'onnxruntime', 'openvino', 'pydantic', 'duckdb', 'optuna')"
        " if m in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert answer.stdout == "[]\n"


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system cannot pin")
def test_process_is_pinned_to_the_targets_threads(member_of):
    chosen = cores(1)
    assert len(chosen) == 1
    assert set(chosen) <= os.sched_getaffinity(0)
    assert cores(10_000) is None
    with BareProcess(member_of()) as process:
        assert os.sched_getaffinity(process.pid) == set(chosen)
