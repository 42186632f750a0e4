"""Fixtures of the tests of saving."""

import pytest
from saving_models import make_model, train


@pytest.fixture
def trained():
    model = make_model()
    train(model)
    return model
