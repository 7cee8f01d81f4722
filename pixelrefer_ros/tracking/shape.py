# SPDX-License-Identifier: Apache-2.0
"""What the steps of a stream must know of a SAM 2, whatever computes its components."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from transformers import Sam2VideoConfig

STRIDE = 16
"""Pixels of the model's input per cell of the feature grid."""


@dataclass(frozen=True, slots=True)
class Sam2Shape:
    """Sizes, and the rule that chooses the decoder's mask; a model's config and an exported folder give it.

    Attributes:
        image_size: side of the model's input, pixels.
        width: C, channels of features and pointers.
        memory_channels: of a memory, 64.
        slots: memories per object, the prompt's included.
        pointer_slots: pointers per object, the prompt's included.
        multimask: whether the best of three masks is ever taken.
        multimask_tracking: whether it is taken when an object is followed or refined, too.
        multimask_min_points: fewest prompt points with which it is taken.
        multimask_max_points: most prompt points with which it is taken.
    """

    image_size: int
    width: int
    memory_channels: int
    slots: int
    pointer_slots: int
    multimask: bool
    multimask_tracking: bool
    multimask_min_points: int
    multimask_max_points: int

    @property
    def side(self) -> int:
        """h = w of the feature grid."""
        return self.image_size // STRIDE

    def takes_best(self, points: int, *, first: bool) -> bool:
        """Whether the decoder takes the best of three masks, rather than its single mask.

        Args:
            points: prompt points; 0 where memory alone says where the object is.
            first: whether the object starts here.
        """
        asked = self.multimask and (first or self.multimask_tracking)
        return asked and self.multimask_min_points <= points <= self.multimask_max_points

    @classmethod
    def of(cls, config: Sam2VideoConfig) -> Sam2Shape:
        """The shape of a model with this config."""
        return cls(
            image_size=int(config.image_size),
            width=int(config.vision_config.fpn_hidden_size),
            memory_channels=int(config.memory_encoder_output_channels),
            slots=int(config.num_maskmem),
            pointer_slots=int(config.max_object_pointers_in_encoder),
            multimask=bool(config.multimask_output_in_sam),
            multimask_tracking=bool(config.multimask_output_for_tracking),
            multimask_min_points=int(config.multimask_min_pt_num),
            multimask_max_points=int(config.multimask_max_pt_num),
        )

    def to_settings(self) -> dict[str, Any]:
        """As JSON values, for a manifest."""
        return asdict(self)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Sam2Shape:
        """Read what `to_settings` wrote; further settings are left alone.

        Raises:
            ValueError: a setting is missing, or is no such value; the message names it.
        """
        values: dict[str, Any] = {}
        for field in fields(cls):
            kind = bool if field.type == "bool" else int
            value = settings.get(field.name)
            if type(value) is not kind or (kind is int and value < 0):
                raise ValueError(f"settings.{field.name} is {value!r}; it must be of type {kind.__name__}")
            values[field.name] = value
        if values["image_size"] < STRIDE or values["slots"] < 2 or values["pointer_slots"] < 2:
            raise ValueError(
                f"settings.image_size, slots, pointer_slots are {values['image_size']}, {values['slots']}, "
                f"{values['pointer_slots']}; they must be at least {STRIDE}, 2, 2"
            )
        return cls(**values)
