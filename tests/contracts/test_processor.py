"""What is read of a processor decides how int8 weights are written for it."""

from pathlib import Path

import pytest

from optlang.runtimes.processor import overflows


@pytest.mark.parametrize(
    ("machine", "flags", "found"),
    [("x86_64", "avx2 fma", True), ("x86_64", "avx2 avx512_vnni", False), ("AMD64", "avx_vnni", False),
     ("aarch64", "asimddp", False), ("arm64", "", False)],
)
def test_x86_without_vnni_overflows(tmp_path: Path, machine: str, flags: str, found: bool) -> None:
    (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
    assert overflows(machine, tmp_path / "cpuinfo") is found


def test_x86_that_does_not_say_is_taken_for_one_that_overflows(tmp_path: Path) -> None:
    assert overflows("x86_64", tmp_path / "absent")
