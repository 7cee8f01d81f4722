# SPDX-License-Identifier: Apache-2.0
"""Inputs of SAM 2's four graphs, and what torch makes of them: shared by the tests of exported trackers."""

from __future__ import annotations

import torch
from pixelrefer_ros.export.tracker_graphs import plan_tracker_graphs
from torch import Tensor
from tracking_scene import moving_frames
from transformers import Sam2VideoModel

from pixelrefer_ros.tracking.pixels import to_pixels
from pixelrefer_ros.tracking.sam2 import Sam2

GRAPHS = ("image_encoder", "memory_attention", "mask_decoder", "memory_encoder")
WITHOUT_FUSED_OPERATORS = 20


def feeds(sam2: Sam2, graph: str, *, objects: int, points: int) -> dict[str, Tensor]:
    """Inputs for a number of objects: a picture's features, memories in some slots, every kind of prompt."""
    random = torch.Generator().manual_seed(objects + points)
    shape, dtype = sam2.shape, sam2.dtype

    def noise(*size: int) -> Tensor:
        return torch.randn(*size, generator=random)

    frame = moving_frames(2)[1]
    if graph == "image_encoder":
        return {"pixels": to_pixels(frame.rgb, shape.image_size)}
    features = sam2.encode(frame.rgb)
    row = torch.arange(objects)
    if graph == "memory_attention":
        # Object i has i memories besides its prompt's.
        used = [row[:, None] >= torch.arange(slots, 0, -1) for slots in (shape.slots, shape.pointer_slots)]
        for valid in used:
            valid[:, 0] = True
        return {
            "features": features.coarse,
            "memory": noise(objects, shape.slots, shape.side**2, shape.memory_channels).to(dtype),
            "memory_valid": used[0],
            "pointers": noise(objects, shape.pointer_slots, shape.width).to(dtype),
            "pointer_distance": torch.arange(shape.pointer_slots, 0.0, -1).repeat(objects, 1),
            "pointer_valid": used[1],
        }
    if graph == "mask_decoder":
        labels = (torch.arange(points) % 4 - (points == 1) * 1).repeat(objects, 1).to(torch.int32)
        side = shape.side
        return {
            "conditioned": (features.plain.float() + noise(objects, shape.width, side, side) / 4).to(dtype),
            "skip0": features.skip0,
            "skip1": features.skip1,
            "points": torch.rand(objects, points, 2, generator=random) * shape.image_size,
            "labels": labels,
            "mask": 10 * noise(objects, 4 * side, 4 * side),
            "mask_given": row % 2 == 1,
            "take_best": row % 3 != 1,
        }
    mask = (4 * noise(objects, shape.image_size, shape.image_size)).sigmoid()
    return {"features": features.coarse, "mask": mask, "present": row != 1}


@torch.inference_mode()
def in_torch(model: Sam2VideoModel, graph: str, given: dict[str, Tensor]) -> dict[str, Tensor]:
    """What torch computes, by the names of the graph's outputs."""
    plans = {
        plan.name: plan for plan in plan_tracker_graphs(model, opset=WITHOUT_FUSED_OPERATORS, max_objects=16)
    }
    plan = plans[graph]
    results = plan.module(*(given[name] for name in plan.inputs))
    return dict(zip(plan.outputs, (results,) if isinstance(results, Tensor) else results, strict=True))


def worst(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The largest difference, relative to the largest value of the output it is in, where that is above 1."""
    assert found.keys() == expected.keys()
    differences = []
    for name, value in expected.items():
        assert found[name].shape == value.shape, name
        shown = value.float().abs()
        scale = float(shown[shown < 1000].max().clamp(min=1))  # an absent object's logits are -1024
        differences.append(float((found[name].float() - value.float()).abs().max()) / scale)
    return max(differences)
