# SPDX-License-Identifier: Apache-2.0
"""A moving picture, and the transformers session as oracle: shared by the tracking tests."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from transformers import Sam2VideoModel
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from pixelrefer_ros.tracking.pixels import to_pixel_values
from pixelrefer_ros.types import Frame, Region

HEIGHT, WIDTH = 120, 160


def moving_frames(count: int, *, height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> list[Frame]:
    """A camera that pans over a textured plane, with two textured squares moving against it; 10 Hz."""
    random = np.random.default_rng(seed)
    coarse = torch.from_numpy(random.integers(0, 255, (1, 3, 24, 32)).astype(np.float32))
    plane = F.interpolate(coarse, size=(2 * height, 2 * width), mode="bilinear")[0].permute(1, 2, 0).numpy()
    patches = random.integers(0, 255, (2, 3), dtype=np.uint8)
    frames = []
    for k in range(count):
        x, y = (3 * k) % width, (2 * k) % height
        rgb = plane[y : y + height, x : x + width].astype(np.uint8)
        for i, colour in enumerate(patches):
            px, py = (20 + 50 * i + 2 * k) % (width - 30), (30 + 20 * i + k) % (height - 30)
            rgb[py : py + 25, px : px + 25] = colour
            rgb[py + 8 : py + 12, px : px + 25] = 255 - colour
        frames.append(Frame(np.ascontiguousarray(rgb), (k + 1) * 100_000_000, "camera"))
    return frames


class Oracle:
    """A transformers session, fed frame by frame as its documentation shows for streams.

    Objects that come at different times need a session each: in a frame that prompts any object,
    transformers encodes the masks of all objects of the session as if they had been prompted
    (``any(is_mask_from_pts_per_obj)``), so that a new object changes the others. Here, and in Meta's
    predictor, objects do not influence each other.
    """

    def __init__(self, model: Sam2VideoModel) -> None:
        self.model = model
        self.session = Sam2VideoInferenceSession(dtype="float32")
        self.session.dtype = torch.float32

    def prompt(self, index: int, region: Region, frame: Frame) -> None:
        """Give a region of a frame, in the way of transformers' processor."""
        obj = self.session.obj_id_to_idx(region.object_id)
        height, width = frame.rgb.shape[:2]
        size = self.model.config.image_size
        if region.mask is not None:
            mask = torch.from_numpy(region.mask)[None, None].float()
            mask = F.interpolate(
                mask, size=(size, size), mode="bilinear", align_corners=False, antialias=True
            )
            self.session.add_mask_inputs(obj, index, (mask >= 0.5).float())
        else:
            if region.box is not None:
                box = region.box
                points = [[box.x, box.y], [box.x + box.width, box.y + box.height]]
                labels = [2, 3]
            else:
                assert region.points is not None and region.point_labels is not None
                points, labels = region.points.tolist(), region.point_labels.tolist()
            scaled = torch.tensor(points, dtype=torch.float32) * torch.tensor([size / width, size / height])
            inputs = {
                "point_coords": scaled[None, None],
                "point_labels": torch.tensor(labels, dtype=torch.int32)[None, None],
            }
            self.session.add_point_inputs(obj, index, inputs)
        self.session.obj_with_new_inputs = [*self.session.obj_with_new_inputs, region.object_id]

    def track(self, index: int, frame: Frame) -> tuple[dict[int, torch.Tensor], dict[int, np.ndarray]]:
        """Logits of every object: as decoded, (h, w), and enlarged to the frame, (H, W)."""
        pixels = to_pixel_values(frame.rgb, self.model.config.image_size, device="cpu", dtype=torch.float32)
        out = self.model(inference_session=self.session, frame_idx=index, frame=pixels[0])
        full = F.interpolate(out.pred_masks, size=frame.rgb.shape[:2], mode="bilinear", align_corners=False)
        ids = out.object_ids
        return {i: out.pred_masks[n, 0] for n, i in enumerate(ids)}, {
            i: full[n, 0].numpy() for n, i in enumerate(ids)
        }
