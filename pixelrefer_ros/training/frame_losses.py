# SPDX-License-Identifier: Apache-2.0
"""What a vision encoder that sees whole frames is taught by: linear readings of an object's patches there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import VideoLlama3VisionModel

from pixelrefer_ros.training.attributes import (
    ATTRIBUTES,
    CELLS,
    AttributeBatch,
    AttributeHeads,
    attribute_losses,
    share,
)
from pixelrefer_ros.training.led_attention import LedAttention
from pixelrefer_ros.training.object_facts import (
    COLOR,
    COLUMNS,
    EMPTY,
    OWN,
    SHAPE,
    SURFACE,
    UNCLEAR,
    Facts,
)
from pixelrefer_ros.training.precision import mixed_precision
from pixelrefer_ros.training.rivals import among_rivals
from pixelrefer_ros.training.signs import MEASURES, measured
from pixelrefer_ros.training.vision_pass import encode_pictures
from pixelrefer_ros.types import RgbImage

NOT_ASKED = -1
"""Of a patch: it names nothing."""
_OUTLINE, _PLACE, _PATCH = 2.0, 5.0, 0.5  # weights of the losses
_MEASURED = 0.25  # of each of an object's measures, times that of its pose


@dataclass(frozen=True, eq=False, slots=True)
class FrameBatch:
    """Pictures of several objects each, and V objects in them.

    Attributes:
        images: whole frames and windows of them, each (14 h, 14 w, 3) uint8.
        outlines: (patches of all images, 49) float32, 1 where a cell of the patch shows any object.
        picture_of: per object the number of its image.
        own: per object (h w,) bool, the patches of its image that show it.
        whole: (V,) bool, whether its image is a whole frame, so that it shows who is around.
        facts: of the V objects.
        crops: objects by themselves, as in the stage before; None where none are shown.
        patches: (patches of all images, 3) int64, the place of the shape, colour and surface that each shows
            among their values, from 1 on; 0: it shows no object; or `NOT_ASKED`. None: no patch is asked.
        beside: (V, sides) int64, see `LedAttention`; None: attention is not led.
    """

    images: list[RgbImage]
    outlines: Tensor
    picture_of: list[int]
    own: list[Tensor]
    whole: Tensor
    facts: Facts
    crops: AttributeBatch | None
    patches: Tensor | None = None
    beside: Tensor | None = None


class FrameHeads(nn.Module):
    """Linear readings of an encoder's features; left out of the finished checkpoint."""

    def __init__(self, width: int) -> None:
        """Of an encoder ``width`` wide."""
        super().__init__()
        self.crops = AttributeHeads(width)
        self.norm = nn.LayerNorm(width)
        self.named = nn.ModuleList(nn.Linear(width, values) for values in COLUMNS)
        self.place = nn.Linear(width, 2)
        self.outline = nn.Linear(width, CELLS**2)
        # Drawn last: the others' first weights stay what they were.
        self.pose = nn.Linear(width, 3)
        self.patch = nn.ModuleList(nn.Linear(width, values + 1) for values in COLUMNS[:OWN])
        self.measures = nn.Linear(width, MEASURES)


def frame_losses(
    vision: VideoLlama3VisionModel,
    heads: FrameHeads,
    batch: FrameBatch,
    *,
    bf16: bool = False,
    around_weight: float = 0.3,
    pose_weight: float = 0.0,
    led_weight: float = 0.0,
) -> dict[str, Tensor | float]:
    """What the encoder is taught by, and how much of it is right.

    Args:
        vision: the encoder.
        heads: its readings.
        batch: what it sees.
        bf16: compute the encoder in bfloat16.
        around_weight: of the loss of each column that says who is around.
        pose_weight: of the loss of how large an object is and how it is turned.
        led_weight: of where attention is led to, see `LedAttention`.

    Returns:
        "loss"; the shares of "shape", "color" and "surface" named rightly; "around": of the colours and
        shapes of who is on a side; "off": mean distance of the middle, as shares of the frame's sides;
        "size": mean distance of the diameter's logarithm; "turn": of the angle's sine and cosine; "led": the
        share of attention that is where it is led to, and "crops": that of crops of which every attribute is
        named, and "crops_turn" their angles', where there are any.
    """
    device = heads.outline.weight.device
    led = None
    if batch.beside is not None:
        led = LedAttention(len(vision.encoder.layers), batch.picture_of, batch.own, batch.beside)
    with mixed_precision(device, bf16=bf16):
        features = encode_pictures(vision, batch.images, led)
    means = [
        features[picture][own.to(device)].mean(dim=0)
        for picture, own in zip(batch.picture_of, batch.own, strict=True)
    ]
    normed = heads.norm(torch.stack(means).float())
    named, whole = batch.facts.named.to(device), batch.whole.to(device)
    cells = heads.outline(torch.cat(features).float())
    loss = _OUTLINE * F.binary_cross_entropy_with_logits(cells, batch.outlines.to(device))
    off = (heads.place(normed) - batch.facts.measured[:, :2].to(device)).abs()[whole]
    loss = loss + _PLACE * off.sum() / len(named)
    found: dict[str, Tensor | float] = {}
    around: list[Tensor] = []
    for column, head in enumerate(heads.named):
        clear = whole & (named[:, column] != UNCLEAR) if column >= OWN else torch.ones_like(whole)
        logits, truth = head(normed)[clear], named[clear, column]
        weight = around_weight if column >= OWN else 1.0
        right = logits.argmax(dim=1) == truth
        if column == SHAPE:
            logits = among_rivals(logits, named[:, COLOR], named[:, SURFACE])
        loss = loss + weight * F.cross_entropy(logits, truth, reduction="sum") / len(named)
        if column < OWN:
            found[tuple(ATTRIBUTES)[column]] = share(right)
        else:
            around.append(right[truth != EMPTY])  # that nobody is there is soon learned of an object's place
    pose = heads.pose(normed) - _pose_of(batch.facts).to(device)
    if pose_weight:
        loss = loss + pose_weight * (pose[:, 0].abs().mean() + pose[:, 1:].square().sum(dim=1).mean())
        # As signs tell it: what is linear here, a projection can hand on to the language model.
        told = heads.measures(normed) - measured(batch.facts.measured.to(device))[0]
        loss = loss + _MEASURED * pose_weight * told[whole].square().sum() / len(named)
    if batch.patches is not None:
        loss = loss + _PATCH * _patch_loss(heads, torch.cat(features), batch.patches.to(device))
    crops: dict[str, Tensor | float] = {}
    if batch.crops is not None:
        of_crops = attribute_losses(vision, heads.crops, batch.crops, bf16=bf16)
        loss, crops["crops"] = loss + of_crops["loss"], of_crops["right"]
        crops["crops_turn"] = of_crops["turn"]
    looked: dict[str, Tensor | float] = {}
    if led is not None:
        loss, looked["led"] = loss + led_weight * led.loss().to(device), led.share()
    every = torch.cat(around)
    return {
        "loss": loss,
        **found,
        "around": share(every) if len(every) else 0.0,
        "off": float(off.detach().mean()) if len(off) else 0.0,
        "size": float(pose[:, 0].detach().abs().mean()),
        "turn": float(pose[:, 1:].detach().norm(dim=1).mean()),
        **looked,
        **crops,
    }


def _patch_loss(heads: FrameHeads, features: Tensor, patches: Tensor) -> Tensor:
    """The cross-entropy of what single patches name, summed over shape, colour and surface."""
    asked = patches[:, 0] != NOT_ASKED
    normed = heads.norm(features[asked].float())
    lost = normed.new_zeros(())
    truths = patches[asked]
    shown = truths[:, 0] > 0  # 0 where a patch shows no object
    for column, (head, truth) in enumerate(zip(heads.patch, truths.unbind(dim=1), strict=True)):
        logits = head(normed)
        if column == SHAPE:
            own = among_rivals(logits[shown, 1:], truths[shown, COLOR] - 1, truths[shown, SURFACE] - 1)
            logits = logits.clone()
            logits[shown, 1:] = own
        lost = lost + F.cross_entropy(logits, truth)
    return lost


def _pose_of(facts: Facts) -> Tensor:
    """(V, 3): the diameter's logarithm, sine and cosine of the angle."""
    _, _, diameter, _, angle = facts.measured.unbind(dim=1)
    return torch.stack([diameter.log(), angle.sin(), angle.cos()], dim=1)
