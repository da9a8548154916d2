# ruff: noqa: F811 - fixtures are imported, and named by those who want them
"""Artifacts that run on a device: the same answers as here, its own times, and what happens when it goes away."""

import os
import shlex
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy
import pytest

from optlang.measure.chunks import all_of, chunked
from optlang.measure.latency import Bench, Repetitions, compare
from optlang.measure.process import BareProcess, Environment, ProcessDied
from optlang.measure.remote import devices
from optlang.measure.remote.connection import Connection
from optlang.measure.remote.faults import DeviceError, DeviceLost
from optlang.measure.remote.process import RemoteProcess
from optlang.workload.child_process import ChildTimeout
from tests.measure.remote.devices import device, member_on, running, samples, server  # noqa: F401

EFFORT = Repetitions(rounds=4, processes=1, seconds=0.01, calls=20)


def wrapper(folder, text):
    """A program that stands for Python over there."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_answers_are_those_of_this_machine_bit_for_bit(tmp_path, device, member_on, samples):
    given = chunked(tmp_path / "given", samples)
    with BareProcess(member_on(batch=8)) as here:
        wanted = all_of(here.answer(given, tmp_path / "here"))
    with BareProcess(member_on(device, batch=8)) as there:
        found = all_of(there.answer(given, tmp_path / "there"))
        few = there.outputs({"x": samples["x"][:3]}, 2)
    assert numpy.array_equal(found["y"], wanted["y"])
    assert numpy.array_equal(few["y"], wanted["y"][:3])


@pytest.mark.slow
def test_times_are_taken_over_there_in_turns_with_the_baseline(tmp_path, device, member_on, samples):
    one = {"x": samples["x"][:1]}
    with Bench(tmp_path / "lock") as bench:
        begun = member_on(device, "candidate")
        bench.begin(Environment.of(begun))
        measured = bench.measure(
            begun, member_on(device, "baseline"), one, EFFORT,
            answer=chunked(tmp_path / "given", samples), folder=tmp_path / "answers",
        )
    found = {item.metric: item for item in measured.measurements}
    assert len(measured.answers.outputs) == 40
    # The same file in both: a call takes some microseconds, the way there and back milliseconds.
    assert 0.2 < found["latency.p50"].ratio < 5
    assert found["latency.p50"].value < 1e-3
    assert found["memory.peak"].value > 1e6
    assert not (tmp_path / "lock").exists(), "the lock of this machine is not the device's"


@pytest.mark.slow
def test_a_measurement_that_is_cut_begins_again_when_the_device_is_back(
    tmp_path, monkeypatch, server, device, member_on, samples
):
    waited, rounds = [], []
    whole = BareProcess.round

    def cut_in_the_fifth(process, *arguments):
        rounds.append(process.member.name)
        if len(rounds) == 5:
            server.cut()
        return whole(process, *arguments)

    monkeypatch.setattr(BareProcess, "round", cut_in_the_fifth)
    found = compare(
        member_on(device, "baseline"), [member_on(device, "candidate")], {"x": samples["x"][:1]}, EFFORT,
        tmp_path / "lock", waiting=lambda waits, why="": waited.append((waits, why)),
    )
    assert len(rounds) == 5 + 8, "all of it again: a half that was measured before says nothing"
    assert {item.n for item in found["candidate"] if item.metric == "latency.p50"} == {4}
    # It may be back before anybody has to wait.
    assert [item for item in waited if "away" in item[1]] in ([], [(True, 'ssh("device") is away')])


def test_a_device_that_does_not_come_back_is_given_up_after_reconnect(tmp_path, server, device, member_on, samples):
    away = replace(device, reconnect=1.0)
    member, waited = member_on(away), []
    with BareProcess(member) as process:
        server.stop()
        with pytest.raises(DeviceLost, match=r"connection .* was lost"):
            process.warm({"x": samples["x"][:1]})
    begin = time.monotonic()
    gone = r"did not come back for 1 s \(`reconnect`\)"
    bench = Bench(tmp_path / "lock")
    bench.waiting = lambda waits, why="": waited.append((waits, why))
    with bench, pytest.raises(DeviceLost, match=gone):
        bench.measure(member, None, {"x": samples["x"][:1]}, EFFORT)
    assert time.monotonic() - begin < 60
    assert waited == [(True, 'ssh("device") is away'), (False, "")]


def test_one_that_fails_again_and_again_is_given_up_too(device):
    calls = []

    def work():
        calls.append(1)
        raise DeviceLost("the connection was lost")

    with pytest.raises(DeviceLost, match="was lost, 3 times in one measurement"):
        devices.steadily(device, work)
    assert len(calls) == 3


def test_a_process_that_crashes_or_hangs_over_there_is_reported_as_one_here(device, member_on, samples):
    with BareProcess(member_on(device)) as process:
        os.kill(process.pid, signal.SIGSEGV)
        with pytest.raises(ProcessDied, match=r"was ended by signal 11 \(SIGSEGV\) during `warm`") as caught:
            process.warm({"x": samples["x"][:1]})
        assert "Segmentation fault" in caught.value.details
    hanging = RemoteProcess(devices.connected(device), member_on().calls, 1)
    os.kill(hanging.pid, signal.SIGSTOP)
    with pytest.raises(ChildTimeout):
        hanging.ask({"do": "memory"}, 0.3)
    assert hanging.closed
    assert not hanging.alive


def test_answers_that_find_no_room_are_the_devices_fault(device, member_on):
    with BareProcess(member_on(device)) as process:
        told = process._told({
            "type": "OSError", "help": None, "exit_code": 1, "details": "",
            "message": "OSError: [Errno 28] No space left on device",
        })
    assert isinstance(told, DeviceError)


def test_errors_over_there_have_their_own_words(device, member_on):
    member = member_on(device)
    (member.artifact.folder / "model.onnx").write_bytes(b"no model")
    with pytest.raises(Exception, match="ONNX Runtime does not load the model"):
        BareProcess(member)


def test_what_is_over_there_is_not_sent_again_and_scratch_is_removed(tmp_path, device, member_on, samples):
    given = chunked(tmp_path / "given", samples)
    sent = []
    connection = devices.connected(device)
    ask = connection.ask

    def counted(request, **more):
        sent.append(request["do"])
        return ask(request, **more)

    connection.ask = counted
    for number in range(2):
        with BareProcess(member_on(device)) as process:
            process.answer(given, tmp_path / f"answers {number}")
    assert sent.count("put") == 4, "the program, the model, the inputs and what they are, once"
    over_there = Path(device.folder)
    [scratch] = over_there.glob("run-*")
    assert [path.name for path in scratch.iterdir()] == ["alive"], "nothing is left of a process that has ended"
    devices.close()
    for _ in range(100):
        if not list(over_there.glob("run-*")):
            break
        time.sleep(0.05)
    assert not list(over_there.glob("run-*"))
    assert list((over_there / "files").iterdir())


def test_one_measures_at_a_time(device):
    waited = []
    with devices.connected(device).alone():
        other = Connection(device)
        free = threading.Event()

        def second():
            with other.alone(lambda waits, why="": waited.append((waits, why))):
                free.set()

        thread = threading.Thread(target=second)
        thread.start()
        assert not free.wait(0.5)
    assert free.wait(60)
    thread.join()
    other.close()
    assert waited == [(True, 'something else is measured on ssh("device")'), (False, "")]


# ---- what keeps a device from being used


def test_a_host_key_that_is_not_known_or_has_changed_is_never_accepted(server, device):
    server.forget()
    with pytest.raises(DeviceError, match=r'the host key of ssh\("device"\) is not known here') as caught:
        devices.connected(device)
    assert not isinstance(caught.value, DeviceLost), "waiting does not help"
    server.trust()
    server.new_host_key()
    with pytest.raises(DeviceError, match="is not the one that is known: this may be another machine"):
        devices.connected(device)


def test_a_key_that_is_refused_is_no_question_for_a_password(server, device):
    server.use("stranger")
    with pytest.raises(DeviceError, match="refused this user's keys, and no password is asked for") as caught:
        devices.connected(device)
    assert "ssh-copy-id device" in caught.value.help


def test_python_that_is_not_there(device):
    with pytest.raises(DeviceError, match="has no /nowhere/python3") as caught:
        devices.connected(replace(device, python="/nowhere/python3"))
    assert 'ssh("device", python = "PATH")' in caught.value.help


def test_python_that_is_too_old(tmp_path, device):
    old = f'exec {shlex.quote(sys.executable)} -c "import sys; sys.version_info = (3, 8, 18); exec(sys.argv[2])" "$@"'
    with pytest.raises(DeviceError, match=r"has Python 3\.8\.18; 3\.10 or newer is needed"):
        devices.connected(replace(device, python=wrapper(tmp_path, old)))


def test_a_shell_that_greets_is_passed_over(tmp_path, device):
    noisy = f'echo "Welcome to the board"; echo 3; echo "{{}}"; exec {shlex.quote(sys.executable)} "$@"'
    assert devices.connected(replace(device, python=wrapper(tmp_path, noisy))).facts()["cores"] > 0


def test_a_folder_that_is_not_writable(tmp_path, device):
    (tmp_path / "file").write_text("")
    with pytest.raises(DeviceError, match="nothing can be kept on"):
        devices.connected(replace(device, folder=str(tmp_path / "file" / "inside")))


def test_a_disk_that_is_full_over_there(tmp_path, device, member_on):
    if os.system(f"mkdir {tmp_path}/small && mount -t tmpfs -o size=200k tmpfs {tmp_path}/small 2>/dev/null"):
        pytest.skip("no small disk can be made here")
    try:
        full = replace(device, folder=f"{tmp_path}/small")
        if devices.connected(full).facts()["free"] > 1e6:
            pytest.skip("the server sees another file system")
        member = member_on(full)
        (member.artifact.folder / "model.onnx").write_bytes(os.urandom(300_000))
        with pytest.raises(DeviceError, match=r"the disk of .* is full") as caught:
            BareProcess(member)
        assert not isinstance(caught.value, DeviceLost)
        assert not list((tmp_path / "small").glob("run-*/part-*")), "no part of a file is left"
    finally:
        devices.close()
        os.system(f"umount {tmp_path}/small")
