# SPDX-License-Identifier: Apache-2.0
"""Prompts and answers as rows of tokens, of which the answers are learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch.nn import functional

from pixelrefer_ros.model import TURN_END, ChatTokenizer, PixelReferConfig, chat_pieces

IGNORED = -100
"""The label of every token that is no part of an answer."""


class TextRow(NamedTuple):
    """Token ids of a prompt and its answer, and their labels."""

    ids: list[int]
    labels: list[int]


@dataclass(frozen=True, eq=False, slots=True)
class TextRows:
    """Prompts and answers of B questions.

    Attributes:
        ids: (B, L) int64 tokens of prompt and answer, padded on the right.
        labels: (B, L) int64, the ids of answers; of another token, what could be said there already, see
            `text_row`; `IGNORED` elsewhere.
        length: (B,) tokens before the padding.
    """

    ids: torch.Tensor
    labels: torch.Tensor
    length: torch.Tensor

    @classmethod
    def padded(cls, rows: Sequence[TextRow]) -> TextRows:
        """Rows of `text_row`, at least one."""
        length = torch.tensor([len(row.ids) for row in rows])
        ids = torch.zeros(len(rows), int(length.max()), dtype=torch.long)
        labels = torch.full_like(ids, IGNORED)
        for number, row in enumerate(rows):
            ids[number, : len(row.ids)] = torch.tensor(row.ids)
            labels[number, : len(row.ids)] = torch.tensor(row.labels)
        return cls(ids, labels, length)

    @classmethod
    def joined(cls, parts: Sequence[TextRows]) -> TextRows:
        """The rows of all of them, in order."""
        longest = max(part.ids.shape[1] for part in parts)
        ids, labels = (
            torch.cat([functional.pad(rows, (0, longest - rows.shape[1]), value=filler) for rows in of])
            for of, filler in (([part.ids for part in parts], 0), ([part.labels for part in parts], IGNORED))
        )
        return cls(ids, labels, torch.cat([part.length for part in parts]))


def text_row(
    question: str,
    answer: str,
    times: Sequence[Sequence[float | None]],
    tokenizer: ChatTokenizer,
    config: PixelReferConfig,
    lesson: Sequence[tuple[str, str]] = (),
    claim: tuple[str, str] | None = None,
) -> TextRow:
    """A question about objects at these times and its answer, as the model is to continue.

    Args:
        question: with one ``<region>`` per object.
        answer: to learn, with the end of the turn; not looked at if there is a lesson.
        times: of every object's views, see `chat_pieces`.
        tokenizer: of the model.
        config: of the model.
        lesson: what is heard and what is to be said to it, in turns; only the latter is learned.
        claim: words of the question, and what could be said right after them: that is a label there, though
            the question goes on. What is decided so early has only to be handed on.

    Raises:
        BadQuestion: it cannot be asked, see `chat_pieces`.
    """
    prompt = tokenizer.encode(chat_pieces(question, times, config.mask_num))
    row = TextRow(prompt, [IGNORED] * len(prompt))
    if claim is not None:
        phrase, decided = (tokenizer.encode([(words, False)]) for words in (f" {claim[0]}", f" {claim[1]}"))
        ends = [end for end in range(len(phrase), len(prompt)) if prompt[end - len(phrase) : end] == phrase]
        if ends:
            row.labels[ends[-1]] = decided[0]
    for heard, said in lesson:
        words, reply = tokenizer.encode([(heard, False)]), tokenizer.encode([(said, False)])
        row.ids.extend(words + reply)
        row.labels.extend([IGNORED] * len(words) + reply)
    if not lesson:
        reply = tokenizer.encode([(answer, False), (TURN_END, True)])
        row.ids.extend(reply)
        row.labels.extend(reply)
    return row
