# SPDX-License-Identifier: Apache-2.0
"""What compiled graphs can take bounds what is asked of them, whatever the checkpoint's config allows."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from exported_models import PATCH_BUDGET, SmallEngines

from pixelrefer_ros.cli import main
from pixelrefer_ros.model import PATCH_BUDGET as OWN_BUDGET
from pixelrefer_ros.model import PixelReferLite, load_network, write_tiny_checkpoint
from pixelrefer_ros.model.compiled import CompiledNetwork, open_network
from pixelrefer_ros.runtime import OnnxRuntimeBackend

torch.set_num_threads(1)
pytestmark = pytest.mark.timeout(600)  # an export, on a busy machine
CPU = torch.device("cpu")
FRAME = np.random.default_rng(5).integers(0, 256, (480, 640, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint whose own budget is larger than that of its export."""
    root = tmp_path_factory.mktemp("limits")
    checkpoint = write_tiny_checkpoint(root / "small", vision_layers=1, language_layers=1, context_length=64)
    options = ["--opset", "20", "--patch-budget", str(PATCH_BUDGET)]
    assert main(["export", str(checkpoint), "--out", str(root / "out"), *options]) == 0
    return checkpoint, root / "out"


def thin_masks() -> list[np.ndarray]:
    """A cable, a diagonal line and two edges of a door: in torch, crops of 810, 4030 and 1610 patches."""
    masks = [np.zeros((480, 640), dtype=bool) for _ in range(3)]
    masks[0][200:202, 5:600] = True
    masks[1][np.arange(480), np.arange(480)] = True
    masks[2][:, :3], masks[2][:3] = True, True
    return masks


def test_thin_objects_get_the_tokens_of_a_crop_that_the_export_takes(folders: tuple[Path, Path]) -> None:
    checkpoint, folder = folders
    reference = load_network(checkpoint, device=CPU, dtype=torch.float32)
    assert reference.patch_budget == OWN_BUDGET > PATCH_BUDGET
    reference = replace(reference, config=replace(reference.config, patch_budget=PATCH_BUDGET))
    model = PixelReferLite.from_pretrained(folder, backend="onnxruntime")
    expected, found = (
        network.encode_objects(FRAME, thin_masks(), network.encode_global(FRAME))
        for network in (reference, model)
    )
    # Sums of float32 are taken in another order: 1e-4 on values of about 1 to 5.
    torch.testing.assert_close(torch.stack(found), torch.stack(expected), rtol=0, atol=1e-4)


def test_region_tokens_in_an_answer_are_embedded_as_themselves(folders: tuple[Path, Path]) -> None:
    """There is no object for them, least of all for those of several answers decoded together."""
    checkpoint, folder = folders
    table = load_network(checkpoint, device=CPU, dtype=torch.float32).language.model.embed_tokens.weight
    network = open_network(folder, OnnxRuntimeBackend(threads=1), CPU)
    region = network.config.region_token_id
    assert region is not None
    ids = [region, 5, region, region]
    assert torch.equal(network.language.embedded(ids), table[ids])


class Noted(CompiledNetwork):
    """Notes how many patches each pass has; a GPU takes them in one call."""

    passes: list[int] = []  # noqa: RUF012 (made anew by each test)

    def encode_patches(self, patches: torch.Tensor, grids: Sequence[tuple[int, int]]) -> torch.Tensor:
        self.passes.append(len(patches))
        return super().encode_patches(patches, grids)


@pytest.mark.parametrize(("graph", "most"), [("vision", 580), ("objects", 300)])
def test_crops_and_passes_keep_to_the_smaller_engine(
    folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, graph: str, most: int
) -> None:
    monkeypatch.setattr(Noted, "passes", [])
    opened = open_network(folders[1], SmallEngines({(graph, "P"): most}), CPU)
    network = Noted(**{field.name: getattr(opened, field.name) for field in fields(opened)})
    crops = [network.crop(FRAME, mask) for mask in thin_masks()]
    assert all(most // 2 < crop.grid[0] * crop.grid[1] <= most for crop in crops)
    tokens = network.encode_objects(FRAME, thin_masks(), network.encode_global(FRAME))
    assert len(tokens) == 3
    assert max(network.passes) <= network.vision.graph.profiles["P"].max


def test_exported_folder_needs_no_model_of_transformers(folders: tuple[Path, Path]) -> None:
    """They take seconds and 120 MB to import."""
    code = (
        "import sys; sys.modules['transformers.modeling_utils'] = None  # cannot be imported\n"
        "import numpy as np\n"
        "import pixelrefer_ros.perception, pixelrefer_ros.tracking\n"
        "from pixelrefer_ros.model import PixelReferLite\n"
        "model = PixelReferLite.from_pretrained(sys.argv[1], backend='onnxruntime')\n"
        "frame, mask = np.zeros((90, 120, 3), np.uint8), np.ones((90, 120), bool)\n"
        "(tokens,) = model.encode_objects(frame, [mask], model.encode_global(frame))\n"
        "model.network.logits(tokens)"
    )
    subprocess.run([sys.executable, "-c", code, str(folders[1])], check=True)
