"""What the package changes of its whole process, found by reading its source: a few places, each with its reason.

A library that changes the folder, the environment, standard output or a random generator of its process takes them from
the program that calls it. Blocks that restore what they change are `optlang.workload.process_state`'s.
"""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "optlang"

CALLS = re.compile(
    r"os\.(chdir|fchdir|dup2|putenv|unsetenv|umask|nice|setpriority|sched_setaffinity|closerange|setsid|setpgrp)"
    r"|os\.environ\.(update|setdefault|pop|popitem|clear)"
    r"|sys\.(path|modules|warnoptions|meta_path|path_hooks)\.(insert|append|extend|remove|pop|update|clear|setdefault)"
    r"|sys\.(setrecursionlimit|setswitchinterval|settrace|setprofile)"
    r"|signal\.(signal|siginterrupt|pthread_sigmask|set_wakeup_fd|alarm|setitimer)"
    r"|warnings\.(filterwarnings|simplefilter|resetwarnings)|logging\.(basicConfig|disable|captureWarnings)"
    r"|random\.(seed|setstate)|numpy\.random\.(seed|set_state)|resource\.setrlimit"
    r"|torch\.(manual_seed|seed|set_rng_state|set_num_threads|set_num_interop_threads|set_default_\w+"
    r"|use_deterministic_algorithms|set_grad_enabled|set_float32_matmul_precision)|torch\.(cuda|backends)\.(\w+\.)*set_\w+"
    r"|locale\.setlocale|multiprocessing\.set_start_method|faulthandler\.enable|atexit\.register|gc\.(disable|freeze)"
    r"|socket\.setdefaulttimeout|optuna\.logging\.(set|dis|en)\w+|nncf\.set_log_level"
)
LOGGERS = {"setLevel", "addHandler", "removeHandler", "addFilter"}

WORKER = "the start of a worker, which is a process of ours"
CHILD = "the start of a measuring process, which holds one runtime and is ours"
RESTORED = "restored at the end of the block"
ALLOWED = {
    "cli/app.py:command": "the command's own end: nobody reads its output any more",
    "measure/child.py:_Bench.imported": CHILD,
    "measure/child.py:_Bench.warm": CHILD,
    "measure/child.py:_Bench.round": CHILD,
    "measure/child.py:main": CHILD,
    "measure/quiet.py:register": WORKER,
    "measure/quiet.py:_pin": f"the cores of a run's other workers while something is measured; {RESTORED}",
    "measure/remote/agent.py:main": "the start of a device's process, which is ours",
    "runtimes/litert/converter.py:start": "what this process started ends with it",
    "runtimes/litert/converter_child.py:main": "the start of the converter's process, which is ours",
    "measure/signals.py:heard_by": f"only while a study runs, in the main thread; {RESTORED}",
    "measure/signals.py:_let_go": "after SIGHUP: descriptors of a terminal that is gone",
    "measure/signals.py:outlive": "the start of a worker or a measuring process",
    "measure/signals.py:start_tracker": f"multiprocessing's tracker inherits both; {RESTORED}",
    "runtimes/torch/int8_layers.py:_engine": f"torch packs weights for the library that it names; {RESTORED}",
    "run/engine.py:_Worker.start": f"multiprocessing reads it while it starts a process; {RESTORED}",
    "run/engine.py:_begin": WORKER,
    "run/ray_cluster.py:join": f"Ray warns of each large file of a study; {RESTORED}",
    "run/ray_cluster.py:_own_signals": f"Ray replaces the handlers of SIGTERM and SIGINT; {RESTORED}",
    "run/ray_node.py:Seat.__init__": "the start of a worker's process on another machine, which is ours",
    "run/worker.py:_begin_torch": WORKER,
    "runtimes/torch/session.py:threads": f"torch has one number for the process; {RESTORED}",
    "search/samplers/optuna_adapter.py:quiet": RESTORED,
    "techniques/quant/ort_quantizer.py:_silent": "optlang's own logger, which ONNX Runtime's quantizers are given",
    "workload/data/computed_metrics.py:ComputedMetric.value": f"warnings that mean a metric has no value; {RESTORED}",
    "workload/export/tracing.py:plain_attention": RESTORED,
    "workload/imports.py:at_home": f"the user's Python imports its neighbors; {RESTORED}",
    "workload/imports.py:_import_file": "the user's module, as any import leaves it",
    "workload/model/count.py:_transparent": RESTORED,
    "workload/process_state.py:quiet": RESTORED,
    "workload/process_state.py:environment": RESTORED,
    "workload/process_state.py:without_standard_output": RESTORED,
    "workload/seeds.py:_restore": "of `Stream`",
    "workload/seeds.py:Stream.__enter__": RESTORED,
    "workload/seeds.py:set_random_states": "the random numbers of a training that goes on, which seeds them first",
}


def imported(tree):
    """What the names that are imported in `tree`, functions inside aside, stand for: {"np": "numpy"}."""
    found, left = {}, list(ast.iter_child_nodes(tree))
    while left:
        node = left.pop()
        if isinstance(node, ast.Import):
            for item in node.names:
                first = item.name.partition(".")[0]
                found[item.asname or first] = item.name if item.asname else first
        elif isinstance(node, ast.ImportFrom):
            found |= {item.asname or item.name: f"{node.module}.{item.name}" for item in node.names}
        elif not isinstance(node, ast.FunctionDef):
            left += ast.iter_child_nodes(node)
    return found


class Writes(ast.NodeVisitor):
    """Calls and assignments that change something of the process, by the function that they stand in."""

    def __init__(self, text):
        self.scopes, self.where, self.restoring, self.found = [], [], 0, set()
        tree = ast.parse(text)
        self.scopes.append(imported(tree))
        self.visit(tree)

    def name(self, node):
        """The dotted name of what an expression refers to, None where it is no import nor a part of one."""
        match node:
            case ast.Name(id=own):
                return next((scope[own] for scope in reversed(self.scopes) if own in scope), None)
            case ast.Attribute(value=value, attr=attr):
                whole = self.name(value)
                return whole and f"{whole}.{attr}"
            case ast.Subscript(value=value):
                return self.name(value)
        return None

    def note(self):
        self.found.add(".".join(self.where))

    def inside(self, node):
        self.where.append(node.name)
        self.scopes.append(imported(node))
        self.generic_visit(node)
        self.scopes.pop()
        self.where.pop()

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = inside  # noqa: N815

    def visit_With(self, node):
        calls = [item.context_expr.func for item in node.items if isinstance(item.context_expr, ast.Call)]
        restores = "warnings.catch_warnings" in map(self.name, calls)
        self.restoring += restores
        self.generic_visit(node)
        self.restoring -= restores

    def visit_Call(self, node):
        name = self.name(node.func) or ""
        if CALLS.fullmatch(name) and not (self.restoring and name.startswith("warnings.")):
            self.note()
        if isinstance(node.func, ast.Attribute) and node.func.attr in LOGGERS:
            self.note()
        self.generic_visit(node)

    def written(self, node):
        # Attributes of modules, and what is in their dictionaries and lists.
        if isinstance(node.ctx, ast.Store | ast.Del) and self.name(node):
            self.note()
        self.generic_visit(node)

    visit_Attribute = visit_Subscript = written  # noqa: N815


@pytest.mark.parametrize("text", [
    "import os\nos.chdir('x')", "from os import chdir\nchdir('x')", "import os as o\no.environ['A'] = 'x'",
    "import os\ndel os.environ['A']", "import os\nos.environ.setdefault('A', 'x')", "import sys\nsys.path.pop()",
    "import sys\nsys.stdout = None", "import sys\nsys.modules['a'] = None", "import tempfile\ntempfile.tempdir = 'x'",
    "import warnings\nwarnings.simplefilter('ignore')", "import torch\ntorch.manual_seed(1)",
    "import torch\ntorch.backends.cudnn.enabled = False", "def f():\n  import torch\n  torch.set_num_threads(1)",
    "import logging\nlogging.getLogger().setLevel(3)", "import logging\nlogging.disable()",
    "import signal\nsignal.signal(1, None)", "import numpy as np\nnp.random.seed(0)", "import random\nrandom.seed(0)",
    "import library.part\nlibrary.part.print = None",
])
def test_a_write_is_found(text):
    assert Writes(text).found


@pytest.mark.parametrize("text", [
    "import os\nprint(os.environ.get('A'))", "import torch\ntorch.Generator().manual_seed(1)",
    "import warnings\nwith warnings.catch_warnings():\n  warnings.simplefilter('ignore')",
    "import numpy as np\nx = np.zeros(3)\nx[0] = 1", "def f():\n  import os\ndef g(os):\n  os.environ = {}",
])
def test_what_changes_nothing_of_the_process_is_not(text):
    assert not Writes(text).found


def test_only_what_has_its_reason_changes_the_process():
    found = {
        f"{path.relative_to(PACKAGE).as_posix()}:{where}"
        for path in PACKAGE.rglob("*.py") for where in Writes(path.read_text(encoding="utf-8")).found
    }
    assert found == set(ALLOWED)
