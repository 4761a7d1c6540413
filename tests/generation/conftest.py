"""Tiny models for both generate functions."""

import pytest

from tests.generation.oracle_adapter import make_gpt2, make_mt5, make_mvp

_MAKE = {"mvp": make_mvp, "mt5": make_mt5, "gpt2": make_gpt2}


@pytest.fixture(scope="session")
def models():
    return {name: make() for name, make in _MAKE.items()}


@pytest.fixture(params=_MAKE)
def model(request, models):
    return models[request.param]
