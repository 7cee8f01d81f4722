# SPDX-License-Identifier: Apache-2.0
"""What every test may use. The environment is set before anything imports rclpy or torch."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from rclpy.context import Context

ROOT = Path(__file__).parent.parent
STOP_S = 5.0
"""A child may take so long to stop by itself before it is killed."""


def hold_domain() -> TextIO:
    """Take a ROS domain that no other test process of this machine uses; held while the file is open."""
    for offset in range(101):
        domain = 1 + (os.getpid() + offset) % 101  # ids above 101 meet the ports of outgoing connections
        try:
            held = open(Path(tempfile.gettempdir()) / f"pixelrefer_ros_domain_{domain}.lock", "a")  # noqa: SIM115
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue
        os.environ["ROS_DOMAIN_ID"] = str(domain)
        return held
    raise RuntimeError("every ROS domain from 1 to 101 is in use by tests; wait for them to end")


DOMAIN = hold_domain()
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"] = str(ROOT / "config/fastdds_images.xml")
os.environ["FASTDDS_DEFAULT_PROFILES_FILE"] = str(ROOT / "config/fastdds_images.xml")
# Small models on few cores: more threads only wait for each other. torch reads this when it is imported.
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # some tests import onnxruntime before the package does
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"

# The same examples in every run, and none fails for being slow on a busy machine.
settings.register_profile("pixelrefer", deadline=None, max_examples=30, derandomize=True)
settings.load_profile("pixelrefer")


def has_ros() -> bool:
    """True if rclpy and the generated messages can be imported."""
    return find_spec("rclpy") is not None and find_spec("pixelrefer_ros.msg") is not None


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist, which writes the groups into the names
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs ROS where there is none; one process runs a file, and one runs all ROS tests.

    Groups with slow tests go first: what begins last, while the other process has nothing left, is short.

    A ROS test that fails is run once more, and the summary says so: discovery and replies between processes
    can be lost on a busy machine (ros2/rmw_fastrtps#842). A rerun is a fault to look into all the same.
    """
    without_ros = pytest.mark.skip(reason="no rclpy or messages: `make setup`, then `. tools/env.sh`")
    ros_here = has_ros()
    for item in items:
        ros = item.get_closest_marker("ros") is not None
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group("ros" if ros else item.path.stem))
        if ros and not ros_here:
            item.add_marker(without_ros)
        elif ros:
            item.add_marker(pytest.mark.flaky(reruns=1, reruns_delay=2))
    slow = {_group(item) for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: _group(item) not in slow)


def _group(item: pytest.Item) -> str:
    mark = item.get_closest_marker("xdist_group")
    assert mark is not None
    return str(mark.args[0])


def pytest_collection_finish(session: pytest.Session) -> None:
    """Stop where pytest-xdist does not see the groups (3.8 under pytest 9.2): ROS tests would run at once."""
    config = session.config
    if hasattr(config, "workerinput") and config.getvalue("loadgroup"):
        alone = [item.nodeid for item in session.items if "@" not in item.nodeid]
        if alone:
            raise pytest.UsageError(f"{alone[0]} is in no group of pytest-xdist: use the pinned versions")


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training compiles nothing: it takes longer than a test of something else does."""
    from pixelrefer_ros.training import fused

    monkeypatch.setattr(fused, "_failed", True)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch keeps to one core: the machine is shared by other tests."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def micro_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of `micro_language.MICRO` in float32, with random weights."""
    import torch
    from micro_language import MICRO

    from pixelrefer_ros.training.checkpoints import new_checkpoint, new_network, write_network

    made = tmp_path_factory.mktemp("micro")
    new_checkpoint(made, MICRO, seed=0)
    write_network(new_network(made, seed=0), made, made, dtype=torch.float32)
    return made


@pytest.fixture(scope="module")
def micro_batches(micro_folder: Path) -> Any:
    """Batches of `micro_language.STAGE` for it."""
    from micro_language import STAGE

    from pixelrefer_ros.training.checkpoints import new_network
    from pixelrefer_ros.training.world_data import WorldBatches

    return WorldBatches(micro_folder, new_network(micro_folder, seed=0).config, STAGE, seed=1, scenes=2)


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random PixelRefer-Lite checkpoint in the released layout."""
    from pixelrefer_ros.model import write_tiny_checkpoint

    return write_tiny_checkpoint(tmp_path_factory.mktemp("model") / "pixelrefer-tiny")


@pytest.fixture(scope="session")
def tiny_sam2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random SAM 2 checkpoint."""
    from pixelrefer_ros.tracking import write_tiny_sam2

    return write_tiny_sam2(tmp_path_factory.mktemp("tracker") / "sam2-tiny")


@pytest.fixture
def ros_context() -> Iterator[Context]:
    """A ROS context of the test's own, with rclpy's signal handling off."""
    rclpy = pytest.importorskip("rclpy")
    from rclpy.signals import SignalHandlerOptions

    context = rclpy.Context()
    rclpy.init(context=context, signal_handler_options=SignalHandlerOptions.NO)
    yield context
    context.try_shutdown()


StartChild = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start_child() -> Iterator[StartChild]:
    """Start a process in a group of its own; the whole group is ended with the test, whatever happens.

    Output and errors come as one text pipe, unless other keywords of `subprocess.Popen` are given.
    """
    children: list[subprocess.Popen[str]] = []

    def start(command: list[str], **options: Any) -> subprocess.Popen[str]:
        given = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.STDOUT,
            **options,
        }
        child = subprocess.Popen(command, text=True, start_new_session=True, **given)
        children.append(child)
        return child

    yield start
    for child in reversed(children):
        end_group(child)


def end_group(child: subprocess.Popen[str]) -> None:
    """SIGINT to the child's group, and SIGKILL to whatever of it is left after `STOP_S`."""
    with suppress(ProcessLookupError):
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                child.wait(STOP_S)
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
    if child.stdout is not None:
        child.stdout.close()
