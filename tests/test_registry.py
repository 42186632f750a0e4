"""Look-up by name, configurations, and the validators."""

from __future__ import annotations

import json

import numpy as np
import pytest

from npdl import activations, initializations, objectives, optimizers, regularizers
from npdl._checks import (
    check_choice,
    check_int,
    check_number,
    check_pair,
    error_message,
    float_array,
)
from npdl._registry import Configurable, Registry, constructor_arguments, snake_case, to_json_type
from npdl.activations import Elliot, ReLU

CAMEL = {
    "ReLU": "relu",
    "SoftPlus": "soft_plus",
    "BatchLSTM": "batch_lstm",
    "SimpleRNN": "simple_rnn",
    "GRU": "gru",
    "RMSprop": "rmsprop",
    "NesterovMomentum": "nesterov_momentum",
    "TopKAccuracy": "top_k_accuracy",
    "SparseTopKCategoricalAccuracy": "sparse_top_k_categorical_accuracy",
    "R2Score": "r2_score",
    "AUC": "auc",
}

MODULES = [activations, initializations, objectives, optimizers, regularizers]


class Shape(Configurable):
    def __init__(self, sides, color="red"):
        self.sides, self.color = sides, color


class Box(Shape):
    def __init__(self, depth=(1, 2), **kwargs):
        super().__init__(**kwargs)
        self.depth = depth


@pytest.mark.parametrize("name", CAMEL)
def test_snake_case(name):
    assert snake_case(name) == CAMEL[name]


def test_every_form_of_a_name_finds_the_class():
    for name in ("soft_plus", "SoftPlus", "softplus", "SOFTPLUS", "Soft_Plus"):
        assert type(activations.get(name)) is activations.SoftPlus


def test_get_takes_instance_class_and_dict():
    relu = ReLU()
    assert activations.get(relu) is relu
    assert type(activations.get(ReLU)) is ReLU
    assert activations.get({"name": "Elliot", "steepness": 2.0}).steepness == 2
    assert optimizers.get("sgd", lr=0.5).lr == 0.5
    sgd = optimizers.get({"name": "sgd", "lr": 0.25}, lr=0.5, clip=3)
    assert (sgd.lr, sgd.clip, sgd.decay) == (0.25, 3, 0)


@pytest.mark.parametrize("module", MODULES)
def test_unknown_name_lists_the_valid_ones(module):
    names = module._registry.names
    assert len(names) >= 4
    with pytest.raises(ValueError) as error:
        module.get("foo")
    assert str(error.value) == (
        f"Unknown {module._registry.kind} 'foo'. Valid names: {', '.join(names)}."
    )
    for name in names:
        assert isinstance(module.get(name), module._registry.base)


@pytest.mark.parametrize("wrong", [3, int, {"steepness": 2}, ["relu"]])
def test_wrong_type(wrong):
    with pytest.raises(TypeError, match=r"The activation must be a name, .* Received: "):
        activations.get(wrong)


def test_wrong_argument_in_a_dict():
    with pytest.raises(TypeError, match="stepness"):
        activations.get({"name": "elliot", "stepness": 2})


def test_a_class_of_ones_own_can_be_registered():
    registry = Registry("shape", Shape)
    registry.register("cube")(Box)
    assert registry.get("cube", sides=6).sides == registry.get("Box", sides=6).sides == 6
    assert registry.names == ["box", "cube"]


def test_config_follows_keyword_arguments_to_the_base():
    assert list(constructor_arguments(Box)) == ["depth", "sides", "color"]
    assert Box(sides=np.int64(6), depth=(np.float32(0.5), 2)).get_config() == {
        "depth": [0.5, 2],
        "sides": 6,
        "color": "red",
    }


def test_nested_objects_and_arrays_become_json():
    config = Shape([ReLU(), Elliot(), Elliot(2)], np.arange(4).reshape(2, 2)).get_config()
    assert json.loads(json.dumps(config)) == {
        "sides": ["ReLU", "Elliot", {"name": "Elliot", "steepness": 2.0}],
        "color": [[0, 1], [2, 3]],
    }
    assert activations.get(config["sides"][2]).steepness == 2


@pytest.mark.parametrize("module", MODULES)
def test_configs_round_trip(module):
    for name in module._registry.names:
        first = module.get(name)
        config = json.loads(json.dumps({"name": name, **first.get_config()}))
        assert module.get(config).get_config() == first.get_config()


def test_what_has_no_json_form_is_an_error():
    with pytest.raises(TypeError, match="can't hold a complex"):
        to_json_type(1j)


def test_forgotten_attribute_is_named():
    class Forgetful(Configurable):
        def __init__(self, size=1):
            pass

    with pytest.raises(TypeError, match="Forgetful must keep its argument 'size'"):
        Forgetful().get_config()


def test_error_message_names_value_and_layer():
    assert error_message("`n` must be odd", layer="dense_1", n=2, m="x") == (
        "`n` must be odd. Received: n=2, m='x' (layer 'dense_1')"
    )


def test_check_number():
    assert check_number("p", np.float32(0.5), "[0, 1)") == 0.5
    assert isinstance(check_number("p", np.float32(0.5), "[0, 1)"), float)
    for bad in (-0.1, 1, np.nan, np.inf):
        with pytest.raises(ValueError, match=r"`p` must be a number in \[0, 1\)\. Received: p="):
            check_number("p", bad, "[0, 1)")
    for bad in ("0.5", None, True, [0.5, 0.5]):
        with pytest.raises(TypeError, match="`p` must be a number"):
            check_number("p", bad, "[0, 1)")
    assert check_number("p", 1, "(0, 1]") == 1
    with pytest.raises(ValueError):
        check_number("p", 0, "(0, 1]")


def test_check_int_and_pair():
    assert check_int("n", np.int32(3)) == 3
    assert check_pair("n", 3) == (3, 3)
    assert check_pair("n", [3, 4]) == (3, 4)
    with pytest.raises(ValueError, match=r"`n` must be an integer >= 1. Received: n=0 \(layer 'a"):
        check_pair("n", (2, 0), layer="a")
    with pytest.raises(ValueError, match="an integer or a pair of integers"):
        check_pair("n", (1, 2, 3))
    for bad in (1.0, "1", True, None):
        with pytest.raises(TypeError, match="`n` must be an integer >= 0"):
            check_int("n", bad, 0)


def test_check_choice():
    assert check_choice("mode", "a", ("a", "b")) == "a"
    with pytest.raises(ValueError, match=r"`mode` must be one of 'a', 'b'. Received: mode='c'"):
        check_choice("mode", "c", ("a", "b"))


def test_float_array():
    assert float_array([1, 2]).dtype == np.float32
    assert float_array(np.ones(2, np.float16)).dtype == np.float32
    assert float_array(np.ones(2, ">f8")).dtype == np.dtype("=f8")
    fortran = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    assert float_array(fortran).flags.c_contiguous
    same = np.ones((2, 3))
    assert np.shares_memory(float_array(same), same)
    with pytest.raises(
        TypeError, match=r"`input` must be an array of numbers. Received: dtype='str32'"
    ):
        float_array(["a"])
