# SPDX-License-Identifier: Apache-2.0
"""Static KV caches of several answers: one row each, used again after them with the beginnings they hold."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pixelrefer_ros.runtime.manifest import Graph
from pixelrefer_ros.runtime.session import torch_dtype

_FIRST_ROWS = 2  # what one answer after the other gets, and what stays: two prompts' beginnings
_STEP = 256  # caches grow by so many positions
_WORTH_KEEPING = 8  # shared positions below which a prompt is computed whole


@dataclass(eq=False, slots=True)
class _Row:
    """What a row holds.

    Attributes:
        length: positions filled.
        prompt: (L, D), the embeddings of the first positions, L <= length; None if that is not known.
        last_use: a number that grows from use to use.
        spoiled: some of it is no number.
    """

    length: int = 0
    prompt: torch.Tensor | None = None
    last_use: int = 0
    spoiled: bool = False


class CacheRows:
    """Keys and values, (R, Hkv, C, Dh) tensors by the names of the decoder's inputs.

    The first `active` rows belong to answers on their way. The others keep what ended answers left: a prompt
    that begins as theirs did takes that beginning over. More rows and positions are made as they are needed;
    when no row is active any more, all but those used last are freed.

    Args:
        graph: the decoder; its in-place inputs are the caches.
        context_length: positions of a row, at most.
        device: where the memory lies.
    """

    def __init__(self, graph: Graph, context_length: int, device: torch.device) -> None:
        self._specs = [graph.input(name) for name, _ in graph.in_place]
        self._context_length = context_length
        self._device = device
        self._tensors: dict[str, torch.Tensor] = {}
        self._rows: list[_Row] = []
        self._uses = 0
        self.active = 0

    @property
    def lengths(self) -> list[int]:
        """Positions filled, of each active row."""
        return [row.length for row in self._rows[: self.active]]

    @property
    def capacity(self) -> int:
        """Positions of a row."""
        return next((tensor.shape[2] for tensor in self._tensors.values()), 0)

    def memory(self, start: int, stop: int) -> dict[str, torch.Tensor]:
        """The rows from start to stop, as the decoder takes them."""
        return {name: tensor[start:stop] for name, tensor in self._tensors.items()}

    def begin(self, prompt: torch.Tensor) -> int:
        """Makes one more row active, for a prompt (L, D).

        Returns:
            Its length: how many of the prompt's first positions it holds already, less than L.
        """
        place = self.active
        rows = len(self._rows) if place < len(self._rows) else max(_FIRST_ROWS, 2 * place)
        fits = prompt.shape[0] <= self.capacity
        self._allocate(rows, self.capacity if fits else prompt.shape[0] + 1)
        shared, best = max((_shared(row, prompt), number) for number, row in enumerate(self._rows))
        if shared < _WORTH_KEEPING:
            shared, best = 0, self._oldest_idle()
        if best < place:  # its owner still needs it
            self._swap(place, self._oldest_idle())
            for tensor in self._tensors.values():
                tensor[place, :, :shared] = tensor[best, :, :shared]
        else:
            self._swap(place, best)
        # The last position is computed anyway: its logits are wanted.
        row = self._rows[place]
        row.length, row.prompt = min(shared, prompt.shape[0] - 1), None
        self.active += 1
        return row.length

    def filled(self, place: int, count: int) -> None:
        """Notes that so many positions were written to a row."""
        self._uses += 1
        row = self._rows[place]
        row.length, row.last_use = row.length + count, self._uses

    def remember(self, place: int, prompt: torch.Tensor) -> None:
        """Notes that a row begins with this prompt, for later ones that begin so."""
        self._rows[place].prompt = prompt

    def spoil(self, place: int) -> None:
        """Notes that what was written to an active row is no number: nobody takes it over."""
        self._rows[place].spoiled = True

    def make_room(self) -> None:
        """Room for another position in every active row."""
        if max(self.lengths) == self.capacity:
            self._allocate(len(self._rows), self.capacity + 1)

    def end(self, place: int) -> None:
        """An active row is no longer needed; the last active one takes its place."""
        self.active -= 1
        self._swap(place, self.active)
        self._clean(self.active)

    def end_all(self) -> None:
        """No row is active any more; of many, the few used last stay, with what they hold."""
        for place in range(self.active):
            self._clean(place)
        self.active = 0
        if len(self._rows) <= _FIRST_ROWS:
            return
        newest = sorted(self._rows, key=lambda row: row.last_use, reverse=True)[:_FIRST_ROWS]
        places = [self._rows.index(row) for row in newest]
        for name, tensor in self._tensors.items():  # one after the other: no second set of caches is needed
            self._tensors[name] = tensor[places]
        self._rows = newest

    def _clean(self, place: int) -> None:
        """Zeros in place of what is no number: masked as it is, it would spread to the row's next answer."""
        if self._rows[place].spoiled:
            for tensor in self._tensors.values():
                tensor[place].zero_()
            self._rows[place] = _Row()

    def _oldest_idle(self) -> int:
        return min(range(self.active, len(self._rows)), key=lambda place: self._rows[place].last_use)

    def _swap(self, one: int, other: int) -> None:
        if one == other:
            return
        length = max(self._rows[one].length, self._rows[other].length)
        for tensor in self._tensors.values():
            kept = tensor[one, :, :length].clone()
            tensor[one, :, :length] = tensor[other, :, :length]
            tensor[other, :, :length] = kept
        self._rows[one], self._rows[other] = self._rows[other], self._rows[one]

    def _allocate(self, rows: int, positions: int) -> None:
        """Memory of that size at least, with what the present one holds."""
        if (rows, positions) == (len(self._rows), self.capacity):
            return
        # Zeros: positions not yet filled are masked, but a NaN would spread through the mask's product.
        room = min(-(-positions // _STEP) * _STEP, self._context_length)
        length = max((row.length for row in self._rows), default=0)
        for spec in self._specs:
            shape = [size if isinstance(size, int) else {"B": rows, "C": room}[size] for size in spec.shape]
            larger = torch.zeros(shape, dtype=torch_dtype(spec.dtype), device=self._device)
            if self._rows:
                larger[: len(self._rows), :, :length] = self._tensors[spec.name][:, :, :length]
            self._tensors[spec.name] = larger
        self._rows += [_Row() for _ in range(rows - len(self._rows))]


def _shared(row: _Row, prompt: torch.Tensor) -> int:
    """Positions at the beginning that a row and a prompt have in common."""
    if row.prompt is None:
        return 0
    count = min(row.prompt.shape[0], prompt.shape[0])
    same = (row.prompt[:count] == prompt[:count]).all(dim=1)
    return int(same.cumprod(0).sum())
