"""What the package uses of its libraries that they keep private: a short list, each name with its reason.

A private name may go with any release, so pyproject.toml admits no release of such a library that was not tried.
"""

import ast
import itertools
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
OWN = {"self", "cls", "other"}

HELD = "what a module holds, each place of a shared part included, which its public iterators pass by"
BASES = "the bases of its layers of one kind, which users' own layers have too: there is no public name for them"
OPERATORS = "how its operators are dispatched; FlopCounterMode, which is public, passes by what it has no formula for"
OLD = "weights by its older hooks, which its own parametrizations take the place of"
PRIVATE: dict[str, dict[str, str]] = {
    "torch": {
        **dict.fromkeys(("_ConvNd", "_ConvTransposeNd", "_BatchNorm", "_NormBase", "_DropoutNd"), BASES),
        **dict.fromkeys(("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"), HELD),
        **dict.fromkeys(("_forward_hooks", "_forward_pre_hooks", "_load_state_dict_pre_hooks"), HELD),
        **dict.fromkeys(("_tensor_name", "_u", "_v"), OLD),
        **dict.fromkeys(("_ops", "_python_dispatch", "_overloadpacket"), OPERATORS),
        **dict.fromkeys((
            "_cdist_forward", "_embedding_bag", "_embedding_bag_forward_only", "_euclidean_dist", "_grouped_mm",
            "_int_mm", "_pdist_forward", "_scaled_dot_product_flash_attention_for_cpu",
        ), "the operators that its layers call"),
        "_version": "the count of changes in place, by which autograd knows them",
        "_inductor": "where AOTInductor's documented functions and Inductor's settings are",
        "_metadata": "the versions of layers in a state dict, by which they load it",
        "_pytree": "the form of nested arguments that exported graphs have; there is no public name for it",
        "_dynamo": "its counters say whether a kernel in integers was made",
        "_iterator": "a DataLoader's workers that stay (`persistent_workers`) are ended by dropping it alone",
        "_qkv_same_embed_dim": "whether attention has one weight for its three inputs",
    },
    "torch-pruning": {
        "_module2name": "the names in its messages and in its history",
        "_param_to_name": "the same of parameters",
        "_is_atten_group": "its pruner takes other groups for attention",
        **dict.fromkeys(("_round_to", "_get_channel_groups"), "its pruner rounds down alone"),
        **dict.fromkeys(
            ("_trace", "_build_dependency", "_detect_unwrapped_parameters"),
            "build_dependency, which is public, works out positions too, and fails for the model on one operator",
        ),
        **dict.fromkeys(("_helpers", "_HybridIndex", "_DG"), "what the groups consist of that its scores take"),
    },
    "onnxruntime": dict.fromkeys(
        ("_preprocess", "_infer_impl", "_update_output_from_vi"),
        "the public function leaves a file in the current folder where it cannot finish",
    ),
    "torchao": {"_X86InductorQuantizationAnnotation": "the mark by which its quantizer leaves a node alone"},
    "executorch": dict.fromkeys(
        ("_threadpool_get_thread_count", "_unsafe_reset_threadpool"), "the only way to the number of its threads"
    ),
    "coremltools": {"_mil_program": "the program before it is written: which layer an operation comes from"},
    "ai-edge-quantizer": {"_recipe_manager": "calibration by samples needs the recipe that was loaded"},
    "optuna": {"_optimize_acqf": "see optlang/search/samplers/optuna_adapter.py"},
}

OVERRIDDEN = ("_optimize_acqf", "_is_atten_group", "_round_to", "_get_channel_groups")
"""Of these there are methods here, of classes that inherit from the library's."""


def private(name):
    return name.startswith("_") and not name.startswith("__") and name != "_"


def used(tree):
    """Private attributes of what is not the object itself, and private parts of the modules that are imported."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id=owner)) if owner in OWN | {"os"}:
                continue
            case ast.Attribute(attr=attr):
                yield attr
            case ast.Import(names=items):
                yield from (part for item in items for part in item.name.split("."))
            case ast.ImportFrom(module=module, names=items):
                yield from [*(module or "").split("."), *(item.name for item in items)]


def defined(trees):
    """The functions of these files and the attributes of their objects."""
    for node in itertools.chain.from_iterable(map(ast.walk, trees)):
        match node:
            case ast.FunctionDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.Attribute(value=ast.Name(id="self"), attr=attr, ctx=ast.Store()):
                yield attr


def test_private_names_are_few_and_have_their_reasons():
    found = set(OVERRIDDEN)
    for folder in {path.parent for path in (ROOT / "optlang").rglob("*.py")}:
        trees = [ast.parse(path.read_text(encoding="utf-8")) for path in folder.glob("*.py")]
        own = set(defined(trees))
        found |= {name for tree in trees for name in used(tree) if private(name)} - own
    assert found == {name for names in PRIVATE.values() for name in names}


@pytest.mark.parametrize("library", PRIVATE)
def test_no_release_is_admitted_that_was_not_tried(library):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = sum(project["optional-dependencies"].values(), project["dependencies"])
    bounds = [
        Version(item.version) for text in needed if (need := Requirement(text)).name == library
        for item in need.specifier if item.operator == "<"
    ]
    assert bounds
    assert all(len(item.release) > 1 for item in bounds), "the bound is a minor version"
