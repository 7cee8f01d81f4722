# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelrefer_ros.tracking.masks import mask_at_frame_size, mask_box, mask_for_model

torch.set_num_threads(1)


def blob(size: int, x: float, y: float, radius: float, seed: int) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size]
    noise = np.random.default_rng(seed).normal(0, 0.5, (size, size))
    return (radius - np.hypot(columns - x, rows - y) + noise).astype(np.float32)


@settings(max_examples=60, deadline=None)
@given(
    size=st.sampled_from([8, 32, 33]),
    height=st.integers(1, 150),
    width=st.integers(1, 150),
    x=st.floats(-4, 36),
    y=st.floats(-4, 36),
    radius=st.floats(-3, 50),
    seed=st.integers(0, 9),
)
def test_mask_on_the_crop_equals_the_whole_frame_enlarged(
    size: int, height: int, width: int, x: float, y: float, radius: float, seed: int
) -> None:
    logits = blob(size, x, y, radius, seed)
    full = F.interpolate(torch.from_numpy(logits)[None, None], size=(height, width), mode="bilinear")[
        0, 0
    ].numpy()
    mask, box, area = mask_at_frame_size(logits, height, width)
    # float32 rounds products in another order: a pixel may differ only where its logit is 0 to 1e-4.
    assert not ((mask != (full > 0)) & (np.abs(full) > 1e-4)).any()
    assert mask.shape == (height, width) and mask.dtype == np.bool_
    assert area == np.count_nonzero(mask)
    assert box == mask_box(mask)


def test_box_is_tight() -> None:
    mask = np.zeros((10, 12), np.bool_)
    mask[3:5, 7] = mask[6, 9] = True
    box = mask_box(mask)
    assert box is not None
    assert (box.x, box.y, box.width, box.height) == (7, 3, 3, 4)
    assert mask_box(np.zeros((4, 4), np.bool_)) is None


def test_mask_of_the_models_size_is_kept_to_the_pixel() -> None:
    mask = np.random.default_rng(0).random((64, 64)) > 0.7
    assert np.array_equal(mask_for_model(mask, 64)[0].numpy() > 0, mask)


@settings(max_examples=40, deadline=None)
@given(x=st.integers(0, 1919), y=st.integers(0, 1079), length=st.integers(1, 300))
def test_thin_mask_never_becomes_nothing(x: int, y: int, length: int) -> None:
    mask = np.zeros((1080, 1920), np.bool_)
    mask[y, x : x + length] = True
    scaled = mask_for_model(mask, 128)
    assert scaled.shape == (1, 128, 128)
    assert 0 < float(scaled.sum()) <= 128
