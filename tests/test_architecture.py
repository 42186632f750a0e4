"""Imports go downwards only, and every public name keeps its signature."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import npdl

PACKAGE = Path(npdl.__file__).parent

#: The modules of each level, in groups; those of level 2 each import only those before them.
LEVELS = [
    ["_ext", "_version"],
    [
        *("_autograd", "_busy", "_calls", "_checks", "_dtype", "_elementary", "_files"),
        *("_registry", "_safetensors", "_tree", "_weights", "activations", "config", "data"),
        *("initializations", "layers", "metrics", "objectives", "optimizers", "regularizers"),
        *("schedules", "utils"),
    ],
    [
        *(
            "batch",
            "feed",
            "heads",
            "terms",
            "results",
            "graph",
            "summary",
            "serialization",
            "persistence",
        ),
        *(
            "functional",
            "passes",
            "replay",
            "trainer",
            "raster",
            "diagram",
            "viz",
            "callbacks",
            "training_checks",
            "training",
            "hints",
            "adapter",
            "program",
            "predictor",
            "repeated",
            "model",
        ),
        *("saving", "_gradcheck", "testing", "autodiff"),
    ],
    ["datasets", "models", "cli", "demo", "verify", "sklearn", "onnx", "convert", "distributed"],
]
LEVEL = {name: i for i, names in enumerate(LEVELS) for name in names}
RANK = {name: i for i, name in enumerate(LEVELS[2])}


def modules():
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts not in [("__init__",), ("__main__",)]:
            yield pytest.param(path, parts[0], id="/".join(parts))


def imports(path):
    """Yield the absolute names that a module imports, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"relative import in {path}"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path, unit", [*modules()])
def test_imports_go_downwards_only(path, unit):
    assert unit in LEVEL, f"say on which level {unit} is"
    for name in imports(path):
        root, *rest = name.split(".")
        if root == "npdl" and rest and rest[0] in LEVEL:
            assert LEVEL[rest[0]] <= LEVEL[unit], f"{path.name} imports {name}"
            if unit in RANK and rest[0] in RANK:
                assert RANK[rest[0]] <= RANK[unit], f"{path.name} imports {name}"
        elif root == "npdl":
            assert rest == ["__version__"] or unit == "_ext", f"{path.name} imports {name}"


#: What else a module may import, where it uses it.
EXTRAS = {
    **dict.fromkeys(("callbacks", "demo", "raster", "viz"), "matplotlib"),
    "data": "PIL",
    "_autograd": "autograd",
    "convert": "h5py",
    "sklearn": "sklearn",
    "onnx": "onnx",
    "distributed": "mpi4py",
}


@pytest.mark.parametrize("path, unit", [*modules()])
def test_numpy_is_the_only_dependency(path, unit):
    roots = {name.split(".")[0] for name in imports(path)}
    others = roots - sys.stdlib_module_names - {"numpy", "npdl"}
    assert others <= {EXTRAS.get(unit)}


def says(code):
    """What a fresh interpreter prints."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_import_is_light():
    heavy = {
        *("matplotlib", "scipy", "npdl.demo", "npdl.datasets", "npdl.testing", "npdl.viz"),
        *("argparse", "csv", "gzip", "html", "json", "numpy.random", "secrets"),
    }
    # What numpy, or a hook of this environment, imports by itself does not count.
    code = "import numpy, sys; old = {*sys.modules}; import npdl; print(*{*sys.modules} - old)"
    found = {*says(code).split()}
    assert "npdl.layers" in found and not found & heavy


@pytest.mark.parametrize("module", ["npdl", "npdl.callbacks"])
def test_what_is_imported_later_is_there(module):
    there = "all(hasattr(m, n) for n in m.__all__), {*m.__all__} <= {*dir(m)}"
    assert says(f"import {module} as m; print({there})") == "True True"
    star = f"from {module} import *; import {module} as m; print({{*m.__all__}} <= {{*dir()}})"
    assert says(star) == "True"
    with pytest.raises(AttributeError, match=f"module '{module}' has no attribute 'nothing'"):
        _ = importlib.import_module(module).nothing


# name of a class or function: its arguments in order; "..." where further ones may follow
_LINEAR = "(n_out, n_in=None, init='glorot_uniform'"
_GATED = "(gate_activation='sigmoid', need_grad=True"
_EPSILON = "epsilon=1e-11)"
_BETAS = "(beta1=0.9, beta2=0.999, epsilon=1e-08)"
SIGNATURES = {
    "layers": {
        "Layer": "()",
        "Layer.forward": "(input)",
        "Layer.backward": "(pre_grad)",
        "Linear": _LINEAR + ")",
        "Dense": _LINEAR + ", activation='tanh')",
        "Softmax": _LINEAR + ")",
        "Dropout": "(p=0.0)",
        "Dropout.forward": "(input, train=True)",
        "Convolution": "(nb_filter, filter_size, input_shape=None, stride=1, "
        "init='glorot_uniform', activation='relu')",
        "Embedding": "(embed_words=None, static=None, input_size=None, n_out=None, nb_batch=None, "
        "nb_seq=None, init='uniform')",
        "BatchNormal": "(epsilon=1e-06, momentum=0.9, axis=0, beta_init='zero', gamma_init='one')",
        "MeanPooling": "(pool_size)",
        "MaxPooling": "(pool_size)",
        "Recurrent": "(n_out, n_in=None, nb_batch=None, nb_seq=None, init='glorot_uniform', "
        "inner_init='orthogonal', activation='tanh', return_sequence=False)",
        "SimpleRNN": "()",
        "GRU": _GATED + ")",
        "LSTM": _GATED + ", forget_bias_num=1)",
        "LSTM.forward": "(input, mask=None, c0=None, h0=None)",
        "BatchLSTM": _GATED + ", forget_bias_num=1)",
        "BatchLSTM.forward": "(input, c0=None, h0=None)",
        "BatchLSTM.backward": "(pre_grad, dcn=None, dhn=None)",
        "BatchLSTM.connect_to": "(prev_layer=None)",
        "Flatten": "(outdim=2)",
        "DimShuffle": "(axis=1)",
    },
    "activations": {
        "Activation.forward": "(input)",
        "Activation.derivative": "(input=None)",
        **dict.fromkeys(("Sigmoid", "Tanh", "ReLU", "Linear", "Softmax"), "()"),
        **dict.fromkeys(("SoftPlus", "SoftSign"), "()"),
        "Elliot": "(steepness=1)",
        "SymmetricElliot": "(steepness=1)",
        "get": "(activation)",
    },
    "initializations": {
        "Initializer": "()",
        **dict.fromkeys(("Zero", "One", "LecunUniform", "GlorotUniform", "GlorotNormal"), "()"),
        **dict.fromkeys(("HeNormal", "HeUniform"), "()"),
        "Uniform": "(scale=0.05)",
        "Normal": "(std=0.01, mean=0.0)",
        "Orthogonal": "(gain=1.0)",
        "get": "(initialization)",
    },
    "objectives": {
        "Objective.forward": "(outputs, targets)",
        "Objective.backward": "(outputs, targets)",
        **dict.fromkeys(("MeanSquaredError", "MSE", "HellingerDistance", "HeD"), "()"),
        **dict.fromkeys(("BinaryCrossEntropy", "BCE"), "(" + _EPSILON),
        **dict.fromkeys(("SoftmaxCategoricalCrossEntropy", "SCCE"), "(" + _EPSILON),
        "get": "(objective)",
    },
    "optimizers": {
        "Optimizer": "(lr=0.001, clip=-1, decay=0.0, lr_min=0.0, lr_max=inf)",
        "Optimizer.update": "(params, grads)",
        "SGD": "()",
        "Momentum": "(momentum=0.9)",
        "NesterovMomentum": "(momentum=0.9)",
        "Adagrad": "(epsilon=1e-06)",
        "RMSprop": "(rho=0.9, epsilon=1e-06)",
        "Adadelta": "(rho=0.9, epsilon=1e-06)",
        "Adam": _BETAS,
        "Adamax": _BETAS,
        "get": "(optimizer)",
    },
    "model": {
        "Model": "(layers=None)",
        "Model.add": "(layer)",
        "Model.compile": "(loss=SCCE, optimizer=SGD)",
        "Model.predict": "(X)",
        "Model.fit": "(X, Y=None, max_iter=100, batch_size=64, shuffle=True, validation_split=0.0, "
        "validation_data=None, file=None)",
        "Model.evaluate": "(X, Y=None)",
        "Model.accuracy": "(outputs, targets)",
    },
    "utils": {
        "one_hot": "(labels, nb_classes=None)",
        "unhot": "(one_hot_labels)",
        "get_rng": "()",
        "set_rng": "(rng)",
        "set_seed": "(seed)",
        "get_dtype": "()",
        "set_dtype": "(dtype)",
    },
    "utils.data": {"one_hot": "(labels, nb_classes=None)", "unhot": "(one_hot_labels)"},
    "utils.random": {"get_rng": "()", "set_rng": "(rng)", "set_seed": "(seed)"},
    "layers.base": {"Layer": "()"},
    "layers.core": {"Linear": _LINEAR + ")", "Dropout": "(p=0.0)"},
    "layers.convolution": {},
    "layers.embedding": {},
    "layers.normalization": {"BatchNormal.forward": "(input)"},
    "layers.pooling": {"MaxPooling": "(pool_size)"},
    "layers.recurrent": {"SimpleRNN": "()"},
    "layers.shape": {"Flatten": "(outdim=2)"},
}


class _Args(dict):
    """Reads ``(a, b=1)`` as a dict of names and defaults."""

    def __init__(self, text):
        call = ast.parse(f"def f{text}: ...").body[0].args
        names = [arg.arg for arg in call.args]
        super().__init__(dict.fromkeys(names, inspect.Parameter.empty))
        for name, node in zip(names[len(names) - len(call.defaults) :], call.defaults):
            self[name] = _default(node)


def _default(node):
    names = {"SCCE": npdl.objectives.SCCE, "SGD": npdl.optimizers.SGD, "inf": np.inf}
    return names[node.id] if isinstance(node, ast.Name) else ast.literal_eval(node)


@pytest.mark.parametrize(
    "module, name, text",
    [(m, n, t) for m, table in SIGNATURES.items() for n, t in table.items()],
)
def test_public_signatures_are_kept(module, name, text):
    thing = importlib.import_module(f"npdl.{module}")
    for part in name.split("."):
        thing = getattr(thing, part)
    parameters = inspect.signature(thing).parameters.values()
    positional = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"]
    wanted = _Args(text)
    assert [p.name for p in positional][: len(wanted)] == list(wanted)
    assert {p.name: p.default for p in positional if p.name in wanted} == wanted
    # What is new needs a default, so that old calls still work.
    for p in parameters:
        if p.kind is p.KEYWORD_ONLY or p in positional[len(wanted) :]:
            assert p.default is not p.empty or p.name in wanted


@pytest.mark.parametrize("module", SIGNATURES)
def test_modules_are_there(module):
    importlib.import_module(f"npdl.{module}")


def test_top_level_names():
    for name in npdl.__all__:
        assert hasattr(npdl, name)
    assert npdl.Model is npdl.model.Model
