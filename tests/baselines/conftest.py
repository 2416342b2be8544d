"""Fixtures of the tests of compiled ops."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from renderers.cpu.native import usable_targets


@pytest.fixture(params=usable_targets())
def target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("OCC_CPU_TARGET", request.param)
    return str(request.param)


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
