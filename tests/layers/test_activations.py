"""Every activation against its formula, in scalars, and against the oracle's function of the same name."""

import math

import pytest
import torch
from transformers.activations import ACT2FN

from seq2seq_zoo.layers.activations import ACTIVATIONS
from tests.oracle import relative_error

GRID = torch.cat([torch.linspace(-12, 12, 97, dtype=torch.float64), torch.tensor([1e-9, -1e-9, 0.0])])


def normal(x):
    return 0.5 * (1 + math.erf(x / math.sqrt(2)))


def logistic(x):
    return 1 / (1 + math.exp(-x))


def gelu_tanh(x):
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def laplace(x, mean=0.707107, deviation=0.282095):
    return 0.5 * (1 + math.erf((x - mean) / (math.sqrt(2) * deviation)))


FORMULAS = {
    "gelu": lambda x: x * normal(x),
    "gelu_python": lambda x: x * normal(x),
    "gelu_10": lambda x: min(max(x * normal(x), -10), 10),
    "gelu_new": gelu_tanh,
    "gelu_accurate": gelu_tanh,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu_python_tanh": gelu_tanh,
    "gelu_fast": lambda x: 0.5 * x * (1 + math.tanh(0.7978845608 * x * (1 + 0.044715 * x * x))),
    "quick_gelu": lambda x: x * logistic(1.702 * x),
    "laplace": laplace,
    "leaky_relu": lambda x: x if x > 0 else 0.01 * x,
    "linear": lambda x: x,
    "mish": lambda x: x * math.tanh(math.log1p(math.exp(x))),
    "relu": lambda x: max(x, 0.0),
    "relu2": lambda x: max(x, 0.0) ** 2,
    "relu6": lambda x: min(max(x, 0.0), 6.0),
    "sigmoid": logistic,
    "silu": lambda x: x * logistic(x),
    "swish": lambda x: x * logistic(x),
    "tanh": math.tanh,
}

WITH_PARAMETERS = {"prelu", "xielu"}
"""Names of the oracle that are modules with weights of their own; no published checkpoint here has them."""
SINCE_5 = {"hardswish", "sqrtsoftplus"}


def test_every_activation_has_a_formula_here():
    assert set(FORMULAS) == set(ACTIVATIONS)


@pytest.mark.parametrize("name", FORMULAS)
def test_formula(name):
    expected = torch.tensor([FORMULAS[name](float(x)) for x in GRID], dtype=torch.float64)
    assert relative_error(ACTIVATIONS[name](GRID), expected) <= 1e-14


def test_laplace_is_the_papers_but_for_rounded_constants():
    paper = torch.tensor([laplace(float(x), math.sqrt(0.5), math.sqrt(0.25 / math.pi)) for x in GRID])
    assert relative_error(ACTIVATIONS["laplace"](GRID), paper) <= 1e-6


def test_we_know_the_oracles_names():
    assert set(ACT2FN) - WITH_PARAMETERS - SINCE_5 == set(ACTIVATIONS)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_oracle(name):
    assert relative_error(ACTIVATIONS[name](GRID), ACT2FN[name](GRID)) <= 1e-14
