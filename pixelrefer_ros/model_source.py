# SPDX-License-Identifier: Apache-2.0
"""What a user may write for a model: a folder, a hub id, a shipped model's name, or ``tiny-random``."""

from __future__ import annotations

import atexit
import functools
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pixelrefer_ros.errors import BackendError, CheckpointError, ParameterError, PixelReferError
from pixelrefer_ros.parameters import Parameters, perception_settings

if TYPE_CHECKING:
    from pixelrefer_ros.perception import Perception

TINY_RANDOM = "tiny-random"
"""Stands for a small model with random weights, made on the spot: it runs, and knows nothing."""
SHIPPED_MODEL, SHIPPED_TRACKER = "pixelrefer-shapes", "sam2-shapes"
"""The small trained models in ``models/``. Each counts as shipped once its model card is written, which is
done when the weights are final; a training run that still goes on there has none."""

_WEIGHTS, _CARD = "model.safetensors", "README.md"

_log = logging.getLogger(__name__)


def resolve_model(name: str) -> Path | str:
    """What to load for the name of a region language model.

    Args:
        name: a folder; a hub id (``owner/name``); the name of a model shipped in ``models/``; or
            ``tiny-random`` for a small untrained model, which says so in its name and in the log.

    Returns:
        A folder, or the hub id.

    Raises:
        ParameterError: nothing is named.
        CheckpointError: the folder does not exist, or no such model is shipped.
    """
    if name == TINY_RANDOM:
        from pixelrefer_ros.model import write_tiny_checkpoint

        return _untrained("pixelrefer-tiny-untrained", lambda folder: write_tiny_checkpoint(folder))
    return _find(name, "model")


def resolve_tracker(name: str) -> Path | str:
    """What to load for the name of a tracking model.

    Args:
        name: a folder or one of Meta's ``.pt`` files; a hub id; the name of a model shipped in ``models/``;
            or ``tiny-random`` for a small untrained SAM 2. (``none`` is no model: ask `Parameters.tracking`
            first.)

    Returns:
        A folder or file, or the hub id.

    Raises:
        ParameterError: nothing is named.
        CheckpointError: the path does not exist, or no such model is shipped.
    """
    if name == TINY_RANDOM:
        from pixelrefer_ros.tracking import write_tiny_sam2

        return _untrained("sam2-tiny-untrained", lambda folder: write_tiny_sam2(folder))
    return _find(name, "tracker model")


def embedded_models() -> tuple[str, str]:
    """What the demo and the tests load where nobody names a model.

    Returns:
        The names of a region language model and a tracking model: the trained ones where ``models/`` holds
        both, otherwise ``tiny-random`` twice.
    """
    trained = (SHIPPED_MODEL, SHIPPED_TRACKER)
    return trained if all(_is_shipped(name) for name in trained) else (TINY_RANDOM, TINY_RANDOM)


def load_perception(parameters: Parameters) -> Perception:
    """Load the models that the parameters name, and join them.

    Args:
        parameters: the settings of the node; replay uses the same.

    Returns:
        Perception, ready for its first frame.

    Raises:
        PixelReferError: a model cannot be found or loaded, or a setting is refused.
    """
    from pixelrefer_ros.model import PixelReferLite  # loads torch: seconds that `--help` need not wait for
    from pixelrefer_ros.perception import Perception
    from pixelrefer_ros.tracking import StateRules, StaticTracker, StreamTracker, Tracker

    settings = perception_settings(parameters)
    model = resolve_model(parameters.model)
    language = PixelReferLite.from_pretrained(
        model,
        device=parameters.device,
        dtype=parameters.precision,
        backend=parameters.backend,
        engines=_engines(parameters, model),
    )
    tracker: Tracker = StaticTracker(max_objects=parameters.max_objects)
    if parameters.tracking:
        tracker_model = resolve_tracker(parameters.tracker_model)
        tracker = StreamTracker.from_pretrained(
            tracker_model,
            device=parameters.device,
            dtype=parameters.precision,
            max_objects=parameters.max_objects,
            states=StateRules(
                lost_after_frames=parameters.lost_after_frames,
                lost_after_s=parameters.lost_after or None,
                find_again_score=parameters.find_again_score or None,
            ),
            backend=parameters.backend,
            engines=_engines(parameters, tracker_model),
        )
    return Perception(language, tracker, settings)


def backends_in_words(perception: Perception) -> str:
    """One line for people: what runs the models of a perception, and why."""
    said = (f"{what} on {used} ({used.reason})" for what, used in perception.backends.items())
    return f"running the {'; the '.join(said)}"


def build_named_engines(
    parameters: Parameters, *, say: Callable[[str], None], stopped: Callable[[], bool]
) -> None:
    """Build the TensorRT engines of the models that the parameters name, where these are exported folders.

    Args:
        parameters: the settings of the node.
        say: takes one line for people.
        stopped: asked often while building; True ends it.

    Raises:
        ParameterError: none of them is an exported folder.
        PixelReferError: see `pixelrefer_ros.engines.build_engines`; no TensorRT or no GPU is one too.
    """
    from pixelrefer_ros.runtime import read_manifest

    folders = []
    for what, (name, folder) in _named_folders(parameters).items():
        if folder:
            read_manifest(folder)  # a wrong folder is told before minutes of building
            folders.append(folder)
        else:
            say(f"{what} {name!r} is no exported folder: it has no engines")
    if not folders:
        raise ParameterError(
            "no engines to build: neither model nor tracker_model is an exported folder; make one with "
            "`pixelrefer export MODEL --out DIR` and give DIR"
        )
    _build(parameters, folders, say, stopped)


def build_missing_engines(
    parameters: Parameters, *, say: Callable[[str], None], stopped: Callable[[], bool]
) -> None:
    """Build what `backend` needs to run the named models with TensorRT, if it may: for before loading.

    With `auto` or `tensorrt`, on a GPU for which TensorRT is installed, the engines of an exported folder
    are built unless all are there and whole. Where TensorRT cannot build them, `auto` runs something else;
    that is told, and no error.

    Args:
        parameters: the settings of the node.
        say: takes one line for people.
        stopped: asked often while building; True ends it.

    Raises:
        PixelReferError: the build was stopped; or `backend` is `tensorrt`, and it fails.
    """
    if parameters.backend not in ("auto", "tensorrt") or not parameters.device.startswith("cuda"):
        return
    from pixelrefer_ros.runtime.tensorrt_backend import why_not_tensorrt
    from pixelrefer_ros.runtime.tensorrt_machine import current_gpu, import_tensorrt

    try:
        import_tensorrt()
        current_gpu(parameters.device)
    except BackendError:  # loading tells it, with what to do
        return
    for _, folder in _named_folders(parameters).values():
        if folder is None:
            continue
        engines = _engines(parameters, folder)
        if not why_not_tensorrt(folder, engines, parameters.device, read_plans=True):
            continue
        say(
            f"building the TensorRT engines of {folder}, which takes minutes, once "
            "(with the parameter `backend` set to onnxruntime it is not done)"
        )
        try:
            _build(parameters, [folder], say, stopped)
        except Exception as error:  # TensorRT can fail in ways of its own
            if stopped() or parameters.backend == "tensorrt":
                raise
            reason = error if isinstance(error, PixelReferError) else f"{type(error).__name__}: {error}"
            say(f"the TensorRT engines of {folder} cannot be built: {reason}")


def _build(
    parameters: Parameters, folders: Sequence[Path], say: Callable[[str], None], stopped: Callable[[], bool]
) -> None:
    from pixelrefer_ros.engines import Asked, build_engines
    from pixelrefer_ros.runtime.tensorrt_machine import current_gpu, import_tensorrt

    device = parameters.device if parameters.device.startswith("cuda") else None  # engines are for GPUs only
    trt, gpu = import_tensorrt(), current_gpu(device)
    for folder in folders:
        asked = Asked(parameters.engine_profile or None, _engines(parameters, folder))
        build_engines(folder, trt, gpu, asked, say=say, stopped=stopped)


def _named_folders(parameters: Parameters) -> dict[str, tuple[str, Path | None]]:
    """Of the parameters that name models, what they name and, if that is an exported folder, where it is."""
    from pixelrefer_ros.runtime import is_exported

    named = {"model": parameters.model}
    if parameters.tracking:
        named["tracker_model"] = parameters.tracker_model
    folders: dict[str, tuple[str, Path | None]] = {}
    for what, name in named.items():
        found = name if name == TINY_RANDOM else _find(name, what)
        folders[what] = name, found if isinstance(found, Path) and is_exported(found) else None
    return folders


def _engines(parameters: Parameters, model: Path | str) -> Path | None:
    """Where the engines of a model lie; None: in its own folder."""
    return Path(parameters.engine_dir).expanduser() / Path(model).name if parameters.engine_dir else None


def _find(name: str, what: str) -> Path | str:
    if not name.strip():
        raise ParameterError(
            f"no {what} is named; give a folder, a hub id, or `{TINY_RANDOM}` for a small untrained one"
        )
    path = Path(name).expanduser()
    if path.exists():
        return path
    for folder in _shipped_folders():
        if len(path.parts) == 1 and (folder / name).is_dir():
            return folder / name
    if len(path.parts) == 2 and not path.is_absolute() and not name.startswith((".", "~")):
        return name
    raise CheckpointError(
        f"{what} {name!r} does not exist; give a folder, a hub id (owner/name), or `{TINY_RANDOM}` for a "
        "small untrained one"
    )


def _is_shipped(name: str) -> bool:
    return any(
        all((folder / name / file).is_file() for file in (_WEIGHTS, _CARD)) for folder in _shipped_folders()
    )


def _shipped_folders() -> list[Path]:
    """Where ``models/`` may lie: beside the package in a checkout, in it or in ``share`` once installed."""
    prefixes = [prefix for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    return [
        Path(__file__).parent.parent / "models",
        Path(__file__).parent / "models",  # by pip
        *(Path(prefix) / "share" / "pixelrefer_ros" / "models" for prefix in prefixes),
    ]


_made: dict[str, Path] = {}


def _untrained(name: str, write: Callable[[Path], Path]) -> Path:
    """The folder of an untrained model, written once per process and removed at its end."""
    if name not in _made:
        folder = _temporary_folder() / name
        write(folder)
        _made[name] = folder
    _log.warning("%s has random weights, made on the spot: its results mean nothing", name)
    return _made[name]


@functools.cache
def _temporary_folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="pixelrefer-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
