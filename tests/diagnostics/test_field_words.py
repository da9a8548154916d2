"""What the field calls otherwise: every answer is there and stands in a study, and no such word is misspelt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from optlang.analysis.load import Loaded, load
from optlang.analysis.lower.search_settings import MEASURE, SAMPLERS, SEARCH
from optlang.analysis.lower.targets import PARAMS
from optlang.analysis.modules.library import library, words
from optlang.analysis.modules.names import Sort, only
from optlang.diagnostics import field_words
from optlang.diagnostics.field_words import METRICS, RUNTIMES, STEPS, UNITS, VALUES, is_known, meant, plain
from optlang.diagnostics.model import Span
from optlang.plan.units import UNITS as DECLARED_UNITS
from optlang.syntax import tree

Check = Callable[[str], Loaded]


@pytest.fixture
def checked(tmp_path: Path) -> Check:
    def check(members: str) -> Loaded:
        rest = {
            "model": "model net = zoo.digits_cnn()", "data": "data seen = zoo.digits()",
            "target": "target here { runtime in { eager; onnxruntime } }", "steps": "steps { maybe static }",
            "minimize": "minimize size",
        }
        more = [text for word, text in rest.items() if f"{word} " not in members]
        path = tmp_path / "main.opt"
        path.write_text("optlang 1\n\nstudy small {\n  " + "\n  ".join([*more, members]) + "\n}\n", encoding="utf-8")
        return load(path)

    return check


def helps(found: Loaded) -> list[str | None]:
    return [item.help for item in found.diagnostics if item.severity == "error"]


def declared(*sorts: Sort) -> set[str]:
    return {item.name for module in library()[0].values() for item in module.declared.values() if item.sort in sorts}


def params() -> Iterator[tree.Param]:
    for module in library()[0].values():
        for item in module.declared.values():
            if isinstance(item.node, tree.Declaration):
                yield from (fact for fact in item.node.facts if isinstance(fact, tree.Param))


@pytest.mark.parametrize("answer", sorted({answer for answers in STEPS.values() for answer in answers}))
def test_an_answer_for_a_step_is_a_step(answer: str, checked: Check) -> None:
    assert not checked(f"steps {{ maybe {answer} }}").failed


@pytest.mark.parametrize("answer", sorted({answer for answers in METRICS.values() for answer in answers}))
def test_an_answer_for_a_metric_is_one(answer: str, checked: Check) -> None:
    assert not checked(f"require {answer}" if " " in answer else f"require {answer} >= 0.1 * baseline.{answer}").failed


def test_every_other_answer_is_declared() -> None:
    settings = {param.name.text for param in params()} | {param.name for param in (*SEARCH, *MEASURE, *PARAMS)}
    for table, known in (
        (RUNTIMES, declared("runtime")), (field_words.SAMPLERS, set(SAMPLERS)), (UNITS, set(DECLARED_UNITS)),
        (field_words.SETTINGS, settings), (VALUES, words()),
    ):
        assert {answer for answers in table.values() for answer in answers} <= known


def test_no_word_is_what_the_library_calls_something_of_that_sort() -> None:
    for table, names in (
        (STEPS, declared("technique", "pipeline")), (RUNTIMES, declared("runtime")), (METRICS, declared("metric")),
        (field_words.SAMPLERS, set(SAMPLERS)), (UNITS, set(DECLARED_UNITS)),
    ):
        assert not names & table.keys()
        assert not names & field_words.OTHERS


def test_words_are_written_as_they_are_looked_up() -> None:
    for table in field_words.TABLES:
        assert all(word == plain(word) for word in table)
    assert all(word == plain(word) for word in field_words.OTHERS)


def option_sets() -> Iterator[list[str]]:
    yield sorted(declared("technique", "pipeline"))
    yield sorted(declared("runtime"))
    yield sorted(declared("metric"))
    yield sorted(SAMPLERS)


def test_a_word_of_the_field_is_never_corrected() -> None:
    known = [word for table in field_words.TABLES for word in table] + sorted(field_words.OTHERS)
    for options in option_sets():
        for word in known:
            assert is_known(word)
            assert word in options or only(Span("t", 0, 1), word, options) is None, word


@pytest.mark.parametrize(
    ("members", "meaning"),
    [
        # Words that the library declares for something else, one letter from what is allowed here.
        ("steps { maybe channel }", "`channels`"),
        ("steps { maybe fixed }", "`mixed`"),
        ("steps { maybe qat { ranges = mixed } }", "`fixed`"),
        ("steps { maybe train { schedule = constants } }", "`constant`"),
        ("steps { maybe static { calibrator = mae } }", "`mse`"),
        ("steps { maybe train { optimized = sgd } }", "`optimizer`"),
        ("target here { runtime = torchscript { graph = optimizer } }", "`optimized`"),
    ],
)
def test_another_name_of_the_library_is_suggested_and_not_corrected(
    members: str, meaning: str, checked: Check
) -> None:
    found = checked(members)
    assert [item.fix for item in found.diagnostics] == [None]
    assert meaning in str(helps(found)[0])


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        ("steps { maybe int8 }", "did you mean `static`, `dynamic` or `qat`?"),
        ("steps { maybe quantize }", "did you mean `static`, `dynamic` or `qat`?"),
        ("steps { maybe Quantization }", "did you mean `static`, `dynamic` or `qat`?"),
        ("steps { maybe quant }", "did you mean `static`, `dynamic` or `qat`?"),
        ("steps { maybe ptq }", "did you mean `static` or `dynamic`?"),
        ("steps { maybe int4 }", "did you mean `weight_only { bits = 4 }`?"),
        ("steps { maybe fp16 }", "did you mean `half`?"),
        ("steps { maybe bf16 }", "did you mean `half { dtype = bfloat16 }` or `half`?"),
        ("steps { maybe prune }", "did you mean `channels` or `magnitude`?"),
        ("steps { maybe pruning }", "did you mean `channels` or `magnitude`?"),
        ("steps { maybe distillation }", "did you mean `distill`?"),
        ("steps { maybe dist }", "did you mean `distill`?"),
        ("steps { maybe compile }", "did you mean `runtime = inductor` in a target?"),
        ("steps { maybe onnx }", "did you mean `runtime = onnxruntime` in a target?"),
        ("steps { maybe trt }", "did you mean `runtime = tensorrt` in a target?"),
        ("steps { maybe torch.compile }", "did you mean `runtime = inductor` in a target?"),
        ("steps { maybe nn.prune }", "did you mean `channels` or `magnitude`?"),
        ("steps { maybe banana }", "`optlang explain` lists all techniques"),
        ("target here { runtime = onnx }", "did you mean `onnxruntime`?"),
        ("target here { runtime = trt }", "did you mean `tensorrt`?"),
        ("target here { runtime = tflite }", "did you mean `litert` or `executorch`?"),
        ("target here { runtime = int8 }", "did you mean `static`, `dynamic` or `qat` in `steps`?"),
        ("steps { maybe finetune { learning_rate = 1e-4 } }", "did you mean `lr`?"),
        ("steps { maybe magnitude { amount = 50% } }", "did you mean `sparsity`?"),
        ("steps { maybe channels { amount = 50% } }", "did you mean `ratio`?"),
        ("steps { maybe static { calibrator = kl } }", "did you mean `entropy`?"),
        ("steps { maybe half { dtype = bf16 } }", "did you mean `bfloat16`?"),
        ("search { sampler = bayesian }", "did you mean `tpe` or `gp`?"),
        ("search { n_trials = 3 }", "did you mean `trials`?"),
        ("require latency <= 3msec", "did you mean `ms`?"),
        ("require lat <= 3ms", "did you mean `latency`? A metric that your task returns is declared: "
                               "`metric lat: ratio maximize`"),
        ("require baseline.acc >= 3%", "did you mean `baseline.accuracy`?"),
        ("require accuracy_drop <= 1%", "did you mean `accuracy >= baseline.accuracy - 1%`?"),
        ("require accuracy >= baseline - 1%", "write `baseline.METRIC`: `baseline.accuracy`, `baseline.latency`"),
    ],
)
def test_a_word_of_the_field_is_answered_with_what_it_means_here(members: str, expected: str, checked: Check) -> None:
    assert helps(checked(members)) == [expected]


@pytest.mark.parametrize(("name", "declaration"), [("f1", "ratio maximize"), ("rmse", "float minimize")])
def test_a_metric_of_the_users_own_is_shown_declared(name: str, declaration: str, checked: Check) -> None:
    found = checked(f"maximize {name}")
    line = f"metric {name}: {declaration}"
    assert f"`{line}`" in str(helps(found)[0])
    assert not checked(f"{line}\n  {declaration.split()[1]} {name}").failed


def test_a_setting_is_among_what_is_declared() -> None:
    assert meant("share", field_words.SETTINGS, ["sparsity", "scope"]) == ("sparsity",)
    assert meant("Share", field_words.SETTINGS, ["scope"]) == ()
    assert meant("half-precision", STEPS) == ("half",)
