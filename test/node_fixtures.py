# SPDX-License-Identifier: Apache-2.0
"""Who speaks with the node of a test file: the file has the fixture ``node`` and names this as its plugin."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from node_processes import START_S, Child, Peer

if TYPE_CHECKING:
    from pixelrefer_ros.ros import PixelReferClient


@pytest.fixture(scope="module")
def client(node: Child) -> Iterator[PixelReferClient]:
    """An agent, once the node is ready."""
    from pixelrefer_ros.ros import PixelReferClient

    with PixelReferClient() as client:
        client.wait_ready(START_S)
        yield client


@pytest.fixture(scope="module")
def peer(node: Child) -> Iterator[Peer]:
    """A plain ROS node."""
    with Peer() as peer:
        yield peer
