# SPDX-License-Identifier: Apache-2.0
"""``pixelrefer verify``: does a model folder compute here what its ``expected.npz`` says, stage by stage?"""

from __future__ import annotations

import argparse
import math
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pixelrefer_ros.errors import InputFileError, PixelReferError
from pixelrefer_ros.model import (
    CompiledNetwork,
    ObjectCrop,
    PixelReferNetwork,
    global_image,
    load_network,
    open_network,
    patchify,
    region_text,
)
from pixelrefer_ros.model.parity import (
    ParityCase,
    prompt_embeddings,
    published_patches,
    read_parity_cases,
    with_published_budget,
)
from pixelrefer_ros.offline.export import export_model
from pixelrefer_ros.offline.verify_report import FLOAT32, TOLERANCES, Comparison, Precision, Report
from pixelrefer_ros.runtime import (
    BACKENDS,
    GREEDY,
    AnswerRequest,
    Decoder,
    StreamingDetokeniser,
    choose_backend,
    decode,
    is_exported,
    open_backend,
    read_manifest,
)
from pixelrefer_ros.runtime.whole_files import not_written

__all__ = ["TOLERANCES", "Comparison", "Report", "add_arguments", "run", "verify_case", "verify_folder"]

_NAMES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}
_PER_OBJECT = ("crop", "grid_mask", "box", "context", "global", "crop_pixels")


def verify_folder(folder: Path, backend: str = "auto") -> Report:
    """Compares this package with the numbers in a model folder.

    A checkpoint is run on the CPU in float32: in torch, or, with the backend "onnxruntime", from a temporary
    folder that it is exported to. An exported folder is run in its own precision, which the tolerances allow
    for: with "auto" under TensorRT if it has engines for the current GPU, else under ONNX Runtime on the CPU.

    Raises:
        PixelReferError: the folder, its numbers or the backend cannot be used.
    """
    cases = read_parity_cases(folder)
    if backend != "onnxruntime" or is_exported(folder):
        chosen, _ = choose_backend(backend, folder)
        network = _open(folder, chosen)
        precision = _precision(folder, network)
        found = [comparison for case in cases for comparison in verify_case(network, case, precision)]
        return Report(folder, chosen, tuple(found), precision)
    # Not even the published crops may be too large for the graphs.
    patches = max(published_patches(case) for case in cases)
    with tempfile.TemporaryDirectory(prefix="pixelrefer-") as exported:
        opset = export_model(folder, Path(exported), least_patches=patches).opset
        network = _open(Path(exported), backend)
        found = [comparison for case in cases for comparison in verify_case(network, case)]
    return Report(folder, f"{backend}, exported to a temporary folder with opset {opset}", tuple(found))


def _open(folder: Path, backend: str) -> PixelReferNetwork | CompiledNetwork:
    device = torch.device("cuda" if backend == "tensorrt" else "cpu")
    if backend == "torch":
        return load_network(folder, device=device, dtype=torch.float32)
    return open_network(folder, open_backend(backend, str(device)), device)


def _precision(folder: Path, network: PixelReferNetwork | CompiledNetwork) -> Precision:
    activations = _NAMES[network.dtype]
    if not is_exported(folder):
        return Precision(activations, activations)
    manifest = read_manifest(folder)
    return Precision(manifest.precision, activations, bool(manifest.settings.get("int8_vision")))


def verify_case(
    network: PixelReferNetwork | CompiledNetwork, case: ParityCase, precision: Precision = FLOAT32
) -> list[Comparison]:
    """Runs one case from its frames and masks to its greedy tokens, comparing after every stage.

    Each stage starts from this package's own result of the one before. Every object has its own context, and
    objects of one frame share its global features.

    Args:
        network: what is checked.
        case: one of ``expected.npz``.
        precision: what the network computes in, for the tolerances.

    Raises:
        PixelReferError: the case's inputs cannot be used.
    """
    network, note = with_published_budget(network, case)
    check = _Checker(case, precision)
    crops = [network.crop(frame, mask) for frame, mask in zip(case.frames, case.masks, strict=True)]
    wholes = [global_image(frame) for frame in case.frames]
    for stage, values in _preprocessing(crops, wholes).items():
        check.per_object(stage, values, note if stage == "crop" else "")

    crop_features = network.image_features([crop.image for crop in crops])
    context_features = network.image_features([crop.context for crop in crops])
    first = {index: place for place, index in reversed(list(enumerate(case.frame_index)))}
    frames = sorted(set(first.values()))
    encoded = dict(zip(frames, network.image_features([wholes[place] for place in frames]), strict=True))
    global_features = [encoded[first[index]] for index in case.frame_index]
    check.whole("vision_crop", torch.cat(crop_features))
    check.whole("vision_context", torch.cat(context_features))
    # A frame's features may be given once for the frame, or once for each of its objects.
    check.whole("vision_global", torch.cat(global_features), torch.cat(list(encoded.values())))

    tokens = network.object_tokens(crops, crop_features, context_features, torch.stack(global_features))
    check.prompt(network.config.mask_num)
    check.whole("object_tokens", tokens.flatten(0, 1))
    embeddings = prompt_embeddings(network, case, tokens)
    check.whole("logits", None if embeddings is None else network.logits(embeddings)[None])
    check.generated(network.decoder(), embeddings)
    return check.comparisons


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the verb's arguments."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="a model folder with an expected.npz in it")
    parser.add_argument("--backend", choices=BACKENDS, default="auto", help="what runs the networks")


def run(args: argparse.Namespace) -> int:
    """Runs the verb: 0 if everything is within tolerance, 1 if not, 2 if it could not be checked."""
    try:
        report = verify_folder(args.folder, args.backend)
    except PixelReferError as error:
        print(f"pixelrefer verify: {error}", file=sys.stderr)
        return 2
    except OSError as error:  # of the temporary folder
        print(f"pixelrefer verify: {not_written(tempfile.gettempdir(), error)} by TMPDIR", file=sys.stderr)
        return 2
    print("\n".join(report.lines()))
    if not any(comparison.error is not None for comparison in report.comparisons):
        print(f"pixelrefer verify: {args.folder}: no case gives anything to compare", file=sys.stderr)
        return 2
    return 0 if report.passed else 1


class _Checker:
    """Collects the comparisons of one case."""

    def __init__(self, case: ParityCase, precision: Precision) -> None:
        self.case, self.precision = case, precision
        self.comparisons: list[Comparison] = []

    def per_object(self, stage: str, values: Sequence[NDArray[Any]], note: str) -> None:
        """A stage whose arrays are named ``stage_i``, one per object."""
        expected = [self.case.expected.get(f"{stage}_{place}") for place in range(len(values))]
        pairs = [
            (wanted, value) for wanted, value in zip(expected, values, strict=True) if wanted is not None
        ]
        found = [_difference(wanted, value) for wanted, value in pairs]
        if found and len(found) < len(values):
            note = f"{len(found)} of {len(values)} objects given" + (f"; {note}" if note else "")
        error, problem = max(found, default=(None, ""))
        self._add(stage, error, problem or note)

    def whole(self, stage: str, *readings: torch.Tensor | None) -> None:
        """A stage with one array; of several acceptable results the one of the expected shape counts."""
        expected = self.case.expected.get(stage)
        if expected is None:
            return self._add(stage, None)
        arrays = [np.asarray(reading.float().cpu().numpy()) for reading in readings if reading is not None]
        if not arrays:
            raise InputFileError(
                f"{self.case.name} gives {stage} but no input_ids: they are needed to compute it"
            )
        fitting = [array for array in arrays if array.shape == expected.shape]
        relative = self.precision.rounding(stage) > 0
        return self._add(stage, *_difference(expected, (fitting or arrays)[0], relative=relative))

    def prompt(self, mask_num: int) -> None:
        """The texts that replace the regions, each made anew from the times it names."""
        given = self.case.expected.get("prompt")
        if given is None:
            return self._add("prompt", None)
        regions = re.findall(r"\[[^\[\]]*<REGION>[^\[\]]*\]", str(given))
        times = [[float(time) for time in re.findall(r"Time (\d+(?:\.\d+)?):", text)] for text in regions]
        made = [region_text(known or [None], mask_num) for known in times]
        wrong = sum(text != expected for text, expected in zip(made, regions, strict=True))
        note = "" if regions else "no [...<REGION>...] in it"
        return self._add("prompt", float(wrong or not regions), note)

    def generated(self, decoder: Decoder, embeddings: torch.Tensor | None) -> None:
        """Greedy tokens, with no stop token."""
        expected = self.case.expected.get("generated")
        if expected is None or expected.size == 0:
            return self._add("generated", None)
        if embeddings is None:
            raise InputFileError(
                f"{self.case.name} gives generated but no input_ids: they are needed to compute it"
            )
        request = AnswerRequest(
            embeddings,
            detokeniser=StreamingDetokeniser(lambda token: b""),
            sampling=GREEDY,
            stop_ids=frozenset(),
            max_new_tokens=expected.size,
        )
        events = decode(decoder, request)
        tokens = np.array([event.token_id for event in events])
        if tokens.size != expected.size:
            return self._add(
                "generated", math.inf, f"{tokens.size} tokens fit the context, expected {expected.size}"
            )
        return self._add("generated", float(np.count_nonzero(tokens != expected.ravel())))

    def _add(self, stage: str, error: float | None, note: str = "") -> None:
        rounding = self.precision.rounding(stage)
        self.comparisons.append(Comparison(self.case.name, stage, error, note, rounding))


def _difference(expected: NDArray[Any], found: NDArray[Any], *, relative: bool = False) -> tuple[float, str]:
    """The largest absolute error, or the error's norm over that of the values; or infinity and why."""
    if expected.shape != found.shape:
        return math.inf, f"shape {list(found.shape)}, expected {list(expected.shape)}"
    wanted = expected.astype(np.float64)
    errors = np.abs(wanted - found.astype(np.float64))
    if relative:
        error = float(np.linalg.norm(errors) / max(np.linalg.norm(wanted), np.finfo(np.float32).tiny))
    else:
        error = float(errors.max(initial=0.0))
    return (math.inf, "not a number") if math.isnan(error) else (error, "")


def _preprocessing(
    crops: Sequence[ObjectCrop], wholes: Sequence[NDArray[np.uint8]]
) -> dict[str, list[NDArray[Any]]]:
    of_crop: dict[str, Callable[[ObjectCrop], NDArray[Any]]] = {
        "crop": lambda crop: crop.image,
        "grid_mask": lambda crop: crop.grid_mask,
        "box": lambda crop: np.array(crop.box),
        "context": lambda crop: crop.context,
        "crop_pixels": lambda crop: patchify(crop.image).numpy(),
    }
    values = {stage: [value(crop) for crop in crops] for stage, value in of_crop.items()}
    values["global"] = list(wholes)
    return {stage: values[stage] for stage in _PER_OBJECT}
