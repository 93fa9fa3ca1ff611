"""What the tests of `attach` train on. Those that import this are skipped where there is no PyTorch."""

from __future__ import annotations

import random

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")


class Numbers(torch.utils.data.Dataset):
    """Items are spoilt at random, in the worker that loads them."""

    def __init__(self, size=48):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return index, torch.randn(4) + random.random()
