# SPDX-License-Identifier: Apache-2.0
"""A run goes on as it began, and its recipe stays true of the weights."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from micro_language import MICRO, SHORTEST, set_progress

from pixelrefer_ros.errors import CheckpointError, ParameterError
from pixelrefer_ros.training import language, loop, tracker
from pixelrefer_ros.training.language import RECIPE, TRAINING, LanguageSettings, train_language
from pixelrefer_ros.training.loop import PROGRESS, STATE, Loop, Pace, read_progress
from pixelrefer_ros.training.optimizers import parameter_groups
from pixelrefer_ros.training.run_folder import OPTIONS, plain, recipe_for, write_recipe
from pixelrefer_ros.training.tracker import TrackerSettings, TrackerStage, train_tracker
from pixelrefer_ros.training.world import SceneSettings

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = replace(
    SHORTEST, seed=1, frame_steps=0, side_steps=0, reading_steps=0, infusion_steps=0, steps=(0, 0)
)
CALM = SceneSettings(frames=4, size=(320, 240), objects=(1, 2), occlusion="none")
TRACKER = TrackerSettings(
    stages=(
        TrackerStage("pictures", (CALM,), scenes=1, length=1, pictures=1),
        TrackerStage("again", (CALM,), scenes=1, length=1, pictures=1),
    ),
    steps=(2, 3),
    image_size=64,
    workers=0,
    validate_every=0,
)


def recipe_of(folder) -> dict:
    return json.loads((folder / RECIPE).read_text())


@pytest.fixture
def begun(tmp_path):
    """A run that has done its first stage."""
    assert train_language(tmp_path, SETTINGS)
    return tmp_path


def test_a_run_with_other_settings_is_refused_and_told_and_its_recipe_stays(begun):
    before = (begun / RECIPE).read_bytes()
    other = replace(SETTINGS, seed=9, sizes=replace(MICRO, mask_num=16), bf16=True)
    with pytest.raises(ParameterError) as raised:
        train_language(begun, other)
    for told in ("--seed was 1 and is 9", "--mask-num was 4 and is 16", "--bf16 was False and is True"):
        assert told in str(raised.value)
    assert (begun / RECIPE).read_bytes() == before


@pytest.mark.parametrize("steps", [0, 2])
def test_the_stage_a_run_is_at_keeps_its_steps(steps, begun):
    """With 0 it would be left out, and what it has learned forgotten."""
    with pytest.raises(ParameterError, match=f"of a run of 1 steps, this one has {steps}"):
        train_language(begun, replace(SETTINGS, attribute_steps=steps, steps=(1, 0)))
    assert recipe_of(begun)["attribute_steps"] == 1


def test_later_stages_may_be_given_more_steps_and_those_that_are_over_stay_as_they_were(begun):
    assert train_language(begun, replace(SETTINGS, steps=(1, 0)))
    assert read_progress(begun / TRAINING) == {"stage": "perception", "step": 1, "steps": 1}
    assert train_language(begun, replace(SETTINGS, attribute_steps=7, side_steps=7, steps=(1, 0)))
    recipe = recipe_of(begun)
    assert (recipe["attribute_steps"], recipe["side_steps"], recipe["steps"]) == (1, 0, [1, 0])


def test_a_recipe_of_another_version_does_not_keep_a_run_from_going_on(begun):
    known = recipe_of(begun)
    other = {key: value for key, value in known.items() if key not in ("bf16", "rates", "weight_decay")}
    other |= {"long_gone": 3, "attribute_rate": 0.25}  # a default of that version
    other["sizes"] = {key: value for key, value in known["sizes"].items() if key != "patch_budget"}
    (begun / RECIPE).write_text(json.dumps(other))
    assert train_language(begun, SETTINGS)
    assert recipe_of(begun) == known | {"attribute_rate": 0.25}, "what it began with is not written anew"
    (begun / RECIPE).unlink()
    assert train_language(begun, SETTINGS)
    assert recipe_of(begun) == known


def test_a_state_that_is_refused_leaves_the_recipe_alone(begun):
    before = (begun / RECIPE).read_bytes()
    layer = torch.nn.Linear(1, 1)
    groups = parameter_groups({0.1: [layer]}, weight_decay=0.0)
    Loop("attributes", layer, groups, begun / TRAINING, Pace(1)).save()
    with pytest.raises(CheckpointError, match=f"{STATE} is of another model"):
        train_language(begun, replace(SETTINGS, steps=(1, 0)))
    assert (begun / RECIPE).read_bytes() == before
    set_progress(begun / TRAINING, "films", 1, 1)
    with pytest.raises(ParameterError, match="is of stage 'films'; this run has only attributes, frames"):
        train_language(begun, SETTINGS)
    (begun / TRAINING / PROGRESS).write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        train_language(begun, SETTINGS)
    assert (begun / RECIPE).read_bytes() == before


def test_a_run_that_was_killed_between_its_state_and_what_says_so_goes_on_from_the_state(tmp_path):
    """Killed there where one stage follows another, the two would be of different stages."""
    first, second = torch.nn.Linear(1, 1), torch.nn.Linear(2, 2)

    def stage(name: str, layer: torch.nn.Module) -> Loop:
        return Loop(name, layer, parameter_groups({0.1: [layer]}, weight_decay=0.0), tmp_path, Pace(1))

    stage("first", first).save()
    said = (tmp_path / PROGRESS).read_bytes()
    stage("second", second).save()
    (tmp_path / PROGRESS).write_bytes(said)
    assert read_progress(tmp_path) == {"stage": "second", "step": 0, "steps": 1}
    assert stage("second", second).resume() and not stage("first", first).resume()
    (tmp_path / STATE).write_bytes(b"{")
    with pytest.raises(CheckpointError, match=f"{STATE} cannot be read"):
        read_progress(tmp_path)


def test_every_option_that_a_run_keeps_is_a_setting():
    known = {**plain(LanguageSettings()), **plain(TrackerSettings()), "sizes.mask_num": 0}
    assert set(OPTIONS) <= set(known)


def test_a_tracker_keeps_its_recipe_likewise(tmp_path):
    settings = replace(TRACKER, steps=(1, 0))
    assert train_tracker(tmp_path, settings)
    before = (tmp_path / RECIPE).read_bytes()
    with pytest.raises(ParameterError, match="--seed was 0 and is 4: give the same, or another --out"):
        train_tracker(tmp_path, replace(settings, seed=4))
    assert (tmp_path / RECIPE).read_bytes() == before
    assert train_tracker(tmp_path, replace(settings, steps=(1, 1)))
    assert recipe_of(tmp_path)["steps"] == [1, 1]
    tuned = replace(settings, start_from=tmp_path, seed=4)
    assert train_tracker(tmp_path / "tuned", tuned)
    assert not {"width", "slots"} & set(recipe_of(tmp_path / "tuned"))


def test_a_recipe_that_is_no_recipe_is_named(tmp_path):
    stages = {"only": ("steps.0", 1)}
    write_recipe(tmp_path, {"seed": 3, "steps": [1]})
    (tmp_path / TRAINING).mkdir()
    (tmp_path / TRAINING / PROGRESS).write_text(json.dumps({"stage": "only", "step": 1, "steps": 1}))
    assert recipe_for(tmp_path, {"seed": 3, "steps": [1]}, stages) == {"seed": 3, "steps": [1]}
    (tmp_path / RECIPE).write_text("[1]")
    with pytest.raises(CheckpointError, match=r"recipe\.json cannot be read"):
        recipe_for(tmp_path, {"seed": 3}, stages)


def test_weights_that_validation_writes_have_a_state_beside_them(tmp_path):
    """A run that is killed after that could not go on otherwise."""
    layer = torch.nn.Linear(1, 1)
    paces = Pace(steps=6, save_every=5, validate_every=2)
    stage = Loop("any", layer, parameter_groups({0.1: [layer]}, weight_decay=0.0), tmp_path, paces)
    states = []

    def losses(_: int) -> dict[str, torch.Tensor]:
        states.append(read_progress(tmp_path))
        return {"loss": layer(torch.ones(1, 1)).square().sum()}

    stage.run(range(6), losses, lambda _: {})
    assert [None if state is None else state["step"] for state in states] == [None, None, 2, 2, 2, 5]


@pytest.fixture
def minute(monkeypatch):
    """A clock on which every step takes a minute."""
    now = [0.0]
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now[0]))

    def slowly(losses):
        def slow(*args, **given):
            now[0] += 60.0
            return losses(*args, **given)

        return slow

    return slowly


def test_minutes_are_of_all_stages_of_a_call_together(minute, monkeypatch, micro_folder, tmp_path):
    monkeypatch.setattr(tracker, "clip_losses", minute(tracker.clip_losses))
    assert not train_tracker(tmp_path / "tracker", replace(TRACKER, minutes=3.5))
    assert read_progress(tmp_path / "tracker" / TRAINING) == {"stage": "again", "step": 2, "steps": 3}
    assert train_tracker(tmp_path / "tracker", replace(TRACKER, minutes=3.5))
    monkeypatch.setattr(language, "losses", minute(language.losses))
    settings = replace(SETTINGS, start_from=micro_folder, steps=(2, 3), minutes=3.5)
    assert not train_language(tmp_path / "language", settings)
    assert read_progress(tmp_path / "language" / TRAINING) == {"stage": "instructions", "step": 2, "steps": 3}
