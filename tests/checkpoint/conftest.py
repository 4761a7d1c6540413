"""Two checkpoints that follow each other in one folder."""

import pytest

from tests.checkpoint.toy import ToyWithHead, randomised


@pytest.fixture(scope="module")
def old() -> ToyWithHead:
    return randomised(ToyWithHead(depth=1), seed=1)


@pytest.fixture(scope="module")
def new() -> ToyWithHead:
    return randomised(ToyWithHead(depth=1), seed=2)
