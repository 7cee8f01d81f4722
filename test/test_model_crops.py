# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelrefer_ros.errors import EmptyRegion, ImageError
from pixelrefer_ros.model import PATCH_BUDGET, crop_object, global_image


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def box_mask(height: int, width: int, top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros((height, width), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def test_box_is_padded_by_two_patches_and_clipped_to_the_frame() -> None:
    crop = crop_object(picture(200, 300), box_mask(200, 300, 100, 10, 120, 40), mask_num=8, patch_budget=4096)
    # rows 100-28 .. 120+28, columns 10-28 -> 0 .. 40+28; the last row and column are stored, not one beyond.
    assert crop.box == (72, 0, 147, 67)
    assert crop.frame_size == (200, 300)
    assert crop.context.shape == (224, 224, 3)


def test_small_object_is_enlarged_by_a_whole_factor() -> None:
    # 600 px: ceil(sqrt(196 * 8 / 600)) = 2, and 76 x 68 px become ceil(152/14) x ceil(136/14) patches.
    crop = crop_object(picture(200, 300), box_mask(200, 300, 100, 10, 120, 40), mask_num=8, patch_budget=4096)
    assert crop.grid == (11, 10)
    assert crop.image.shape == (154, 140, 3)


def test_large_object_is_shrunk_to_fifty_patches() -> None:
    # 140 x 140 px are 100 patches: 1/sqrt(2), and 196 x 196 px become ceil(138.6/14) = 10 patches square.
    crop = crop_object(
        picture(400, 400), box_mask(400, 400, 100, 100, 240, 240), mask_num=8, patch_budget=4096
    )
    assert crop.grid == (10, 10)
    covered = int((crop.grid_mask > 0).sum())
    assert 49 <= covered <= 81


def test_object_of_exactly_fifty_patches_keeps_its_size() -> None:
    mask = np.zeros((300, 300), dtype=bool)
    mask[100:198, 100:200] = True  # 98 x 100 px = 50 patches: not more than 50
    crop = crop_object(picture(300, 300), mask, mask_num=8, patch_budget=4096)
    assert crop.grid == (-(-154 // 14), -(-156 // 14))


def test_thin_object_stays_within_patch_budget() -> None:
    # A cable over the whole frame: 1900 px of mask, of which the published rule makes some 42,000 patches.
    mask = np.zeros((1080, 1920), dtype=bool)
    columns = np.arange(10, 1910)
    mask[columns * 1060 // 1920 + 5, columns] = True
    crop = crop_object(picture(1080, 1920), mask, mask_num=32, patch_budget=PATCH_BUDGET)
    rows, across = crop.grid
    assert rows * across <= PATCH_BUDGET
    assert rows * across > PATCH_BUDGET * 0.9
    assert crop.image.shape == (14 * rows, 14 * across, 3)
    # The aspect is the crop's within a patch, and the cable crosses every column of patches.
    assert abs(rows / across - 1080 / 1920) < 0.02
    assert (crop.grid_mask > 0).any(axis=0).all()


def test_single_pixel_stays_within_patch_budget() -> None:
    mask = np.zeros((480, 640), dtype=bool)
    mask[240, 320] = (
        True  # the published rule would enlarge the 57 x 57 px around it 80 times: 106,000 patches
    )
    crop = crop_object(picture(480, 640), mask, mask_num=32, patch_budget=PATCH_BUDGET)
    assert crop.grid[0] * crop.grid[1] <= PATCH_BUDGET
    assert (crop.grid_mask > 0).any()


def test_budget_changes_nothing_below_it() -> None:
    rgb, mask = picture(200, 300), box_mask(200, 300, 60, 100, 90, 140)
    tight = crop_object(rgb, mask, mask_num=32, patch_budget=10_000)
    patches = tight.grid[0] * tight.grid[1]
    same = crop_object(rgb, mask, mask_num=32, patch_budget=patches)
    assert np.array_equal(tight.image, same.image)
    assert np.array_equal(tight.grid_mask, same.grid_mask)
    smaller = crop_object(rgb, mask, mask_num=32, patch_budget=patches - 1)
    assert smaller.grid != tight.grid


def test_mask_that_bilinear_sampling_would_lose_keeps_a_patch() -> None:
    # At scale 1 each patch samples the mask in the middle of its 14 px: specks at its corners are not seen.
    mask = np.zeros((280, 280), dtype=bool)
    mask[::14, ::14] = True
    sampled = cv2.resize(mask.astype(np.float32), (20, 20), interpolation=cv2.INTER_LINEAR)
    assert not (sampled > 0).any()
    crop = crop_object(picture(280, 280), mask, mask_num=1, patch_budget=4096)
    assert crop.grid == (20, 20)
    assert (crop.grid_mask > 0).all()


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 120),
    width=st.integers(1, 400),
    mask_num=st.integers(1, 40),
    budget=st.integers(1, 500),
    data=st.data(),
)
def test_every_mask_gives_a_grid_with_the_object_in_it(
    height: int, width: int, mask_num: int, budget: int, data: st.DataObject
) -> None:
    mask = np.zeros((height, width), dtype=bool)
    for _ in range(data.draw(st.integers(1, 4))):
        mask[data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))] = True
    crop = crop_object(picture(height, width), mask, mask_num=mask_num, patch_budget=budget)
    rows, columns = crop.grid
    assert 1 <= rows * columns <= budget
    assert crop.image.shape == (14 * rows, 14 * columns, 3)
    assert (crop.grid_mask > 0).any()
    assert crop.grid_mask.min() >= 0
    top, left, bottom, right = crop.box
    assert 0 <= top <= bottom < height
    assert 0 <= left <= right < width


def test_empty_mask_is_refused() -> None:
    with pytest.raises(EmptyRegion, match="no pixel"):
        crop_object(picture(48, 64), np.zeros((48, 64), dtype=bool), mask_num=8, patch_budget=4096)


@pytest.mark.parametrize("shape", [(64, 48), (48, 63), (48,), (48, 64, 1)])
def test_mask_of_another_size_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match=r"the image needs \[48, 64\]"):
        crop_object(picture(48, 64), np.ones(shape, dtype=bool), mask_num=8, patch_budget=4096)


@pytest.mark.parametrize(
    "rgb",
    [
        np.zeros((48, 64), dtype=np.uint8),
        np.zeros((48, 64, 4), dtype=np.uint8),
        np.zeros((48, 64, 3), dtype=np.float32),
        np.zeros((0, 64, 3), dtype=np.uint8),
    ],
    ids=["grey", "four channels", "float", "no pixels"],
)
def test_anything_but_an_rgb_picture_is_refused(rgb: np.ndarray) -> None:
    with pytest.raises(ImageError):
        global_image(rgb)
