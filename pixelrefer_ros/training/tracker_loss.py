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

from pixelrefer_ros.tracking import MemoryAttention, MemoryEncoder
from pixelrefer_ros.training.tracker_clips import PROMPTS, Clips
from pixelrefer_ros.training.tracker_frames import FrameFeatures, encode_frames
from pixelrefer_ros.training.tracker_masks import jaccard, mask_losses

PRESENCE_WEIGHT = 0.5
SCALE_WEIGHT = 0.01
"""Of the mean square of the coarse features. Nothing normalises them, and single pictures teach them to grow:
to a deviation of 19 within 600 steps, beside which places (0.7) and masks in memory (0.4) were unheard."""
_LABELS = {"box": (2, 3), "point": (1,), "mask": (-1,)}


@dataclass(frozen=True, eq=False, slots=True)
class _Step:
    """What a frame leaves behind of N objects: memory (N, h w, 64) and pointer (N, C)."""

    memory: Tensor
    pointer: Tensor


@dataclass(frozen=True, eq=False, slots=True)
class _Said:
    """What the decoder says of n objects: mask logits (n, 4h, 4w), presence (n,) and token (n, C)."""

    logits: Tensor
    score: Tensor
    token: Tensor

    @classmethod
    def joined(cls, parts: list[_Said], rows: list[Tensor]) -> _Said:
        """Parts of the objects, put in their rows."""
        back = torch.cat(rows).argsort()
        return cls(
            torch.cat([p.logits for p in parts])[back],
            torch.cat([p.score for p in parts])[back],
            torch.cat([p.token for p in parts])[back],
        )


class Follower:
    """Follows clips with a model in training.

    Args:
        model: on its device; the tables that its memory attention bakes stay as they are.
        learning: share of a clip's frames through which the image encoder learns.
        own_presence: probability that a batch uses the model's own guess of presence in its memory.
    """

    def __init__(self, model: Sam2VideoModel, *, learning: float = 1.0, own_presence: float = 0.0) -> None:
        self._model, self._learning, self._own_presence = model, learning, own_presence
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
            "loss" with gradients; "edge", "dice", "presence", "scale" it is made of; mean J over objects
            that are visible: of the prompted frame by prompt, and "later" of the frames after it.
        """
        masks, prompt = clips.masks.to(self.device), clips.prompt.to(self.device)
        frames = self.encode(clips)
        parts: dict[str, list[Tensor]] = {"edge": [], "dice": [], "presence": []}
        agreed: dict[str, list[Tensor]] = {}
        for time, (logits, score) in enumerate(self.follow(clips, frames)):
            truth = masks[:, time]
            present = truth.flatten(1).any(1)
            if present.any():
                edge, dice = mask_losses(logits[present], truth[present])
                parts["edge"].append(edge)
                parts["dice"].append(dice)
            parts["presence"].append(F.binary_cross_entropy_with_logits(score, present.float()))
            agreement = jaccard(logits.detach(), truth)
            if time:
                agreed.setdefault("later", []).append(agreement[present])
            else:
                for kind, name in enumerate(PROMPTS):
                    agreed.setdefault(name, []).append(agreement[present & (prompt == kind)])
        means = {name: torch.cat(values).mean() for name, values in parts.items() if name != "presence"}
        means["presence"] = torch.stack(parts["presence"]).mean()
        means["scale"] = frames.coarse.square().mean()
        loss = means["edge"] + means["dice"] + PRESENCE_WEIGHT * means["presence"]
        loss = loss + SCALE_WEIGHT * means["scale"]
        seen = {name: torch.cat(values) for name, values in agreed.items()}
        return {"loss": loss, **means, **{name: value.mean() for name, value in seen.items() if len(value)}}

    def encode(self, clips: Clips) -> FrameFeatures:
        """Features of all frames, of which a share lets the encoder learn."""
        return encode_frames(self._model, clips.pictures.to(self.device), learning=self._learning)

    def follow(self, clips: Clips, frames: FrameFeatures) -> Iterator[tuple[Tensor, Tensor]]:
        """Decodes frame after frame, each from the memory of those before it.

        Args:
            clips: with the prompts of their first frames.
            frames: of `encode`.

        Returns:
            Per frame mask logits (N, 4h, 4w) and presence logits (N,).
        """
        masks, clip_of = clips.masks.to(self.device), clips.clip_of.to(self.device)
        own = float(torch.rand(())) < self._own_presence
        steps: list[_Step] = []
        for time in range(masks.shape[1]):
            seen, truth = frames.of(clip_of, time), masks[:, time]
            if time:
                said = self._decode(self._conditioned(seen, steps, clips.gap.to(self.device)), seen)
            else:
                said = self._prompted(clips, seen, truth)
            yield said.logits, said.score
            if time + 1 < masks.shape[1]:
                present = (said.score.detach() > 0) if own and time else truth.flatten(1).any(1)
                given = clips.prompt.to(self.device) == PROMPTS.index("mask") if not time else None
                steps.append(self._remember(seen, said, present, truth, given))

    def _prompted(self, clips: Clips, seen: FrameFeatures, truth: Tensor) -> _Said:
        """Decodes each object's first frame from its prompt, alike prompts as one batch."""
        parts, rows = [], []
        plain = self._model.no_memory_embedding.view(1, -1, 1, 1)
        for kind, name in enumerate(PROMPTS):
            chosen = (clips.prompt.to(self.device) == kind).nonzero()[:, 0]
            if not len(chosen):
                continue
            own = seen.rows(chosen)
            labels = torch.tensor([_LABELS[name]], dtype=torch.int32, device=self.device)
            points = clips.points.to(self.device)[chosen, : labels.shape[1]]
            given = None
            if name == "mask":  # as the tracker takes a mask: it only makes a pointer
                given = self._model.mask_downsample(truth[chosen, None].float())
            features = own.coarse if name == "mask" else own.coarse + plain
            parts.append(self._decode(features, own, points, labels.expand(len(chosen), -1), given))
            rows.append(chosen)
        return _Said.joined(parts, rows)

    def _decode(
        self,
        features: Tensor,
        seen: FrameFeatures,
        points: Tensor | None = None,
        labels: Tensor | None = None,
        given: Tensor | None = None,
    ) -> _Said:
        """Decodes one frame from features (n, C, h, w), and a prompt if there is one."""
        count = len(features)
        if points is None or labels is None:
            points = torch.zeros(count, 1, 2, device=self.device)
            labels = torch.full((count, 1), -1, dtype=torch.int32, device=self.device)
        sparse, dense = self._model.prompt_encoder(
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
        rows, best = torch.arange(count, device=self.device), quality[:, 0].argmax(-1)
        return _Said(masks[rows, 0, best].float(), score[:, 0, 0].float(), tokens[rows, 0, best])

    def _conditioned(self, seen: FrameFeatures, steps: list[_Step], gap: Tensor) -> Tensor:
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
        self, seen: FrameFeatures, said: _Said, present: Tensor, truth: Tensor, given: Tensor | None
    ) -> _Step:
        """Memory and pointer; ``given`` (N,) bool on the prompted frame: whose mask the user gave."""
        enlarged = F.interpolate(
            said.logits[:, None], size=(self._size, self._size), mode="bilinear", align_corners=False
        )[:, 0]
        if given is not None:  # a prompted mask's pixels count as certain
            mask = torch.where(given[:, None, None], truth, enlarged > 0).float()
        else:
            mask = enlarged.sigmoid()
        # The tracker clears the mask of an absent object; its probability is then 0 everywhere.
        memory = self._encoder(seen.coarse, mask * present[:, None, None], present)
        pointer = torch.where(
            present[:, None], self._model.object_pointer_proj(said.token), self._model.no_object_pointer
        )
        return _Step(memory, pointer)
