# SPDX-License-Identifier: Apache-2.0
"""The command line: verbs, exit statuses, and nothing heavy loaded for help."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

import pixelrefer_ros
from pixelrefer_ros import cli
from pixelrefer_ros.errors import InputFileError


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own."""
    argv = [sys.executable, "-m", "pixelrefer_ros.cli", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, env=dict(os.environ))


def test_version():
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, f"pixelrefer {pixelrefer_ros.__version__}\n")


@pytest.mark.parametrize("arguments", [["--help"], ["replay", "--help"]])
def test_help_needs_no_models(arguments):
    script = (
        "import sys, pixelrefer_ros.cli as cli\n"
        f"try: cli.main({arguments!r})\n"
        "except SystemExit as stop: code = stop.code\n"
        "print(code, sorted({'torch', 'transformers', 'rclpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr
    assert "replay" in done.stdout


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["replay"], ["--nonsense"], ["replay", "a", "--nonsense"]]
)
def test_wrong_arguments_are_exit_status_2_and_say_what_is_right(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert "usage: pixelrefer" in error
    assert "Traceback" not in error


def test_a_domain_error_is_one_line_without_traceback(tmp_path):
    (tmp_path / "r.yaml").write_text("- {bix: 3}")
    options = [
        "--image-topic",
        "/x",
        "--questions",
        "q",
        "--out",
        "o",
        "--model",
        "m",
        "--tracker-model",
        "none",
    ]
    done = run("replay", str(tmp_path), "--regions", str(tmp_path / "r.yaml"), *options)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("pixelrefer: ")
    assert "'bix'" in done.stderr


@pytest.mark.parametrize(
    ("error", "status"),
    [(InputFileError("a\nb"), 2), (OSError(errno.ENOSPC, "No space left"), 2), (KeyboardInterrupt(), 130)],
)
def test_how_a_verb_ends_is_the_exit_status(monkeypatch, capsys, error, status):
    from pixelrefer_ros.offline import replay

    def fail(_: object) -> int:
        raise error

    monkeypatch.setattr(replay, "run", fail)
    files = ["--regions", "r", "--questions", "q", "--out", "o"]
    assert cli.main(["replay", "b", "--image-topic", "t", *files]) == status
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "tracker", "--steps", "1", "0", "0", "0", "0", "--out"],
        ["evaluate", "shapes", "--scenes", "1", "--json"],
    ],
)
def test_output_that_cannot_be_written_is_one_line_that_names_it(arguments, tmp_path, capsys):
    (tmp_path / "file").touch()
    place = tmp_path / "file" / "out"
    assert cli.main([*arguments, str(place)]) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert f"{arguments[-1]} {place} cannot be written" in said and "choose another" in said


def test_what_cannot_be_read_is_not_said_to_be_output(monkeypatch, capsys):
    from pixelrefer_ros.offline import replay

    def fail(_args):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/etc/weights")

    monkeypatch.setattr(replay, "run", fail)
    files = ["--regions", "r", "--questions", "q", "--out", "o"]
    assert cli.main(["replay", "b", "--image-topic", "t", *files]) == 2
    assert capsys.readouterr().err == "pixelrefer: /etc/weights: Permission denied\n"


@pytest.mark.parametrize("verb", sorted(cli.VERBS))
def test_every_verb_has_help(verb, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([verb, "--help"])
    assert stop.value.code == 0
    assert f"pixelrefer {verb}" in capsys.readouterr().out
