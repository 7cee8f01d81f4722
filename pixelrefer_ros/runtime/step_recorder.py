# SPDX-License-Identifier: Apache-2.0
"""Decoding steps as CUDA graphs: recorded when they come again, then replayed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from pixelrefer_ros.errors import BackendError
from pixelrefer_ros.runtime.device_stream import DeviceStream
from pixelrefer_ros.runtime.manifest import Graph

_log = logging.getLogger(__name__)

Tensors = dict[str, torch.Tensor]


class StepRecorder:
    """Runs a session's decoding steps; to be used while the session has the stream `alone`.

    A step with the sizes and caches of the one before it is recorded, and replayed from then on. A replay
    reads and writes the memory it was recorded with: inputs are copied into it, and outputs out of it.
    Caches are the caller's and stay where they are.

    Args:
        graph: of the session; its in-place inputs are the caches.
        stream: to record on.
    """

    def __init__(self, graph: Graph, stream: DeviceStream) -> None:
        self._name, self._stream = graph.name, stream
        self._caches = [name for name, _ in graph.in_place]
        self._updated = {output for _, output in graph.in_place}
        self._seen: object = None
        self._recorded: _Recorded | None = None
        self._records = True

    def run(
        self,
        sizes: Mapping[str, int],
        given: Tensors,
        compute: Callable[[Tensors], Tensors],
        repeat: Callable[[Tensors, Tensors], Tensors],
    ) -> Tensors:
        """One step.

        Args:
            sizes: of the graph's symbols.
            given: the inputs by their names.
            compute: inputs to outputs, on the stream. It runs before anything is recorded, so whatever is
                settled only in a first run (memory, kernels) is settled.
            repeat: what is recorded: from the inputs and outputs of `compute` to the outputs that it writes,
                queueing the same work again.

        Returns:
            The outputs by their names; later steps do not write to them, save to updated caches.
        """
        signature = (tuple(sorted(sizes.items())), tuple(given[name].data_ptr() for name in self._caches))
        if self._recorded is not None and self._recorded.signature == signature:
            return self._replay(self._recorded, given)
        # What was recorded before goes first: a TensorRT context serves one recording, as its state is in it.
        self._recorded = None
        again, self._seen = signature == self._seen, signature
        if not (again and self._records):
            return compute(given)
        given = {name: tensor if name in self._caches else tensor.clone() for name, tensor in given.items()}
        outputs = compute(given)
        handed_out = self._copies(outputs)
        self._record(signature, given, lambda: repeat(given, outputs))
        return handed_out

    def forget(self) -> None:
        """Frees what is recorded."""
        self._recorded, self._seen = None, None

    def _record(self, signature: object, given: Tensors, work: Callable[[], Tensors]) -> None:
        outputs: Tensors = {}
        try:
            replay = self._stream.capture(lambda: outputs.update(work()))
        except (RuntimeError, BackendError) as error:
            self._records = False
            _log.warning("graph %s: steps are not recorded as a CUDA graph: %s", self._name, error)
            return
        # Caches are not held: one at the same address is the same to the recording.
        inputs = {name: tensor for name, tensor in given.items() if name not in self._caches}
        self._recorded = _Recorded(signature, inputs, outputs, replay)

    def _replay(self, recorded: _Recorded, given: Tensors) -> Tensors:
        for name, tensor in recorded.inputs.items():
            tensor.copy_(given[name])
        with self._stream.queue():
            recorded.replay()
        return self._copies(recorded.outputs)

    def _copies(self, outputs: Tensors) -> Tensors:
        """What a replay would overwrite, copied; updated caches are not handed out and need no copy."""
        return {name: tensor if name in self._updated else tensor.clone() for name, tensor in outputs.items()}


@dataclass(frozen=True)
class _Recorded:
    """A decoding step as a CUDA graph.

    Attributes:
        signature: sizes and addresses of the caches it is for.
        inputs, outputs: the memory it reads and writes, but for the caches.
        replay: runs it.
    """

    signature: object
    inputs: Tensors
    outputs: Tensors
    replay: Callable[[], None]
