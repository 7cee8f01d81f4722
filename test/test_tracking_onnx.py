# SPDX-License-Identifier: Apache-2.0
"""The tracker over an exported folder follows as the torch one does, and is chosen by a parameter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from exported_models import SmallEngines, exported_tiny_tracker
from perception_parts import frame as small_frame
from pixelrefer_ros.export.tracker_graphs import plan_tracker_graphs
from tracker_feeds import GRAPHS, feeds, in_torch, worst
from tracking_scene import HEIGHT, WIDTH, moving_frames

from pixelrefer_ros.cli import main
from pixelrefer_ros.errors import CheckpointError, ParameterError
from pixelrefer_ros.model_source import load_perception
from pixelrefer_ros.offline import write_image_bag
from pixelrefer_ros.parameters import check_parameters
from pixelrefer_ros.runtime import OnnxRuntimeBackend, read_manifest, torch_dtype
from pixelrefer_ros.tracking import StateRules, StreamTracker
from pixelrefer_ros.tracking.checkpoint import load_sam2
from pixelrefer_ros.tracking.graphs import GraphSam2
from pixelrefer_ros.tracking.sam2 import Sam2
from pixelrefer_ros.types import Box, Region

torch.set_num_threads(1)

# float32 sums in another order: 1e-6 of an output's largest value was seen.
GRAPH_TOLERANCE = 1e-5
# Such a difference can flip the last bit of a memory, which is kept in bfloat16 (4e-3 of one value), and
# memories feed memories: 1.3e-4 was seen over 30 frames. Logits are a few units.
LOGIT_TOLERANCE = 1e-3
# Everything is reported, so that masks can be compared whatever the untrained weights say.
OPEN = StateRules(
    min_area_px=0, max_area_fraction=1.0, smallest_part=0.0, apart=False, remembers_absence=True
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_tiny_tracker(tmp_path_factory)[0]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported_tiny_tracker(tmp_path_factory)[1]


@pytest.mark.parametrize(("objects", "points"), [(1, 1), (3, 5), (16, 2)])
@pytest.mark.parametrize("graph", GRAPHS)
def test_each_graph_equals_torch(
    checkpoint: Path, exported: Path, graph: str, objects: int, points: int
) -> None:
    model = load_sam2(checkpoint)
    with torch.inference_mode():
        given = feeds(Sam2(model), graph, objects=objects, points=points)
    session = OnnxRuntimeBackend().open(exported, read_manifest(exported).graphs[graph])
    found = session.run({name: tensor.contiguous() for name, tensor in given.items()})
    assert worst(found, in_torch(model, graph, given)) < GRAPH_TOLERANCE


def region(kind: str, object_id: int) -> Region:
    if kind == "box":
        return Region(box=Box(20 + 10 * object_id, 30, 40, 30), object_id=object_id)
    if kind == "points":
        points = np.array([[60, 50], [44, 60], [100, 20.5]], np.float32)
        return Region(points=points, point_labels=np.array([1, 1, 0], np.int32), object_id=object_id)
    if kind == "click":
        points = np.array([[70, 50]], np.float32)
        return Region(points=points, point_labels=np.array([1], np.int32), object_id=object_id)
    mask = np.zeros((HEIGHT, WIDTH), np.bool_)
    mask[20 + 5 * object_id : 70, 40:90] = True
    return Region(mask=mask, object_id=object_id)


def test_thirty_frames_with_objects_coming_and_going_equal_torch(checkpoint: Path, exported: Path) -> None:
    in_torch_, in_graphs = (
        StreamTracker.from_pretrained(folder, states=OPEN) for folder in (checkpoint, exported)
    )
    assert isinstance(in_graphs._sam2, GraphSam2)
    prompts = {
        0: [region("box", 1), region("points", 2)],
        5: [region("mask", 3)],
        12: [region("click", 4)],
        16: [region("points", 1)],  # corrections, by points and by a box
        18: [region("box", 3)],
    }
    largest, compared = 0.0, 0
    for index, frame in enumerate(moving_frames(30)):
        for tracker in (in_torch_, in_graphs):
            if index == 20:
                tracker.remove(2)
            if index in prompts:
                tracker.prompt(frame, prompts[index])
        for expected, found in zip(in_torch_.track(frame), in_graphs.track(frame), strict=True):
            logits = [t._session.followed(found.object_id).logits for t in (in_torch_, in_graphs)]
            largest = max(largest, float((logits[0] - logits[1]).abs().max()))
            near = torch.nn.functional.interpolate(
                logits[0][None, None], size=found.mask.shape, mode="bilinear"
            )
            sure = near[0, 0].abs().numpy() > LOGIT_TOLERANCE
            assert not (found.mask != expected.mask)[sure].any()
            assert (found.object_id, found.state) == (expected.object_id, expected.state)
            assert found.score == pytest.approx(expected.score, abs=1e-3)  # the same reason
            compared += int(np.count_nonzero(expected.mask))
    assert largest < LOGIT_TOLERANCE
    assert compared > 10_000, "masks that are empty prove nothing"


def test_more_objects_than_an_engine_takes_in_one_run_are_followed_in_several(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `orin-nano` builds them: here the decoder takes 2 objects at once, the memory encoder 4."""
    smaller = SmallEngines(
        {("mask_decoder", "N"): 2, ("memory_attention", "N"): 2, ("memory_encoder", "N"): 4}
    )
    whole = StreamTracker.from_pretrained(exported, states=OPEN)
    monkeypatch.setattr("pixelrefer_ros.tracking.stream.open_backend", lambda *_: smaller)
    parts = StreamTracker.from_pretrained(exported, states=OPEN)
    assert "2 objects in one run" in parts.in_use.reason
    assert "in one run" not in whole.in_use.reason
    for index, frame in enumerate(moving_frames(4)):
        for tracker in (whole, parts):
            if index == 0:
                tracker.prompt(frame, [region("box", object_id) for object_id in range(1, 5)])
                tracker.prompt(frame, [region("mask", object_id) for object_id in range(5, 8)])
        for expected, found in zip(whole.track(frame), parts.track(frame), strict=True):
            logits = [t._session.followed(found.object_id).logits for t in (whole, parts)]
            torch.testing.assert_close(*logits, rtol=0, atol=LOGIT_TOLERANCE)
            assert (found.object_id, found.state) == (expected.object_id, expected.state)
    assert len(parts.object_ids) == 7


def test_more_objects_than_the_export_takes_in_one_run_are_followed_too(exported: Path) -> None:
    tracker = StreamTracker.from_pretrained(exported, states=OPEN, max_objects=17)
    first, second = moving_frames(2)
    boxes = [Region(box=Box(6 * i, 30, 40, 30), object_id=i) for i in range(1, 18)]
    tracker.prompt(first, boxes)
    assert [track.object_id for track in tracker.track(second)] == list(range(1, 18))


def test_example_that_is_exported_lies_within_what_the_graphs_take(checkpoint: Path) -> None:
    """With a bound of one object: a size that may not change would be fixed at the example's, which is 2."""
    for plan in plan_tracker_graphs(load_sam2(checkpoint), opset=20, max_objects=1):
        for name, axes in plan.shapes.items():
            for axis, symbol in axes.items():
                sizes = plan.profiles[symbol]
                assert sizes.min < plan.inputs[name].shape[axis] <= sizes.max


def test_exported_folder_runs_without_the_checkpoint(exported: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(exported, tmp_path / "elsewhere")
    tracker = StreamTracker.from_pretrained(moved, states=OPEN, backend="onnxruntime")
    frame = moving_frames(1)[0]
    tracker.prompt(frame, [region("box", 1)])
    assert [track.object_id for track in tracker.track(frame)] == [1]
    assert tracker.image_size == read_manifest(exported).settings["image_size"]


def test_what_the_folder_cannot_do_is_refused_with_a_remedy(
    checkpoint: Path, exported: Path, tmp_path: Path
) -> None:
    with pytest.raises(ParameterError, match=r"image_size is 256, but .* exported with 128"):
        StreamTracker.from_pretrained(exported, image_size=256)
    with pytest.raises(ParameterError, match="'torch' cannot run"):
        StreamTracker.from_pretrained(exported, backend="torch")
    with pytest.raises(ParameterError, match="pixelrefer export"):
        StreamTracker.from_pretrained(checkpoint, backend="onnxruntime")
    with pytest.raises(ParameterError, match="device"):
        StreamTracker.from_pretrained(exported, device="toaster")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "pixelrefer-lite"}, "kind is 'pixelrefer-lite'"),
        ({"graphs": {}}, "graphs has no 'image_encoder'"),
        ({"settings": {}}, r"settings\.image_size is None"),
        ({"settings": {"slots": True}}, r"settings\.slots is True"),
        ({"settings": {"mask_downsample": {"weight": [1.0], "bias": [0.0]}}}, "mask_downsample has 1 and 1"),
    ],
)
def test_wrong_manifest_is_an_error_that_names_file_and_field(
    exported: Path, tmp_path: Path, change: dict, message: str
) -> None:
    content = json.loads((exported / "manifest.json").read_text())
    if change.get("settings"):
        change = {"settings": content["settings"] | change["settings"]}
    (tmp_path / "manifest.json").write_text(json.dumps(content | change))
    with pytest.raises(CheckpointError, match=rf"manifest\.json.*{message}"):
        StreamTracker.from_pretrained(tmp_path)


def test_graph_that_was_changed_is_not_run(exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "changed")
    with (folder / "mask_decoder.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(CheckpointError, match=r"mask_decoder\.onnx has sha256"):
        StreamTracker.from_pretrained(folder)


def test_manifest_tells_what_engines_are_built_for(exported: Path) -> None:
    manifest = read_manifest(exported)
    assert tuple(manifest.graphs) == GRAPHS
    decoder = manifest.graphs["mask_decoder"]
    assert decoder.input("points").shape == ("N", "P", 2)
    assert (decoder.profiles["N"].min, decoder.profiles["N"].max) == (1, 16)
    assert manifest.graphs["image_encoder"].input("pixels").shape == (1, 128, 128, 3)
    memory = manifest.graphs["memory_attention"].input("memory")
    assert torch_dtype(memory.dtype) == torch.float32 and memory.shape == ("N", 7, 64, 64)


def replayed(folder: Path, bag: Path, tracker: Path) -> list[dict]:
    """Lines of a replay: a box, a correction, and what is asked about them."""
    regions = [
        {"id": "square", "box": [8, 20, 20, 20]},
        {"id": "corner", "frame": 2, "box": [40, 10, 30, 30]},
    ]
    questions = [{"id": "what", "text": "What is <region>?", "objects": ["square"], "every_s": 0.2}]
    (folder / "regions.yaml").write_text(yaml.safe_dump(regions))
    (folder / "questions.yaml").write_text(yaml.safe_dump([questions[0] | {"max_tokens": 2}]))
    out = folder / f"{tracker.name}.jsonl"
    command = ["replay", str(bag), "--image-topic", "/camera/image", "--out", str(out), "--no-timing"]
    files = [f"--{name}={folder / name}.yaml" for name in ("regions", "questions")]
    main([*command, *files, "--model", "tiny-random", "--tracker-model", str(tracker)])
    return [json.loads(line) for line in out.read_text().splitlines()]


def test_replay_gives_the_same_answers_on_graphs_as_on_torch(
    checkpoint: Path, exported: Path, tmp_path: Path
) -> None:
    bag = write_image_bag(tmp_path / "bag", map(small_frame, range(6)), "/camera/image")
    expected, found = (replayed(tmp_path, bag, folder) for folder in (checkpoint, exported))
    assert len(expected) >= 3
    for line, other in zip(expected, found, strict=True):
        assert line["text"] == other["text"]
        for thing, same in zip(line["objects"], other["objects"], strict=True):
            assert thing["box"] == same["box"]
            assert thing["score"] == pytest.approx(same["score"], abs=1e-3)  # as over thirty frames


def test_parameter_backend_reaches_the_tracker(exported: Path) -> None:
    names = {"model": "tiny-random", "tracker_model": str(exported)}
    perception = load_perception(check_parameters(names))
    assert perception is not None
    with pytest.raises(ParameterError, match="torch"):
        load_perception(check_parameters({**names, "backend": "torch"}))
