"""Layers are tested in float64, so that tolerance cannot hide a wrong formula."""

import pytest
import torch


@pytest.fixture(autouse=True)
def in_float64():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)
