"""What is read of a processor decides how int8 weights are written for it."""

from pathlib import Path

import pytest

from optlang.runtimes.shared.processor import Instructions, instructions, overflows


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


@pytest.mark.parametrize(
    ("line", "int8", "bfloat16"),
    [
        ("flags\t\t: fpu avx2 fma", (), ()),
        ("flags\t\t: avx512f avx512_bf16 avx512_vnni", ("avx512_vnni",), ("avx512_bf16",)),
        ("flags\t\t: avx_vnni amx_bf16 amx_tile amx_int8", ("amx_int8", "avx_vnni"), ("amx_bf16",)),
        ("Features\t: fp asimd asimddp i8mm bf16", ("asimddp", "i8mm"), ("bf16",)),
    ],
)
def test_instructions_are_those_of_the_first_core(
    tmp_path: Path, line: str, int8: tuple[str, ...], bfloat16: tuple[str, ...]
) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(f"processor\t: 0\nmodel name\t: One\n{line}\n\nprocessor\t: 1\n{line} i8mm amx_bf16\n")
    assert instructions(path) == Instructions(int8, bfloat16)


def test_instructions_that_the_system_does_not_tell_are_not_guessed(tmp_path: Path) -> None:
    assert instructions(tmp_path / "absent") is None
    (tmp_path / "cpuinfo").write_text("processor : 0\n")
    assert instructions(tmp_path / "cpuinfo") is None
