# SPDX-License-Identifier: Apache-2.0
"""Prompts and answers as rows of tokens, of which the answers are learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pixelrefer_ros.model import TURN_END, ChatTokenizer, PixelReferConfig, chat_pieces

IGNORED = -100
"""The label of every token that is no part of an answer."""


@dataclass(frozen=True, eq=False, slots=True)
class TextRows:
    """Prompts and answers of B questions.

    Attributes:
        ids: (B, L) int64 tokens of prompt and answer, padded on the right.
        labels: (B, L) int64, the ids of answers, `IGNORED` elsewhere.
        length: (B,) tokens before the padding.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    length: torch.Tensor

    @classmethod
    def padded(cls, rows: Sequence[tuple[list[int], int]]) -> TextRows:
        """Rows of `text_row`."""
        length = torch.tensor([len(ids) for ids, _ in rows])
        ids = torch.zeros(len(rows), int(length.max()), dtype=torch.long)
        labels = torch.full_like(ids, IGNORED)
        for row, (tokens, start) in enumerate(rows):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            labels[row, start : len(tokens)] = ids[row, start : len(tokens)]
        return cls(ids, labels, length)


def text_row(
    question: str,
    answer: str,
    times: Sequence[Sequence[float | None]],
    tokenizer: ChatTokenizer,
    config: PixelReferConfig,
) -> tuple[list[int], int]:
    """The same of a question about objects at these times, see `chat_pieces`."""
    prompt = tokenizer.encode(chat_pieces(question, times, config.mask_num))
    return prompt + tokenizer.encode([(answer, False), (TURN_END, True)]), len(prompt)
