# SPDX-License-Identifier: Apache-2.0
"""What a node leaves behind, whichever way its models are let go: neither their memory nor its threads."""

from __future__ import annotations

import threading
import weakref

import pytest

rclpy = pytest.importorskip("rclpy")
pytest.importorskip("pixelrefer_ros.msg")
pytestmark = pytest.mark.ros

import torch  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402

import pixelrefer_ros.ros.node as node_module  # noqa: E402
from pixelrefer_ros.errors import ParameterError  # noqa: E402
from pixelrefer_ros.model_source import load_perception  # noqa: E402
from pixelrefer_ros.ros import PixelReferNode  # noqa: E402


class Loaded:
    """A node that is not yet configured, its executor, and a weak reference to all it has loaded."""

    def __init__(self, context, model_folder, monkeypatch):
        self.references = []
        self.refuse = False
        overrides = {"model": str(model_folder), "tracker_model": "none", "autostart": False}
        parameters = [rclpy.Parameter(name, value=value) for name, value in overrides.items()]
        self.node = PixelReferNode(context=context, parameter_overrides=parameters)
        self.executor = SingleThreadedExecutor(context=context)
        self.executor.add_node(self.node)
        monkeypatch.setattr(node_module, "load_perception", self._load)

    def _load(self, parameters):
        perception = load_perception(parameters)
        self.references.append(weakref.ref(perception))
        if self.refuse:
            raise ParameterError("no room for the tracker")
        return perception

    def make(self, *transitions):
        """Make transitions as if by request: while the executor holds all it waits for."""
        for transition in transitions:
            made = self.executor.create_task(getattr(self.node, f"trigger_{transition}"))
            self.executor.spin_until_future_complete(made, 60.0)
            assert made.result() == TransitionCallbackReturn.SUCCESS

    @property
    def models(self):
        """Of all that was loaded, what is still in memory."""
        return [perception for reference in self.references if (perception := reference()) is not None]


@pytest.fixture
def loaded(ros_context, tiny_model_folder, monkeypatch):
    loaded = Loaded(ros_context, tiny_model_folder, monkeypatch)
    yield loaded
    loaded.executor.shutdown()


def workers():
    names = ("pixelrefer-tracking", "pixelrefer-language")
    return [thread for thread in threading.enumerate() if thread.name in names]


@pytest.mark.parametrize("end", [["deactivate", "cleanup"], ["shutdown"]], ids=["cleanup", "shutdown"])
def test_models_let_go_are_freed_at_once(loaded, end):
    loaded.make("configure", "activate")
    assert len(loaded.models) == 1
    loaded.make(*end)
    assert loaded.models == []
    loaded.node.destroy_node()


def test_the_gpu_gets_its_memory_back_once_the_models_are_gone(loaded, monkeypatch):
    left = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: left.append(len(loaded.models)))
    loaded.make("configure", "cleanup")
    assert left == [0]
    loaded.node.destroy_node()


def test_what_a_failed_configure_has_loaded_is_freed_at_once(loaded):
    loaded.refuse = True
    made = loaded.executor.create_task(loaded.node.trigger_configure)
    loaded.executor.spin_until_future_complete(made, 60.0)
    assert made.result() == TransitionCallbackReturn.FAILURE
    assert len(loaded.references) == 1 and loaded.models == []
    loaded.node.destroy_node()


def test_a_node_destroyed_while_active_leaves_neither_workers_nor_models(loaded):
    before = workers()
    loaded.make("configure", "activate")
    assert len(workers()) == len(before) + 2
    loaded.node.destroy_node()
    assert workers() == before
    assert loaded.models == []
