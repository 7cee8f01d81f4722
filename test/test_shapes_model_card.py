# SPDX-License-Identifier: Apache-2.0
"""The card beside shipped weights says how they were made and what they reach, and refuses other scores."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from pathlib import Path

import pytest

from pixelrefer_ros.errors import CheckpointError, InputFileError
from pixelrefer_ros.model.checkpoint import content_hash
from pixelrefer_ros.training.checkpoints import Sizes
from pixelrefer_ros.training.evaluate import GOALS, TRACKER_GOALS
from pixelrefer_ros.training.language import LanguageSettings, train_language
from pixelrefer_ros.training.model_card import HISTORY, RECIPE, card, main
from pixelrefer_ros.training.scoring import AnswerScores
from pixelrefer_ros.training.world import scene_examples

SIZES = Sizes(vision_width=32, vision_layers=1, language_width=32, language_layers=1, vocabulary=512)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A model as training leaves it, after no step."""
    made = tmp_path_factory.mktemp("models") / "pixelrefer-shapes"
    other_stages = {field.name: 0 for field in fields(LanguageSettings) if field.name.endswith("_steps")}
    train_language(
        made, LanguageSettings(seed=7, steps=(0, 0), sizes=SIZES, scenes=9, bf16=True, **other_stages)
    )
    return made


def report_of(folder: Path, *, right: bool) -> dict:
    scores = AnswerScores()
    for example in scene_examples(3, 40):
        scores.add(example, example.answer if right else "I like it.")
    nothing = AnswerScores().as_json()
    return {
        "world": "shapes",
        "split": "test",
        "seed": 5,
        "scenes": 50,
        "model": f"{folder.name}@{content_hash(folder)[:12]}",
        "answers": {"seen": scores.as_json(), "unseen": scores.as_json()},
        "shuffled": {"answers": nothing, "chance": nothing},
        "seconds": 1.0,
    }


def test_a_card_names_the_command_the_seeds_and_every_row_of_scores(folder):
    text = card(folder, report_of(folder, right=True), trained_on="two cores, 5 hours")
    assert "pixelrefer train language --out models/pixelrefer-shapes --seed 7" in text
    assert (
        "--steps 0 0" in text
        and "--scenes 9" in text
        and "--bf16" in text.split()
        and "two cores, 5 hours" in text
    )
    assert "`sizes.vision_width` = 32" in text, "what no option makes is not kept quiet"
    assert "evaluate shapes --seed 5 --scenes 50" in text
    for row in GOALS:
        assert f"| {row} |" in text
    assert "## Limits" in text and "photograph" in text


def test_weights_that_no_single_command_made_say_so(folder, tmp_path):
    staged = tmp_path / folder.name
    shutil.copytree(folder, staged)
    recipe = json.loads((staged / RECIPE).read_text()) | {HISTORY: "they learned in three rounds"}
    (staged / RECIPE).write_text(json.dumps(recipe))
    text = card(staged, report_of(staged, right=True))
    assert "No single command made these weights: they learned in three rounds." in text
    assert "All settings are in" not in text and "`history`" not in text
    assert "No single command" not in card(folder, report_of(folder, right=True))


def test_a_card_says_which_goals_are_not_reached(folder):
    missed = card(folder, report_of(folder, right=False)).partition("Goals not reached: ")[2].splitlines()[0]
    assert "category (seen combinations)" in missed and "category (unseen combinations)" in missed
    assert "honest" not in missed, "it has no goal"
    assert "category (" not in card(folder, report_of(folder, right=True))


def test_scores_of_other_weights_or_of_scenes_for_tuning_are_refused(folder):
    report = report_of(folder, right=True)
    with pytest.raises(InputFileError, match="evaluate these weights"):
        card(folder, report | {"model": "pixelrefer-shapes@000000000000"})
    with pytest.raises(InputFileError, match="val scenes"):
        card(folder, report | {"split": "val"})
    with pytest.raises(InputFileError, match="'answers'"):
        card(folder, {"split": "test", "tracker": {}})


def test_a_folder_without_weights_gets_no_card(tmp_path):
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        card(tmp_path, {})


def test_a_trackers_card_has_its_own_rows(tmp_path, capsys):
    folder = tmp_path / "sam2-shapes"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"0" * 11_000_000)
    (folder / "recipe.json").write_text(json.dumps({"seed": 3, "image_size": 128, "parameters": 1_900_000}))
    score = {"mean": 0.91, "objects": 40}
    scores = {"first_frame_j": {"box": score, "point": score}}
    scores |= {"j_and_f": {"no occluder": score, "occluder": score, "full occlusion": score | {"mean": 0.5}}}
    file = tmp_path / "scores.json"
    report = {"split": "test", "seed": 0, "scenes": 50, "tracker_model": "sam2-shapes", "tracker": scores}
    file.write_text(json.dumps(report))
    assert main([str(folder), "--scores", str(file)]) == 0
    text = (folder / "README.md").read_text()
    assert "pixelrefer train tracker --out models/sam2-shapes --seed 3 --image-size 128" in text
    for row in TRACKER_GOALS:
        assert (f"| {row} |" in text) == (not row.startswith("category")), "no whole system was scored"
    assert "Goals not reached: J&F, after full occlusion." in text
    assert "larger than the 10 MB" in text
    file.write_text(json.dumps(report | {"tracker_model": "another"}))
    assert main([str(folder), "--scores", str(file)]) == 2
    assert "another" in capsys.readouterr().err
