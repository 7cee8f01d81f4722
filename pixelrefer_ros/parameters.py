# SPDX-License-Identifier: Apache-2.0
"""Every setting of the node, declared once: type, default, unit, bounds, choices, when it may change.

`SCHEMA` is read off the fields of `Parameters`; the node declares its ROS parameters from it, and the
reference page ``docs/parameters.md`` is rendered from it. No ROS is needed here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from pixelrefer_ros.errors import ParameterError
from pixelrefer_ros.schema import Change, Parameter, Value, plain

if TYPE_CHECKING:
    from pixelrefer_ros.perception import PerceptionSettings

__all__ = [
    "BY_NAME",
    "SCHEMA",
    "Change",
    "Parameter",
    "Parameters",
    "check_parameters",
    "find_parameter",
    "perception_settings",
    "plain",
]


def _parameter(default: Value, description: str, **rest: Any) -> Any:
    """A field of `Parameters` that carries its entry of the schema."""
    return field(default=default, metadata={"description": description, **rest})


@dataclass(frozen=True)
class Parameters:
    """A complete, checked set of values; make one with `check_parameters`."""

    model: str = _parameter(
        "tiny-random",
        "The region language model: a folder, a hub id, or the name of a model that comes with the package.",
        max_length=4096,
        change=Change.UNCONFIGURED,
    )
    tracker_model: str = _parameter(
        "tiny-random",
        "The SAM 2 model: a folder, a hub id, or a name as for `model`. Empty or `none` switches tracking "
        "off: an object then stays where its box or mask was drawn.",
        max_length=4096,
        change=Change.UNCONFIGURED,
    )
    backend: str = _parameter(
        "auto",
        "What runs the networks. `auto` runs a checkpoint with `torch`, and an exported folder (`pixelrefer "
        "export`) with `tensorrt` where `device` is a GPU for which it has engines, else with `onnxruntime`. "
        "Where TensorRT is installed, the node builds engines that are missing while it configures, with "
        "`auto` and `tensorrt`. The log and `/diagnostics` say what was chosen.",
        choices=("auto", "tensorrt", "onnxruntime", "torch"),
        change=Change.UNCONFIGURED,
    )
    device: str = _parameter(
        "cpu",
        "Where the networks run: `cpu`, `cuda` or `cuda:N`. On `cpu` TensorRT engines are not used.",
        max_length=64,
        change=Change.UNCONFIGURED,
    )
    precision: str = _parameter(
        "float32",
        "Number format of a checkpoint's weights and activations; an exported folder has its own.",
        choices=("float32", "bfloat16", "float16"),
        change=Change.UNCONFIGURED,
    )
    engine_dir: str = _parameter(
        "",
        "Where TensorRT engines lie: a folder with one folder per model, of the model folder's name "
        "(`pixelrefer build-engines MODEL --engines ENGINE_DIR/NAME`). Empty: in the model's own folder.",
        max_length=4096,
        change=Change.UNCONFIGURED,
    )
    engine_profile: str = _parameter(
        "",
        "Where engines are built: the class of machine they are for, a shipped profile's name or the path of "
        "a `.yaml` file. Empty: by the GPU.",
        max_length=4096,
        change=Change.UNCONFIGURED,
    )
    build_only: bool = _parameter(
        False,
        "Configuring builds the TensorRT engines of `model` and `tracker_model`, where these are exported "
        "folders, and loads nothing; then the process ends, with exit code 0 if every engine is there.",
        change=Change.START,
    )
    max_objects: int = _parameter(
        16,
        "Objects tracked at once; one more is refused with OVERLOADED.",
        minimum=1,
        maximum=256,
        change=Change.UNCONFIGURED,
    )
    max_questions: int = _parameter(
        8,
        "Questions waiting at once; one more is refused with OVERLOADED.",
        minimum=1,
        maximum=1024,
        change=Change.UNCONFIGURED,
    )
    max_batch: int = _parameter(
        4,
        "Questions answered at once, those that wait join as soon as there is room; 1: one after the other.",
        minimum=1,
        maximum=8,
    )
    max_question_chars: int = _parameter(
        2000,
        "Longest question; a longer one is refused with BAD_QUESTION.",
        unit="characters",
        minimum=1,
        maximum=100_000,
        change=Change.UNCONFIGURED,
    )
    track_rate: float = _parameter(
        0.0, "Frames tracked per second at most; 0: every frame.", unit="Hz", minimum=0.0, maximum=1000.0
    )
    lost_after_frames: int = _parameter(
        30,
        "An object that was not seen in so many tracked frames is LOST: it is searched for no more, until a "
        "region corrects it.",
        unit="frames",
        minimum=1,
        maximum=1_000_000,
        change=Change.UNCONFIGURED,
    )
    lost_after: float = _parameter(
        0.0,
        "Also mark an object LOST after this many seconds unseen, by the frames' stamps; 0 disables it.",
        unit="s",
        minimum=0.0,
        maximum=86400.0,
        change=Change.UNCONFIGURED,
    )
    find_again_score: float = _parameter(
        0.0,
        "Search for LOST objects too, and accept a match whose score reaches this value. A lower value finds "
        "more of them, but also takes more look-alikes for them. 0 disables the search.",
        minimum=0.5,
        maximum=1.0,
        off=0.0,
        change=Change.UNCONFIGURED,
    )
    describe_new_objects: str = _parameter(
        "",
        "A question the node asks by itself about each new object, for example `What is <region>?`; "
        "empty: none.",
        max_length=2000,
    )
    describe_period: float = _parameter(
        0.0,
        "Seconds after which that question is asked again about an object; 0: once only.",
        unit="s",
        minimum=0.0,
        maximum=86400.0,
    )
    history_frames: int = _parameter(
        32,
        "Frames remembered for questions that look back. Each keeps its picture in memory.",
        unit="frames",
        minimum=1,
        maximum=4096,
        change=Change.UNCONFIGURED,
    )
    history_interval: float = _parameter(
        0.1,
        "Least time between two remembered frames.",
        unit="s",
        minimum=0.0,
        maximum=3600.0,
        change=Change.UNCONFIGURED,
    )
    max_tokens: int = _parameter(
        64, "Longest answer where the question names no length.", unit="tokens", minimum=1, maximum=1024
    )
    temperature: float = _parameter(
        0.0, "Sampling temperature; 0: always the most probable token.", minimum=0.0, maximum=10.0
    )
    top_p: float = _parameter(
        1.0,
        "When sampling, choose among the most probable tokens that together have this probability.",
        minimum=0.01,
        maximum=1.0,
    )
    image_transport: str = _parameter(
        "raw",
        "`raw` subscribes to `image`, `compressed` to `image/compressed` (jpeg or png).",
        choices=("raw", "compressed"),
        change=Change.UNCONFIGURED,
    )
    image_qos: str = _parameter(
        "sensor_data",
        "`sensor_data`: best effort; `reliable`: lost images are sent again.",
        choices=("sensor_data", "reliable"),
        change=Change.UNCONFIGURED,
    )
    overlay_quality: int = _parameter(
        80, "JPEG quality of `~/overlay/compressed`.", unit="percent", minimum=1, maximum=100
    )
    autostart: bool = _parameter(
        True, "Configure and activate without being told to by a lifecycle manager.", change=Change.START
    )

    @property
    def tracking(self) -> bool:
        """True if a tracker model is named."""
        return self.tracker_model not in ("", "none")


_TYPES: dict[Any, Any] = {"bool": bool, "int": int, "float": float, "str": str}


def _entry(item: Field[Any]) -> Parameter:
    default: Any = item.default
    return Parameter(name=item.name, type=_TYPES[item.type], default=default, **item.metadata)


SCHEMA: tuple[Parameter, ...] = tuple(_entry(item) for item in fields(Parameters))
"""Every parameter, in the order of the reference page."""

BY_NAME = {parameter.name: parameter for parameter in SCHEMA}
"""The same by name."""


def find_parameter(name: str) -> Parameter:
    """The schema's entry of that name.

    Raises:
        ParameterError: there is none.
    """
    if name not in BY_NAME:
        raise ParameterError(f"parameter {name!r} does not exist; there are: {', '.join(BY_NAME)}")
    return BY_NAME[name]


def check_parameters(values: Mapping[str, object]) -> Parameters:
    """Check values against the schema; what is not given has its default.

    Raises:
        ParameterError: an unknown name, or a value of the wrong type or out of bounds.
    """
    return Parameters(**{name: find_parameter(name).check(value) for name, value in values.items()})  # type: ignore[arg-type]


def perception_settings(parameters: Parameters) -> PerceptionSettings:
    """What perception needs of the parameters."""
    from pixelrefer_ros.perception import PerceptionSettings

    return PerceptionSettings(
        max_objects=parameters.max_objects,
        max_questions=parameters.max_questions,
        max_batch=parameters.max_batch,
        max_question_chars=parameters.max_question_chars,
        max_tokens=parameters.max_tokens,
        history_frames=parameters.history_frames,
        history_interval_s=parameters.history_interval,
        track_rate_hz=parameters.track_rate,
        describe_question=parameters.describe_new_objects,
        describe_period_s=parameters.describe_period,
        temperature=parameters.temperature,
        top_p=parameters.top_p,
    )
