# SPDX-License-Identifier: Apache-2.0
"""The package as it is installed: one version, pins, programs, pages."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from source_tree import PACKAGE, ROOMS_BESIDE, ROOT, SOURCES, load_file

import pixelrefer_ros

CORE = ("core.txt", "networks.txt", "compiled.txt")
"""The files of requirements/ that pip's dependencies of the package are pinned in."""
APT_NUMPY = "1.26.4"
"""Ubuntu 24.04's, which an apt ROS 2 Jazzy is built for."""


def pins(name: str) -> dict[str, str]:
    """Package to version of a requirements file (of the line for this Python, if there are several)."""
    text = (ROOT / "requirements" / name).read_text(encoding="utf-8")
    lines = [line.split(" #")[0].strip() for line in text.splitlines()]
    lines = [line for line in lines if line and line[0] != "#" and not line.startswith("-r ")]
    found = [re.match(r"([\w.\[\]-]+)==([\w.]+)(;.*)?$", line) for line in lines]
    assert all(found), f"{name}: every line is a package, == and a version"
    return {match[1].lower(): match[2] for match in found if match}


def test_package_xml_and_changelog_name_the_version_of_the_package() -> None:
    manifest = ElementTree.parse(ROOT / "package.xml").getroot()  # noqa: S314 (our own file)
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert manifest.findtext("version") == pixelrefer_ros.__version__
    assert newest is not None and newest[1] == pixelrefer_ros.__version__


def test_package_xml_names_every_package_that_cmake_and_messages_use() -> None:
    manifest = ElementTree.parse(ROOT / "package.xml").getroot()  # noqa: S314 (our own file)
    named = {element.text for element in manifest if element.tag.endswith("depend")}
    cmake = set(re.findall(r"find_package\((\w+)", (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")))
    files = [path for folder in ("msg", "srv", "action") for path in (ROOT / folder).iterdir()]
    types = {match for path in files for match in re.findall(r"^(\w+)/", path.read_text(), re.MULTILINE)}
    assert cmake - named == set()
    assert types - named - {"pixelrefer_ros"} == set()


def test_every_requirement_is_pinned_and_pip_gets_all_of_the_core() -> None:
    # robot.txt is no list of pins: it keeps what apt has.
    files = {path.name for path in (ROOT / "requirements").glob("*.txt")} - {"robot.txt"}
    pinned = {name: pins(name) for name in files}
    assert all(pinned.values())
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^dependencies = \[(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    assert listed is not None
    core = {name for file in CORE for name in pinned[file]}
    assert {name.lower() for name in re.findall(r'"([\w-]+)>=', listed[1])} == core


def test_a_robot_gets_all_of_the_core_but_what_apt_has_and_nothing_pinned_refuses_its_numpy() -> None:
    robot = (ROOT / "requirements/robot.txt").read_text(encoding="utf-8")
    included = set(re.findall(r"^-r (.*)$", robot, re.MULTILINE))
    assert included == {*CORE} - {"core.txt"} and "\nnumpy<2" in robot
    assert set(pins("core.txt")) == {"numpy", "opencv-python-headless", "pyyaml"}
    ours = {name for file in (*CORE, "constraints.txt") for name in pins(file)}
    refusing = set()
    for distribution in importlib.metadata.distributions():
        asked = [Requirement(line) for line in distribution.requires or ()]
        plain = [one for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]
        if any(one.name == "numpy" and not one.specifier.contains(APT_NUMPY) for one in plain):
            refusing.add(distribution.name.lower())
    assert refusing & ours <= {"opencv-python-headless"}  # which a robot has from apt


def requirements(lines: list[str], python: str) -> dict[str, Requirement]:
    """Package to requirement, of those that a version of Python takes."""
    found = [Requirement(line) for line in lines]
    taken = [one for one in found if one.marker is None or one.marker.evaluate({"python_version": python})]
    return {one.name.lower(): one for one in taken}


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_pip_can_take_for_each_python_what_is_pinned_for_it(python: str) -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^dependencies = \[(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    assert listed is not None
    asked = requirements(re.findall(r'^ *"([^"]+)"', listed[1], re.MULTILINE), python)
    texts = [(ROOT / "requirements" / name).read_text(encoding="utf-8") for name in CORE]
    lines = [line.split(" #")[0] for text in texts for line in text.splitlines()]
    pinned = requirements([line for line in lines if line and line[0] not in "#-"], python)
    assert set(asked) == set(pinned)
    for name, pin in pinned.items():
        (version,) = [one.version for one in pin.specifier]
        assert asked[name].specifier.contains(version), f"{asked[name]} keeps pip from {pin}"


def test_pip_takes_no_rosbags_of_before_its_writer_could_be_told_the_storage() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (asked,) = re.findall(r'"(rosbags\S*)"', project)
    assert not Requirement(asked).specifier.contains("0.10.8"), "no StoragePlugin, no Writer(storage_plugin=)"


def test_a_wheel_holds_every_module_the_trained_models_and_the_command(tmp_path: Path) -> None:
    source = tmp_path / "source"
    skipped = shutil.ignore_patterns("__pycache__", "built")
    for room in (PACKAGE.name, *ROOMS_BESIDE, "models"):
        shutil.copytree(ROOT / room, source / room, ignore=skipped)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*build, "-w", str(tmp_path), str(source)], check=True, stdin=subprocess.DEVNULL)

    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.startswith(f"pixelrefer_ros-{pixelrefer_ros.__version__}-py3-none-any")
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        (entry,) = [name for name in held if name.endswith("entry_points.txt")]
        assert "pixelrefer = pixelrefer_ros.cli:main" in archive.read(entry).decode()
    data = [path for room in ROOMS_BESIDE for path in (ROOT / room).rglob("*.yaml")]
    for kind in ("*.safetensors", "*.json", "README.md"):
        data += (ROOT / "models").glob(f"*/{kind}")
    lying = {path.relative_to(ROOT) for path in [*SOURCES, *data]}
    expected = {str(path if path.parts[0] == PACKAGE.name else PACKAGE.name / path) for path in lying}
    assert expected - held == set()
    assert {name.split("/")[0] for name in held if not name.split("/")[0].endswith(".dist-info")} == {
        "pixelrefer_ros"
    }


@pytest.mark.parametrize(
    ("present", "said"),
    [
        (["python3", "make"], "C++ compiler is missing: install"),
        (["c++", "make"], "python3 is missing: install Python 3.10 to 3.13"),
        (["python3", "c++"], "make is missing: install"),
    ],
)
def test_what_a_machine_lacks_is_one_line(tmp_path: Path, present: list[str], said: str) -> None:
    for name in ["bash", "uname", "dirname", *present]:
        (tmp_path / name).symlink_to(sys.executable if name == "python3" else shutil.which(name) or "")
    unset = ("CXX", "ROS_DISTRO", "AMENT_PREFIX_PATH")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    check = subprocess.run(
        [str(tmp_path / "bash"), "tools/check_machine.sh", "python3"],
        cwd=ROOT,
        env={**environment, "PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert check.returncode == 1
    assert len(check.stderr.splitlines()) == 1 and said in check.stderr


def test_what_an_apt_ros_lacks_is_told_with_its_packages(tmp_path: Path) -> None:
    for name in ("bash", "uname", "dirname", "c++", "make"):
        (tmp_path / name).symlink_to(shutil.which(name) or "")
    # A Python without OpenCV, whatever the one of this machine has.
    programs = {"ros2": "exit 0", "python3": f'exec {sys.executable} -I -S "$@"'}
    for name, line in programs.items():
        (tmp_path / name).write_text(f"#!{tmp_path}/bash\n{line}\n")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": str(tmp_path), "ROS_DISTRO": "jazzy", "AMENT_PREFIX_PATH": "/opt/ros/jazzy"}
    check = subprocess.run(
        [str(tmp_path / "bash"), "tools/check_machine.sh", "python3"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert check.returncode == 1
    colcon, opencv = check.stderr.splitlines()
    assert "apt install python3-colcon-common-extensions" in colcon and "rosdep install" in opencv


def test_the_message_reference_is_up_to_date() -> None:
    generator = load_file(ROOT / "tools/generate_messages_doc.py")
    page = (ROOT / "docs/messages.md").read_text(encoding="utf-8")
    assert page == generator.render_page(), "run `make docs`"


def test_a_comment_of_a_message_speaks_of_the_lines_below_it() -> None:
    generator = load_file(ROOT / "tools/generate_messages_doc.py")
    (part,) = generator.read_parts(
        "# All of it.\n\nuint8 A=1 # one\n\n# Both.\nint8 b\nint8[<=3] c\n\nint8 d\n"
    )
    assert part.about == ["All of it."]
    assert [(row.type, row.name, row.value, row.meaning) for row in part.rows] == [
        ("uint8", "A", "1", "one"),
        ("int8", "b", "", "Both."),
        ("int8[<=3]", "c", "", "Both."),
        ("int8", "d", "", ""),
    ]


@pytest.mark.ros
def test_the_built_package_has_messages_programs_and_launch_files() -> None:
    pytest.importorskip("rclpy")
    from ament_index_python import get_package_prefix, get_package_share_directory
    from pixelrefer_ros.action import Ask
    from pixelrefer_ros.msg import Answer

    share = Path(get_package_share_directory("pixelrefer_ros"))
    programs = Path(get_package_prefix("pixelrefer_ros")) / "lib/pixelrefer_ros"
    assert Ask.Result().answer == Answer()
    assert all(os.access(programs / name, os.X_OK) for name in ("pixelrefer_node", "pixelrefer"))
    expected = ["launch/pixelrefer.launch.py", "launch/replay.launch.py", "config/fastdds_images.xml"]
    assert [name for name in expected if not (share / name).is_file()] == []
