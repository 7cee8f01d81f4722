# SPDX-License-Identifier: Apache-2.0
"""The memory bank: what each object remembers, in fixed slots, objects on the batch axis."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Recall:
    """What the memory attention reads, for N objects with S memory and P pointer slots.

    Attributes:
        memory: (N, S, h * w, 64): slot 0 the prompt frame, then oldest to newest.
        memory_valid: (N, S) bool; None when every slot of every object is in use.
        pointers: (N, P, C): slot 0 the prompt frame, then oldest to newest.
        pointer_distance: (N, P) float32, frames before the current one.
        pointer_valid: (N, P) bool; None exactly when ``memory_valid`` is.
    """

    memory: Tensor
    memory_valid: Tensor | None
    pointers: Tensor
    pointer_distance: Tensor
    pointer_valid: Tensor | None


class MemoryBank:
    """Per object: the prompt frame's memory, the newest memories, and object pointers.

    Memories are kept in bfloat16, as SAM 2 does. The size is fixed per object, whatever the length of
    the stream: ``slots`` x h * w x 64 x 2 bytes and ``pointer_slots`` pointers.

    Attributes:
        slots: memory slots, the prompt's included.
        pointer_slots: pointer slots, the prompt's included.
    """

    def __init__(
        self,
        *,
        slots: int,
        pointer_slots: int,
        grid: int,
        channels: int,
        width: int,
        device: torch.device | str,
        dtype: torch.dtype,
    ) -> None:
        """Start with no object.

        Args:
            slots: memory slots per object, the prompt's included.
            pointer_slots: pointer slots per object, the prompt's included.
            grid: h * w of the feature grid.
            channels: of a memory.
            width: of a pointer.
            device: where the bank lives.
            dtype: what `recall` gives.
        """
        self.slots, self.pointer_slots = slots, pointer_slots
        self._dtype = dtype
        self._memory = torch.zeros(0, slots, grid, channels, dtype=torch.bfloat16, device=device)
        self._pointers = torch.zeros(0, pointer_slots, width, dtype=dtype, device=device)
        self._since_prompt: list[int] = []

    def __len__(self) -> int:
        """Objects in the bank."""
        return len(self._since_prompt)

    @property
    def nbytes(self) -> int:
        """Bytes the bank holds."""
        return self._memory.nbytes + self._pointers.nbytes

    def add(self) -> int:
        """Give a new object its slots; return its row."""
        memory = torch.cat((self._memory, self._memory.new_zeros(1, *self._memory.shape[1:])))
        pointers = torch.cat((self._pointers, self._pointers.new_zeros(1, *self._pointers.shape[1:])))
        self._memory, self._pointers = memory, pointers  # both or, where there is no memory for them, none
        self._since_prompt.append(0)
        return len(self) - 1

    def remove(self, row: int) -> None:
        """Free an object's slots; later rows move up by one."""
        keep = [i for i in range(len(self)) if i != row]
        self._memory, self._pointers = self._memory[keep], self._pointers[keep]
        del self._since_prompt[row]

    def start(self, rows: Sequence[int], memory: Tensor, pointers: Tensor) -> None:
        """Make these the prompt frame's memory and forget everything else of the objects.

        Args:
            rows: N rows.
            memory: (N, h * w, 64).
            pointers: (N, C).
        """
        index = list(rows)
        self._memory[index, 0] = memory.to(self._memory.dtype)
        self._pointers[index, 0] = pointers.to(self._dtype)
        for row in rows:
            self._since_prompt[row] = 0

    def push(self, rows: Sequence[int], memory: Tensor, pointers: Tensor) -> None:
        """Add the memory of one more frame; the oldest unprompted one falls out."""
        index = list(rows)
        held, pointed = self._memory[index], self._pointers[index]
        self._memory[index, 1:] = torch.cat((held[:, 2:], memory[:, None].to(held.dtype)), dim=1)
        self._pointers[index, 1:] = torch.cat((pointed[:, 2:], pointers[:, None].to(self._dtype)), dim=1)
        for row in rows:
            self._since_prompt[row] += 1

    def since_prompt(self, row: int) -> int:
        """Frames pushed since the object's prompt."""
        return self._since_prompt[row]

    def recall(self, rows: Sequence[int], first_distance: Sequence[int], back: Sequence[int]) -> Recall:
        """Read the slots of N objects.

        Args:
            rows: N rows.
            first_distance: frames between the object's prompt frame and the first frame after it.
            back: how many of the newest frames to leave out: the object's memory as it was then.
        """
        index = list(rows)
        memory = self._memory[index].to(self._dtype)
        pointers = self._pointers[index]
        seen = [self._since_prompt[row] - step for row, step in zip(rows, back, strict=True)]
        for i, step in enumerate(back):
            if step:
                memory[i, 1:] = memory[i, 1:].roll(step, 0)
                pointers[i, 1:] = pointers[i, 1:].roll(step, 0)
        distance = torch.arange(self.pointer_slots, 0, -1, dtype=torch.float32).repeat(len(rows), 1)
        distance[:, 0] = torch.tensor(
            [d + n for d, n in zip(first_distance, seen, strict=True)], dtype=torch.float32
        )
        distance = distance.to(memory.device)
        available = [
            (self._filled(row, step, self.slots), self._filled(row, step, self.pointer_slots))
            for row, step in zip(rows, back, strict=True)
        ]
        if all(m == self.slots - 1 and p == self.pointer_slots - 1 for m, p in available):
            return Recall(memory, None, pointers, distance, None)
        memory_valid = _validity([m for m, _ in available], self.slots).to(memory.device)
        pointer_valid = _validity([p for _, p in available], self.pointer_slots).to(memory.device)
        return Recall(memory, memory_valid, pointers, distance, pointer_valid)

    def _filled(self, row: int, step: int, slots: int) -> int:
        """Usable slots after the prompt's, once the newest ``step`` frames are left out."""
        return max(min(self._since_prompt[row], slots - 1) - step, 0)


def _validity(filled: list[int], slots: int) -> Tensor:
    """(N, slots) bool: the prompt's slot and the last ``filled`` ones."""
    back = torch.arange(slots, 0, -1)
    valid = back <= torch.tensor(filled)[:, None]
    valid[:, 0] = True
    return valid
