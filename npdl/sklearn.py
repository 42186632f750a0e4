"""Level 3: networks as estimators of scikit-learn. Needs it: ``pip install 'npdl[sklearn]'``.

`NPDLClassifier` and `NPDLRegressor` work in pipelines, searches, cross-validation, ensembles. `fit`
draws its random numbers from its own `random_state`: the same results in any thread or process.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from npdl._checks import check_int, check_number, error_message
from npdl._weights import counting_rows
from npdl.callbacks import CallbackList, EarlyStopping
from npdl.layers import Dense, Embedding, Input, Layer, Linear, Softmax
from npdl.layers.node import Value
from npdl.model import Model
from npdl.optimizers import Optimizer
from npdl.optimizers import get as get_optimizer
from npdl.utils import use_dtype, use_rng

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, MultiOutputMixin, RegressorMixin
    from sklearn.model_selection import train_test_split
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data
except ImportError as error:
    rule = "npdl.sklearn needs scikit-learn 1.6 or newer"
    raise ImportError(f"{rule}: pip install 'npdl[sklearn]'") from error

__all__ = ["NPDLClassifier", "NPDLRegressor"]

#: The largest batch, where `batch_size` does not give one.
_BATCH = 200


class _Estimator(BaseEstimator):
    """Base of both estimators: the network, its data and its training."""

    _loss = "mse"
    _dtype: Any = None
    _one_target: bool

    def __init__(
        self,
        layers: Any = (32,),
        *,
        input_shape: Any = None,
        loss: Any = None,
        optimizer: Any = "adam",
        lr: Any = 0.01,
        epochs: int = 100,
        batch_size: int | None = None,
        shuffle: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        tol: float = 1e-4,
        random_state: Any = None,
        warm_start: bool = False,
        callbacks: Any = None,
        verbose: int | str = 0,
    ) -> None:
        self.layers = layers
        self.input_shape = input_shape
        self.loss = loss
        self.optimizer = optimizer
        self.lr = lr
        self.epochs = epochs
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.tol = tol
        self.random_state = random_state
        self.warm_start = warm_start
        self.callbacks = callbacks
        self.verbose = verbose

    @property
    def loss_curve_(self) -> list[float]:
        """The training loss of each epoch."""
        if not hasattr(self, "history_"):
            raise AttributeError(f"This {type(self).__name__} is not fitted: it has no history.")
        return self.history_.get("loss", [])

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Any:
        """Train a new network; with `warm_start`, train the one of the last call further.

        Parameters
        ----------
        X : array_like, shape (N, n_features)
            float32 and float64 are computed in as they are, anything else in float64.
        y : array_like
        sample_weight : array_like, shape (N,), optional
            A row of weight 0 counts as absent; only the ratios of the others matter.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If the data or a parameter is not what it must be.
        """
        anew = not (self.warm_start and hasattr(self, "model_"))
        return self._fit(X, y, sample_weight, check_int("epochs", self.epochs), anew)

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        epochs: int,
        anew: bool,
        classes: Any = None,
        early_stopping: bool | None = None,
    ) -> Any:
        dtype = [np.float64, np.float32] if anew else self._dtype
        X, y = self._validated(X, y, dtype, anew)
        weight = None
        if sample_weight is not None:
            weight = _check_sample_weight(sample_weight, X, dtype=X.dtype)
        y = self._targets(y, X.dtype, anew, classes)
        if weight is not None:
            X, y, weight = counting_rows(X, y, weight)
        if anew or not hasattr(self, "_rng"):
            seed = check_random_state(self.random_state).randint(np.iinfo(np.int32).max)
            self._rng = np.random.default_rng(seed)
        stopping = self.early_stopping if early_stopping is None else early_stopping
        with use_rng(self._rng), use_dtype(X.dtype):
            if anew:
                self._dtype = X.dtype
                self.model_ = self._make_model(X, self._n_outputs(y))
                self.history_: dict[str, list[float]] = {}
                self.n_iter_ = 0
            self._train(X, y, weight, epochs, stopping)
        return self

    def _validated(self, X: Any, y: Any, dtype: Any, reset: bool) -> tuple[NDArray, NDArray]:
        return validate_data(self, X, y, dtype=dtype, reset=reset)

    def _targets(self, y: NDArray, dtype: Any, anew: bool, classes: Any) -> NDArray:
        raise NotImplementedError

    def _n_outputs(self, y: NDArray) -> int:
        raise NotImplementedError

    def _head(self, n_out: int) -> Layer:
        raise NotImplementedError

    def _make_model(self, X: NDArray, n_out: int) -> Model:
        shape = self._reshaped(X[:1]).shape[1:]
        head = self._head(n_out)
        if callable(self.layers):
            entry = Input(shape)
            end = self.layers(entry)
            if not isinstance(end, Value):
                rule = "The function `layers` must return a symbolic value"
                raise TypeError(error_message(rule, returned=end))
            model, body = Model(entry, head(end)), end.out_shape
        else:
            if not isinstance(self.layers, list | tuple):
                rule = "`layers` must be a function, or a list of numbers and layers"
                raise TypeError(error_message(rule, layers=self.layers))
            layers = [_layer(item) for item in copy.deepcopy([*self.layers])]
            model = Model([*layers, head])
            model.build((None, *shape))
            body = layers[-1].out_shape if layers else (None, *shape)
        if body is not None and len(body) != 2:
            rule = "The last of `layers` must give a row for each sample, as Flatten() does"
            raise ValueError(error_message(rule, shape=body))
        optimizer = self.optimizer
        if isinstance(optimizer, str | type):
            optimizer = get_optimizer(optimizer, lr=self.lr)
        elif isinstance(optimizer, Optimizer):
            optimizer = copy.deepcopy(optimizer)
        model.compile(self._loss if self.loss is None else copy.deepcopy(self.loss), optimizer)
        return model

    def _reshaped(self, X: NDArray) -> NDArray:
        """Rows of features in the shape that the first layer takes."""
        if self.input_shape is None:
            return X
        shape = self.input_shape
        shape = tuple(shape) if isinstance(shape, tuple | list) else (shape,)
        try:
            return X.reshape(len(X), *shape)
        except (ValueError, TypeError):
            rule = f"`input_shape` must be a shape of the {X.shape[1]} features of a row"
            raise ValueError(error_message(rule, input_shape=self.input_shape)) from None

    def _inputs(self, X: NDArray) -> NDArray:
        x = self._reshaped(X)
        return _whole(x) if isinstance(self.model_.layers[0], Embedding) else x

    def _train(
        self, X: NDArray, y: NDArray, weight: NDArray | None, epochs: int, stopping: bool
    ) -> None:
        callbacks = [*CallbackList(self.callbacks)]
        held_out = None
        if stopping:
            X, y, weight, held_out = self._split(X, y, weight)
            patience = check_int("n_iter_no_change", self.n_iter_no_change)
            callbacks.append(
                EarlyStopping("val_loss", self.tol, patience, restore_best_weights=True)
            )
        size = min(_BATCH, len(X)) if self.batch_size is None else self.batch_size
        history = self.model_.fit(
            self._inputs(X),
            y,
            sample_weight=weight,
            validation_data=held_out,
            initial_epoch=self.n_iter_,
            epochs=self.n_iter_ + epochs,
            batch_size=size,
            shuffle=self.shuffle,
            callbacks=callbacks,
            verbose=self.verbose,
        )
        self.n_iter_ += len(history.epochs)
        for name, values in history.history.items():
            self.history_.setdefault(name, []).extend(values)
        if history.interrupted:  # `fit` of a model ends quietly; a search must end as well
            raise KeyboardInterrupt

    def _split(self, X: NDArray, y: NDArray, weight: NDArray | None) -> tuple[Any, ...]:
        """Samples to train on, and a tuple of those held out."""
        fraction = check_number("validation_fraction", self.validation_fraction, "(0, 1)")
        arrays = [X, y] if weight is None else [X, y, weight]
        parts = train_test_split(
            *arrays,
            test_size=fraction,
            random_state=int(self._rng.integers(np.iinfo(np.int32).max)),
            stratify=y if isinstance(self, ClassifierMixin) else None,
        )
        rest = None if weight is None else parts[4]
        return parts[0], parts[2], rest, (self._inputs(parts[1]), *parts[3::2])

    def _partial_fit(self, X: Any, y: Any, sample_weight: Any, classes: Any = None) -> Any:
        anew = not hasattr(self, "model_")
        return self._fit(X, y, sample_weight, 1, anew, classes, early_stopping=False)

    def _outputs(self, X: Any) -> NDArray:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=self._dtype, reset=False)
        return self.model_.predict(self._inputs(X))


def _layer(item: Any) -> Any:
    if isinstance(item, Layer | Model):
        return item
    try:
        return Dense(check_int("layers", item), activation="relu")
    except TypeError:
        rule = "`layers` must hold numbers of units and instances of Layer"
        raise TypeError(error_message(rule, item=item)) from None


def _whole(x: NDArray) -> NDArray:
    """Numbers of rows of an embedding, which scikit-learn passes as floats."""
    if not np.array_equal(x, np.trunc(x)):
        raise ValueError("An Embedding takes whole numbers. Received: fractions in `X`")
    return x.astype(np.int64)


class NPDLClassifier(ClassifierMixin, _Estimator):
    """A network that classifies, as an estimator of scikit-learn.

    Parameters
    ----------
    layers : sequence of int and Layer, or callable
        All layers but the last, which is a softmax over the classes. A number stands for
        ``Dense(number, activation="relu")``. Layers are copied by `fit`, with their weights if they
        have any. A function is called with the symbolic input, see `npdl.Input`, and returns the
        symbolic value that the softmax reads.
    input_shape : tuple of int, optional
        The shape into which the features of a row are brought: ``(1, 8, 8)`` for images,
        ``(-1, 1)`` for a series of numbers. -1 is inferred.
    loss : str or Objective, optional
        By default cross-entropy, ``"scce"``.
    optimizer : str, class, dict or Optimizer
        An instance is copied.
    lr : float or Schedule
        The learning rate, where `optimizer` is a name or a class.
    epochs : int
        Maximum number of passes of `fit` over the data.
    batch_size : int, optional
        By default all rows at once, but at most 200.
    shuffle : bool
        Whether each epoch takes the rows in a new order.
    early_stopping : bool
        Whether to hold out a part of the data, and to end when the loss on it has not improved by
        `tol` for `n_iter_no_change` epochs; the best weights are kept.
    validation_fraction : float
        The part held out for that, in (0, 1); a classifier's has all classes in proportion.
    n_iter_no_change : int
    tol : float
    random_state : int, RandomState or None
        Seed of weights, orders, dropout and the validation part.
    warm_start : bool
        Whether `fit` continues from the weights of the last call.
    callbacks : list of npdl.callbacks.Callback, optional
    verbose : {0, 1, 2, 'auto'}
        As in `npdl.Model.fit`.

    Attributes
    ----------
    classes_ : ndarray, shape (n_classes,)
    model_ : npdl.Model
        Can be saved, drawn and trained on like any other.
    history_ : dict of str to list
        The metric values of each epoch: "loss", "acc", with early stopping "val_loss", "val_acc".
    loss_curve_ : list of float
    n_iter_ : int
        How many epochs the network was trained for.
    n_features_in_, feature_names_in_
        As in scikit-learn.

    Examples
    --------
    >>> from npdl.datasets import load_digits
    >>> from npdl.layers import Convolution, Flatten, MaxPooling
    >>> from npdl.sklearn import NPDLClassifier
    >>> (x, y), (x_test, y_test) = load_digits()
    >>> layers = [Convolution(8, 3), MaxPooling(2), Flatten(), 32]
    >>> cnn = NPDLClassifier(layers, input_shape=(1, 8, 8), epochs=10, random_state=0)
    >>> cnn.fit(x.reshape(len(x), -1), y).score(x_test.reshape(len(x_test), -1), y_test) > 0.9
    True
    """

    _loss = "scce"

    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> Any:
        """Train for one epoch, on further data; there is no early stopping.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`.
        classes : array_like, optional
            All classes there are. Only the first call reads it; by default those of its `y`.

        Returns
        -------
        self
        """
        return self._partial_fit(X, y, sample_weight, classes)

    def predict_proba(self, X: ArrayLike) -> NDArray:
        """Return the probability of each class.

        Parameters
        ----------
        X : array_like, shape (N, n_features)

        Returns
        -------
        ndarray, shape (N, n_classes)
            The classes in the order of `classes_`.
        """
        return self._outputs(X)

    def predict_log_proba(self, X: ArrayLike) -> NDArray:
        """Return the logarithm of `predict_proba`."""
        with np.errstate(divide="ignore"):
            return np.log(self._outputs(X))

    def predict(self, X: ArrayLike) -> NDArray:
        """Return the most probable class of each row.

        Parameters
        ----------
        X : array_like, shape (N, n_features)

        Returns
        -------
        ndarray, shape (N,)
        """
        numbers = self._outputs(X).argmax(axis=1)
        return self.classes_[numbers]

    def _targets(self, y: NDArray, dtype: Any, anew: bool, classes: Any) -> NDArray:
        check_classification_targets(y)
        if anew:
            found = np.unique(y if classes is None else np.asarray(classes))
            if len(found) < 2:
                rule = f"{type(self).__name__} needs at least 2 classes"
                raise ValueError(f"{rule}. Received: 1 class, {found.tolist()[0]!r}")
            self.classes_ = found
        numbers = np.searchsorted(self.classes_, y)
        numbers[numbers == len(self.classes_)] = 0
        unknown = self.classes_[numbers] != y
        if unknown.any():
            rule = f"`y` must hold the classes {self.classes_.tolist()}"
            raise ValueError(error_message(rule, y=np.unique(y[unknown]).tolist()))
        return numbers

    def _n_outputs(self, y: NDArray) -> int:
        return len(self.classes_)

    def _head(self, n_out: int) -> Layer:
        return Softmax(n_out)


class NPDLRegressor(RegressorMixin, MultiOutputMixin, _Estimator):
    """A network that predicts numbers, as an estimator of scikit-learn.

    The last layer is linear, with a unit for each target. Targets are learned as they are: where
    they are far from 0 and 1, put the estimator into a
    ``sklearn.compose.TransformedTargetRegressor`` with a ``StandardScaler``.

    Parameters
    ----------
    layers, input_shape, optimizer, lr, epochs, batch_size, shuffle, early_stopping, \
validation_fraction, n_iter_no_change, tol, random_state, warm_start, callbacks, verbose
        As in `NPDLClassifier`.
    loss : str or Objective, optional
        By default the mean squared error, ``"mse"``.

    Attributes
    ----------
    model_, history_, loss_curve_, n_iter_, n_features_in_, feature_names_in_
        As in `NPDLClassifier`.
    """

    def partial_fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> Any:
        """Train for one epoch, on further data; there is no early stopping.

        Parameters
        ----------
        X, y, sample_weight
            As in `fit`.

        Returns
        -------
        self
        """
        return self._partial_fit(X, y, sample_weight)

    def predict(self, X: ArrayLike) -> NDArray:
        """Return the prediction for each row.

        Parameters
        ----------
        X : array_like, shape (N, n_features)

        Returns
        -------
        ndarray, shape (N,), or (N, n_targets) where `fit` got such targets
        """
        y = self._outputs(X)
        return y[:, 0] if self._one_target else y

    def _validated(self, X: Any, y: Any, dtype: Any, reset: bool) -> tuple[NDArray, NDArray]:
        return validate_data(
            self, X, y, dtype=dtype, reset=reset, multi_output=True, y_numeric=True
        )

    def _targets(self, y: NDArray, dtype: Any, anew: bool, classes: Any) -> NDArray:
        columns = np.asarray(y, dtype).reshape(len(y), -1)
        if anew:
            self._one_target = y.ndim == 1
        else:
            outputs = self.model_.output_shape[-1]
            if columns.shape[1] != outputs:
                rule = f"`y` must have {outputs} targets, as in the first call"
                raise ValueError(error_message(rule, shape=y.shape))
        return columns

    def _n_outputs(self, y: NDArray) -> int:
        return y.shape[1]

    def _head(self, n_out: int) -> Layer:
        return Linear(n_out)
