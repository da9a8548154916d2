"""`search { … }` and `measure { … }`: the settings of the search and of measuring, with their defaults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

from optlang.analysis.knobs import Around, Knobs
from optlang.analysis.lower import training_device
from optlang.analysis.modules.names import duplicate, only, suggestion
from optlang.analysis.settings import settings_of
from optlang.diagnostics import field_words
from optlang.diagnostics.model import Span
from optlang.diagnostics.suggest import closest
from optlang.plan.expressions import Value
from optlang.plan.model import (
    TRIALS,
    Fixed,
    FloatDomain,
    Halving,
    IntDomain,
    Measure,
    Param,
    Ray,
    Sampler,
    Search,
    SetDomain,
)
from optlang.syntax import tree

YEAR = 365 * 86400.0
WORKERS = 1024
"""How many workers, trainers, cores or GPUs may be asked for."""


def _count(name: str, low: int, high: int, default: int | None, text: str) -> Param:
    return Param(name=name, dimension="count", domain=IntDomain(low=low, high=high), default=default, help=text)


def _time(name: str, low: float, default: float | None, text: str) -> Param:
    return Param(name=name, dimension="time", domain=FloatDomain(low=low, high=YEAR), default=default, help=text)


SEARCH = (
    _count(
        "trials", 0, 1_000_000, None,
        f"searched trials in all, {TRIALS} where `timeout` is not set either; 0: the baseline and the ladder alone",
    ),
    _time("timeout", 1.0, None, "how long a run may take, the last measuring of the front included"),
    _time("trial_timeout", 1.0, 600.0, "how long one trial may take"),
    _count("seed", 0, 2**31 - 1, 0, "the seed of every draw"),
    Param(
        name="ladder", dimension="bool", domain=SetDomain(values=(False, True)), default=True,
        help="whether each technique is measured alone first",
    ),
    Param(
        name="stop_early", dimension="bool", domain=SetDomain(values=(False, True)), default=True,
        help="whether a trial ends before its training or in it where the rest cannot change what becomes of it",
    ),
    Param(
        name="warm_start", dimension="bool", domain=SetDomain(values=(False, True)), default=False,
        help="whether the sampler learns from the trials of earlier runs of this model, data, baseline and target",
    ),
    _count(
        "screening", 0, 256, 16,
        "of how many points most trials are chosen, by the gain and the time that are expected; `off`: of one",
    ),
    Param(
        name="disk", dimension="bytes", domain=IntDomain(low=1000, high=10**15), default=None,
        help="how much the cache and the artifacts may take on the disk; a tenth of the free space where it is not set",
    ),
    _count(
        "workers", 1, WORKERS, 1,
        "how many trials are trained at the same time on this machine; `ray` trains on the machines of a Ray cluster",
    ),
    training_device.PARAM,
)
HALVING = (
    _count(
        "reduce", 2, 100, Halving().reduce,
        "of how many trials that paused one goes on, to so many times as many epochs",
    ),
    _count("first", 1, 10_000, Halving().first, "the epochs after which a trial pauses first"),
)
HALVING_WORDS = frozenset({"asha", "hyperband", "successivehalving", "pruner", "medianpruner", "hyperbandpruner"})
"""What the field calls it, and what is near."""

RAY = (
    Param(
        name="address", dimension="string", domain=None, default=Ray().address,
        help="where the cluster is: `auto`, that of this machine, or HOST:PORT",
    ),
    _count("cpus", 1, WORKERS, Ray().cpus, "the cores of one trainer"),
    Param(
        name="gpus", dimension="number", domain=FloatDomain(low=0.0, high=WORKERS), default=Ray().gpus,
        help="the GPUs of one trainer; 0.5 shares one between two",
    ),
    _count("per_node", 1, WORKERS, None, "trainers on one node at most; as many as have room there if not set"),
    _count("most", 1, WORKERS, None, "trainers in all at most; as many as the cluster has room for if not set"),
)
RAY_CLIENT = "ray://"
"""How the address of a Ray client begins, whose program runs outside the cluster."""

MEASURE = (
    _count("rounds", 1, 10_000, 5, "rounds while searching"),
    _count("processes", 1, 100, 1, "processes while searching"),
    _count("front_rounds", 1, 10_000, 10, "rounds for the front"),
    _count("front_processes", 1, 100, 3, "processes for the front"),
    _time("round_seconds", 0.001, 0.02, "the least time that one round lasts"),
    _count("round_calls", 1, 1_000_000, 20, "the fewest calls in one round"),
)
STARTUP = _count("startup", 1, 100_000, 10, "trials that are drawn at random first")
POPULATION = _count("population", 2, 10_000, 24, "trials in one generation")
SAMPLERS: dict[str, tuple[Param, ...]] = {
    "auto": (),
    "random": (),
    "tpe": (STARTUP,),
    "nsga2": (POPULATION,),
    "nsga3": (POPULATION,),
    "gp": (STARTUP,),
    "grid": (),
    "qmc": (),
}
ABOUT = {
    "auto": "a grid where all points are tried anyway, else TPE, beyond 1,000 trials a genetic algorithm",
    "random": "uniform draws",
    "tpe": "models where good trials lie; draws knobs that come and go together as one",
    "nsga2": "a genetic algorithm that spreads the front by crowding distance; for many hundred trials",
    "nsga3": "a genetic algorithm with reference directions, for more than three objectives and many hundred trials",
    "gp": "Gaussian processes and the expected gain of the front's hypervolume; four objectives at most",
    "grid": "every point once, in an order that the seed decides; no continuous knobs, 10,000 points at most",
    "qmc": "a scrambled Sobol' sequence: trials spread evenly, whatever they return",
}
"""What each sampler does, in a line."""

LISTED = ", ".join(f"`{name}`" for name in SAMPLERS)
GP_OBJECTIVES = 4
"""How many objectives Gaussian processes may have: Optuna warns of the cost of dividing the hypervolume of more."""

GRID_POINTS = 10_000
"""How many points a grid may have: more would not be tried in any time that a study has."""

# Every setting has a default, so that none is ever missing.
NOWHERE = Span("", 0, 0)

Second = Callable[[tree.Section], None]


def search_of(knobs: Knobs, sections: list[tree.Section], second: Second) -> Search | None:
    """The search's settings; None where one of them is wrong."""
    sampler: Sampler | None = Sampler(name="auto")
    kept: list[tree.Statement] = []
    halvings: list[tree.Statement] = []
    ray: Ray | None = None
    gpu: str | None = None
    broken = False
    once: dict[str, Span] = {}
    for statement in _statements(sections, second):
        statement = _always(knobs, "`search`", statement)
        if _named(statement) in ("sampler", "workers"):
            first = once.setdefault(_named(statement), statement.span)
            if first is not statement.span:
                duplicate(knobs.diagnostics, _named(statement), statement.span, first, "keep one of them")
                continue
        name = statement.name.text if isinstance(statement, tree.Fix | tree.Vary) else ""
        if _named(statement) == "halving":
            halvings.append(statement)
        elif _means_halving(statement):
            knobs.diagnostics.error(
                "E205", f"`search` has no parameter `{_named(statement)}`", statement.span, "not declared",
                help="did you mean `halving`? It stands alone, or with settings: `halving { reduce = 3; first = 1 }`",
            )
            broken = True
        elif _is_ray(statement):
            ray = _ray(knobs, statement)
            broken = broken or ray is None
        elif _means_ray(knobs, statement):
            broken = True
        elif name == "sampler":
            sampler = _sampler(knobs, statement)
        elif name == "screening":
            kept.append(_number(statement))
        elif name == "device":
            statement, numbered = training_device.read(knobs.diagnostics, statement)
            gpu = numbered or gpu
            kept.append(statement)
        else:
            kept.append(statement)
    values = _values(knobs, "`search`", SEARCH, sections, kept)
    halving, whole = _halving(knobs, halvings)
    if values is None or sampler is None or broken or not whole:
        return None
    if gpu is not None:
        values["device"] = gpu
    return Search(sampler=sampler, halving=halving, ray=ray, **values)  # type: ignore[arg-type]


def halving_in(section: tree.Section) -> tree.Statement | None:
    """The statement of a `search { … }` that asks for successive halving."""
    return next((item for item in section.block.statements if _named(item) == "halving"), None)


def _named(statement: tree.Statement) -> str:
    """The name that a statement begins with."""
    match statement:
        case tree.Fix(name=name) | tree.Vary(name=name):
            return name.text
        case tree.Element(value=tree.Path() as path):
            return path.text
    return ""


def _means_halving(statement: tree.Statement) -> bool:
    """Whether `halving` is written in other letters, or as the field calls it."""
    name = _named(statement)
    others = [param.name for param in SEARCH] + ["sampler", "halving"]
    return closest(name, others) == "halving" or field_words.plain(name) in HALVING_WORDS


def _halving(knobs: Knobs, statements: list[tree.Statement]) -> tuple[Halving | None, bool]:
    """What `halving { … }` says, None where it is not there; and whether it is right."""
    if not statements:
        return None, True
    first, *more = statements
    for other in more:
        duplicate(knobs.diagnostics, "halving", other.span, first.span, "keep one of them")
    if not isinstance(first, tree.Element):
        knobs.diagnostics.error(
            "E302", "`halving` has settings, and is no value", first.span, "a value",
            help="write `halving` alone, or `halving { reduce = 3; first = 1 }`",
        )
        return None, False
    if first.when is not None:
        _condition(knobs, "`search`", first.when.span)
    values = _fixed(knobs, "`halving`", HALVING, first.block, Around(fixed="`search`"), first.span)
    if more or len(values) < len(HALVING):
        return None, False
    return Halving(**values), True  # type: ignore[arg-type]


def _is_ray(statement: tree.Statement) -> bool:
    """Whether the workers are those of a Ray cluster."""
    if not isinstance(statement, tree.Fix) or statement.name.text != "workers":
        return False
    return isinstance(statement.value, tree.Path) and statement.value.text == "ray"


def _means_ray(knobs: Knobs, statement: tree.Statement) -> bool:
    """Whether `ray` is misspelt, or a block stands where `workers = ray { … }` was meant, which is then reported."""
    match statement:
        case tree.Fix(name=tree.Name(text="workers"), value=tree.Path(text=word) as path) if closest(word, ["ray"]):
            knobs.diagnostics.error(
                "E201", f"unknown workers `{word}`", path.span, "neither a number nor `ray`",
                help="did you mean `ray`?", fix=only(path.span, word, ["ray"]),
            )
            return True
        case tree.Element(value=tree.Path(text="workers" | "ray")):
            knobs.diagnostics.error(
                "E302", "`workers` is a number, or `ray` with its settings", statement.span, "settings of what?",
                help="write `workers = 2`, or `workers = ray { cpus = 4 }`",
            )
            return True
    return False


def _ray(knobs: Knobs, statement: tree.Statement) -> Ray | None:
    """What `workers = ray { … }` says; None where it is wrong."""
    assert isinstance(statement, tree.Fix)
    values = _fixed(knobs, "`ray`", RAY, statement.block, Around(fixed="`search`"), statement.value.span)
    if len(values) < len(RAY):
        return None
    ray = Ray(**values)  # type: ignore[arg-type]
    return ray if _possible(knobs, ray, statement) else None


def _possible(knobs: Knobs, ray: Ray, statement: tree.Fix) -> bool:
    """Whether Ray can do what is asked of it, which is reported where it cannot."""
    given = {item.name.text: item.value.span for item in _fixes(statement.block)}
    if ray.gpus > 1 and ray.gpus != int(ray.gpus):
        knobs.diagnostics.error(
            "E406", f"`gpus` cannot be {ray.gpus:g}", given["gpus"], "neither whole GPUs nor a part of one",
            help="a part of one GPU, say 0.5, is shared; from 1 on they are whole",
        )
        return False
    if ray.address.startswith(RAY_CLIENT):
        knobs.diagnostics.error(
            "E406", "`address` cannot be that of a Ray client", given["address"], "outside the cluster",
            help="run optlang on a node of the cluster, with `address = \"auto\"`",
        )
        return False
    return True


def _fixes(block: tree.Block | None) -> list[tree.Fix]:
    return [item for item in block.statements if isinstance(item, tree.Fix)] if block is not None else []


def _number(statement: tree.Statement) -> tree.Statement:
    """The statement with 0 for `off`."""
    if isinstance(statement, tree.Fix) and isinstance(statement.value, tree.Path) and statement.value.text == "off":
        return replace(statement, value=tree.Number(statement.value.span, Decimal(0), None, True))
    return statement


def measure_of(knobs: Knobs, sections: list[tree.Section], second: Second) -> Measure | None:
    """How latency is measured; None where a setting is wrong."""
    statements = [_always(knobs, "`measure`", statement) for statement in _statements(sections, second)]
    values = _values(knobs, "`measure`", MEASURE, sections, statements)
    return Measure(**values) if values is not None else None  # type: ignore[arg-type]


def _always(knobs: Knobs, called: str, statement: tree.Statement) -> tree.Statement:
    """The statement without a condition, and an error where it has one: it is read once, before there is a point."""
    if not isinstance(statement, tree.Fix | tree.Vary) or statement.when is None:
        return statement
    _condition(knobs, called, statement.when.span)
    return replace(statement, when=None)


def _condition(knobs: Knobs, called: str, at: Span) -> None:
    knobs.diagnostics.error(
        "E206", f"a setting of {called} has no condition", at, "one value for all points",
        help="take an input for the value, and set it for the run: `input quick: int = 40`, then `--set quick=10`",
    )


def _statements(sections: list[tree.Section], second: Second) -> list[tree.Statement]:
    for other in sections[1:]:
        second(other)
    return list(sections[0].block.statements) if sections else []


def _values(
    knobs: Knobs, called: str, params: tuple[Param, ...], sections: list[tree.Section], statements: list[tree.Statement]
) -> dict[str, Value] | None:
    block = tree.Block(sections[0].block.span, tuple(statements)) if sections else None
    settings = settings_of(knobs, called, params, block, Around(fixed=called), NOWHERE)()
    values = {name: setting.value for name, setting in settings.items() if isinstance(setting, Fixed)}
    return values if len(values) == len(params) else None


def _fixed(
    knobs: Knobs, called: str, params: tuple[Param, ...], block: tree.Block | None, around: Around, at: Span
) -> dict[str, Value]:
    """The values in a block of settings that are not searched and have no conditions; wrong ones are missing."""
    if block is not None:
        block = replace(block, statements=tuple(_always(knobs, called, item) for item in block.statements))
    settings = settings_of(knobs, called, params, block, around, at)()
    return {name: setting.value for name, setting in settings.items() if isinstance(setting, Fixed)}


def _sampler(knobs: Knobs, statement: tree.Statement) -> Sampler | None:
    diagnostics = knobs.diagnostics
    if isinstance(statement, tree.Vary):
        knobs.searched(statement.span, "`search`")
        return None
    assert isinstance(statement, tree.Fix)
    value = statement.value
    if not isinstance(value, tree.Path):
        diagnostics.error("E302", "a sampler is expected", value.span, "not a sampler", help="write `sampler = tpe`")
        return None
    if value.text not in SAMPLERS:
        diagnostics.error(
            "E201", f"unknown sampler `{value.text}`", value.span, "not a sampler",
            help=suggestion(value.text, SAMPLERS, f"samplers are {LISTED}", field_words.SAMPLERS),
            fix=only(value.span, value.text, SAMPLERS),
        )
        return None
    params, around = SAMPLERS[value.text], Around(fixed="a sampler")
    values = _fixed(knobs, f"`{value.text}`", params, statement.block, around, value.span)
    return Sampler(name=value.text, settings=values)  # type: ignore[arg-type]
