# SPDX-License-Identifier: Apache-2.0
"""SAM 2 with gradients: a clip is followed with memory, and every frame's mask and presence are compared.

As in SAM 2's own training the model follows a few frames from a prompt. What an object's memory says of its
presence is mostly the truth, not the model's own guess: a false "absent" early on would lock the object out
of everything that could teach it better.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Sam2VideoModel

from pixelrefer_ros.tracking import MEAN, STD, MemoryAttention, MemoryEncoder
from pixelrefer_ros.training.tracker_clips import Clips

COMPARED = 2
"""Masks are compared at 1/2 of the model's input: finer than the decoder's 1/4, so that edges count."""
DICE_WEIGHT, PRESENCE_WEIGHT = 1.0, 0.5


@dataclass(frozen=True, eq=False, slots=True)
class _Step:
    """What a frame leaves behind of N objects: memory (N, h w, 64) and pointer (N, C)."""

    memory: Tensor
    pointer: Tensor


@dataclass(frozen=True, eq=False, slots=True)
class _Seen:
    """One frame as N objects see it: coarse (N, C, h, w) and the decoder's skips."""

    coarse: Tensor
    skip0: Tensor
    skip1: Tensor


class Follower:
    """Follows clips with a model in training.

    Args:
        model: on its device; the tables that its memory attention bakes stay as they are.
        own_presence: probability that a clip uses the model's own guess of presence in its memory.
    """

    def __init__(self, model: Sam2VideoModel, *, own_presence: float = 0.0) -> None:
        """See the class."""
        self.own_presence = own_presence
        self._model = model
        self._attention, self._encoder = MemoryAttention(model), MemoryEncoder(model)
        self._size = int(model.config.image_size)
        self._slots = int(model.config.num_maskmem)
        self._pointer_slots = int(model.config.max_object_pointers_in_encoder)
        self._place = model.get_image_wide_positional_embeddings().detach()

    @property
    def device(self) -> torch.device:
        """Where the model lies."""
        return torch.device(self._model.device)

    def losses(self, clips: Clips) -> dict[str, Tensor | float]:
        """Losses, and J, of a batch of clips.

        Returns:
            "loss" with gradients; "mask", "dice", "presence" it is made of; "first" and "later": mean J of
            the prompted frame and of those after it, over objects that are visible there.
        """
        masks = clips.masks.to(self.device)
        parts: dict[str, list[Tensor]] = {"mask": [], "dice": [], "presence": []}
        agreement: list[Tensor] = []
        for time, (logits, score) in enumerate(self.follow(clips)):
            truth = masks[:, time]
            present = truth.flatten(1).any(1)
            for name, value in self._compare(logits, score, truth, present).items():
                parts[name].append(value)
            if present.any():
                agreement.append(self._jaccard(logits, truth)[present].mean())
        means = {name: torch.stack(values).mean() for name, values in parts.items()}
        loss = means["mask"] + DICE_WEIGHT * means["dice"] + PRESENCE_WEIGHT * means["presence"]
        later = torch.stack(agreement[1:]).mean() if len(agreement) > 1 else agreement[0]
        return {"loss": loss, **means, "first": agreement[0], "later": later}

    def follow(self, clips: Clips) -> Iterator[tuple[Tensor, Tensor]]:
        """Decodes frame after frame, each from the memory of those before it.

        Args:
            clips: with the prompt of the first frame.

        Returns:
            Per frame mask logits (N, M, 4h, 4w), of which the first mask counts, and presence logits (N,).
        """
        masks, clip_of = clips.masks.to(self.device), clips.clip_of.to(self.device)
        frames = self._frames(clips.pictures.to(self.device))
        own = float(torch.rand(())) < self.own_presence
        steps: list[_Step] = []
        for time in range(masks.shape[1]):
            seen = _Seen(*(level[clip_of, time] for level in frames))
            truth = masks[:, time]
            logits, score, token = self._decode(clips, seen, steps, truth)
            present = (score.detach() > 0) if own and time else truth.flatten(1).any(1)
            yield logits, score
            steps.append(self._remember(seen, logits, token, present, truth, prompted=time == 0, clips=clips))

    def _frames(self, pictures: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Features of all frames of all clips: (B, T, ...) each."""
        mean = torch.tensor(MEAN, device=pictures.device).view(1, 3, 1, 1) * 255
        std = torch.tensor(STD, device=pictures.device).view(1, 3, 1, 1) * 255
        clips, times = pictures.shape[:2]
        fine, middle, coarse = self._model.vision_encoder(
            (pictures.flatten(0, 1).float() - mean) / std
        ).fpn_hidden_states
        decoder = self._model.mask_decoder
        levels = (coarse, decoder.conv_s0(fine), decoder.conv_s1(middle))
        coarse, skip0, skip1 = (level.unflatten(0, (clips, times)) for level in levels)
        return coarse, skip0, skip1

    def _decode(
        self, clips: Clips, seen: _Seen, steps: list[_Step], truth: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mask logits (N, M, 4h, 4w) of M masks, presence (N,) and token (N, C) of one frame."""
        count = len(truth)
        points = torch.zeros(count, 1, 2, device=truth.device)
        labels = torch.full((count, 1), -1, dtype=torch.int32, device=truth.device)
        given = None
        if steps:
            features = self._conditioned(seen, steps, clips.gap.to(truth.device))
        elif clips.prompt == "mask":  # as the tracker takes a mask: it only makes a pointer
            features = seen.coarse
            given = self._model.mask_downsample(truth[:, None].float())
        else:
            features = seen.coarse + self._model.no_memory_embedding.view(1, -1, 1, 1)
            points, labels = clips.points.to(truth.device), clips.labels.to(truth.device)
        encoder = self._model.prompt_encoder
        sparse, dense = encoder(
            input_points=points[:, None], input_labels=labels[:, None], input_boxes=None, input_masks=given
        )
        masks, quality, tokens, score = self._model.mask_decoder(
            image_embeddings=features,
            image_positional_embeddings=self._place.to(features.dtype),
            sparse_prompt_embeddings=sparse.to(features.dtype),
            dense_prompt_embeddings=dense.to(features.dtype),
            multimask_output=given is not None,
            high_resolution_features=[seen.skip0, seen.skip1],
        )
        best = quality[:, 0].argmax(-1)
        token = tokens[torch.arange(count, device=truth.device), 0, best]
        return masks[:, 0].float(), score[:, 0, 0].float(), token

    def _conditioned(self, seen: _Seen, steps: list[_Step], gap: Tensor) -> Tensor:
        """Features conditioned on what was remembered, in the slots that the tracker uses.

        The tracker's graphs have all slots and mask the empty ones; early in a clip most are, and to leave
        them out is the same for less work.
        """
        first, later = steps[0], steps[1:]
        slots, pointer_slots = self._slots, self._pointer_slots
        newest = later[-(slots - 1) :]
        memory = torch.stack([first.memory, *(step.memory for step in newest)], dim=1)
        used = torch.tensor([0, *range(slots - len(newest), slots)], device=gap.device)
        position = {"slot_position": self._attention.slot_position[used]}
        recent = later[-(pointer_slots - 1) :]
        pointers = torch.stack([first.pointer, *(step.pointer for step in recent)], dim=1)
        distance = torch.arange(len(recent) + 1, 0, -1, dtype=torch.float32, device=gap.device)
        distance = distance.repeat(len(gap), 1)
        distance[:, 0] = gap + len(later)
        arguments = (seen.coarse, memory, None, pointers, distance, None)
        conditioned: Tensor = torch.func.functional_call(self._attention, position, arguments)
        return conditioned

    def _remember(
        self,
        seen: _Seen,
        logits: Tensor,
        token: Tensor,
        present: Tensor,
        truth: Tensor,
        *,
        prompted: bool,
        clips: Clips,
    ) -> _Step:
        if prompted and clips.prompt == "mask":
            mask = truth.float()
        else:
            enlarged = F.interpolate(
                logits[:, :1], size=(self._size, self._size), mode="bilinear", align_corners=False
            )[:, 0]
            mask = (enlarged > 0).float() if prompted else enlarged.sigmoid()
            # The tracker clears the mask of an absent object; its probability is then 0 everywhere.
            mask = mask * present[:, None, None]
        memory = self._encoder(seen.coarse, mask, present)
        pointer = torch.where(
            present[:, None], self._model.object_pointer_proj(token), self._model.no_object_pointer
        )
        return _Step(memory, pointer)

    def _compare(self, logits: Tensor, score: Tensor, truth: Tensor, present: Tensor) -> dict[str, Tensor]:
        side = self._size // COMPARED
        fine = F.interpolate(logits, size=(side, side), mode="bilinear", align_corners=False)
        target = F.interpolate(truth[:, None].float(), size=(side, side), mode="area").expand_as(fine)
        weight = present.float()
        count = weight.sum().clamp(min=1)
        return {
            "mask": (_balanced(fine, target) * weight).sum() / count,
            "dice": (_dice(fine, target) * weight).sum() / count,
            "presence": F.binary_cross_entropy_with_logits(score, present.float()),
        }

    def _jaccard(self, logits: Tensor, truth: Tensor) -> Tensor:
        """(N,) J at the model's input size, of the first mask."""
        with torch.no_grad():
            found = (
                F.interpolate(
                    logits[:, :1], size=(self._size, self._size), mode="bilinear", align_corners=False
                )[:, 0]
                > 0
            )
            union = (found | truth).flatten(1).sum(1).clamp(min=1)
            return (found & truth).flatten(1).sum(1) / union


def _balanced(logits: Tensor, target: Tensor) -> Tensor:
    """(N,) cross-entropy in which object and background weigh the same, however small the object."""
    loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none").flatten(2)
    inside, outside = target.flatten(2), 1 - target.flatten(2)
    on = (loss * inside).sum(-1) / inside.sum(-1).clamp(min=1)
    off = (loss * outside).sum(-1) / outside.sum(-1).clamp(min=1)
    return ((on + off) / 2).mean(1)


def _dice(logits: Tensor, target: Tensor) -> Tensor:
    """(N,) 1 minus the soft overlap."""
    found, truth = logits.sigmoid().flatten(2), target.flatten(2)
    overlap = 2 * (found * truth).sum(-1) + 1
    return (1 - overlap / (found.sum(-1) + truth.sum(-1) + 1)).mean(1)
