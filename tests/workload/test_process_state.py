"""What is changed of the process for a block is as before after it, whether the block ends or fails."""

import contextlib
import logging
import os
import subprocess
import sys
import tempfile
import warnings

import pytest

from optlang.workload import process_state


class FailedError(Exception):
    pass


@pytest.fixture(params=[False, True], ids=["ends", "fails"])
def around(request):
    """Enters a context manager, runs a check inside, and leaves it by its end or by an exception."""

    def entered(context, inside):
        with contextlib.suppress(FailedError), context:
            inside()
            if request.param:
                raise FailedError
    return entered


def test_loggers_and_warnings(around):
    loggers = [logging.getLogger(name) for name in ("some.library", "another.library")]
    loggers[0].setLevel(logging.DEBUG)
    filters = list(warnings.filters)

    def inside():
        assert [item.level for item in loggers] == [logging.ERROR, logging.ERROR]
        warnings.warn("a remark of 1", UserWarning, stacklevel=1)
        with pytest.raises(DeprecationWarning):
            warnings.warn("a remark of 1", DeprecationWarning, stacklevel=1)

    around(process_state.quiet([item.name for item in loggers], [(r"a remark of \d", UserWarning)]), inside)
    assert [item.level for item in loggers] == [logging.DEBUG, logging.NOTSET]
    assert warnings.filters == filters


def test_an_empty_pattern_is_any_warning(around):
    around(process_state.quiet(remarks=[("",)]), lambda: warnings.warn("whatever", FutureWarning, stacklevel=1))


def test_environment(around, monkeypatch):
    monkeypatch.setenv("OPTLANG_KNOWN", "before")
    before = dict(os.environ)

    def inside():
        assert (os.environ["OPTLANG_KNOWN"], os.environ["OPTLANG_NEW"]) == ("inside", "1")

    around(process_state.environment(OPTLANG_KNOWN="inside", OPTLANG_NEW="1"), inside)
    assert dict(os.environ) == before


def test_temporary_files(around, tmp_path):
    before = tempfile.tempdir

    def inside():
        with tempfile.NamedTemporaryFile(delete=False) as file:
            file.write(b"left behind")
        assert len(list(tmp_path.glob("*/*"))) == 1

    around(process_state.temporary_files_in(tmp_path), inside)
    assert tempfile.tempdir == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", ["", "raise RuntimeError"])
def test_standard_output_by_its_descriptor(ending):
    program = f"""
import contextlib, os, sys
from optlang.workload import process_state
print("before")
with contextlib.suppress(RuntimeError), process_state.without_standard_output():
    print("inside")
    os.write(1, b"past sys.stdout")
    {ending}
print("after", len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else "")
"""
    plain = "import os; print('after', len(os.listdir('/proc/self/fd')) if os.path.isdir('/proc/self/fd') else '')"
    out, expected = (
        subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True).stdout
        for text in (program, plain)
    )
    assert out == f"before\n{expected}"
