# SPDX-License-Identifier: Apache-2.0
"""Positions, k-means and infusion, each against a computation written another way."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelrefer_ros.model import ObjectEncoder, patchify
from pixelrefer_ros.model.kmeans import aggregate, kmeans
from pixelrefer_ros.model.position import patch_positions


def test_paper_positions_follow_equation_four() -> None:
    grid, (top, left, bottom, right), (height, width) = (3, 5), (20, 40, 79, 159), (120, 200)
    found = patch_positions(grid, (top, left, bottom, right), (height, width), "paper")
    for i in range(3):
        for j in range(5):
            x = (j / 5 * (right - left) + left) / (width - 1)
            y = (i / 3 * (bottom - top) + top) / (height - 1)
            # float32 against float64
            assert found[i * 5 + j].tolist() == pytest.approx([x, y], abs=1e-6)


def test_released_positions_swap_rows_and_columns_of_the_box() -> None:
    grid, (top, left, bottom, right), (height, width) = (3, 5), (20, 40, 79, 159), (120, 200)
    found = patch_positions(grid, (top, left, bottom, right), (height, width), "released")
    for i in range(3):
        for j in range(5):
            column = (j / 5 * (bottom - top) + top) / (width - 1)
            row = (i / 3 * (right - left) + left) / (height - 1)
            assert found[i * 5 + j].tolist() == pytest.approx([column, row], abs=1e-6)


def test_positions_of_a_frame_one_pixel_wide_are_finite() -> None:
    assert torch.isfinite(patch_positions((2, 1), (0, 0, 27, 0), (28, 1), "paper")).all()


def test_patches_are_row_major_and_channel_first() -> None:
    image = np.random.default_rng(0).integers(0, 256, (28, 42, 3), dtype=np.uint8)
    found = patchify(image).numpy()
    assert found.shape == (6, 588)
    second_row_third = image[14:28, 28:42].astype(np.float32)
    expected = ((second_row_third / 255 - 0.5) / 0.5).transpose(2, 0, 1).ravel()
    np.testing.assert_allclose(found[5], expected, atol=1e-6)  # one rounding of float32


def lloyd(points: np.ndarray, count: int) -> np.ndarray:
    """Three plain rounds in float64: seeds floor(i N / n), an empty cluster keeps its centroid."""
    points = points.astype(np.float64)
    centroids = np.array([points[i * len(points) // count] for i in range(count)])
    for _ in range(3):
        labels = [int(((point - centroids) ** 2).sum(axis=1).argmin()) for point in points]
        moved = centroids.copy()
        for i in range(count):
            members = [point for point, label in zip(points, labels, strict=True) if label == i]
            if members:
                moved[i] = np.mean(members, axis=0)
        done = np.linalg.norm(moved - centroids) < 1e-6
        centroids = moved
        if done:
            break
    return centroids


@settings(max_examples=40, deadline=None)
@given(
    members=st.integers(2, 40), count=st.integers(1, 12), width=st.integers(1, 6), seed=st.integers(0, 999)
)
def test_kmeans_equals_plain_lloyd(members: int, count: int, width: int, seed: int) -> None:
    members = max(members, count)
    points = np.random.default_rng(seed).normal(size=(members, width)).astype(np.float32)
    found = kmeans(torch.from_numpy(points), count)
    # Sums of at most 40 numbers near 1 in float32.
    np.testing.assert_allclose(found.numpy(), lloyd(points, count), atol=1e-5)
    assert torch.equal(found, kmeans(torch.from_numpy(points.copy()), count))


@settings(max_examples=30, deadline=None)
@given(members=st.integers(1, 8), count=st.integers(8, 12), seed=st.integers(0, 999))
def test_few_features_are_kept_and_padded_with_zeros(members: int, count: int, seed: int) -> None:
    features = torch.randn(members, 4, generator=torch.Generator().manual_seed(seed))
    found = aggregate(features, count)
    assert found.shape == (count, 4)
    assert torch.equal(found[:members], features)
    assert not found[members:].any()


def test_cluster_that_empties_keeps_its_centroid() -> None:
    # Seeds are members 0, 2, 4. The second equals the first, ties go to the first, so it has no member.
    points = torch.tensor([[0.0], [0.0], [0.0], [9.0], [10.0], [11.0]])
    assert kmeans(points, 3).flatten().tolist() == [0.0, 0.0, 10.0]


def test_bfloat16_features_are_aggregated_in_float32() -> None:
    features = torch.randn(200, 16, generator=torch.Generator().manual_seed(1)).bfloat16()
    found = aggregate(features, 8)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, kmeans(features.float(), 8).bfloat16())


def naive_attention(
    query: torch.Tensor, memory: torch.Tensor, attention: torch.nn.MultiheadAttention
) -> torch.Tensor:
    width = query.shape[-1]
    weights, biases = attention.in_proj_weight.split(width), attention.in_proj_bias.split(width)
    q, k, v = (
        source @ weight.T + bias
        for source, weight, bias in zip((query, memory, memory), weights, biases, strict=True)
    )
    heads = []
    for head in range(8):
        part = slice(head * width // 8, (head + 1) * width // 8)
        scores = q[:, part] @ k[:, part].T / (width // 8) ** 0.5
        heads.append(scores.softmax(dim=-1) @ v[:, part])
    return torch.cat(heads, dim=-1) @ attention.out_proj.weight.T + attention.out_proj.bias


@torch.no_grad()
def test_infusion_is_algorithm_one_for_each_object_of_a_batch() -> None:
    torch.manual_seed(0)
    encoder = ObjectEncoder(32, 48, 5).eval()
    tokens, local, whole = torch.randn(3, 5, 32), torch.randn(3, 16, 32), torch.randn(1, 24, 32)
    found = encoder.infuse(tokens, local, whole)
    for place in range(3):
        fused = tokens[place]
        fused = fused + naive_attention(encoder.ln_local(fused), local[place], encoder.fusion_attention_local)
        fused = fused + naive_attention(encoder.ln_global(fused), whole[0], encoder.fusion_attention_global)
        # A few hundred float32 additions in another order.
        torch.testing.assert_close(found[place], encoder.feat_linear(fused), atol=1e-5, rtol=1e-5)
