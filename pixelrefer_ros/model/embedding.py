# SPDX-License-Identifier: Apache-2.0
"""What embeds the tokens of a compiled model: its graph, or the same table looked up in the host's memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from pixelrefer_ros.errors import CheckpointError
from pixelrefer_ros.model.config import PixelReferConfig
from pixelrefer_ros.runtime import Graph, Session, torch_dtype, verify_graph


class Embedding(Protocol):
    """Token ids to embeddings, which lie on the device of the decoder."""

    def prompt(self, token_ids: Sequence[int], objects: Sequence[torch.Tensor]) -> torch.Tensor:
        """A prompt's embeddings (L, D), the i-th ``<REGION>`` replaced by the i-th object token.

        Args:
            token_ids: L of them.
            objects: (R_i, D) of each object, on any device; together as many rows as there are ``<REGION>``.
        """
        ...

    def answers(self, token_ids: Sequence[int]) -> torch.Tensor:
        """Embeddings (B, D) of the newest tokens of B answers; a ``<REGION>`` that is written is itself."""
        ...


@dataclass(frozen=True, eq=False)
class GraphEmbedding:
    """The exported graph does it.

    Attributes:
        session: inputs ``ids`` and ``objects``, output ``embeddings``.
        config: of the model.
        place: the device of the session.
    """

    session: Session
    config: PixelReferConfig
    place: torch.device

    def prompt(self, token_ids: Sequence[int], objects: Sequence[torch.Tensor]) -> torch.Tensor:
        """See `Embedding`."""
        dtype = torch_dtype(self.session.graph.input("objects").dtype)
        rows = [tokens.to(self.place, dtype) for tokens in objects]
        if not rows:  # the graph needs a row to leave out
            width = self.config.language.hidden_size
            rows = [torch.zeros(1, width, dtype=dtype, device=self.place)]
        ids = torch.tensor(list(token_ids), dtype=torch.long, device=self.place)
        return self.session.run({"ids": ids, "objects": torch.cat(rows)})["embeddings"]

    def answers(self, token_ids: Sequence[int]) -> torch.Tensor:
        """See `Embedding`.

        The graph would put an object in the place of a ``<REGION>``. Counted from the end of the vocabulary
        it is another number for the same row of the table: ONNX's Gather takes both.
        """
        region, size = self.config.region_token_id, self.config.language.vocab_size
        return self.prompt([token - size if token == region else token for token in token_ids], [])


@dataclass(frozen=True, eq=False)
class HostEmbedding:
    """Rows are looked up in the host's memory, and only they go to the device.

    On a GPU the table would lie twice, here and as the head of the decoder (0.47 GB at 2B). The host knows
    the tokens before the GPU does.

    Attributes:
        table: (V, D), on the CPU.
        region_token_id: of ``<REGION>``; None if the model has none.
        place: where embeddings are to lie.
    """

    table: torch.Tensor
    region_token_id: int | None
    place: torch.device

    def prompt(self, token_ids: Sequence[int], objects: Sequence[torch.Tensor]) -> torch.Tensor:
        """See `Embedding`."""
        rows = self.answers(token_ids)
        if objects:
            places = [place for place, token in enumerate(token_ids) if token == self.region_token_id]
            tokens = torch.cat([some.to(rows.device, rows.dtype) for some in objects])
            rows[torch.tensor(places, device=rows.device)] = tokens
        return rows

    def answers(self, token_ids: Sequence[int]) -> torch.Tensor:
        """See `Embedding`."""
        ids = torch.tensor(list(token_ids), dtype=torch.long)
        return self.table.index_select(0, ids).to(self.place)


def read_table(folder: Path, graph: Graph, config: PixelReferConfig) -> torch.Tensor:
    """The table (V, D) of an exported token embedding: the file is mapped, its pages are read when needed.

    Args:
        folder: the exported one.
        graph: of the token embedding; `Graph.on_host`.
        config: of the model.

    Raises:
        CheckpointError: the file is missing or changed, or not of the table's size.
    """
    verify_graph(folder, graph)
    dtype = torch_dtype(graph.output("embeddings").dtype)
    shape = config.language.vocab_size, config.language.hidden_size
    expected = shape[0] * shape[1] * dtype.itemsize
    path = folder / graph.data[0].file
    if path.stat().st_size != expected:
        raise CheckpointError(
            f"{path} has {path.stat().st_size} bytes; a table of {shape[0]} x {shape[1]} in {dtype} "
            f"has {expected}: export the model again"
        )
    return torch.from_file(str(path), size=shape[0] * shape[1], dtype=dtype).reshape(shape)
