"""Finding the objects that studies name, telling the user's errors, and hashing what code means."""

import sys
from pathlib import Path

import pytest

from optlang.interfaces import OptlangError
from optlang.workload import imports, sources

OPTLANG = Path(imports.__file__).parents[1]


@pytest.fixture
def study(tmp_path):
    folder = tmp_path / "study"
    folder.mkdir()

    def write(name, text):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return folder

    write("models.py", "import layers\n\ndef net(width=2):\n    return layers.make(width)\n")
    write("layers.py", "def make(width):\n    return ['layer'] * width\n")
    return write


class TestFind:
    def test_an_installed_object(self, tmp_path):
        from optlang.zoo.digits import cnn

        assert imports.find("optlang.zoo.digits:cnn", tmp_path) is cnn

    def test_a_file_beside_the_study_with_its_own_imports(self, study):
        folder = study("other.py", "")
        assert imports.find("models.py:net", folder)(3) == ["layer"] * 3

    def test_a_file_is_the_module_that_an_import_gives(self, study):
        folder = study("both.py", "import models\nfrom models import net\n\ndef same():\n    return net\n")
        assert imports.find("both.py:same", folder)() is imports.find("models.py:net", folder)
        assert sys.modules["models"].net is imports.find("models.py:net", folder)

    def test_a_file_in_a_folder(self, study):
        folder = study("nets/small.py", "from nets.parts import three\n\ndef net():\n    return three\n")
        study("nets/parts.py", "three = 3\n")
        assert imports.find("nets/small.py:net", folder)() == 3

    def test_names_that_are_taken_or_no_names(self, study):
        folder = study("torch.py", "def net():\n    return 'mine'\n")
        study("my-net.py", "def net():\n    return 'dashed'\n")
        study("json.py", "def net():\n    return 'own'\n")
        assert imports.find("torch.py:net", folder)() == "mine"
        assert imports.find("my-net.py:net", folder)() == "dashed"
        assert imports.find("json.py:net", folder)() == "own"
        import json

        assert json.dumps([1]) == "[1]"

    def test_two_studies_with_files_of_one_name(self, study, tmp_path):
        first = study("other.py", "")
        second = tmp_path / "second"
        second.mkdir()
        (second / "models.py").write_text("import layers\n\ndef net():\n    return layers.name\n", encoding="utf-8")
        (second / "layers.py").write_text("name = 'second'\n", encoding="utf-8")
        one = imports.find("models.py:net", first)
        assert imports.find("models.py:net", second)() == "second"
        assert imports.find("models.py:net", first) is one
        assert one(1) == ["layer"]

    def test_the_folder_is_on_the_path_only_meanwhile(self, study):
        folder = study("late.py", "def net():\n    import layers\n    return layers.make(1)\n")
        make = imports.find("late.py:net", folder)
        assert str(folder.resolve()) not in sys.path
        with imports.user_code("the model", folder):
            assert make() == ["layer"]
            assert sys.path[0] == str(folder.resolve())

    def test_a_study_at_the_root_of_our_own_checkout(self, study):
        import optlang.interfaces

        root = Path(optlang.interfaces.__file__).parents[1]
        cnn = imports.find("optlang.zoo.digits:cnn", root)
        imports.find("models.py:net", study("other.py", ""))
        assert sys.modules["optlang.interfaces"] is optlang.interfaces
        assert imports.find("optlang.zoo.digits:cnn", root) is cnn
        with pytest.raises(imports.UserCodeError) as error, imports.user_code("the model cnn", root):
            cnn(width="wide")
        assert [line for line in error.value.details.splitlines() if line.startswith("optlang")] == []

    def test_no_bytecode_is_left_in_the_users_folder(self, study):
        folder = study("other.py", "")
        imports.find("models.py:net", folder)
        assert not list(folder.rglob("__pycache__"))

    @pytest.mark.parametrize(
        ("calls", "words"),
        [
            ("models.py:nett", "models.py has no `nett`"),
            ("absent.py:net", "no file absent.py"),
            ("../models.py:net", "outside the study's folder"),
            ("no_such_package.models:net", "no module no_such_package.models"),
            ("optlang.zoo.digits:dnn", "has no `dnn`"),
            ("models.py", "names no object"),
        ],
    )
    def test_what_is_not_there(self, study, calls, words):
        folder = study("other.py", "")
        with pytest.raises(OptlangError, match=words) as error:
            imports.find(calls, folder)
        assert error.value.help

    def test_a_near_miss_is_named(self, study):
        with pytest.raises(OptlangError) as error:
            imports.find("models.py:nett", study("other.py", ""))
        assert error.value.help == "did you mean `net`?"

    def test_a_symbolic_link_does_not_lead_outside(self, study, tmp_path):
        (tmp_path / "secret.py").write_text("net = 1\n", encoding="utf-8")
        folder = study("other.py", "")
        (folder / "linked.py").symlink_to(tmp_path / "secret.py")
        with pytest.raises(OptlangError, match="outside"):
            imports.find("linked.py:net", folder)


class TestUserCodeError:
    def test_only_the_users_frames_are_told(self, study):
        text = "import layers\n\ndef net():\n    return inner()\n\ndef inner():\n    return 1 / 0\n"
        folder = study("broken.py", text)
        make = imports.find("broken.py:net", folder)
        with pytest.raises(imports.UserCodeError) as error, imports.user_code("the model net", folder):
            make()
        assert error.value.message == "the model net raised ZeroDivisionError: division by zero (broken.py:7: in inner)"
        assert error.value.details == (
            "broken.py:4: in net\n    return inner()\nbroken.py:7: in inner\n    return 1 / 0"
        )

    def test_frames_of_libraries_are_left_out(self, study):
        folder = study("broken.py", "import torch\n\ndef net():\n    return torch.nn.Linear(2, 3)(torch.zeros(1, 5))\n")
        make = imports.find("broken.py:net", folder)
        with pytest.raises(imports.UserCodeError) as error, imports.user_code("the model net", folder):
            make()
        assert "mat1 and mat2 shapes cannot be multiplied" in error.value.message
        assert error.value.details.splitlines()[0] == "broken.py:4: in net"
        assert "site-packages" not in error.value.details
        assert "optlang" not in error.value.details

    def test_a_syntax_error_has_its_line(self, study):
        folder = study("wrong.py", "def net():\n    return (1\n")
        with pytest.raises(imports.UserCodeError) as error:
            imports.find("wrong.py:net", folder)
        assert "SyntaxError" in error.value.message
        assert "wrong.py:2" in error.value.message

    def test_an_import_that_fails_inside(self, study):
        folder = study("wrong.py", "import no_such_package\n")
        with pytest.raises(imports.UserCodeError, match="No module named 'no_such_package'") as error:
            imports.find("wrong.py:net", folder)
        assert "wrong.py:1" in error.value.details
        assert "install" in error.value.help
        assert "no_such_package" in error.value.help

    def test_what_a_dataloaders_worker_raised_has_the_users_lines(self, study):
        from torch.utils.data import DataLoader

        folder = study("rows.py", (
            "from torch.utils.data import Dataset\n\nclass Rows(Dataset):\n    def __len__(self):\n        return 4\n\n"
            "    def __getitem__(self, index):\n        return {'a': 1}['b']\n"
        ))
        rows = imports.find("rows.py:Rows", folder)()
        with pytest.raises(imports.UserCodeError) as error, imports.user_code("reading the data", folder):
            next(iter(DataLoader(rows, num_workers=1)))
        assert error.value.message == "reading the data raised KeyError: 'b' (rows.py:8: in __getitem__)"
        assert error.value.details.startswith("rows.py:8: in __getitem__")

    def test_leaving_the_program_is_no_way_out(self, study):
        folder = study("leaving.py", "import sys\n\nsys.exit(0)\n")
        with pytest.raises(imports.UserCodeError, match="SystemExit"):
            imports.find("leaving.py:net", folder)

    def test_errors_of_optlang_pass_through(self, tmp_path):
        with pytest.raises(OptlangError, match="ours") as error, imports.user_code("the model", tmp_path):
            raise OptlangError("ours")
        assert not isinstance(error.value, imports.UserCodeError)

    def test_it_travels_between_processes(self):
        import pickle

        error = pickle.loads(pickle.dumps(imports.UserCodeError("said", help="so", details="a.py:1")))
        assert (error.message, error.help, error.details) == ("said", "so", "a.py:1")

    def test_an_import_that_failed_can_be_mended(self, study):
        folder = study("mended.py", "raise ValueError('first')\n")
        with pytest.raises(imports.UserCodeError):
            imports.find("mended.py:net", folder)
        study("mended.py", "net = 5\n")
        assert imports.find("mended.py:net", folder) == 5


class TestFingerprint:
    def test_comments_and_layout_do_not_count(self, study):
        folder = study("a.py", "def net(x):\n    return x + 1\n")
        before = imports.fingerprint("a.py:net", folder)
        study("a.py", "# a comment\n\n\ndef net(x):  # another\n    return (x\n            + 1)\n")
        assert imports.fingerprint("a.py:net", folder) == before
        study("a.py", "def net(x):\n    return x + 2\n")
        assert imports.fingerprint("a.py:net", folder) != before

    @pytest.mark.parametrize(
        "line",
        ["import deep", "from deep import value", "import deep.inner", "from deep.inner import value",
         "from deep import inner", "import importlib; importlib.import_module('deep.inner')"],
    )
    def test_what_it_imports_counts(self, study, line):
        study("deep/__init__.py", "value = 0\n")
        study("deep/inner.py", "from . import leaf\nvalue = 1\n")
        study("deep/leaf.py", "value = 1\n")
        folder = study("a.py", f"def net():\n    {line}\n")
        before = imports.fingerprint("a.py:net", folder)
        study("deep/__init__.py", "value = 5\n")
        changed = imports.fingerprint("a.py:net", folder)
        assert changed != before
        if "inner" in line:
            study("deep/leaf.py", "value = 2\n")
            assert imports.fingerprint("a.py:net", folder) != changed

    def test_what_it_does_not_import_does_not_count(self, study):
        folder = study("a.py", "import layers\n")
        before = imports.fingerprint("a.py:net", folder)
        study("models.py", "x = 3\n")
        assert imports.fingerprint("a.py:net", folder) == before

    def test_nothing_is_run(self, study):
        folder = study("loud.py", "raise SystemExit(3)\n")
        assert len(imports.fingerprint("loud.py:net", folder)) == 64

    def test_files_that_import_each_other(self, study):
        study("a.py", "import b\n")
        folder = study("b.py", "import a\n")
        assert imports.fingerprint("a.py:net", folder) != imports.fingerprint("b.py:net", folder)

    def test_an_installed_object_has_one_too(self, tmp_path):
        one = imports.fingerprint("optlang.zoo.digits:cnn", tmp_path)
        assert one == imports.fingerprint("optlang.zoo.digits:cnn", tmp_path)
        assert one != imports.fingerprint("optlang.zoo.digits:digits", tmp_path)

    def test_a_file_that_is_no_python(self, study):
        folder = study("wrong.py", "def (:\n")
        with pytest.raises(imports.UserCodeError, match="not Python"):
            imports.fingerprint("wrong.py:net", folder)

    def test_of_a_checkout_what_a_module_imports_counts(self, tmp_path, monkeypatch):
        package = tmp_path / "made" / "deep"
        package.mkdir(parents=True)
        (tmp_path / "made" / "__init__.py").write_text("")
        (package / "one.py").write_text(
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import made.checked\nfrom made import near\n"
        )
        (tmp_path / "made" / "near.py").write_text("def f():\n    from made.deep.far import VALUE\n    return VALUE\n")
        for name in ("deep/far", "deep/beside", "checked"):
            (tmp_path / "made" / f"{name}.py").write_text("VALUE = 1\n")
        monkeypatch.syspath_prepend(tmp_path)

        def after(name: str, text: str) -> str:
            (tmp_path / "made" / f"{name}.py").write_text(text)
            return imports.fingerprint("made.deep.one:VALUE", tmp_path / "study")

        first = after("deep/far", "VALUE = 1\n")
        assert after("deep/far", "VALUE = 1  # the same\n") == first
        assert after("deep/beside", "VALUE = 2\n") == first, "it is not imported"
        assert after("checked", "VALUE = 2\n") == first, "it is imported for type checkers alone"
        assert after("deep/far", "VALUE = 2\n") != first, "two imports away"

    def test_of_an_installed_package_its_version_counts(self, tmp_path, monkeypatch):
        package = tmp_path / "site-packages" / "made"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("from made import other\n")
        (package / "other.py").write_text("VALUE = 1\n")
        monkeypatch.syspath_prepend(tmp_path / "site-packages")
        first = imports.fingerprint("made:VALUE", tmp_path)
        (package / "other.py").write_text("VALUE = 2\n")
        assert imports.fingerprint("made:VALUE", tmp_path) == first, "thousands of files are not read for this"
        monkeypatch.setattr(imports, "_version", lambda name: f"{name} 2")
        assert imports.fingerprint("made:VALUE", tmp_path) != first

    def test_each_technique_follows_what_it_shares_with_others(self, tmp_path):
        reached = sources.reached(OPTLANG / "techniques" / "quant" / "qat.py", OPTLANG.parent, "optlang")
        names = {path.relative_to(OPTLANG).as_posix() for path in reached}
        assert {
            "techniques/quant/qat.py", "techniques/training/trainer.py", "workload/model/call.py", "interfaces.py",
        } <= names
        assert not {name for name in names if name.startswith(("run/", "store/", "report/", "search/"))}
