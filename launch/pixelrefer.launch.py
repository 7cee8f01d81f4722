# SPDX-License-Identifier: Apache-2.0
"""Start the node: `ros2 launch pixelrefer_ros pixelrefer.launch.py image_topic:=/camera/image_raw`.

An argument that is left empty keeps what the parameter file says, or else the node's default. Give the other
parameters in a file of yours: `params_file:=my.yaml`. launch says nothing of an argument that does not exist.
With `build_only:=true` it builds the TensorRT engines of the models, once per robot, and ends.
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

CONFIG = Path(__file__).absolute().parent.parent / "config"
PROFILE_VARIABLES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")

ARGUMENTS = (
    ("model", "", "region language model: a folder, a hub id or the name of a model of the package"),
    ("tracker_model", "", "SAM 2 model, given likewise; none: tracking is off"),
    ("backend", "", "auto, tensorrt, onnxruntime or torch"),
    ("device", "", "cpu, cuda or cuda:N"),
    ("precision", "", "of a checkpoint: float32, bfloat16 or float16"),
    ("engine_dir", "", "where TensorRT engines lie, one folder per model"),
    ("engine_profile", "", "what engines are built for: a profile's name or its .yaml file"),
    ("autostart", "", "true: configure and activate at once; false: wait for a lifecycle manager"),
    ("build_only", "", "true: build the models' TensorRT engines for this machine, and end"),
    ("image_topic", "image", "the camera's topic, without /compressed"),
    ("namespace", "", "namespace of the node, named pixelrefer in it"),
    ("params_file", str(CONFIG / "pixelrefer.yaml"), "parameter file; empty: none"),
    ("use_sim_time", "", "true: follow /clock"),
)
# Of these, the ones that are parameters of the node.
TEXTS = ("model", "tracker_model", "backend", "device", "precision", "engine_dir", "engine_profile")
BOOLEANS = ("autostart", "build_only", "use_sim_time")


def generate_launch_description() -> LaunchDescription:
    declared = [
        DeclareLaunchArgument(name, default_value=default, description=description)
        for name, default, description in ARGUMENTS
    ]
    return LaunchDescription([*declared, OpaqueFunction(function=start_node)])


def start_node(context: LaunchContext) -> list[SetEnvironmentVariable | Node]:
    given = {name: LaunchConfiguration(name).perform(context) for name, _, _ in ARGUMENTS}
    parameters: list[str | dict[str, bool | ParameterValue]] = []
    if given["params_file"]:
        if not Path(given["params_file"]).is_file():
            raise RuntimeError(f"params_file: there is no file {given['params_file']!r}")
        parameters.append(given["params_file"])

    overrides: dict[str, bool | ParameterValue] = {}
    # Typed, because launch would read a folder named 7 as a number.
    for name in TEXTS:
        if given[name]:
            overrides[name] = ParameterValue(given[name], value_type=str)
    for name in BOOLEANS:
        if given[name]:
            overrides[name] = as_bool(name, given)
    if overrides:
        parameters.append(overrides)

    topic = given["image_topic"]
    node = Node(
        package="pixelrefer_ros",
        executable="pixelrefer_node",
        name="pixelrefer",
        namespace=given["namespace"],
        parameters=parameters,
        # A remapping of a topic does not reach the topics below it.
        remappings=[("image", topic), ("image/compressed", f"{topic}/compressed")],
        output="screen",
    )
    return [*image_profile(context), node]


def image_profile(context: LaunchContext) -> list[SetEnvironmentVariable]:
    """For everything started from here on, unless the user has a profile: see config/fastdds_images.xml."""
    if any(context.environment.get(variable) for variable in PROFILE_VARIABLES):
        return []
    profile = str(CONFIG / "fastdds_images.xml")
    return [SetEnvironmentVariable(variable, profile) for variable in PROFILE_VARIABLES]


def as_bool(name: str, given: dict[str, str]) -> bool:
    if given[name].lower() not in ("true", "false"):
        raise RuntimeError(f"{name}:={given[name]} is not true or false")
    return given[name].lower() == "true"
