"""Which axes are open: those whose sizes differ in the data, and those that were declared."""

import pytest

from optlang.interfaces import OptlangError
from optlang.plan.axes import AxisSizes, parsed
from optlang.workload.data.axes import Observed, OpenAxis, of_factory, opened, united


def seen(*shapes):
    return Observed(dict.fromkeys(shapes, 1))


def test_axes_of_two_inputs_are_one_where_their_sizes_agree():
    found = opened(seen(((3,), (3,)), ((9,), (9,)), ((5,), (5,))), ["tokens", "mask"])
    assert found == (OpenAxis("tokens_1", (("tokens", 1), ("mask", 1)), 3, 5, 9),)


def test_axes_whose_sizes_do_not_agree_are_two():
    found = opened(seen(((3,), (4,)), ((9,), (4,)), ((9,), (5,))), ["question", "answer"])
    assert [(item.name, item.low, item.high) for item in found] == [("question_1", 3, 9), ("answer_1", 4, 5)]


def test_height_and_width_are_two_though_all_images_are_square():
    found = opened(seen(((3, 8, 8),), ((3, 16, 16),)), ["image"])
    assert [item.name for item in found] == ["image_2", "image_3"]


def test_the_two_axes_of_a_mask_are_one_with_the_tokens():
    found = opened(seen(((3,), (3, 3)), ((9,), (9, 9))), ["tokens", "mask"])
    assert [item.places for item in found] == [(("tokens", 1), ("mask", 1), ("mask", 2))]


def test_data_of_one_shape_have_no_open_axis():
    assert opened(seen(((3, 8, 8),)), ["image"]) == ()


def test_a_declared_axis_of_fixed_data_has_sizes_about_that_of_the_data():
    found = opened(seen(((16,), (16,), (9,))), ["tokens", "mask", "more"], [AxisSizes("mask", 1)])
    assert found == (OpenAxis("tokens_1", (("tokens", 1), ("mask", 1)), 8, 16, 32, guessed=True),)


def test_declared_sizes_hold():
    (found,) = opened(seen(((16,),)), ["tokens"], [AxisSizes("tokens", 1, 8, 100)])
    assert (found.low, found.usual, found.high, found.guessed) == (8, 16, 100, False)


def test_declared_sizes_hold_those_of_the_data_too():
    (found,) = opened(seen(((3,),), ((200,),)), ["tokens"], [AxisSizes("tokens", 1, 8, 100)])
    assert (found.low, found.high) == (3, 200)


def test_the_timed_size_is_the_usual_one():
    shapes = seen(((3,), (3,)), ((9,), (9,)), ((5,), (5,)))
    (found,) = opened(shapes, ["tokens", "mask"], timed=[AxisSizes("mask", 1, 20, 20)])
    assert (found.low, found.usual, found.high) == (3, 20, 20)
    (found,) = opened(seen(((16,),)), ["tokens"], [AxisSizes("tokens", 1)], [AxisSizes("tokens", 1, 32, 32)])
    assert (found.low, found.usual, found.high, found.guessed) == (16, 32, 64, True)


def test_a_size_of_an_axis_that_is_not_open():
    with pytest.raises(OptlangError, match="`shape` gives tokens:1 the size 8, and all samples have 16 there") as error:
        opened(seen(((16,),)), ["tokens"], timed=[AxisSizes("tokens", 1, 8, 8)])
    assert error.value.help == 'open the axis: dynamic = ["tokens:1"]'


@pytest.mark.parametrize(
    ("declared", "words", "way_out"),
    [
        (AxisSizes("token", 1), "names the input `token`, and the inputs are tokens, mask", '"tokens:1"'),
        (AxisSizes("tokens", 4), "axis 4 of `tokens`, which has the axes 1 to 1", '"tokens:1"'),
    ],
)
def test_an_axis_that_no_input_has(declared, words, way_out):
    with pytest.raises(OptlangError, match=words) as error:
        opened(seen(((3,), (3,))), ["tokens", "mask"], [declared])
    assert way_out in error.value.help


def test_samples_with_different_numbers_of_axes():
    with pytest.raises(OptlangError, match=r"image have different numbers of axes: \[8, 8\] and \[3, 8, 8\]"):
        opened(seen(((8, 8),), ((3, 8, 8),)), ["image"])


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("tokens:1", AxisSizes("tokens", 1)), ("tokens:1 = 32", AxisSizes("tokens", 1, 32, 32)),
        (" image:2=8 .. 512 ", AxisSizes("image", 2, 8, 512)), ("tokens", None), ("tokens:", None), (":1", None),
        ("tokens:1 = many", None), ("tokens:-1", None),
    ],
)
def test_how_an_axis_is_written(text, meaning):
    assert parsed(text) == meaning


def test_a_factory_names_axes_as_a_target_does():
    assert of_factory(None, "the data lines") == ()
    assert of_factory(["tokens:1", "image:2 = 8..64"], "the data lines") == (
        AxisSizes("tokens", 1), AxisSizes("image", 2, 8, 64),
    )


@pytest.mark.parametrize(
    ("said", "words", "way_out"),
    [
        ({"tokens": [1]}, "'dynamic' of the data lines is a dict", '"dynamic": ["tokens:1"]'),
        ("tokens:1", "'dynamic' of the data lines is a str", '"dynamic": ["tokens:1"]'),
        (["tokens"], "'dynamic' of the data lines contains 'tokens', which names no axis", '"dynamic": ["tokens:1"]'),
        ([("tokens", 1)], r"contains \('tokens', 1\), which names no axis", '"dynamic": ["tokens:1"]'),
        (["tokens:0"], 'cannot have "tokens:0": axis 0 is the samples', "`batch`"),
        (["tokens:1 = 9..8"], 'cannot have "tokens:1 = 9..8": no size lies between', '"tokens:1 = 8..9"'),
        (["tokens:1 = 8"], 'cannot have "tokens:1 = 8": one size is not open', 'leave "tokens:1" out'),
        (["tokens:1", "tokens:1 = 1..8"], 'names "tokens:1" twice', "keep one"),
    ],
)
def test_a_factory_that_names_axes_otherwise(said, words, way_out):
    with pytest.raises(OptlangError, match=words) as error:
        of_factory(said, "the data lines")
    assert way_out in error.value.help


def test_sizes_that_are_declared_first_hold():
    tokens, mask = AxisSizes("tokens", 1, 4, 32), AxisSizes("mask", 1, 8, 16)
    assert united([tokens], [AxisSizes("tokens", 1, 1, 9), mask]) == (tokens, mask)
    assert united([AxisSizes("tokens", 1)], [tokens]) == (tokens,)
    # Both are opened together, and what the first says holds, also where it names the other input.
    found = opened(seen(((16,), (16,))), ["tokens", "mask"], united([mask], [tokens]))
    assert found == (OpenAxis("tokens_1", (("tokens", 1), ("mask", 1)), 8, 16, 16),)
