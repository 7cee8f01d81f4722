# SPDX-License-Identifier: Apache-2.0
"""The networks of PixelRefer-Lite and the order in which they run, whatever runs them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from pixelrefer_ros.errors import ImageError
from pixelrefer_ros.model.config import PATCH, PixelReferConfig
from pixelrefer_ros.model.crops import ObjectCrop, crop_object, global_image
from pixelrefer_ros.model.patches import patchify
from pixelrefer_ros.runtime import Decoder
from pixelrefer_ros.types import Mask, RgbImage

ObjectTokens = torch.Tensor
"""(n, D) in the model's dtype and on its device: what the language model sees of one object in one frame."""

PICTURES = 32
"""Pictures in one pass of the vision encoder, at most; their patches are bounded too."""


@dataclass(frozen=True, eq=False, slots=True)
class GlobalFeatures:
    """The whole frame as the vision encoder sees it, shared by every object in the frame.

    Attributes:
        features: (576, D_v), in the model's dtype and on its device.
        frame_size: (height, width) of the frame, px.
    """

    features: torch.Tensor
    frame_size: tuple[int, int]


class RegionNetwork(ABC):
    """What is the same in torch and in compiled graphs; subclasses give the computation.

    Attributes:
        config: what shapes the computation.
    """

    config: PixelReferConfig

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where the networks lie."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """What the networks compute in."""

    @property
    def patch_limit(self) -> int | None:
        """Patches of one call beyond which the networks cannot go; None where only memory bounds them."""
        return None

    @property
    def patch_budget(self) -> int:
        """Patches of one crop, and of several pictures in one pass, at most.

        The config's, or what the networks can take where that is less: graphs may be exported, and engines
        built, for fewer.
        """
        return min(self.config.patch_budget, self.patch_limit or self.config.patch_budget)

    @abstractmethod
    def encode_patches(self, patches: torch.Tensor, grids: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Features of pictures, (P, D_v), none seeing another.

        Args:
            patches: (P, 588) float32, the pictures one after the other.
            grids: patches (down, across) of each.
        """

    @abstractmethod
    def object_tokens(
        self,
        crops: Sequence[ObjectCrop],
        crop_features: Sequence[torch.Tensor],
        context_features: Sequence[torch.Tensor],
        whole: torch.Tensor,
    ) -> torch.Tensor:
        """Object tokens from encoded pictures: (K, n, D).

        Args:
            crops: the K objects.
            crop_features: F of each object, (h' w', D_v).
            context_features: F_l of each object, (256, D_v).
            whole: F_g, (1 or K, 576, D_v).
        """

    @abstractmethod
    def prompt_embeddings(self, token_ids: Sequence[int], objects: Sequence[ObjectTokens]) -> torch.Tensor:
        """The prompt as the language model takes it: the i-th ``<REGION>`` becomes the i-th object token.

        Args:
            token_ids: L ids of the vocabulary.
            objects: (n, D) each; together as many rows as the prompt has ``<REGION>``.

        Returns:
            (L, D).

        Raises:
            ValueError: the numbers differ, or the config has no region_token_id.
        """

    @abstractmethod
    def logits(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Logits after every position of a prompt: (L, D) to (L, V). Decoding needs only the last."""

    @abstractmethod
    def decoder(self) -> Decoder:
        """The language model with its cache."""

    @torch.inference_mode()
    def image_features(self, images: Sequence[RgbImage]) -> list[torch.Tensor]:
        """Encodes pictures, several in one pass while they fit the patch budget together.

        Args:
            images: each (14 h, 14 w, 3) uint8 RGB.

        Returns:
            One (h w, D_v) per picture.
        """
        features: list[torch.Tensor] = []
        for group in self._passes(images):
            grids = [(image.shape[0] // PATCH, image.shape[1] // PATCH) for image in group]
            patches = torch.cat([patchify(image, device=self.device) for image in group])
            encoded = self.encode_patches(patches, grids)
            features += encoded.split([rows * columns for rows, columns in grids])
        return features

    def encode_global(self, rgb: RgbImage) -> GlobalFeatures:
        """The features of a whole frame.

        Raises:
            ImageError: not an RGB picture.
        """
        return GlobalFeatures(self.image_features([global_image(rgb)])[0], (rgb.shape[0], rgb.shape[1]))

    def crop(self, rgb: RgbImage, mask: Mask) -> ObjectCrop:
        """An object's crop under this model's settings; see `crop_object`."""
        return crop_object(rgb, mask, mask_num=self.config.mask_num, patch_budget=self.patch_budget)

    def encode_objects(
        self, rgb: RgbImage, masks: Sequence[Mask], global_features: GlobalFeatures
    ) -> list[ObjectTokens]:
        """Object tokens of several objects of one frame, encoded together.

        Raises:
            ImageError: not an RGB picture, a mask of another size, or features of another frame size.
            EmptyRegion: a mask has no pixel.
        """
        if global_features.frame_size != rgb.shape[:2]:
            raise ImageError(
                f"the global features are of a frame of {list(global_features.frame_size)}; "
                f"the image is {list(rgb.shape[:2])}: encode the globals of the same frame"
            )
        if not masks:
            return []
        crops = [self.crop(rgb, mask) for mask in masks]
        features = self.image_features([crop.image for crop in crops] + [crop.context for crop in crops])
        tokens = self.object_tokens(
            crops, features[: len(crops)], features[len(crops) :], global_features.features[None]
        )
        return list(tokens)

    def region_places(self, token_ids: Sequence[int], objects: Sequence[ObjectTokens]) -> list[int]:
        """Where a prompt has ``<REGION>``; checks that the object tokens are as many.

        Raises:
            ValueError: the numbers differ, or the config has no region_token_id.
        """
        region = self.config.region_token_id
        if region is None:
            raise ValueError("the config does not say which token is <REGION>")
        places = [place for place, token in enumerate(token_ids) if token == region]
        rows = sum(tokens.shape[0] for tokens in objects)
        if rows != len(places):
            raise ValueError(f"the prompt has {len(places)} places for object tokens; {rows} were given")
        return places

    def _passes(self, images: Sequence[RgbImage]) -> Iterator[list[RgbImage]]:
        """Groups of consecutive pictures whose patches stay within the budget, so that memory does too."""
        group: list[RgbImage] = []
        patches = 0
        for image in images:
            size = (image.shape[0] // PATCH) * (image.shape[1] // PATCH)
            if group and (patches + size > self.patch_budget or len(group) == PICTURES):
                yield group
                group, patches = [], 0
            group.append(image)
            patches += size
        if group:
            yield group
