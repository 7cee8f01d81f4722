# SPDX-License-Identifier: Apache-2.0
"""Start the node on a recording: `ros2 launch pixelrefer_ros replay.launch.py bag:=... image_topic:=...`.

Takes every argument of pixelrefer.launch.py too. The recording starts when the node has loaded its models and
is active. The node follows the recording's clock, and stays when the recording has ended, so that its last
pictures can still be asked about. The recording keeps its pace and may outrun the node, as a camera would;
`pixelrefer replay` looks at every frame.
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    TimerAction,
)
from launch.event_handlers import OnProcessIO
from launch.events.process import ProcessIO
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

ACTIVE = b"active: "
"""What the node logs once it takes images."""


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            DeclareLaunchArgument("bag", description="the recording: a folder or file, mcap or sqlite3"),
            DeclareLaunchArgument("rate", default_value="1.0", description="times the recorded pace"),
            DeclareLaunchArgument("loop", default_value="false", choices=["true", "false"]),
            DeclareLaunchArgument(
                "delay",
                default_value="0.0",
                description="seconds from the node's being active to the recording",
            ),
            OpaqueFunction(function=play_when_active),
            # It sets for images what holds for the player too, which publishes them.
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(Path(__file__).absolute().parent / "pixelrefer.launch.py")),
                launch_arguments=[("use_sim_time", "true")],
            ),
        ]
    )


def play_when_active(context: LaunchContext) -> list[RegisterEventHandler]:
    given = {name: LaunchConfiguration(name).perform(context) for name in ("bag", "rate", "loop", "delay")}
    command = ["ros2", "bag", "play", given["bag"], "--rate", given["rate"], "--clock"]
    command += ["--disable-keyboard-controls"]  # the terminal belongs to launch
    if given["loop"] == "true":
        command.append("--loop")
    player = ExecuteProcess(cmd=command, name="bag_player", output="screen")
    waiting = [TimerAction(period=float(given["delay"]), actions=[player])]
    said = bytearray()

    def heard(event: ProcessIO) -> list[TimerAction]:
        """The node's output comes in pieces that may end anywhere."""
        if not waiting or "pixelrefer_node" not in event.process_name:
            return []
        said.extend(event.text)
        if ACTIVE not in said:
            del said[: -len(ACTIVE)]
            return []
        return [waiting.pop()]

    return [RegisterEventHandler(OnProcessIO(on_stdout=heard, on_stderr=heard))]
