# SPDX-License-Identifier: Apache-2.0
"""A tracker's graph for any number of objects: as many runs as its engine or export asks for."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pixelrefer_ros.runtime import Session

OBJECTS = "N"
"""The symbol of the number of objects, in the graphs of a tracker."""


class ObjectBatches:
    """A session whose runs may be of more objects than its graph takes at once.

    Nothing in these graphs crosses from one object to another, so that several runs give what one would.

    Attributes:
        most: objects in one run; None where the graph is of a picture, not of objects.
    """

    def __init__(self, session: Session) -> None:
        """Split the runs of an open session."""
        self._session = session
        objects = session.graph.profiles.get(OBJECTS)
        self.most = objects.max if objects is not None else None
        self._of_objects = {spec.name for spec in session.graph.inputs if OBJECTS in spec.shape[:1]}

    def run(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the graph; see `pixelrefer_ros.runtime.Session`. Objects are the first axis."""
        count = max((feeds[name].shape[0] for name in self._of_objects & feeds.keys()), default=0)
        if self.most is None or count <= self.most:
            return self._session.run(feeds)
        parts = [self._session.run(self._part(feeds, start)) for start in range(0, count, self.most)]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _part(self, feeds: Mapping[str, Tensor], start: int) -> dict[str, Tensor]:
        """The feeds of the objects from `start` on that one run takes."""
        assert self.most is not None  # noqa: S101 (else nothing is split)
        part = slice(start, start + self.most)
        return {name: value[part] if name in self._of_objects else value for name, value in feeds.items()}
