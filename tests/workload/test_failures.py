"""Which exceptions of a library are the model's fault, and which are none of it."""

import pytest

from optlang.interfaces import OptlangError, Refusal
from optlang.workload.failures import refused


@pytest.mark.parametrize("error", [KeyError("aten::odd"), AssertionError("no kernel\nfor it"), Exception("none")])
def test_what_a_library_raises_is_a_refusal_with_its_first_line(error):
    with pytest.raises(Refusal, match=r"^no export: [^\n]+$") as caught, refused("no export", "try", depends="model"):
        raise error
    assert (caught.value.help, caught.value.depends, caught.value.__cause__) == ("try", "model", error)


@pytest.mark.parametrize("error", [
    MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), KeyboardInterrupt(),
    RuntimeError("CUDA out of memory. Tried to allocate"), OptlangError("the user's own"), Refusal("another"),
])
def test_memory_that_ran_out_and_what_is_ours_pass_through(error):
    with pytest.raises(type(error)) as caught, refused("no export"):
        raise error
    assert caught.value is error


def test_an_exception_without_words_is_called_by_its_kind():
    with pytest.raises(Refusal, match=r"^no export: IndexError$"), refused("no export"):
        raise IndexError


def test_the_innermost_exception_is_the_reason():
    with pytest.raises(Refusal, match=r"^no export: the reason$"), refused("no export", innermost=True):
        raise Exception("advice") from ValueError("the reason")
