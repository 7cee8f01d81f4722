# SPDX-License-Identifier: Apache-2.0
"""The folder of engines: what changed is built again, what is broken set aside, nothing half is left."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from pixelrefer_ros.engines import BuiltEngine, EngineStore

from pixelrefer_ros.errors import BackendError
from pixelrefer_ros.runtime import tensorrt_plans
from pixelrefer_ros.runtime.manifest import Profile
from pixelrefer_ros.runtime.tensorrt_plans import EngineKey, read_plan, read_record, record_path
from pixelrefer_ros.runtime.whole_files import PART

KEY = EngineKey(
    graph="a" * 64,
    sizes="S 1..2..3",
    in_place="c" * 64,
    builder="1",
    tensorrt="tensorrt 10.15.1",
    gpu="Orin",
    compute_capability="8.7",
    profile="agx-orin 0123456789ab",
    precision="fp16",
)


class Builds:
    """Builds plans that differ each time, and counts them."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> BuiltEngine:
        self.count += 1
        return BuiltEngine(
            f"plan {self.count}".encode() * 100, {"S": Profile(1, 2, 3)}, Counter(), ("a note",)
        )


@pytest.fixture
def said():
    return []


@pytest.fixture
def store(tmp_path, said):
    return EngineStore(tmp_path / "engines", said.append)


def files(store):
    return sorted(path.name for path in store.folder.iterdir() if path.name != "building.lock")


def plan_of(store):
    record = read_record(store.folder, "decoder")
    assert record is not None
    return bytes(read_plan(store.folder, record))


def test_an_engine_is_built_once_and_then_up_to_date(store, said):
    build = Builds()
    assert store.ensure("decoder", KEY, build) is True
    assert store.ensure("decoder", KEY, build) is False
    assert build.count == 1 and plan_of(store) == b"plan 1" * 100
    assert said[0] == "decoder: building (there is none)"
    assert "decoder: a note" in said and said[-1] == "decoder: up to date"
    assert read_record(store.folder, "decoder").profiles == {"S": Profile(1, 2, 3)}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"graph": "b" * 64}, "graph was aaaaaaaaaaaa... and is bbbbbbbbbbbb..."),
        ({"sizes": "S 1..2..4"}, "sizes was 'S 1..2..3' and is 'S 1..2..4'"),
        ({"in_place": "b" * 64}, "in place was cccccccccccc... and is bbbbbbbbbbbb..."),
        ({"builder": "2"}, "builder was '1' and is '2'"),
        ({"tensorrt": "tensorrt 11.4.1"}, "tensorrt was 'tensorrt 10.15.1' and is 'tensorrt 11.4.1'"),
        ({"gpu": "NVIDIA Thor"}, "gpu was 'Orin' and is 'NVIDIA Thor'"),
        ({"compute_capability": "11.0"}, "compute capability was '8.7' and is '11.0'"),
        ({"profile": "mine 0"}, "profile was 'agx-orin 0123456789ab' and is 'mine 0'"),
        ({"precision": "int4"}, "precision was 'fp16' and is 'int4'"),
    ],
)
def test_whatever_the_engine_depends_on_is_built_for_again_and_said(store, said, change, line):
    build = Builds()
    store.ensure("decoder", KEY, build)
    assert store.ensure("decoder", replace(KEY, **change), build) is True
    assert f"decoder: building ({line})" in said
    assert plan_of(store) == b"plan 2" * 100
    assert len(files(store)) == 2, "the plan of before is removed"


def test_a_build_can_be_asked_for(store, said):
    build = Builds()
    store.ensure("decoder", KEY, build)
    assert store.ensure("decoder", KEY, build, again=True) is True
    assert "decoder: building (asked for)" in said


@pytest.mark.parametrize("damage", ["truncated", "changed", "emptied"])
def test_a_broken_plan_is_set_aside_and_built_again(store, said, damage):
    build = Builds()
    store.ensure("decoder", KEY, build)
    plan = store.folder / read_record(store.folder, "decoder").file
    whole = plan.read_bytes()
    plan.write_bytes({"truncated": whole[:-1], "changed": b"P" + whole[1:], "emptied": b""}[damage])
    assert store.ensure("decoder", KEY, build) is True
    assert plan_of(store) == b"plan 2" * 100
    assert files(store) == [
        read_record(store.folder, "decoder").file,
        "decoder.engine.json",
        "decoder.plan.broken",
    ]
    assert any("is not the plan that was built" in line for line in said)
    assert any(line.startswith("set aside as") for line in said)


def spoil_plan(store, content):
    (store.folder / read_record(store.folder, "decoder").file).write_bytes(content)


def test_of_the_broken_plans_of_a_graph_the_newest_is_kept(store):
    build = Builds()
    for content in (b"first", b"second", b"third"):
        store.ensure("decoder", KEY, build)
        spoil_plan(store, content)
    store.ensure("decoder", KEY, build)
    assert [(path.name, path.read_bytes()) for path in store.folder.glob("*.broken")] == [
        ("decoder.plan.broken", b"third")
    ]


def test_a_broken_plan_that_cannot_be_set_aside_is_built_again_all_the_same(store, said):
    build = Builds()
    store.ensure("decoder", KEY, build)
    spoil_plan(store, b"broken")
    (store.folder / "decoder.plan.broken").mkdir()  # os.replace puts no file in place of a folder
    assert store.ensure("decoder", KEY, build) is True
    assert plan_of(store) == b"plan 2" * 100 and len(list(store.folder.glob("*.plan"))) == 1
    assert sum("is broken and cannot be set aside" in line for line in said) == 1


def test_the_plans_of_another_graph_are_left_alone(store):
    store.ensure("decoder.half", KEY, Builds())
    store.ensure("decoder", KEY, Builds())
    assert store.ensure("decoder.half", KEY, Builds()) is False


def test_a_plan_that_is_gone_is_built_again(store, said):
    build = Builds()
    store.ensure("decoder", KEY, build)
    (store.folder / read_record(store.folder, "decoder").file).unlink()
    assert store.ensure("decoder", KEY, build) is True
    assert not any("set aside" in line for line in said)


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"format": 9}', "null", '{"format": 2, "key": 3}', "[" * 100_000]
)
def test_a_broken_record_is_set_aside_and_built_again(store, content):
    build = Builds()
    store.ensure("decoder", KEY, build)
    record_path(store.folder, "decoder").write_text(content)
    with pytest.raises(BackendError, match="no engine record"):
        read_record(store.folder, "decoder")
    assert store.ensure("decoder", KEY, build) is True
    assert plan_of(store) == b"plan 2" * 100


@pytest.mark.parametrize("file", ["../decoder.plan", "/etc/passwd", "a/b.plan", "", 3])
def test_a_record_cannot_name_a_plan_elsewhere(store, file):
    store.ensure("decoder", KEY, Builds())
    path = record_path(store.folder, "decoder")
    path.write_text(json.dumps({**json.loads(path.read_text()), "file": file}))
    with pytest.raises(BackendError, match="no engine record"):
        read_record(store.folder, "decoder")


def test_a_plan_that_no_record_names_is_not_read(store):
    store.ensure("decoder", KEY, Builds())
    record = read_record(store.folder, "decoder")
    (store.folder / record.file).write_bytes(b"code of somebody else")
    with pytest.raises(
        BackendError, match=r"is not the plan that was built.*not loaded: build the engines again"
    ):
        read_plan(store.folder, record)


def fill_disk(monkeypatch, which):
    """From now on a plan or a record finds no room: an error where the operating system gives it."""
    synced = os.fsync

    def full(handle: int) -> None:
        name = os.readlink(f"/proc/self/fd/{handle}")
        if (".plan." in name) == (which == "plan"):
            raise OSError(errno.ENOSPC, "No space left on device")
        synced(handle)

    monkeypatch.setattr(tensorrt_plans.os, "fsync", full)


@pytest.mark.parametrize("which", ["plan", "record"])
def test_a_full_disk_leaves_the_engine_of_before_and_nothing_else(store, monkeypatch, which):
    build = Builds()
    store.ensure("decoder", KEY, build)
    before = files(store)
    fill_disk(monkeypatch, which)
    with pytest.raises(
        BackendError, match="the disk is full; make room, or give another folder with --engines"
    ):
        store.ensure("decoder", replace(KEY, precision="int8"), build)
    assert plan_of(store) == b"plan 1" * 100
    assert files(store) == before


def test_a_full_disk_leaves_nothing_where_there_was_no_engine(store, monkeypatch):
    fill_disk(monkeypatch, "record")
    with pytest.raises(BackendError, match="the disk is full"):
        store.ensure("decoder", KEY, Builds())
    assert files(store) == []


def test_a_full_disk_leaves_the_plan_of_before_also_where_the_new_one_is_the_same(store, monkeypatch):
    store.ensure("decoder", KEY, Builds())
    fill_disk(monkeypatch, "record")
    with pytest.raises(BackendError, match="the disk is full"):
        store.ensure("decoder", replace(KEY, precision="int8"), Builds())
    assert plan_of(store) == b"plan 1" * 100


def test_what_a_killed_process_was_writing_is_removed_by_the_next(store):
    store.ensure("decoder", KEY, Builds())
    whole = files(store)
    (store.folder / f"decoder.0123456789ab.plan.4000000{PART}").write_bytes(b"half a pl")
    assert not store.ensure("decoder", KEY, Builds())
    assert files(store) == whole


def test_what_was_not_written_by_the_store_is_left_alone(store):
    """The folder may be anybody's: `--engines ~/Downloads`."""
    store.folder.mkdir()
    names = ("film.mkv.part", "decoder.plan.part", "decoder.0123456789ab.plan.x.part", "decoder.plan.1.part")
    for name in names:
        (store.folder / name).touch()
    for name in ("decoder.engine.json.4000000.part", "timings.cache.4000000.part"):
        (store.folder / name).touch()
    store.ensure("decoder", KEY, Builds())
    assert sorted(path.name for path in store.folder.glob("*.part")) == sorted(names)


def test_a_plan_that_was_read_stays_as_it_is_when_it_is_built_again(store):
    build = Builds()
    store.ensure("decoder", KEY, build)
    plan = read_plan(store.folder, read_record(store.folder, "decoder"))
    store.ensure("decoder", KEY, build, again=True)
    assert plan == b"plan 1" * 100 and plan.readonly
    assert plan_of(store) == b"plan 2" * 100


def test_a_build_that_fails_leaves_the_engine_of_before(store):
    store.ensure("decoder", KEY, Builds())

    def fail() -> BuiltEngine:
        raise BackendError("no")

    with pytest.raises(BackendError, match="no"):
        store.ensure("decoder", replace(KEY, precision="int8"), fail)
    assert plan_of(store) == b"plan 1" * 100


def test_a_folder_that_cannot_be_made_is_told(tmp_path, said):
    (tmp_path / "file").write_text("")
    with pytest.raises(BackendError, match="give another folder with --engines"):
        EngineStore(tmp_path / "file" / "engines", said.append).ensure("decoder", KEY, Builds())


def build_slowly(folder: Path, log: Path) -> None:
    """A process of the next test: takes a while to build, and notes when."""

    def say(line: str) -> None:
        with log.open("a") as file:
            file.write(f"{os.getpid()} {line}\n")

    def build() -> BuiltEngine:
        say("begins")
        time.sleep(0.5)
        say("ends")
        return BuiltEngine(f"built by {os.getpid()}".encode(), {}, Counter(), ())

    EngineStore(folder, say).ensure("decoder", KEY, build)


def test_two_processes_at_once_build_once(store, tmp_path):
    log = tmp_path / "log"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=build_slowly, args=(store.folder, log)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    lines = log.read_text().splitlines()
    assert sum("begins" in line for line in lines) == 1
    assert sum("another process builds" in line for line in lines) >= 1
    assert sum("up to date" in line for line in lines) == 2
    assert plan_of(store).startswith(b"built by ")


def test_waiting_for_another_process_can_be_stopped(store, tmp_path):
    context = multiprocessing.get_context("fork")
    holder = context.Process(target=build_slowly, args=(store.folder, tmp_path / "log"))
    holder.start()
    while not (tmp_path / "log").exists():
        time.sleep(0.01)
    impatient = replace(store, stopped=lambda: True)
    with pytest.raises(BackendError, match="stopped while waiting"):
        impatient.ensure("decoder", KEY, Builds())
    holder.join(30)
    assert holder.exitcode == 0


def test_a_process_that_dies_while_building_blocks_nobody(store, tmp_path):
    context = multiprocessing.get_context("fork")
    victim = context.Process(target=build_slowly, args=(store.folder, tmp_path / "log"))
    victim.start()
    while not (tmp_path / "log").exists() or "begins" not in (tmp_path / "log").read_text():
        time.sleep(0.01)
    victim.kill()
    victim.join(30)
    assert store.ensure("decoder", KEY, Builds()) is True
