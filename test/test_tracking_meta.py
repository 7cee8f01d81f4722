# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from tracking_scene import moving_frames
from transformers import Sam2VideoModel

from pixelrefer_ros.errors import CheckpointError
from pixelrefer_ros.tracking.checkpoint import build_model, load_sam2, set_image_size
from pixelrefer_ros.tracking.meta_checkpoint import read_meta_checkpoint, to_meta, to_transformers
from pixelrefer_ros.tracking.meta_config import SIZES, config_for_meta, sam2_config
from pixelrefer_ros.tracking.pixels import to_pixel_values
from pixelrefer_ros.tracking.prompts import PointPrompt, to_prompt
from pixelrefer_ros.tracking.sam2 import Sam2
from pixelrefer_ros.tracking.tiny import randomise, tiny_config, tiny_sam2
from pixelrefer_ros.types import Box, Region

torch.set_num_threads(1)

# Parameters and names as published: the papers' 38.9, 46, 80.8 and 224.4 million.
PUBLISHED = {"tiny": (38.9, 471), "small": (46.0, 519), "base_plus": (80.8, 615), "large": (224.4, 903)}


def shapes_of(size: str, version: str = "2.1") -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        return Sam2VideoModel(sam2_config(size, version=version)).state_dict()


def test_meta_checkpoint_written_from_a_model_loads_as_the_same_model(tmp_path: Path) -> None:
    model = tiny_sam2(seed=1)
    torch.save({"model": to_meta(model.state_dict())}, tmp_path / "tiny.pt")
    weights = read_meta_checkpoint(tmp_path / "tiny.pt")
    again = build_model(tiny_config(), weights, source="tiny.pt", dtype=torch.float32)
    pixels = to_pixel_values(moving_frames(1)[0].rgb, 128, device="cpu", dtype=torch.float32)
    with torch.inference_mode():
        first, second = Sam2(model).image_encoder(pixels), Sam2(again).image_encoder(pixels)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("size", list(SIZES))
def test_every_weight_of_a_published_model_is_reached_exactly_once(size: str) -> None:
    ours = shapes_of(size)
    meta = to_meta(ours)
    millions, names = PUBLISHED[size]
    assert len(meta) == names
    assert sum(t.numel() for n, t in ours.items() if "positional_embedding" not in n) / 1e6 == pytest.approx(
        millions, abs=0.1
    )
    back = to_transformers(meta, "published")
    assert {name: t.shape for name, t in back.items()} == {name: t.shape for name, t in ours.items()}


@pytest.mark.parametrize("size", list(SIZES))
def test_published_size_is_inferred_from_the_weights(size: str) -> None:
    expected = sam2_config(size).to_dict()
    assert config_for_meta(shapes_of(size), "published").to_dict() == expected


def test_first_release_has_neither_pointer_times_nor_absence_embedding() -> None:
    ours = shapes_of("tiny", version="2")
    assert len(to_meta(ours)) == 471 - 3
    config = config_for_meta(ours, "published")
    assert not config.enable_temporal_pos_encoding_for_object_pointers
    assert not config.enable_occlusion_spatial_embedding


def test_unknown_weight_is_named(tmp_path: Path) -> None:
    weights = to_meta(tiny_sam2().state_dict()) | {"backbone.language.weight": torch.zeros(1)}
    torch.save({"model": weights}, tmp_path / "other.pt")
    with pytest.raises(CheckpointError, match=r"backbone\.language\.weight"):
        load_sam2(tmp_path / "other.pt")


@pytest.mark.parametrize("gone", ["sam_prompt_encoder.point_embeddings.2.weight", "no_mem_embed"])
def test_missing_meta_weight_is_named(gone: str, tmp_path: Path) -> None:
    weights = to_meta(tiny_sam2().state_dict())
    del weights[gone]
    torch.save({"model": weights}, tmp_path / "tiny.pt")
    with pytest.raises(CheckpointError, match=r"point_embeddings\.2|no_memory_embedding"):
        build_model(
            tiny_config(), read_meta_checkpoint(tmp_path / "tiny.pt"), source="tiny.pt", dtype=torch.float32
        )


def test_unpublished_size_is_refused(tmp_path: Path) -> None:
    torch.save({"model": to_meta(tiny_sam2().state_dict())}, tmp_path / "tiny.pt")
    with pytest.raises(CheckpointError, match="5 blocks, 32 wide"):
        load_sam2(tmp_path / "tiny.pt")


class Payload:
    """Pickled, it would make a folder when it is loaded."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.folder),)


def test_code_in_a_checkpoint_is_not_run(tmp_path: Path) -> None:
    torch.save({"model": {"no_mem_embed": Payload(tmp_path / "ran")}}, tmp_path / "bad.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Payload(tmp_path / "ran"), protocol=2))
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04 nothing")
    for name in ("bad.pt", "plain.pt", "cut.pt"):
        with pytest.raises(CheckpointError, match=name):
            load_sam2(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_metas_own_code_gives_the_same_masks() -> None:
    """Where Meta's package is installed: same weights, four frames, the same logits."""
    pytest.importorskip("sam2")
    from sam2.build_sam import build_sam2

    stability = "++model.sam_mask_decoder_extra_args.dynamic_multimask"
    theirs = build_sam2(
        "configs/sam2.1/sam2.1_hiera_t.yaml",
        ckpt_path=None,
        device="cpu",
        apply_postprocessing=False,
        hydra_overrides_extra=[
            "++model.image_size=256",
            "++model.binarize_mask_from_pts_for_mem_enc=true",
            f"{stability}_via_stability=true",
            f"{stability}_stability_delta=0.05",
            f"{stability}_stability_thresh=0.98",
        ],
    )
    config = sam2_config("tiny")
    set_image_size(config, 256)
    model = randomise(Sam2VideoModel(config))
    theirs.load_state_dict(to_meta(model.state_dict()), strict=True)
    sam2, bank = Sam2(model), None
    frames = moving_frames(4)
    prompt = to_prompt(Region(box=Box(30, 30, 40, 30), object_id=1), *frames[0].rgb.shape[:2])
    assert isinstance(prompt, PointPrompt)
    outputs: dict[str, dict[int, dict[str, torch.Tensor]]] = {
        "cond_frame_outputs": {},
        "non_cond_frame_outputs": {},
    }
    bank = sam2.new_bank()
    row = bank.add()
    with torch.inference_mode():
        for index, frame in enumerate(frames):
            features = sam2.encode(frame.rgb)
            if index == 0:
                size = frame.rgb.shape[:2]
                decoded = sam2.point_at(sam2.without_memory(features), features, [prompt], size, first=True)
                bank.start([row], sam2.remember_prompted(features, decoded), decoded.pointer)
                scale = torch.tensor([256 / size[1], 256 / size[0]])
                points = {
                    "point_coords": torch.from_numpy(prompt.points)[None] * scale,
                    "point_labels": torch.from_numpy(prompt.labels)[None],
                }
            else:
                recall = bank.recall([row], [1], [0])
                decoded = sam2.propagate(sam2.with_memory(features, recall), features)
                bank.push([row], sam2.remember_tracked(features, decoded), decoded.pointer)
            image = to_pixel_values(frame.rgb, 256, device="cpu", dtype=torch.float32)
            _, seen, places, sizes = theirs._prepare_backbone_features(theirs.forward_image(image))
            out = theirs.track_step(
                frame_idx=index,
                is_init_cond_frame=index == 0,
                current_vision_feats=seen,
                current_vision_pos_embeds=places,
                feat_sizes=sizes,
                point_inputs=points if index == 0 else None,
                mask_inputs=None,
                output_dict=outputs,
                num_frames=100,
            )
            # Meta's predictor rounds memories to bfloat16 before it keeps them.
            out["maskmem_features"] = out["maskmem_features"].to(torch.bfloat16)
            outputs["cond_frame_outputs" if index == 0 else "non_cond_frame_outputs"][index] = out
            # Complex against real rotary encoding, and bfloat16 rounding of memories that differ by 1e-6.
            assert float((out["pred_masks"][:, 0] - decoded.logits).abs().max()) < 1e-2
            assert float((out["obj_ptr"] - decoded.pointer).abs().max()) < 1e-3
