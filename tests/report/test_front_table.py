"""What a person sees of a study's front, its trade-offs, and what came nearest."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from optlang.interfaces import OptlangError
from optlang.plan.expressions import Binary, Const, MetricRef
from optlang.plan.model import Dimension, Knob, Metric, Rule, SetDomain
from optlang.report.front import load_front
from optlang.report.front_table import next_command, render_front
from optlang.report.selection import choose
from optlang.report.tables import cells
from optlang.report.tradeoffs import load_tradeoffs, render_tradeoffs
from optlang.report.trial_text import Part, Recipe, describe, repeated, shortened
from optlang.store.reader import Reader, connect
from optlang.store.writer import Writer
from tests.store.example_study import METRICS, end, make_plan, measurement, pause, search_events, session, start


def read(tmp_path: Path, events: Sequence[dict[str, Any]]) -> Reader:
    with Writer(tmp_path / "x.duckdb") as store:
        for event in events:
            store.record(event)
    return connect([tmp_path / "x.duckdb"])


def figures(size: float, latency: float, ratio: float, accuracy: float) -> list[dict[str, Any]]:
    return [
        measurement("size", size),
        measurement("latency.p50", latency, ratio=ratio),
        measurement("latency.p95", 1.1 * latency, ratio=ratio),
        measurement("accuracy", accuracy, ratio=accuracy / 0.993),
    ]


def test_what_macs_leave_out_is_said_below_the_front(tmp_path: Path) -> None:
    plan = make_plan(objectives=(("size", "minimize"), ("macs", "minimize")))
    counted = [measurement("size", 1000.0), measurement("macs", 500.0)]
    events = [
        session(plan=plan), start("r1", 0), end("r1", 0, measurements=counted, notes={"macs.uncounted": ["_fft_r2c"]}),
    ]
    found = render_front(load_front(read(tmp_path, events)))
    assert "macs of trial 0 leave out what has no formula: _fft_r2c\n" in found
    plain = [session(plan=plan), start("r1", 0), end("r1", 0, measurements=counted, notes={})]
    (tmp_path / "other").mkdir()
    assert "leave out" not in render_front(load_front(read(tmp_path / "other", plain)))


def test_layers_that_were_not_pruned_are_named_below_the_front(tmp_path: Path) -> None:
    plan = make_plan(objectives=(("size", "minimize"),))
    left = {
        "a": "its channels are the model's outputs", "b": "the model's code counts on its channels (ValueError: 3)",
        **{f"c{number}": "the model's code counts on its channels (ValueError: 4)" for number in range(4)},
    }
    events = [
        session(plan=plan), start("r1", 0),
        end("r1", 0, measurements=[measurement("size", 1000.0)], notes={"prune.left": left}),
    ]
    found = " ".join(render_front(load_front(read(tmp_path, events))).split())
    assert (
        "Not pruned in trial 0: a: its channels are the model's outputs; b, c0, c1 and 2 more: the model's code counts "
        "on its channels" in found
    )
    assert "ValueError" not in found


SMALL = [
    session(),
    start("r1", 0),
    end("r1", 0, measurements=figures(83_353, 188e-6, 1.0, 0.993)),
    start(
        "r1",
        1,
        {
            "laptop.runtime": "onnxruntime",
            "laptop.runtime.onnxruntime.graph": "all",
            "rounds": 2,
            "rounds.prune.ratio": 0.3,
            "rounds.recover.lr": 0.002,
            "precision": "static",
            "precision.static.calibrator": "entropy",
            "precision.static.samples": 64,
        },
        runtime="onnxruntime",
        steps=[
            {"path": "rounds[1].prune", "technique": "prune.channels", "settings": {"ratio": 0.3, "scope": "layer"}},
            {"path": "rounds[1].recover", "technique": "training.finetune", "settings": {"epochs": 3, "lr": 0.002}},
            {"path": "rounds[2].prune", "technique": "prune.channels", "settings": {"ratio": 0.3, "scope": "layer"}},
            {"path": "rounds[2].recover", "technique": "training.finetune", "settings": {"epochs": 3, "lr": 0.002}},
            {
                "path": "precision.static",
                "technique": "quant.static",
                "settings": {"calibrator": "entropy", "samples": 64},
            },
        ],
    ),
    end(
        "r1",
        1,
        measurements=figures(12_510, 21e-6, 9.4, 0.9907),
        steps=[{"path": "baseline.train", "technique": "training.train", "cached": True, "seconds": 0.0}],
    ),
    start("r1", 2, {"laptop.runtime": "eager", "rounds": 0, "precision": "none"}),
    end("r1", 2, measurements=figures(83_353, 150e-6, 1.2, 0.993)),
]


def test_the_front_says_what_each_trial_is_and_how_it_compares(tmp_path: Path) -> None:
    text = render_front(load_front(read(tmp_path, SMALL)))
    row = next(line for line in text.splitlines() if "static" in line)
    for part in (
        "2 × (channels ratio 30%, finetune lr 0.0020), static entropy samples 64 · onnxruntime all",
        "12.5 kB  ×6.7",
        "21.0 µs  ×9.4 [9.0, 9.8]",
        "23.1 µs  ×9.4",
        "99.1 %  −0.2 [−4.2, +3.7]",
    ):
        assert part in row
    assert "baseline · eager" in text
    assert "as it is · eager" in text
    assert "2 trials searched: 2 complete" in text
    assert text.endswith("Next: optlang export digits 1 -o digits-1\n")


def test_a_ratio_to_another_figure_than_the_baselines_row_is_named(tmp_path: Path) -> None:
    def timed(size: float, seconds: float, before: float) -> list[dict[str, Any]]:
        return [
            measurement("size", size),
            measurement("latency.p50", seconds, ratio=before / seconds, baseline=before),
            measurement("accuracy", 0.99, baseline=0.99),
        ]

    def shown(*trials: tuple[float, float, float]) -> str:
        events = [session()]
        for number, figures in enumerate(trials):
            events += [start("r1", number, runtime="eager"), end("r1", number, measurements=timed(*figures))]
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        return render_front(load_front(read(folder, events)), width=100)

    alike = shown((300, 188e-6, 188e-6), (200, 20e-6, 188e-6), (100, 30e-6, 188.01e-6))
    assert "next to" not in alike
    text = shown((300, 188e-6, 188e-6), (200, 20e-6, 160e-6), (100, 30e-6, 180e-6))
    assert "20.0 µs  ×8.0" in text
    assert "30.0 µs  ×6.0" in text
    assert "latency p50 of the baseline next to trials 1, 2, which the comparison is with: 160 µs to 180" in text
    assert "accuracy of the baseline" not in text


def test_trials_within_noise_of_another_are_named_below_the_front_and_counted_once(tmp_path: Path) -> None:
    """Two INT8 files that differ by 108 bytes and by less than the clock can tell are one trade-off."""
    def timed(size: float, ratio: float, accuracy: float) -> list[dict[str, Any]]:
        return [
            measurement("latency.p50", 188e-6 / ratio, ratio=ratio, baseline=188e-6),
            {**measurement("size", size), "low": size, "high": size}, measurement("accuracy", accuracy, baseline=0.993),
        ]

    trials = (
        timed(83_353, 1.0, 0.993), timed(27_478, 8.0, 0.989), timed(27_370, 7.9, 0.989), timed(12_510, 7.9, 0.985),
        timed(27_500, 7.8, 0.988), timed(27_900, 8.1, 0.989),
    )
    events = [session()]
    for number, found in enumerate(trials):
        events += [start("r1", number, runtime="onnxruntime"), end("r1", number, measurements=found)]
    reader = read(tmp_path, events)
    assert reader.query("SELECT trial, tie_of FROM front ORDER BY trial").rows == (
        (0, None), (1, None), (2, 1), (3, None), (4, 1), (5, None),
    ), "trial 4 is dominated, and by no more than noise; trial 5 is 1.5 % larger than the first"
    front = load_front(reader)
    assert [member.trial for member in front.members] == [0, 5, 1, 3]
    assert front.ties == {1: (2, 4)}
    text = render_front(front)
    assert "Within noise of trial 1 in every goal: trials 2, 4\n" in text
    assert "27.4 kB" not in text
    assert "5 trials searched: 5 complete" in text


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_the_front_fits_the_terminal(tmp_path: Path, width: int) -> None:
    front = load_front(read(tmp_path, list(search_events(30))))
    text = render_front(front, width=width)
    assert max(cells(line) for line in text.splitlines()) <= width
    assert all(str(member.trial) in text for member in front.members)
    assert "\x1b" not in text


def test_the_best_trades_most_gain_for_at_most_a_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events = [
        *SMALL,
        start("r1", 3, runtime="onnxruntime"),
        end("r1", 3, measurements=figures(1_000, 5e-6, 40.0, 0.95)),
    ]
    front = load_front(read(tmp_path, events))
    assert {member.trial for member in front.members} == {0, 1, 2, 3}
    assert front.best == 1
    monkeypatch.chdir(tmp_path)
    assert next_command(front, db=tmp_path / "optlang.duckdb") == "optlang export digits 1 -o digits-1"
    assert next_command(front, db=Path("a b.duckdb")) == "optlang export digits 1 -o digits-1 --db 'a b.duckdb'"
    assert next_command(front, db=Path("/else/x.duckdb")) == "optlang export digits 1 -o digits-1 --db /else/x.duckdb"
    (tmp_path / "digits-1").mkdir()
    assert next_command(front) == "optlang export digits 1 -o digits-1", "an empty folder is free"
    (tmp_path / "digits-1" / "mine.txt").write_text("x")
    (tmp_path / "digits-1-2").write_text("a file")
    assert next_command(front) == "optlang export digits 1 -o digits-1-3"


def test_the_best_of_a_regression_loses_a_hundredth_at_most(tmp_path: Path) -> None:
    goals = [("latency.p50", "minimize"), ("mse", "minimize")]
    metrics = [*METRICS, Metric(name="mse", dimension="number", direction="minimize", task=True)]
    plan = make_plan(objectives=goals, metrics=metrics)
    events = [session(plan=plan)]
    for trial, latency, mse in ((0, 188e-6, 0.5), (1, 5e-6, 0.6), (2, 20e-6, 0.503), (3, 40e-6, 0.4)):
        measured = [measurement("latency.p50", latency, ratio=188e-6 / latency), measurement("mse", mse)]
        events += [start("r1", trial, runtime="onnxruntime"), end("r1", trial, measurements=measured)]
    front = load_front(read(tmp_path, events))
    assert {member.trial for member in front.members} == {0, 1, 2, 3}
    assert front.best == 2
    text = " ".join(render_front(front).split())
    assert "trial 2: latency p50 ×9.4, the largest gain of a trial that loses at most 1 % of mse" in text


def test_throughput_is_compared_by_how_many_times_more(tmp_path: Path) -> None:
    plan = make_plan(objectives=(("throughput", "maximize"), ("accuracy", "maximize")))
    events = [session(plan=plan)]
    for trial, samples, ratio in ((0, 1000.0, 1.0), (1, 3600.0, 3.0), (2, 500.0, None)):
        measured = [measurement("throughput", samples, ratio=ratio), measurement("accuracy", 0.99)]
        events += [start("r1", trial, runtime="onnxruntime"), end("r1", trial, measurements=measured)]
    members = {member.trial: member for member in load_front(read(tmp_path, events)).members}
    assert members[1].figures["throughput"].times == 3.0, "as the two ran side by side"
    assert members[1].figures["throughput"].lost is None
    assert "3600  ×3.0" in render_front(load_front(connect([tmp_path / "x.duckdb"])))


def test_a_trial_that_ended_before_its_training_is_shown_last_and_not_exported(tmp_path: Path) -> None:
    missed = [{"text": "size <= 10kB", "by": 0.01, "said": "size 10.1 kB is above the limit 10.0 kB by 0.1 kB"}]
    events = [*SMALL[:3], start("r1", 1), end("r1", 1, "infeasible", reason="too large", violations=missed)]
    front = load_front(read(tmp_path, events))
    text = render_front(front)
    assert "Trial 1: size 10.1 kB is above the limit 10.0 kB by 0.1 kB" in text
    assert "Next:" not in text
    further = [{**missed[0], "by": 0.5}]
    events = [start("r1", 2), end("r1", 2, "infeasible", figures(1e4, 1e-5, 10, 0.95), violations=further)]
    front = load_front(read(tmp_path, events))
    assert [near.member.trial for near in front.nearest] == [2, 1]
    assert " 2 -o " in render_front(front)


def test_when_nothing_met_the_requirements_the_nearest_are_shown(tmp_path: Path) -> None:
    events = SMALL[:3]
    for trial, by in ((1, 0.04), (2, 0.012), (3, 0.0)):
        violations = [
            {"text": "accuracy >= baseline.accuracy - 1%", "by": by, "said": f"accuracy {by} below"},
            {"text": "latency.p95 <= 2ms", "by": -0.5 if by else 0.3, "said": "latency.p95 above the limit 2.00 ms"},
        ]
        events += [
            start("r1", trial),
            end("r1", trial, "infeasible", figures(1e4, 1e-5, 10, 0.95), violations=violations),
        ]
    front = load_front(read(tmp_path, events))
    assert [near.member.trial for near in front.nearest] == [2, 1, 3]
    text = render_front(front)
    assert "No trial met all requirements. The nearest:" in text
    assert "Trial 2: accuracy 0.012 below\nTrial 1: accuracy 0.04 below\n" in text
    assert "Trial 3: latency.p95 above the limit 2.00 ms\n" in text
    assert text.endswith("Next: optlang export digits 2 -o digits-2\n"), "a night's work is never answered with nothing"


def test_a_study_that_has_only_begun_is_shown(tmp_path: Path) -> None:
    assert "Nothing has been searched yet" in render_front(load_front(read(tmp_path, [session()])))
    text = render_front(load_front(read(tmp_path, SMALL[1:3])))
    assert "baseline · eager" in text
    assert "Next" not in text
    (tmp_path / "new").mkdir()
    empty = load_tradeoffs(read(tmp_path / "new", [session(file="my studies/digits.opt")]))
    assert "\nNext: optlang run 'my studies/digits.opt' --ladder\n" in render_tradeoffs(empty)
    assert "no technique" not in render_tradeoffs(load_tradeoffs(read(tmp_path, [])))


def test_a_study_whose_techniques_all_failed_alone_says_where_to_look(tmp_path: Path) -> None:
    ladder = {"origin": "ladder", "alone": "quant.static"}
    failed = [start("r1", 1, **ladder), end("r1", 1, "failed", reason="aten::bilinear has no operator in ONNX")]
    front = load_front(read(tmp_path, [*SMALL[:3], *failed]))
    text = render_front(front)
    assert "\nNothing has been searched yet, and each technique alone has failed.\n" in text
    assert "\n0 trials searched\nNot counted: the baseline, 1 trial of a technique alone (1 failed)\n" in text
    assert text.endswith("\nNext: optlang tradeoffs digits\n")


def test_a_front_of_the_baseline_alone_says_why(tmp_path: Path) -> None:
    first = [session(), start("r1", 0), end("r1", 0, measurements=figures(100, 1e-4, 1, 0.9))]
    worse = [start("r1", 1), end("r1", 1, measurements=figures(200, 2e-4, 0.5, 0.8))]
    failed = [start("r1", 2), end("r1", 2, "failed", reason="the model has no linear layer")]
    (tmp_path / "failed").mkdir()
    text = render_front(load_front(read(tmp_path, [*first, *worse, *failed])))
    assert "\nNo trial is a better trade-off than the baseline.\n\n2 trials searched: 1 complete, 1 failed\n" in text
    text = render_front(load_front(read(tmp_path / "failed", [*first, *failed])))
    assert "\nEach searched trial has failed.\n\n1 trial searched: 1 failed\n" in text
    (tmp_path / "paused").mkdir()
    paused = [start("r1", 3), pause(3, 1, 1, 2.0)]
    text = render_front(load_front(read(tmp_path / "paused", [*first, *failed, *paused])))
    assert "\nNo searched trial has come to its end yet; 1 paused in training.\n" in text
    assert "\n2 trials searched: 1 failed, 1 paused\n" in text


def test_tradeoffs_say_what_failed_and_why(tmp_path: Path) -> None:
    events = [
        *SMALL,
        start("r1", 3, alone="quant.static", runtime="openvino", origin="ladder"),
        end("r1", 3, measurements=figures(30_000, 6e-5, 3.1, 0.99)),
        start("r1", 4, alone="quant.dynamic", runtime="onnxruntime", origin="ladder"),
        end("r1", 4, "failed", reason="the model has no linear layer"),
    ]
    text = render_tradeoffs(load_tradeoffs(read(tmp_path, events)), width=100)
    row = next(line for line in text.splitlines() if line.startswith("quant.static"))
    assert row.split() == ["quant.static", "openvino", "×2.8", "–", "×3.1", "–", "−0.3", "3"]
    assert "quant.dynamic on onnxruntime (trial 4): the model has no linear layer" in text
    assert "accuracy, points" in text


def test_one_count_of_searched_trials_and_what_it_does_not_count(tmp_path: Path) -> None:
    events = [
        *SMALL,
        start("r1", 3, alone="quant.static", origin="ladder"),
        end("r1", 3, measurements=figures(30_000, 6e-5, 3.1, 0.99)),
        start("r1", 4, alone="quant.dynamic", origin="ladder"),
        end("r1", 4, "failed", reason="the model has no linear layer"),
        start("r1", 5),
        end("r1", 5, "infeasible", figures(1e4, 1e-5, 10, 0.95), reason="accuracy is too low"),
        start("r1", 6),
        end("r1", 6, "failed", reason="interrupted"),
        start("r1", 7),  # what nobody writes to any more was interrupted too
    ]
    text = render_front(load_front(read(tmp_path, events)))
    assert "\n3 trials searched: 2 complete, 1 infeasible\n" in text
    assert "\nNot counted: the baseline, 2 trials of a technique alone (1 failed), 2 interrupted\n" in text


@pytest.mark.parametrize("width", [52, 60, 72, 80, 100, 160])
def test_tradeoffs_break_no_word(tmp_path: Path, width: int) -> None:
    techniques = ("training.finetune", "quant.static", "prune.magnitude")
    reason = "accuracy 52.5 % is below the limit 92.5 % (baseline.accuracy - 5%) by 40.0 points"
    events = SMALL[:3]
    for trial, technique in enumerate(techniques, 1):
        events += [
            start("r1", trial, alone=technique, runtime="onnxruntime", origin="ladder"),
            end("r1", trial, "infeasible", figures(30_000, 6e-5, 3.1, 0.525), reason=reason),
        ]
    text = render_tradeoffs(load_tradeoffs(read(tmp_path, events)), width=width)
    assert max(map(len, text.splitlines())) <= width
    words = set(text.replace("technique,", "technique").split())
    assert {*techniques, *reason.split(), "technique", "runtime", "smaller", "faster", "onnxruntime"} <= words
    assert text.count("onnxruntime") == 6


def test_metrics_that_do_not_fit_stand_in_a_second_table(tmp_path: Path) -> None:
    own = [("miou", 0.7), ("edge_f1", 0.8), ("recall", 0.9)]
    metrics = [*METRICS, *(Metric(name=name, dimension="ratio", direction="maximize", task=True) for name, _ in own)]
    goals = [("latency.p50", "minimize"), ("size", "minimize"), *((name, "maximize") for name, _ in own)]
    events = [session(plan=make_plan(objectives=goals, metrics=metrics))]
    for trial in (0, 1):
        ratios = [{**measurement(name, value - 0.01 * trial), "unit": "ratio"} for name, value in own]
        measured = [*figures(83_353 - trial, 188e-6 - 1e-5 * trial, 1 + trial, 0.99), *ratios]
        events += [start("r1", trial, runtime="onnxruntime"), end("r1", trial, measurements=measured)]
    front = load_front(read(tmp_path, events))
    assert front.metrics == ("size", "latency.p50", "latency.p95", "accuracy", "miou", "edge_f1", "recall")
    wide, narrow = render_front(front), render_front(front, width=80)
    assert "70.0 % [67.9, 72.1]" in wide, "the baseline's own interval"
    assert "69.0 % [66.9, 71.1]  −1.0" in wide, "an interval stands behind what it is of"
    assert max(map(cells, narrow.splitlines())) <= 80
    for text in ("miou", "edge_f1", "recall", "69.0 %  −1.0", "79.0 %  −1.0", "89.0 %  −1.0"):
        assert text in narrow
    assert narrow.count("\ntrial ") == 2
    assert "latency p95" not in narrow, "nobody asked for it"


def test_a_required_p95_is_shown_however_narrow(tmp_path: Path) -> None:
    limit = Binary(operator="<=", left=MetricRef(metric="latency.p95"), right=Const(value=0.002))
    plan = make_plan().model_copy(update={"requires": (Rule(expression=limit, text="latency.p95 <= 2ms"),)})
    reader = read(tmp_path, [session(plan=plan), *SMALL[1:]])
    narrow = render_front(load_front(reader), width=80)
    assert "latency p95" in narrow
    assert max(map(cells, narrow.splitlines())) <= 80
    assert narrow.count("\ntrial ") == 1, "a figure and what it is against the baseline are in two lines"
    lines = [line.split() for line in narrow.splitlines()]
    first = next(index for index, line in enumerate(lines) if line[:1] == ["*1"])
    assert lines[first][-8:] == ["12.5", "kB", "21.0", "µs", "23.1", "µs", "99.1", "%"]
    assert lines[first + 1][-4:] == ["×6.7", "×9.4", "×9.4", "−0.2"]
    assert "23.1 µs  ×9.4 [9.0, 9.8]" in render_front(load_front(reader))


def test_a_study_is_found_by_name_by_file_or_as_the_last_one(tmp_path: Path) -> None:
    file = tmp_path / "another.opt"
    file.write_text("optlang 1\n\n# Shows: nothing\nstudy second {\n}\n")
    reader = read(
        tmp_path,
        [
            session("a", 0, make_plan("first"), file=str(tmp_path / "one.opt")),
            session("b", 1, make_plan("second")),
            session("c", 2, make_plan("third")),
        ],
    )
    assert choose(reader).study == "third"
    assert choose(reader, "first").run == "a"
    assert choose(reader, str(tmp_path / "one.opt")).study == "first"
    assert choose(reader, str(file)).study == "second"
    copied = tmp_path / "copy" / "one.opt"
    copied.parent.mkdir()
    copied.write_text("optlang 1\n\nstudy first {\n}\n")
    assert choose(reader, str(copied)).study == "first", "the file was moved"
    (tmp_path / "one.opt").write_text(copied.read_text())
    with pytest.raises(OptlangError, match=r"newest run of `first` .* is that of .*one\.opt, not of .*copy") as caught:
        choose(reader, str(copied))
    assert "optlang front first --db" in str(caught.value.help)
    with pytest.raises(OptlangError, match="no study `secnd`") as caught:
        choose(reader, "secnd")
    assert caught.value.help == "did you mean `second`?"
    with pytest.raises(OptlangError, match="no study `zzz`") as caught:
        choose(reader, "zzz.opt")
    assert "`first`" in str(caught.value.help)


def test_a_database_without_studies_says_so(tmp_path: Path) -> None:
    with pytest.raises(OptlangError, match="no study yet"):
        choose(read(tmp_path, []))


def test_few_words_say_once_what_trials_have_in_common() -> None:
    def tuned(epochs: str, lr: str) -> Part:
        return Part("finetune", (("epochs", epochs), ("lr", lr)))

    cut = [Part("channels", (("ratio", f"ratio {share}%"), ("scope", "layer"))) for share in (30, 50)]
    here = (Part("onnxruntime", (("graph", "all"),)),)
    baseline = Recipe(None, (Part("eager"),))
    rows = [
        baseline, Recipe((cut[0], tuned("epochs 2", "lr 0.1"), Part("svd", (("rank", "rank 4"),))), here),
        Recipe((cut[1], tuned("epochs 2", "lr 0.2")), here), Recipe((), here),
    ]
    assert shortened(rows) == (
        ("baseline", "channels 30%, finetune lr 0.1, svd rank 4", "channels 50%, finetune lr 0.2", "as it is"),
        (
            "Runtime: onnxruntime all; of the baseline: eager",
            "The same wherever used: channels layer, finetune epochs 2",
        ),
    )
    other = Recipe((cut[0], cut[0]), (Part("openvino"),))
    assert shortened([baseline, rows[1], other]) == (
        (
            "baseline · eager", "channels, finetune epochs 2 lr 0.1, svd rank 4 · onnxruntime all",
            "2 × channels · openvino",
        ),
        ("The same wherever used: channels ratio 30% layer",),
    )
    assert shortened(rows[:2]) == (
        ("baseline · eager", "channels 30% layer, finetune epochs 2 lr 0.1, svd rank 4 · onnxruntime all"), (),
    )
    assert shortened([]) == ((), ())


def test_a_setting_is_named_where_a_step_has_two_shares() -> None:
    two = Part("mask", (("ratio", "ratio 30%"), ("keep", "keep 5%")))
    assert shortened([Recipe((two,), ())]) == (("mask ratio 30% keep 5%",), ())


def test_what_is_best_says_why(tmp_path: Path) -> None:
    def why(*trials: tuple[float, float, float, float]) -> tuple[int | None, str]:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        events = SMALL[:3]
        for number, found in enumerate(trials, 1):
            events += [start("r1", number, runtime="onnxruntime"), end("r1", number, measurements=figures(*found))]
        front = load_front(read(folder, events))
        return front.best, front.why

    assert why((12_510, 20e-6, 9.4, 0.99), (8_000, 21e-6, 9.0, 0.9)) == (
        1, "it alone loses at most a point of accuracy, with latency p50 ×9.4 and size ×6.7",
    )
    assert why((12_510, 20e-6, 9.4, 0.92), (8_000, 21e-6, 9.0, 0.9)) == (
        1, "each trial loses more than a point of accuracy, and it the least (accuracy −7.3)",
    )
    assert why((12_510, 20e-6, 9.4, 0.992), (8_000, 21e-6, 9.0, 0.991)) == (
        2, "latency p50 ×9.0 and size ×10, the largest gain together of a trial that loses at most a point of accuracy",
    )


def test_words_that_repeat_are_counted() -> None:
    assert repeated(["a", "b", "a", "b", "a", "b", "c"]) == ["3 × (a, b)", "c"]
    assert repeated(["a", "a", "b", "b"]) == ["2 × a", "2 × b"]
    assert repeated(["a", "b", "c"]) == ["a", "b", "c"]
    assert repeated([]) == []


def test_settings_are_said_as_they_are_written() -> None:
    dimensions: dict[str, Dimension] = {"wait.limit": "time", "wait.room": "bytes", "wait.on": "bool"}
    plan = make_plan(knobs=[
        Knob(path=path, column=path, role="value", domain=SetDomain(values=(1,)), dimension=dimension)
        for path, dimension in dimensions.items()
    ])
    step = {
        "path": "wait",
        "technique": "mine.wait",
        "settings": {"limit": 0.002, "room": 4096, "on": True, "fixed": 3},
    }
    point = {"wait.limit": 0.002, "wait.room": 4096, "wait.on": True}
    assert describe(plan, 1, point, "eager", [step]) == "wait limit 2.00 ms room 4.10 kB on yes · eager"
