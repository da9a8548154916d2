"""Where the package's data lie, in a checkout and in a wheel."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

_PACKAGE = Path(str(files("optlang"))).resolve()


def data(package: str, name: str) -> Path:
    """A file or folder inside a package of optlang, "optlang.store" say."""
    return Path(str(files(package))) / name


def grammar() -> Path:
    """The folder that holds `optlang.lark`; FileNotFoundError where the installation is not whole."""
    return _folder("grammar", "optlang.lark")


def stdlib() -> Path:
    """The folder of the standard library's modules; FileNotFoundError where the installation is not whole."""
    return _folder("stdlib", "quant.opt")


def _folder(name: str, witness: str) -> Path:
    # A wheel holds the folder inside the package, a checkout next to it.
    for folder in (_PACKAGE / name, _PACKAGE.parent / name):
        if (folder / witness).is_file():
            return folder
    raise FileNotFoundError(f"optlang is not installed whole: it has no folder {name} with {witness}")
