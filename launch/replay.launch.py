# SPDX-License-Identifier: Apache-2.0
"""Start the node on a recording: `ros2 launch pixelrefer_ros replay.launch.py bag:=... image_topic:=...`.

Takes every argument of pixelrefer.launch.py too. The node follows the recording's clock, and stays when the
recording has ended, so that its last pictures can still be asked about. The recording keeps its pace and may
outrun the node, as a camera would; `pixelrefer replay` looks at every frame.
"""

from pathlib import Path

from launch import LaunchContext, LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    OpaqueFunction,
    TimerAction,
)
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription(
        [
            DeclareLaunchArgument("bag", description="the recording: a folder or file, mcap or sqlite3"),
            DeclareLaunchArgument("rate", default_value="1.0", description="times the recorded pace"),
            DeclareLaunchArgument("loop", default_value="false", choices=["true", "false"]),
            DeclareLaunchArgument(
                "delay", default_value="3.0", description="seconds the node has to load its models first"
            ),
            # First: what it sets for images holds for the player too, which publishes them.
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(Path(__file__).absolute().parent / "pixelrefer.launch.py")),
                launch_arguments=[("use_sim_time", "true")],
            ),
            OpaqueFunction(function=play),
        ]
    )


def play(context: LaunchContext) -> list[TimerAction]:
    given = {name: LaunchConfiguration(name).perform(context) for name in ("bag", "rate", "loop", "delay")}
    command = ["ros2", "bag", "play", given["bag"], "--rate", given["rate"], "--clock"]
    command += ["--disable-keyboard-controls"]  # the terminal belongs to launch
    if given["loop"] == "true":
        command.append("--loop")
    player = ExecuteProcess(cmd=command, name="bag_player", output="screen")
    return [TimerAction(period=float(given["delay"]), actions=[player])]
