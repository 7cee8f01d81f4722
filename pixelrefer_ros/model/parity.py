# SPDX-License-Identifier: Apache-2.0
"""Numbers to check a checkpoint against: the ``expected.npz`` that may lie in its folder.

The file holds ``frame_i`` (H, W, 3) uint8 and ``mask_i`` (H, W), and cases. A case is a prefix before ``/``:
``CASE/frame_index`` and ``CASE/mask_index`` say which frame and mask each of its objects has, and further
arrays what another implementation computed for it.
"""

from __future__ import annotations

import dataclasses
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from pixelrefer_ros.errors import CheckpointError, InputFileError
from pixelrefer_ros.model.compiled import CompiledNetwork
from pixelrefer_ros.model.network import PixelReferNetwork
from pixelrefer_ros.model.region_network import RegionNetwork
from pixelrefer_ros.types import Mask, RgbImage

EXPECTED = "expected.npz"

Network = TypeVar("Network", bound=PixelReferNetwork | CompiledNetwork)


@dataclass(frozen=True, eq=False)
class ParityCase:
    """One prompt about one or several objects, and what it should give.

    Attributes:
        name: the prefix in the file.
        frame_index: which frame each object is in; equal numbers are the same frame.
        frames: of each object, (H, W, 3) uint8 RGB.
        masks: of each object, (H, W) bool.
        expected: the case's arrays by their names after the prefix.
    """

    name: str
    frame_index: tuple[int, ...]
    frames: tuple[RgbImage, ...]
    masks: tuple[Mask, ...]
    expected: Mapping[str, NDArray[Any]]


def read_parity_cases(folder: Path) -> list[ParityCase]:
    """Reads every case of ``expected.npz``, in the order of the file.

    Raises:
        InputFileError: the file is missing or broken, holds pickled objects or no case, or a case has no
            inputs.
    """
    path = folder / EXPECTED
    if not path.is_file():
        raise InputFileError(f"{path} is missing: verify needs the numbers to check against")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, KeyError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise InputFileError(f"{path} cannot be read: {error}") from error
    names = dict.fromkeys(name.rpartition("/")[0] for name in arrays if "/" in name)
    if not names:
        raise InputFileError(
            f"{path} holds no case: its arrays are named CASE/..., for example CASE/mask_index"
        )
    return [_case(path, name, arrays) for name in names]


def published_patches(case: ParityCase) -> int:
    """Patches of the largest crop in a case's numbers; 0 where it gives none."""
    shapes = [
        case.expected[f"grid_mask_{place}"].shape
        for place in range(len(case.masks))
        if f"grid_mask_{place}" in case.expected
    ]
    return max((math.prod(shape) for shape in shapes), default=0)


def with_published_budget(network: Network, case: ParityCase) -> tuple[Network, str]:
    """Networks that crop as published, and why they differ from the model's own; "" where they do not.

    The published computation has no bound on a crop's patches: a case beyond the model's needs a larger one.

    Raises:
        InputFileError: the networks are compiled for fewer patches.
    """
    largest = published_patches(case)
    budget = network.patch_budget
    if largest <= budget:
        return network, ""
    if network.patch_limit is not None and largest > network.patch_limit:
        raise InputFileError(
            f"{case.name} has a crop of {largest} patches, but the model's graphs take "
            f"{network.patch_limit}: export it again with --patch-budget {largest} (and build its engines "
            "with a profile of as many)"
        )
    config = dataclasses.replace(network.config, patch_budget=largest)
    note = f"compared with {largest} patches; the model's patch_budget {budget} would shrink this crop"
    return dataclasses.replace(network, config=config), note


def prompt_embeddings(network: RegionNetwork, case: ParityCase, tokens: torch.Tensor) -> torch.Tensor | None:
    """(L, D) of a case's prompt with its object tokens (K, n, D); None where it gives no ``input_ids``.

    Raises:
        CheckpointError: nothing says which id is ``<REGION>``.
        InputFileError: the ids are not of the vocabulary, or have too few or too many ``<REGION>``.
    """
    ids = case.expected.get("input_ids")
    if ids is None:
        return None
    region = network.config.region_token_id
    if region is None:
        raise CheckpointError(
            "config.json has no region_token_index and there is no tokenizer to take it from: add it"
        )
    vocabulary = network.config.language.vocab_size
    if not np.issubdtype(ids.dtype, np.integer) or ids.size == 0 or ids.min() < 0 or ids.max() >= vocabulary:
        raise InputFileError(f"{case.name}/input_ids must be ids below the vocabulary's {vocabulary}")
    places, rows = int((ids == region).sum()), tokens.shape[0] * tokens.shape[1]
    if places != rows:
        raise InputFileError(
            f"{case.name}/input_ids has {places} times the <REGION> id {region}; its objects need {rows}"
        )
    return network.prompt_embeddings([int(token) for token in ids.ravel()], list(tokens))


def _case(path: Path, name: str, arrays: Mapping[str, NDArray[Any]]) -> ParityCase:
    start = name + "/"
    expected = {key[len(start) :]: value for key, value in arrays.items() if key.rpartition("/")[0] == name}
    frame_index, mask_index = (_index(path, start + key, arrays) for key in ("frame_index", "mask_index"))
    if len(frame_index) != len(mask_index):
        raise InputFileError(f"{path}: {name} has {len(frame_index)} frames but {len(mask_index)} masks")
    return ParityCase(
        name=name,
        frame_index=frame_index,
        frames=tuple(_input(path, name, f"frame_{index}", arrays) for index in frame_index),
        masks=tuple(_input(path, name, f"mask_{index}", arrays) != 0 for index in mask_index),
        expected=expected,
    )


def _index(path: Path, key: str, arrays: Mapping[str, NDArray[Any]]) -> tuple[int, ...]:
    value = arrays.get(key)
    if value is None:
        raise InputFileError(f"{path} has no {key}: it says what the case's objects are")
    if not np.issubdtype(value.dtype, np.integer) or value.size == 0:
        raise InputFileError(
            f"{path}: {key} is {value.dtype} of shape {list(value.shape)}; it must hold whole numbers"
        )
    return tuple(int(index) for index in value.ravel())


def _input(path: Path, name: str, key: str, arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    if key not in arrays:
        raise InputFileError(f"{path} has no {key}, which the case {name} uses")
    return arrays[key]
