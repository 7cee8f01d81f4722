# SPDX-License-Identifier: Apache-2.0
"""The three networks of PixelRefer-Lite and the order in which they run; no tokenizer is needed here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import Qwen2ForCausalLM, VideoLlama3VisionModel

from pixelrefer_ros.errors import ImageError
from pixelrefer_ros.model.config import PATCH, PixelReferConfig
from pixelrefer_ros.model.crops import ObjectCrop, crop_object, global_image
from pixelrefer_ros.model.object_encoder import ObjectEncoder
from pixelrefer_ros.model.patches import patchify
from pixelrefer_ros.model.position import patch_positions
from pixelrefer_ros.types import Mask, RgbImage

ObjectTokens = torch.Tensor
"""(n, D) in the model's dtype and on its device: what the language model sees of one object in one frame."""


@dataclass(frozen=True, eq=False, slots=True)
class GlobalFeatures:
    """The whole frame as the vision encoder sees it, shared by every object in the frame.

    Attributes:
        features: (576, D_v), in the model's dtype and on its device.
        frame_size: (height, width) of the frame, px.
    """

    features: torch.Tensor
    frame_size: tuple[int, int]


@dataclass(frozen=True, eq=False)
class PixelReferNetwork:
    """The loaded networks, all of one dtype on one device.

    Attributes:
        config: what shapes the computation.
        vision: patches to features; no attention crosses from one picture to another.
        object_encoder: features of a region to object tokens.
        language: object tokens and text to text.
    """

    config: PixelReferConfig
    vision: VideoLlama3VisionModel
    object_encoder: ObjectEncoder
    language: Qwen2ForCausalLM

    @property
    def device(self) -> torch.device:
        """Where the networks lie."""
        return self.language.model.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """What the networks compute in."""
        return self.language.model.embed_tokens.weight.dtype

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
            grids = [(1, image.shape[0] // PATCH, image.shape[1] // PATCH) for image in group]
            pixels = torch.cat([patchify(image, device=self.device) for image in group]).to(self.dtype)
            encoded = self.vision(
                pixel_values=pixels,
                grid_thw=torch.tensor(grids, device=self.device),
                merge_sizes=torch.ones(len(grids), dtype=torch.long, device=self.device),
            ).last_hidden_state
            features += encoded.split([rows * columns for _, rows, columns in grids])
        return features

    def encode_global(self, rgb: RgbImage) -> GlobalFeatures:
        """The features of a whole frame.

        Raises:
            ImageError: not an RGB picture.
        """
        return GlobalFeatures(self.image_features([global_image(rgb)])[0], (rgb.shape[0], rgb.shape[1]))

    def crop(self, rgb: RgbImage, mask: Mask) -> ObjectCrop:
        """An object's crop under this model's settings; see `crop_object`."""
        return crop_object(rgb, mask, mask_num=self.config.mask_num, patch_budget=self.config.patch_budget)

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

    @torch.inference_mode()
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
        reading = self.config.position_reading
        tokens: torch.Tensor = self.object_encoder(
            crop_features,
            [
                patch_positions(crop.grid, crop.box, crop.frame_size, reading, device=self.device)
                for crop in crops
            ],
            [torch.from_numpy(crop.grid_mask > 0).flatten().to(self.device) for crop in crops],
            torch.stack(list(context_features)),
            whole,
        )
        return tokens

    @torch.inference_mode()
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
        region = self.config.region_token_id
        if region is None:
            raise ValueError("the config does not say which token is <REGION>")
        ids = torch.tensor(list(token_ids), dtype=torch.long, device=self.device)
        embeddings: torch.Tensor = self.language.model.embed_tokens(ids)
        places = torch.nonzero(torch.eq(ids, region)).flatten()
        rows = sum(tokens.shape[0] for tokens in objects)
        if rows != len(places):
            raise ValueError(f"the prompt has {len(places)} places for object tokens; {rows} were given")
        if objects:
            values = torch.cat([tokens.to(embeddings) for tokens in objects])
            embeddings = embeddings.index_copy(0, places, values)
        return embeddings

    @torch.inference_mode()
    def logits(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Logits after every position of a prompt: (L, D) to (L, V). Decoding needs only the last."""
        logits: torch.Tensor = self.language(inputs_embeds=embeddings[None], use_cache=False).logits[0]
        return logits

    def _passes(self, images: Sequence[RgbImage]) -> Iterator[list[RgbImage]]:
        """Groups of consecutive pictures whose patches stay within the budget, so that memory does too."""
        group: list[RgbImage] = []
        patches = 0
        for image in images:
            size = (image.shape[0] // PATCH) * (image.shape[1] // PATCH)
            if group and patches + size > self.config.patch_budget:
                yield group
                group, patches = [], 0
            group.append(image)
            patches += size
        if group:
            yield group
