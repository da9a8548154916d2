"""Where an artifact is looked for."""

from pathlib import Path

from optlang.store.artifacts import artifact_folder


def test_the_home_beside_the_database_comes_first(tmp_path: Path) -> None:
    built, home = tmp_path / "gone" / ".optlang" / "artifacts" / "r1" / "3", tmp_path / "here" / ".optlang"
    assert artifact_folder(str(built), [home]) == built, "what is missing keeps the name it had"
    (home / "artifacts" / "r1" / "3").mkdir(parents=True)
    assert artifact_folder(str(built), [tmp_path / "other", home]) == home / "artifacts" / "r1" / "3"
    built.mkdir(parents=True)
    assert artifact_folder(str(built), [home]) == home / "artifacts" / "r1" / "3"
    assert artifact_folder(str(built), [tmp_path / "other"]) == built
    assert artifact_folder(str(built.with_name("4")), [home]) == built.with_name("4"), "not another trial's"


def test_a_target_has_a_folder_in_its_trials(tmp_path: Path) -> None:
    home = tmp_path / ".optlang"
    (home / "artifacts" / "r1" / "3" / "phone").mkdir(parents=True)
    assert artifact_folder("/gone/artifacts/r1/3/phone", [home]) == home / "artifacts" / "r1" / "3" / "phone"
    assert artifact_folder("/gone/elsewhere/r1/3/phone", [home]) == Path("/gone/elsewhere/r1/3/phone")
