# SPDX-License-Identifier: Apache-2.0
"""float32 on a GPU: torch's convolutions are exact once a network was loaded in it; nothing else changes."""

from __future__ import annotations

import pytest
import torch

from pixelrefer_ros.model import checkpoint as model_checkpoint
from pixelrefer_ros.model import write_tiny_checkpoint
from pixelrefer_ros.runtime import keep_float32
from pixelrefer_ros.tracking import checkpoint as tracker_checkpoint
from pixelrefer_ros.tracking import write_tiny_sam2


@pytest.fixture(autouse=True)
def torchs_default():
    before, torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32, True
    yield
    torch.backends.cudnn.allow_tf32 = before


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_convolutions_on_a_gpu_are_exact_where_float32_is_meant(device):
    keep_float32(torch.device(device), torch.float32)
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.parametrize(
    ("device", "dtype"), [("cpu", torch.float32), ("cuda", torch.bfloat16), ("cuda", torch.float16)]
)
def test_elsewhere_torch_is_left_as_it_is(device, dtype):
    keep_float32(torch.device(device), dtype)
    assert torch.backends.cudnn.allow_tf32


def load_model(folder):
    write_tiny_checkpoint(folder, vision_layers=1, language_layers=1)
    model_checkpoint.load_network(folder, device=torch.device("cpu"), dtype=torch.float32)


def load_tracker(folder):
    tracker_checkpoint.load_sam2(write_tiny_sam2(folder, image_size=64))


@pytest.mark.parametrize(
    ("module", "load"), [(model_checkpoint, load_model), (tracker_checkpoint, load_tracker)]
)
def test_whatever_loads_a_checkpoint_sees_to_it(module, load, tmp_path, monkeypatch):
    seen: list[tuple[object, ...]] = []
    monkeypatch.setattr(module, "keep_float32", lambda *given: seen.append(given))
    load(tmp_path / "checkpoint")
    assert seen == [(torch.device("cpu"), torch.float32)]
