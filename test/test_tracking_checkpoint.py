# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tracking_scene import moving_frames

from pixelrefer_ros.errors import CheckpointError, ParameterError
from pixelrefer_ros.tracking import StateRules, StreamTracker, write_tiny_sam2
from pixelrefer_ros.tracking.checkpoint import load_sam2
from pixelrefer_ros.types import Box, Region

torch.set_num_threads(1)

WEIGHT = "memory_encoder.projection.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tiny_sam2(tmp_path / "tiny", image_size=64)


def edit_config(folder: Path, **fields: object) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))


def last_mask(tracker: StreamTracker) -> np.ndarray:
    frames = moving_frames(4)
    tracker.prompt(frames[0], [Region(box=Box(30, 30, 60, 50), object_id=1)])
    for frame in frames:
        (track,) = tracker.track(frame)
    return track.mask


def test_same_seed_gives_the_same_weights(folder: Path, tmp_path: Path) -> None:
    again = write_tiny_sam2(tmp_path / "again", image_size=64)
    other = write_tiny_sam2(tmp_path / "other", image_size=64, seed=1)
    first, second, third = (load_file(f / "model.safetensors") for f in (folder, again, other))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert not torch.equal(first[WEIGHT], third[WEIGHT])


def test_sharded_weights_load_as_the_whole(folder: Path) -> None:
    whole = load_sam2(folder).state_dict()
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    shards: dict[str, dict[str, torch.Tensor]] = {"a.safetensors": {}, "b.safetensors": {}}
    for i, (name, value) in enumerate(weights.items()):
        shards[list(shards)[i % 2]][name] = value
    for name, shard in shards.items():
        save_file(shard, folder / name)
    index = {"weight_map": {weight: name for name, shard in shards.items() for weight in shard}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert all(torch.equal(value, whole[name]) for name, value in load_sam2(folder).state_dict().items())
    (folder / "b.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"b\.safetensors"):
        load_sam2(folder)
    index["weight_map"][WEIGHT] = "../a.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="not a file name"):
        load_sam2(folder)


def test_missing_and_misshapen_weights_are_named(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, WEIGHT: torch.zeros(2, 3)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=rf"{WEIGHT} has shape \(2, 3\).*\(64, 128, 1, 1\)"):
        load_sam2(folder)
    del weights[WEIGHT]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=f"{WEIGHT} is missing"):
        load_sam2(folder)


def test_weights_beyond_the_models_are_left_out(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "text_head.weight": torch.zeros(1)}, folder / "model.safetensors")
    assert "text_head.weight" not in load_sam2(folder).state_dict()


def test_config_of_an_older_transformers_loads(folder: Path) -> None:
    """Published folders were written when the rotary base was a field of its own."""
    config = json.loads((folder / "config.json").read_text())
    del config["rope_parameters"]
    config |= {"memory_attention_rope_theta": 10000, "memory_attention_rope_k_sizes": [16, 16]}
    expected = load_sam2(folder).memory_attention.rotary_emb.inv_freq
    (folder / "config.json").write_text(json.dumps(config))
    assert torch.equal(load_sam2(folder).memory_attention.rotary_emb.inv_freq, expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "JSON"),
        ("[]", "model_type"),
        ('{"model_type": "sam"}', "'sam'"),
        ('{"model_type": "sam2_video", "image_size": "big"}', "config"),
    ],
)
def test_config_that_is_no_sam2_video_is_refused(content: str, message: str, folder: Path) -> None:
    (folder / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        load_sam2(folder)


def test_pickled_weights_are_not_read(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickled"):
        load_sam2(folder)


def test_cut_weights_are_refused(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_sam2(folder)


@pytest.mark.parametrize("path", ["/nowhere/at/all", "no such name"])
def test_path_that_does_not_exist_is_named(path: str) -> None:
    with pytest.raises(CheckpointError, match=path):
        load_sam2(path)


def test_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_sam2(tmp_path)


def test_resolution_changes_all_that_depends_on_it(folder: Path) -> None:
    tracker = StreamTracker.from_pretrained(folder, image_size=96)
    assert tracker.image_size == 96
    assert last_mask(tracker).any()
    assert StreamTracker.from_pretrained(folder).image_size == 64


@pytest.mark.parametrize("image_size", [0, 100, 4096])
def test_resolution_that_does_not_fit_is_refused(image_size: int, folder: Path) -> None:
    with pytest.raises(ParameterError, match=str(image_size)):
        StreamTracker.from_pretrained(folder, image_size=image_size)


def test_unknown_dtype_and_device_are_refused(folder: Path) -> None:
    with pytest.raises(ParameterError, match="dtype is 'int8'"):
        StreamTracker.from_pretrained(folder, dtype="int8")
    with pytest.raises(ParameterError, match="device is 'warp'; use 'cpu'"):
        StreamTracker.from_pretrained(folder, device="warp")
    with pytest.raises(ParameterError, match="device is 'cuda:99', but torch sees"):
        StreamTracker.from_pretrained(folder, device="cuda:99")


@pytest.mark.parametrize("dtype", ["bfloat16", "fp16"])
def test_half_precision_gives_nearly_the_same_mask(dtype: str, folder: Path) -> None:
    rules = StateRules(
        min_area_px=0, max_area_fraction=1.0, smallest_part=0.0, apart=False, remembers_absence=True
    )
    exact = last_mask(StreamTracker.from_pretrained(folder, states=rules))
    half = last_mask(StreamTracker.from_pretrained(folder, states=rules, dtype=dtype))
    # bfloat16 keeps 8 bits: untrained masks, whose logits cross 0 slowly, move at their rims.
    assert np.mean(exact == half) > 0.9
