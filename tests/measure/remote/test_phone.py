"""A phone through adb's protocol: files, commands, answers and times of a program that stands for ExecuTorch's."""

import sys
from dataclasses import replace

import numpy
import pytest

from optlang.interfaces import Artifact, ArtifactFile, RemoteDevice, TargetSpec
from optlang.measure.chunks import all_of, chunked
from optlang.measure.latency import Bench, Repetitions
from optlang.measure.process import BareProcess, Deployment, ProcessDied, ProcessError
from optlang.measure.remote import adb
from optlang.measure.remote.adb import Adb
from optlang.measure.remote.faults import DeviceError, DeviceLost
from optlang.run.device_check import check
from tests.measure.remote.fake_adb import SERIAL, FakeAdb

EFFORT = Repetitions(rounds=3, processes=1, seconds=0.0, calls=4)

RUNNER = """#!{python} -S
# What executor_runner does with a model that doubles: raw inputs, raw outputs, and the time of all executions.
import array, os, pathlib, signal, sys
given = dict(item[2:].split("=", 1) for item in sys.argv[1:])
model = pathlib.Path(given["model_path"]).read_bytes()
if model == b"crashes":
    os.kill(os.getpid(), signal.SIGSEGV)
if model != b"doubles":
    sys.exit("Failed to parse model file")
count = int(given["num_executions"])
if "inputs" in given:
    x = array.array("f", pathlib.Path(given["inputs"]).read_bytes())
    if len(x) != {values}:
        sys.exit("Could not prepare inputs")
    if "output_file" in given:
        pathlib.Path(given["output_file"] + "-0.bin").write_bytes(array.array("f", [2 * item for item in x]).tobytes())
said = "I executorch:executor_runner.cpp:1] Model executed successfully %d time(s) in %f ms.\\n"
sys.stderr.write(said % (count, 0.25 * count))
"""


@pytest.fixture
def server(monkeypatch):
    made = FakeAdb()
    monkeypatch.setenv(adb.PORT_OF, str(made.port))
    yield made
    made.close()


@pytest.fixture
def phone(server, tmp_path):
    folder = tmp_path / "on the phone"
    folder.mkdir()
    runner = folder / "executor_runner"
    runner.write_text(RUNNER.format(python=sys.executable, values=4))
    runner.chmod(0o755)
    return RemoteDevice("adb", SERIAL, folder=str(folder), reconnect=0.5)


@pytest.fixture
def member_on(tmp_path):
    folder, study = tmp_path / "artifact", tmp_path / "study"
    folder.mkdir()
    study.mkdir()

    def make(phone, name="it", content=b"doubles"):
        (folder / "model.pte").write_bytes(content)
        about = {"outputs": {"y": {"dtype": "float32", "shape": [2, 2]}}}
        artifact = Artifact(
            folder, "pte", (ArtifactFile("model.pte", len(content), ""),), ("x",), ("y",), about
        )
        target = TargetSpec("phone", batch=2, remote=phone)
        return Deployment(name, "executorch", "none:None", artifact, target, {}, study)

    return make


def samples(count=5):
    return {"x": numpy.arange(count * 2, dtype="float32").reshape(count, 2)}


def test_answers_come_from_the_phone_in_calls_of_the_targets_batch(tmp_path, phone, member_on):
    with BareProcess(member_on(phone)) as process:
        found = all_of(process.answer(chunked(tmp_path / "given", samples()), tmp_path / "answers"))
        assert numpy.array_equal(found["y"], 2 * samples()["x"]), "the last call is filled up"
        with pytest.raises(ProcessError, match="with 2 samples, the most that it takes"):
            process.outputs(samples(4), 1)
    assert not list((tmp_path / "on the phone").glob("run-*")), "nothing is left"


def test_times_are_the_phones_own_and_one_measures_at_a_time(tmp_path, phone, member_on):
    with Bench(tmp_path / "lock") as bench:
        found = bench.measure(member_on(phone, "candidate"), member_on(phone, "baseline"), samples(2), EFFORT)
    by_name = {item.metric: item for item in found.measurements}
    assert by_name["latency.p50"].value == pytest.approx(250e-6)
    assert by_name["latency.p50"].ratio == pytest.approx(1)
    assert not {"memory.peak", "load_time"} & set(by_name), "the program does not say them"
    assert [path.name.startswith("optlang-measure-adb-") for path in tmp_path.glob("*.lock")] == [True]


def test_a_crash_and_a_model_that_is_not_loaded(phone, member_on):
    with pytest.raises(ProcessDied, match="was ended by signal 11 during `open`"):
        BareProcess(member_on(phone, content=b"crashes"))
    with pytest.raises(ProcessError, match="executor_runner ended with exit code 1") as caught:
        BareProcess(member_on(phone, content=b"other"))
    assert "Failed to parse model file" in caught.value.details


def test_a_phone_or_a_server_that_is_not_there(server, phone, member_on, monkeypatch):
    server.attached = False
    with pytest.raises(DeviceLost, match=rf'adb\("{SERIAL}"\) cannot be reached: device .* not found'):
        BareProcess(member_on(phone))
    server.attached = True
    with pytest.raises(DeviceLost, match="not found"):
        BareProcess(member_on(replace(phone, address="OTHER")))
    monkeypatch.setenv(adb.PORT_OF, "1")
    with pytest.raises(DeviceLost, match="no adb server answers on port 1"):
        BareProcess(member_on(phone))


def test_storage_that_is_full(server, phone, member_on):
    server.full = True
    with pytest.raises(DeviceError, match=r"the storage of .* is full"):
        BareProcess(member_on(phone))


def test_arguments_are_no_text_of_a_shell(server, phone, tmp_path):
    ended = Adb(phone).run([sys.executable, "-c", "import sys; print(sys.argv[1:])", "a b", "$(id)", "'"])
    assert ended.stdout.decode().strip() == str(["a b", "$(id)", "'"])
    assert Adb(phone).run(["false"]).code == 1
    with pytest.raises(DeviceError, match="No such file"):
        Adb(phone).pull(str(tmp_path / "absent"))


def test_a_check_says_whether_the_program_is_there(phone, tmp_path):
    assert check(phone, {"executorch": ("executorch.runtime",)}).ready
    (tmp_path / "on the phone" / "executor_runner").unlink()
    found = check(phone, {"executorch": ("executorch.runtime",)})
    assert "is not there" in found.unavailable["executorch"]
    assert not check(replace(phone, address="OTHER"), {}).ready
