# SPDX-License-Identifier: Apache-2.0
"""PixelRefer-Lite from an exported folder: the same networks, run by a backend for compiled graphs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pixelrefer_ros.errors import CheckpointError
from pixelrefer_ros.model.config import PixelReferConfig, read_config, read_json
from pixelrefer_ros.model.crops import ObjectCrop
from pixelrefer_ros.model.embedding import Embedding, GraphEmbedding, HostEmbedding, read_table
from pixelrefer_ros.model.region_network import ObjectTokens, RegionNetwork
from pixelrefer_ros.model.vision_config import vision_config
from pixelrefer_ros.runtime import (
    Backend,
    Decoder,
    Graph,
    GraphDecoder,
    Manifest,
    Session,
    read_manifest,
    torch_dtype,
)
from pixelrefer_ros.runtime.manifest import MANIFEST

KIND = "pixelrefer-lite"


@dataclass(frozen=True, eq=False)
class CompiledNetwork(RegionNetwork):
    """The graphs of an exported model, open.

    Attributes:
        config: what shapes the computation.
        vision: session of the vision encoder.
        objects: session of the object encoder.
        embed: the token embedding.
        language: the decoder's graph with its caches.
        place: the device that the sessions run on.
    """

    config: PixelReferConfig
    vision: Session
    objects: Session
    embed: Embedding
    language: GraphDecoder
    place: torch.device

    @property
    def device(self) -> torch.device:
        """Where the sessions' tensors lie."""
        return self.place

    @property
    def dtype(self) -> torch.dtype:
        """What the graphs take and give."""
        return torch_dtype(self.vision.graph.input("patches").dtype)

    @property
    def patch_limit(self) -> int | None:
        """Patches that both graphs take in one call: those of the export, or fewer in smaller engines."""
        return min(session.graph.profiles["P"].max for session in (self.vision, self.objects))

    def encode_patches(self, patches: torch.Tensor, grids: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Features of pictures; see `RegionNetwork.encode_patches`.

        A GPU takes them all in one call. On a CPU the attention of each picture to the others, computed only
        to be masked, costs more than the calls it saves.
        """
        patches = patches.to(self.dtype)
        sizes = [len(patches)] if self.place.type == "cuda" else [rows * columns for rows, columns in grids]
        calls = [list(grids)] if self.place.type == "cuda" else [[grid] for grid in grids]
        features = [
            self.vision.run({"patches": some, "grids": self._whole_numbers(of_some)})["features"]
            for some, of_some in zip(patches.split(sizes), calls, strict=True)
        ]
        return torch.cat(features)

    def object_tokens(
        self,
        crops: Sequence[ObjectCrop],
        crop_features: Sequence[torch.Tensor],
        context_features: Sequence[torch.Tensor],
        whole: torch.Tensor,
    ) -> torch.Tensor:
        """Object tokens from encoded pictures; see `RegionNetwork.object_tokens`."""
        profiles = self.objects.graph.profiles
        tokens, start = [], 0
        while start < len(crops):
            end, patches = start, 0
            while end < len(crops) and end - start < min(profiles["K"].max, profiles["F"].max):
                patches += crop_features[end].shape[0]
                if end > start and patches > profiles["P"].max:
                    break
                end += 1
            some = slice(start, end)
            frames = whole if whole.shape[0] == 1 else whole[some]
            tokens.append(
                self._object_tokens(crops[some], crop_features[some], context_features[some], frames)
            )
            start = end
        return torch.cat(tokens)

    def _object_tokens(
        self,
        crops: Sequence[ObjectCrop],
        crop_features: Sequence[torch.Tensor],
        context_features: Sequence[torch.Tensor],
        whole: torch.Tensor,
    ) -> torch.Tensor:
        chosen = np.concatenate([(crop.grid_mask > 0).ravel() for crop in crops])
        feeds = {
            "features": torch.cat(list(crop_features)),
            "chosen": torch.from_numpy(chosen).to(self.place),
            "grids": self._whole_numbers([crop.grid for crop in crops]),
            "boxes": self._whole_numbers([crop.box for crop in crops]),
            "frame_sizes": self._whole_numbers([crop.frame_size for crop in crops]),
            "local": torch.stack(list(context_features)),
            "whole": whole.contiguous(),
            "frame_of": torch.arange(len(crops), device=self.place) % whole.shape[0],
        }
        return self.objects.run(feeds)["tokens"]

    def prompt_embeddings(self, token_ids: Sequence[int], objects: Sequence[ObjectTokens]) -> torch.Tensor:
        """A prompt with its object tokens; see `RegionNetwork.prompt_embeddings`."""
        self.region_places(token_ids, objects)
        return self.embed.prompt(token_ids, objects)

    def logits(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Logits after every position; see `RegionNetwork.logits`."""
        return torch.from_numpy(self.language.logits(embeddings))

    def decoder(self) -> Decoder:
        """The language model with its cache."""
        return self.language

    def _whole_numbers(self, values: Sequence[int] | Sequence[tuple[int, ...]]) -> torch.Tensor:
        return torch.tensor(list(values), dtype=torch.long, device=self.place)


def open_network(folder: Path, backend: Backend, device: torch.device) -> CompiledNetwork:
    """Opens the graphs of an exported folder.

    Raises:
        CheckpointError: the folder is not an exported PixelRefer-Lite, or a file of it is missing or changed.
        BackendError: the backend cannot run a graph.
    """
    manifest = read_manifest(folder)
    config = _read_config(folder, manifest)
    graphs = [manifest.graph(name, folder) for name in ("vision", "objects", "decoder")]
    vision, objects, decoder = (backend.open(folder, graph) for graph in graphs)
    embed = _open_embedding(folder, manifest.graph("embed", folder), backend, config, device)
    return CompiledNetwork(
        config=config,
        vision=vision,
        objects=objects,
        embed=embed,
        language=GraphDecoder(
            decoder,
            embed.answers,
            context_length=min(_context_length(folder, manifest), _capacity(decoder)),
            device=device,
        ),
        place=device,
    )


def _open_embedding(
    folder: Path, graph: Graph, backend: Backend, config: PixelReferConfig, device: torch.device
) -> Embedding:
    if graph.on_host and backend.host_tables:
        return HostEmbedding(read_table(folder, graph, config), config.region_token_id, device)
    return GraphEmbedding(backend.open(folder, graph), config, device)


def _read_config(folder: Path, manifest: Manifest) -> PixelReferConfig:
    if manifest.kind != KIND:
        raise CheckpointError(
            f"{folder / MANIFEST}: kind is {manifest.kind}; a region language model is {KIND}: "
            "is this the folder of the tracker?"
        )
    source = folder / "config.json"
    fields = read_json(source)
    vision = fields.get("vision_config")
    if not isinstance(vision, dict):
        raise CheckpointError(f"{source}: vision_config is missing: export the model again")
    return read_config(folder, fields, vision_config(source, vision))


def _context_length(folder: Path, manifest: Manifest) -> int:
    value = manifest.settings.get("context_length")
    if type(value) is not int or value < 1:
        raise CheckpointError(
            f"{folder / MANIFEST}: settings.context_length is {value!r}; it must be 1 or more: "
            "export the model again"
        )
    return value


def _capacity(decoder: Session) -> int:
    """Positions that the caches of a session can have; an engine's may be fewer than the export's."""
    graph = decoder.graph
    size = graph.input(graph.in_place[0][0]).shape[2]
    return graph.profiles[size].max if isinstance(size, str) else size
