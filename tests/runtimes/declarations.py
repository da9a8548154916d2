"""The declared facts of the standard library's runtimes, and what follows from them for a test."""

from functools import cache
from pathlib import Path

from optlang.analysis.declarations import Declarations
from optlang.analysis.modules.library import library
from optlang.analysis.modules.names import Scope
from optlang.diagnostics.model import Diagnostics
from optlang.plan.domains import values_of
from optlang.plan.expressions import Environment, holds
from optlang.workload import imports, process_state

STUDY = Path(__file__).parents[1] / "fixtures" / "models"
_DEVICES = {"gpu": "cuda", "browser": "browser"}


@cache
def _declared(sort):
    modules, _ = library()
    facts = Declarations(Diagnostics(), lambda declared: Scope(declared.module, modules))
    read = {"runtime": facts.runtime, "technique": facts.technique}[sort]
    return {
        f"{module.name}.{name}": read(item) for module in modules.values() for name, item in module.declared.items()
        if item.sort == sort
    }


def runtimes():
    """The runtimes by name."""
    return {name.partition(".")[2]: facts for name, facts in _declared("runtime").items()}


def techniques():
    """The techniques by their qualified names."""
    return _declared("technique")


def defaults(facts):
    """The settings that a study has where it sets none: those whose condition holds."""
    found = {param.name: param.default for param in facts.params}
    environment = Environment(knob=found.get)
    return {
        param.name: param.default for param in facts.params if param.when is None or holds(param.when, environment)
    }


def other_values(facts):
    """The named and the true-or-false settings that are there by default, with each value that is not the default."""
    there = defaults(facts)
    return [
        (param.name, value) for param in facts.params if param.name in there and param.dimension in ("name", "bool")
        for value in ((True, False) if param.dimension == "bool" else values_of(param.domain)) if value != param.default
    ]


def performed(facts):
    """The techniques that a runtime performs, a module's each by itself."""
    return [
        name for name in techniques() if any(name == item or name.startswith(f"{item}.") for item in facts.performs)
    ]


def runtime_of(name):
    """The object that the declaration of `name` calls."""
    return imports.find(runtimes()[name].calls, STUDY)()


def device_of(name):
    """The device of targets that the runtime is for."""
    return next((_DEVICES[need] for need in runtimes()[name].needs if need in _DEVICES), "cpu")


def elsewhere(name):
    """None where the runtime builds and runs here, else the reason."""
    runtime = runtime_of(name)
    return runtime.available() or (runtime.runs() if hasattr(runtime, "runs") else None)


def needs_compiler(name):
    """Whether a C++ compiler builds its artifacts, by its own word."""
    with process_state.environment(CXX="absent++"):
        return "absent++" in (runtime_of(name).available() or "")


def builds_slowly(name):
    """Whether it compiles or lowers a model, seconds each: eager replaces layers of it."""
    return name != "eager" and (bool(runtimes()[name].performs) or needs_compiler(name))
