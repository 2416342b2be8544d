"""Memory of images: used again when it is free, and never before."""

from __future__ import annotations

import gc

import pytest
import torch

from renderers.cpu import images

LARGE = (1, 1, 1024, images.SMALLEST // 4096, 2)


@pytest.fixture(autouse=True)
def none_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "_free", {})


def test_a_freed_image_is_used_again() -> None:
    first = images.empty(*LARGE)
    place = first.data_ptr()
    assert first.shape == LARGE and first.dtype == torch.float32
    del first
    assert images.empty(*LARGE).data_ptr() == place
    assert images.empty(*LARGE[:-1], 3).data_ptr() != place, "only for images of the same size"


def test_whatever_shares_an_image_keeps_it() -> None:
    first = images.empty(*LARGE).fill_(1.0)
    part = first[0, 0, :2].unbind(-1)[1]
    array = first.numpy()[0, 0, 0]
    leaf = torch.ones((), requires_grad=True)
    product = (leaf * first).sum()  # saved for the backward pass
    del first
    gc.collect()
    images.empty(*LARGE).fill_(5.0)
    assert float(part.sum()) == part.numel() and float(array.sum()) == array.size
    product.backward()
    assert leaf.grad is not None and float(leaf.grad) == torch.Size(LARGE).numel()
    del part, array, product, leaf
    gc.collect()
    assert sum(len(blocks) for blocks in images._free.values()) == 2


def test_no_more_is_kept_than_agreed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "KEPT", 4 * torch.Size(LARGE).numel())
    several = [images.empty(*LARGE) for _ in range(3)]
    del several
    assert [len(blocks) for blocks in images._free.values()] == [1]


def test_small_images_are_left_to_the_allocator() -> None:
    assert images.empty(2, 0, 3).numel() == 0
    del (image := [images.empty(8, 8)])[:]
    assert image == [] and images._free == {}
