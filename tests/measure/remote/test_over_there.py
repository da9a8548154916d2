"""What runs on a device, without a connection: the file that is copied, the files that it keeps, its end."""

import ast
import hashlib
import io
import json
import os
import shlex
import subprocess
import sys
import time
import zipfile

import pytest

from optlang.interfaces import RemoteDevice
from optlang.measure.remote import contents, ssh
from optlang.measure.remote.bundle import AGENT, MEASURED, bundle
from optlang.measure.remote.contents import Contents, Damaged
from optlang.measure.remote.ssh import remote_command

ONNX = "optlang.runtimes.onnxruntime.build"


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def test_the_file_is_small_the_same_each_time_and_python_3_10_reads_it():
    for modules in (AGENT, (*MEASURED, ONNX)):
        made = bundle(modules)
        bundle.cache_clear()
        assert bundle(modules) == made
        assert len(made.content) < 100_000
        with zipfile.ZipFile(io.BytesIO(made.content)) as archive:
            assert "__main__.py" in archive.namelist()
            for name in archive.namelist():
                ast.parse(archive.read(name), feature_version=(3, 10))


def test_what_a_session_imports_when_it_is_called_is_in_the_file_too():
    with zipfile.ZipFile(io.BytesIO(bundle((*MEASURED, "optlang.runtimes.executorch.build")).content)) as archive:
        assert {"optlang/workload/data/tensors.py", "optlang/workload/export/torch_export.py"} <= {*archive.namelist()}
    with zipfile.ZipFile(io.BytesIO(bundle((*MEASURED, ONNX)).content)) as archive:
        assert not [name for name in archive.namelist() if "litert" in name or "techniques" in name]


def test_it_needs_nothing_but_python_before_a_runtime_is_opened(tmp_path):
    made = bundle((*MEASURED, ONNX))
    (tmp_path / made.name).write_bytes(made.content)
    # -I -S: no package is there, and no checkout.
    child = subprocess.run(
        [sys.executable, "-I", "-S", tmp_path / made.name, "child"], capture_output=True, cwd=tmp_path, timeout=60,
        input=json.dumps({
            "do": "import", "calls": f"{ONNX}:OnnxRuntime", "study": str(tmp_path), "cores": None, "scratch": None,
        }).encode() + b"\n",
    )
    [answer] = map(json.loads, child.stdout.splitlines())
    assert answer["error"]["type"] == "ModuleNotFoundError"
    assert "onnxruntime" in answer["error"]["message"]


def test_it_ends_when_nothing_is_heard(tmp_path):
    made = bundle(AGENT)
    (tmp_path / made.name).write_bytes(made.content)
    agent = subprocess.Popen(
        [sys.executable, tmp_path / made.name, "agent", tmp_path / "home", "0.6"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    (tmp_path / "home").mkdir(exist_ok=True)
    try:
        agent.stdin.write(b'{"id": 1, "do": "lock"}\n')
        agent.stdin.flush()
        assert json.loads(agent.stdout.readline()) == {"id": 1, "ok": {"held": True}}
        # Its input stays open, as that of a connection that is cut without a word.
        assert agent.wait(60) == 0
    finally:
        agent.kill()
        agent.wait()
        agent.stdin.close()
        agent.stdout.close()
    assert not list((tmp_path / "home").glob("run-*"))


def test_a_file_is_there_whole_or_not_at_all(tmp_path):
    kept = Contents(tmp_path)
    content, rest = b"0123456789", io.BytesIO(b"0123456789next")
    kept.put(sha256(content), 10, rest)
    assert rest.read() == b"next"
    assert kept.missing([sha256(content), "other"]) == ["other"]
    cut = io.BytesIO(b"01234")
    with pytest.raises(Damaged):
        kept.put(sha256(b"another"), 10, cut)
    changed = io.BytesIO(b"012345678Xnext")
    with pytest.raises(Damaged):
        kept.put(sha256(b"another"), 10, changed)
    assert changed.read() == b"next", "the next request is found"
    assert [path.name for path in (tmp_path / "files").iterdir()] == [sha256(content)]
    kept.show(kept.scratch / "shown", {"a/model.onnx": sha256(content)})
    assert (kept.scratch / "shown" / "a" / "model.onnx").read_bytes() == content
    with pytest.raises(OSError, match="leads out"):
        kept.show(kept.scratch / "shown", {"../../files/x": sha256(content)})
    kept.close()
    assert not kept.scratch.exists()


def test_what_was_used_longest_ago_goes_first(tmp_path):
    kept = Contents(tmp_path, limit=25)
    for number, letter in enumerate("abc"):
        content = letter.encode() * 10
        kept.put(sha256(content), 10, io.BytesIO(content))
        os.utime(tmp_path / "files" / sha256(content), (number + 1, number + 1))
    assert kept.missing([sha256(b"a" * 10)]) == [sha256(b"a" * 10)]
    assert kept.missing([sha256(b"b" * 10)]) == [], "used now"
    kept.put(sha256(b"d" * 10), 10, io.BytesIO(b"d" * 10))
    left = {path.name for path in (tmp_path / "files").iterdir()}
    assert left == {sha256(b"b" * 10), sha256(b"d" * 10)}
    kept.close()


def test_what_a_killed_one_left_is_removed_and_what_another_uses_is_not(tmp_path, monkeypatch):
    other = Contents(tmp_path)
    left = tmp_path / "run-1-dead"
    left.mkdir()
    (left / "alive").write_bytes(b"")
    half = tmp_path / "run-2-begun"
    half.mkdir()
    kept = Contents(tmp_path)
    assert other.scratch.exists()
    assert not left.exists()
    assert half.exists(), "it may just begin"
    later = time.time() + 3600
    monkeypatch.setattr(contents.time, "time", lambda: later)
    Contents(tmp_path).close()
    assert not half.exists()
    kept.close()
    other.close()


@pytest.mark.parametrize("argument", ["plain", "two words", "a'b", "$(touch x)", "`x`", "-o", "a;b", "ä"])
def test_arguments_reach_the_other_side_as_they_are(argument):
    said = remote_command([sys.executable, "-c", "import sys; print(ascii(sys.argv[1]))", argument])
    found = subprocess.run(["/bin/sh", "-c", said], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ascii(argument)


def test_the_client_is_given_arguments_and_asks_nothing(monkeypatch):
    monkeypatch.delenv(ssh.CONFIG, raising=False)
    device = RemoteDevice("ssh", "pi@board", port=2222, python="~/my venv/bin/python")
    command = ssh.command(device)
    assert command[-3:-1] == ["--", "pi@board"]
    assert shlex.split(command[-1])[0] == "~/my venv/bin/python"
    assert command[-1].startswith("~/'my venv"), "the shell over there finds the home"
    assert command[command.index("-p"): command.index("-p") + 2] == ["-p", "2222"]
    assert {"BatchMode=yes", "StrictHostKeyChecking=yes", "ForwardAgent=no"} < set(command)
