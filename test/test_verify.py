# SPDX-License-Identifier: Apache-2.0
"""``pixelrefer verify`` on numbers of the authors' implementation, and on folders spoilt on purpose."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from pixelrefer_ros.model import global_image, load_network, patchify, write_tiny_checkpoint
from pixelrefer_ros.offline import verify
from pixelrefer_ros.offline.verify import TOLERANCES, Comparison, verify_folder

torch.set_num_threads(1)
PARITY = Path(__file__).parent / "data" / "parity"
CASES = ("image_small_object", "image_large_object", "video_two_frames")


@pytest.fixture(scope="module")
def errors() -> dict[tuple[str, str], float | None]:
    return {(found.case, found.stage): found.error for found in verify_folder(PARITY, "torch").comparisons}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("stage", [stage for stage in TOLERANCES if stage not in ("crop_pixels", "prompt")])
def test_stage_equals_the_authors_implementation(
    errors: dict[tuple[str, str], float | None], case: str, stage: str
) -> None:
    error = errors[case, stage]
    assert error is not None
    assert error <= TOLERANCES[stage]


def test_stages_of_single_cases_equal_the_authors_implementation(
    errors: dict[tuple[str, str], float | None],
) -> None:
    assert errors["image_small_object", "crop_pixels"] <= TOLERANCES["crop_pixels"]  # type: ignore[operator]
    assert errors["video_two_frames", "prompt"] == 0
    assert errors["image_large_object", "prompt"] is None


def call(folder: Path, *arguments: str) -> int:
    parser = argparse.ArgumentParser()
    verify.add_arguments(parser)
    return verify.run(parser.parse_args([str(folder), *arguments]))


def test_verb_prints_every_stage_and_succeeds(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(PARITY, "--backend", "torch") == 0
    printed = capsys.readouterr().out
    for word in (*CASES, *TOLERANCES, "all cases", "not given", "passed"):
        assert word in printed


def failures(folder: Path) -> list[Comparison]:
    found = verify_folder(folder).comparisons
    return [comparison for comparison in found if comparison.error is not None and not comparison.passed]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(PARITY, tmp_path / "parity"))


def change_numbers(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "expected.npz"
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    change(arrays)
    np.savez(path, **arrays)


@pytest.mark.parametrize(
    ("key", "stage"),
    [
        ("model.vision_encoder.vision_encoder.post_layernorm.bias", "vision_global"),
        ("model.region_encoder.pos_linear.bias", "object_tokens"),
        ("model.norm.weight", "logits"),
    ],
)
def test_one_altered_weight_fails_its_stage_and_none_before(folder: Path, key: str, stage: str) -> None:
    weights = load_file(folder / "model.safetensors")
    weights[key][0] += 0.5
    save_file(weights, folder / "model.safetensors")
    assert call(folder) == 1
    stages = list(TOLERANCES)
    failed = {found.stage for found in failures(folder)}
    assert stage in failed
    first_vision = stages.index("vision_crop" if stage.startswith("vision") else stage)
    assert all(stages.index(name) >= first_vision for name in failed)


def test_other_reading_of_the_position_fails(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | {"position_reading": "paper"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    assert call(folder) == 1


def test_altered_pixel_fails_exactly(folder: Path) -> None:
    def change(arrays: dict[str, Any]) -> None:
        arrays["image_small_object/crop_0"][5, 5, 1] ^= 1

    change_numbers(folder, change)
    failed = [
        found for found in verify_folder(folder).comparisons if found.error is not None and not found.passed
    ]
    assert [(found.case, found.stage, found.error) for found in failed] == [
        ("image_small_object", "crop", 1.0)
    ]


def test_other_shape_is_said_and_fails(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def change(arrays: dict[str, Any]) -> None:
        arrays["video_two_frames/logits"] = arrays["video_two_frames/logits"][:, :-1]

    change_numbers(folder, change)
    assert call(folder) == 1
    assert "shape [1, 40, 320], expected [1, 39, 320]" in capsys.readouterr().out


def test_not_a_number_fails(folder: Path) -> None:
    def change(arrays: dict[str, Any]) -> None:
        arrays["video_two_frames/object_tokens"][0, 0] = np.nan

    change_numbers(folder, change)
    assert call(folder) == 1


def test_missing_array_is_not_given_rather_than_passed(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_numbers(folder, lambda arrays: [arrays.pop(f"{case}/object_tokens") for case in CASES])
    report = verify_folder(folder)
    assert not any(found.passed for found in report.comparisons if found.stage == "object_tokens")
    assert call(folder) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "object_tokens" in line]
    assert len(lines) == 4
    assert all(line.split()[1:] == ["not", "given", "<=", "0.0001", "-"] for line in lines)


@pytest.mark.parametrize(
    ("prompt", "error"),
    [
        ("[" + "<REGION>" * 8 + "]", 0),
        ("[" + "<REGION>" * 8 + "] and [Time 0.5:" + "<REGION>" * 8 + "]", 0),
        ("[" + "<REGION>" * 8 + "] and [" + "<REGION>" * 7 + "]", 1),
        ("[Time 0.50:" + "<REGION>" * 8 + "]", 1),
        ("What is it?", 1),
    ],
)
def test_prompt_is_compared_region_by_region(folder: Path, prompt: str, error: int) -> None:
    change_numbers(folder, lambda arrays: arrays.update({"video_two_frames/prompt": np.array(prompt)}))
    found = {(row.case, row.stage): row.error for row in verify_folder(folder).comparisons}
    assert found["video_two_frames", "prompt"] == error


def test_partly_given_objects_are_counted(folder: Path) -> None:
    change_numbers(folder, lambda arrays: arrays.pop("video_two_frames/crop_1"))
    notes = {(found.case, found.stage): found.note for found in verify_folder(folder).comparisons}
    assert notes["video_two_frames", "crop"] == "1 of 2 objects given"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "expected.npz").unlink(), "expected.npz is missing"),
        (lambda folder: (folder / "expected.npz").write_bytes(b"PK\x03\x04 nonsense"), "cannot be read"),
        (lambda folder: (folder / "expected.npz").write_bytes(b""), "cannot be read"),
        (lambda folder: np.savez(folder / "expected.npz", frame_0=np.zeros(3)), "no case"),
        (lambda folder: np.savez(folder / "expected.npz", **{"a/b": np.array([{}])}), "cannot be read"),
        (lambda folder: change_numbers(folder, lambda arrays: arrays.pop("mask_1")), "no mask_1"),
        (
            lambda folder: change_numbers(folder, lambda case: case.pop("image_small_object/frame_index")),
            "no image_small_object/frame_index",
        ),
        (
            lambda folder: change_numbers(folder, lambda arrays: arrays.pop("image_small_object/input_ids")),
            "no input_ids",
        ),
        (
            lambda folder: change_numbers(folder, lambda arrays: arrays["mask_0"].fill(0)),
            "no pixel",
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json"),
    ],
    ids=[
        "no file", "no archive", "empty file", "no case", "pickled", "no mask", "no index", "no ids",
        "empty mask", "no weights", "no config",
    ],
)  # fmt: skip
def test_folder_that_cannot_be_checked_is_an_error_of_its_own(
    folder: Path, capsys: pytest.CaptureFixture[str], spoil: Callable[[Path], Any], message: str
) -> None:
    spoil(folder)
    assert call(folder) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert "passed" not in printed.out


def test_backend_this_version_lacks_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(PARITY, "--backend", "tensorrt") == 2
    assert "not available" in capsys.readouterr().err


@torch.no_grad()
def own_numbers(folder: Path, frames: list[np.ndarray], masks: list[np.ndarray]) -> dict[str, Any]:
    """Two objects of the first frame and one of the second, computed by this package one object at a time."""
    network = load_network(folder, device=torch.device("cpu"), dtype=torch.float32)
    frame_index, mask_index = [0, 0, 1], [0, 1, 2]
    numbers: dict[str, Any] = {f"frame_{i}": frame for i, frame in enumerate(frames)}
    numbers |= {f"mask_{i}": mask.astype(np.uint8) * 255 for i, mask in enumerate(masks)}
    case: dict[str, Any] = {"frame_index": np.array(frame_index), "mask_index": np.array(mask_index)}
    features: dict[str, list[np.ndarray]] = {"vision_crop": [], "vision_context": [], "vision_global": []}
    tokens = []
    for place, (frame, mask) in enumerate(zip(frame_index, mask_index, strict=True)):
        crop = network.crop(frames[frame], masks[mask])
        whole = network.encode_global(frames[frame])
        case[f"crop_{place}"], case[f"grid_mask_{place}"] = crop.image, crop.grid_mask
        case[f"box_{place}"], case[f"context_{place}"] = np.array(crop.box), crop.context
        case[f"global_{place}"] = global_image(frames[frame])
        case[f"crop_pixels_{place}"] = patchify(crop.image).numpy()
        features["vision_crop"].append(network.image_features([crop.image])[0].numpy())
        features["vision_context"].append(network.image_features([crop.context])[0].numpy())
        if frame not in frame_index[:place]:
            features["vision_global"].append(whole.features.numpy())
        tokens += network.encode_objects(frames[frame], [masks[mask]], whole)
    case |= {name: np.concatenate(values) for name, values in features.items()}
    region, count = network.config.region_token_id, network.config.mask_num
    ids = [3, 5, *[region] * count, 7, *[region] * count, 9, *[region] * count, 11]
    embeddings = network.prompt_embeddings(ids, tokens)
    case["input_ids"], case["object_tokens"] = np.array([ids]), torch.cat(tokens).numpy()
    case["logits"] = network.logits(embeddings)[None].numpy()
    generated = network.language.generate(
        inputs_embeds=embeddings[None], max_new_tokens=5, min_new_tokens=5, do_sample=False
    )
    case["generated"] = generated.numpy()
    return numbers | {f"room/three objects/{name}": value for name, value in case.items()}


def test_any_size_number_and_name_can_be_verified(tmp_path: Path) -> None:
    """Other image sizes, mask_num and case name, two objects in one frame, a crop beyond the budget."""
    folder = write_tiny_checkpoint(tmp_path, mask_num=5, region_token_in_config=False)
    random = np.random.default_rng(4)
    frames = [random.integers(0, 256, size, dtype=np.uint8) for size in ((90, 200, 3), (150, 70, 3))]
    masks = [np.zeros(frames[i].shape[:2], dtype=bool) for i in (0, 0, 1)]
    masks[0][10:40, 20:60], masks[1][60:80, 100:190], masks[2][100:103, 30:33] = True, True, True
    np.savez(folder / "expected.npz", **own_numbers(folder, frames, masks))
    config = json.loads((folder / "config.json").read_text(encoding="utf-8")) | {"patch_budget": 200}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    report = verify_folder(folder)
    assert {found.case for found in report.comparisons} == {"room/three objects"}
    assert [found.stage for found in report.comparisons if not found.passed] == ["prompt"]
    assert report.passed
    assert any("patch_budget 200" in found.note for found in report.comparisons)
