# ruff: noqa: F811 - fixtures are imported, and named by those who want them
"""Studies whose target is another machine, reached through a real SSH server: checked, measured, cut, given up."""

import json
import sys

import pytest

from optlang.analysis.load import load
from optlang.cli.app import command
from optlang.interfaces import OutsideError
from optlang.measure.remote.process import RemoteProcess
from optlang.run.events import Watcher
from optlang.run.study import Options, run
from optlang.store.reader import connect
from tests.measure.remote.devices import ANY, device, running, server  # noqa: F401

pytestmark = pytest.mark.parametrize("running", ANY, indirect=True)

STUDY = """optlang 1

study board "On a board" {{
  model net  = zoo.digits_cnn(width = 8)
  data  seen = zoo.digits(seed = 0)
  baseline {{ train {{ epochs = 1 }} }}
  target pi {{
    device = ssh("{address}", python = "{python}", folder = "{folder}")
    reconnect = {reconnect}
    runtime in {{ onnxruntime; openvino }}
  }}
  steps {{ maybe static; maybe half }}
  forbid static and half
  minimize latency
  maximize accuracy
  search {{ trials = 3; screening = 1; ladder = false }}
  measure {{ rounds = 2; front_rounds = 2; round_seconds = 5ms }}
}}
"""


class Told(Watcher):
    def __init__(self):
        self.lines = []

    def message(self, text):
        self.lines.append(text)


def study_in(tmp_path, device, reconnect="20s", python=None):
    file = tmp_path / "board.opt"
    file.write_text(STUDY.format(
        address=device.address, python=python or device.python, folder=device.folder, reconnect=reconnect
    ))
    return file


def carried_out(file, watcher=None):
    loaded = load(file)
    assert loaded.plan is not None, loaded.diagnostics
    return run(loaded.plan, file.read_text(), file, file.parent / "results.duckdb", Options(), watcher or Told())


def rows(file, sql):
    with connect([file.parent / "results.duckdb"]) as reader:
        return reader.query(sql).dicts()


def without_openvino(tmp_path):
    """Python as on a board that has one of two runtimes."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(
        "import importlib.abc, importlib.util, sys\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name, *more: None if name == 'openvino' else find(name, *more)\n"
    )
    path = tmp_path / "python"
    path.write_text(f'#!/bin/sh\nPYTHONPATH={hidden} exec {sys.executable} "$@"\n')
    path.chmod(0o755)
    return str(path)


@pytest.mark.slow
def test_a_study_is_measured_over_there_and_says_where(tmp_path, device, capsys):
    file, told = study_in(tmp_path, device, python=without_openvino(tmp_path)), Told()
    outcome = carried_out(file, told)
    assert outcome.worked
    assert "without openvino: openvino is not installed there" in told.lines
    assert not [item for item in rows(file, "FROM results") if item["state"] == "failed"]
    [there] = rows(file, "FROM devices")
    assert (there["target"], there["device"], there["cores"] > 0) == ("pi", 'ssh("device")', True)
    assert "onnxruntime" in json.loads(there["packages"])
    baseline = rows(file, "SELECT runtime, latency_p50 FROM results WHERE origin = 'baseline'")
    assert [item["runtime"] for item in baseline] == ["onnxruntime"], "eager is not there"
    number = rows(file, "SELECT trial FROM front WHERE state = 'complete' ORDER BY trial DESC LIMIT 1")[0]["trial"]
    out, db = str(tmp_path / "out"), str(tmp_path / "results.duckdb")
    assert command(["export", "board", str(number), "-o", out, "--db", db]) == 0
    assert 'on ssh("device") (' in (tmp_path / "out" / "README.md").read_text()
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["machine"]["devices"]["pi"]["device"] == 'ssh("device")'
    assert command(["device", "check", "pi", str(file)]) == 3, "a runtime of the study is missing there"
    assert "✗ openvino " in capsys.readouterr().out


@pytest.mark.slow
def test_trials_that_fail_by_the_device_are_not_held_against_their_settings(tmp_path, server, device, monkeypatch):
    file = study_in(tmp_path, device, reconnect="0s")

    class Stops(Told):
        def trial_finished(self, event):
            if event.number == 0:
                server.stop()

    with pytest.raises(OutsideError, match="did not come back for 0 s") as caught:
        carried_out(file, Stops())
    assert "the same command goes on" in caught.value.help
    failed = rows(file, "SELECT state, reason, notes FROM trials WHERE trial > 0")
    assert len(failed) == 3, "after as many in a row nothing can be measured"
    assert {item["state"] for item in failed} == {"failed"}
    assert all(json.loads(item["notes"])["outside"] for item in failed)
    server.start()
    outcome = carried_out(file)
    assert outcome.why in ("complete", "exhausted")
    again = rows(file, "SELECT trial, state FROM trials WHERE trial > 3")
    assert again, "what failed by the device is tried again"
    assert {item["state"] for item in again} <= {"complete", "infeasible"}


def test_a_device_that_is_away_ends_a_run_before_it_begins(tmp_path, server, device, capsys):
    server.stop()
    file = study_in(tmp_path, device)
    with pytest.raises(OutsideError, match=r"the target `pi`: ssh.* cannot be reached"):
        carried_out(file)
    assert not (tmp_path / ".optlang" / "artifacts").exists()
    assert command(["device", "check", "pi", str(file)]) == 3
    assert "✗ connection " in capsys.readouterr().out


def test_a_check_says_what_is_there(tmp_path, device, capsys):
    file = study_in(tmp_path, device)
    assert command(["device", "check", "pi", str(file), "--format", "json"]) in (0, 3)
    found = json.loads(capsys.readouterr().out)
    assert found["ready"]
    assert found["device"] == 'ssh("device")'
    about = [item["about"] for item in found["findings"]]
    assert about[:3] == ["connection", "processor", "python"]
    assert {"numpy", "onnxruntime", "openvino", "space", "cores", "governor", "temperature"} <= set(about)
    assert command(["device", "check", "phone", str(file)]) == 2
    assert "its targets are: pi" in capsys.readouterr().err
    assert command(["device", "check", "--", "-oProxyCommand=true"]) == 2


def test_processes_of_a_study_run_over_there_alone(device):
    # What measures here and there has one interface.
    from optlang.measure.process import LocalProcess

    for name in ("send", "ask", "answer", "died", "given", "artifact", "written", "close"):
        assert callable(getattr(LocalProcess, name))
        assert callable(getattr(RemoteProcess, name))
