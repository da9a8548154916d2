"""The declared facts of techniques, as the plan of a study that uses them has them."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from optlang.analysis.load import load
from optlang.analysis.modules.library import library

STUDY = """{above}
study all {{
  model net  = zoo.digits_cnn()
  data  seen = zoo.digits()
  target here {{ runtime in {{ eager; onnxruntime }} }}
  steps {{ choice in {{ {steps} }} }}
  minimize size
}}
"""


def declared(names, above="optlang 1", folder=None):
    """The techniques of these names by their qualified names; `above` may declare some in the study's `folder`."""
    with TemporaryDirectory() as made:
        path = Path(folder or made) / "declared.opt"
        path.write_text(STUDY.format(above=above, steps="; ".join(["none", *(f"{name} {{}}" for name in names)])))
        loaded = load(path)
    assert loaded.plan is not None, loaded.diagnostics
    return {item.name: item for item in loaded.plan.techniques}


@cache
def standard():
    """All techniques of the standard library."""
    modules, _ = library()
    return declared([
        f"{module.name}.{name}" for module in modules.values() for name, item in module.declared.items()
        if item.sort == "technique"
    ])
