# SPDX-License-Identifier: Apache-2.0
"""The card beside shipped weights says how they were made and what they reach, and refuses other scores."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pixelrefer_ros.errors import CheckpointError, InputFileError
from pixelrefer_ros.model.checkpoint import content_hash
from pixelrefer_ros.tracking import write_tiny_sam2
from pixelrefer_ros.training.checkpoints import Sizes
from pixelrefer_ros.training.evaluate import GOALS, TRACKER_GOALS, content_name, evaluate_shapes
from pixelrefer_ros.training.language import LanguageSettings, train_language
from pixelrefer_ros.training.model_card import HISTORY, RECIPE, card, main
from pixelrefer_ros.training.scoring import AnswerScores
from pixelrefer_ros.training.world import scene_examples

MODELS = Path(__file__).parent.parent / "models"
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
    assert "pixelrefer train language --out pixelrefer-shapes --seed 7" in text
    assert (
        "--steps 0 0" in text
        and "--scenes 9" in text
        and "--bf16" in text.split()
        and "two cores, 5 hours" in text
    )
    assert "`sizes.vision_width` = 32" in text, "what no option makes is not kept quiet"
    assert "evaluate shapes --seed 5 --scenes 50" in text and f"`{content_name(folder)}`" in text
    for row in GOALS:
        assert f"| {row} |" in text
    assert "## Limits" in text and "photograph" in text
    assert "local infusion" not in text


def test_a_card_says_if_local_infusion_has_learned_nothing(folder, tmp_path):
    silent = tmp_path / folder.name
    shutil.copytree(folder, silent)
    weights = load_file(silent / "model.safetensors")
    for name, tensor in weights.items():
        if name.endswith("fusion_attention_local.out_proj.weight"):
            tensor.zero_()
    save_file(weights, silent / "model.safetensors", metadata={"format": "pt"})
    assert "Its local infusion" in card(silent, report_of(silent, right=True))


def test_weights_that_no_single_command_made_say_so(folder, tmp_path):
    staged = tmp_path / folder.name
    shutil.copytree(folder, staged)
    recipe = json.loads((staged / RECIPE).read_text()) | {HISTORY: "they learned in three rounds"}
    (staged / RECIPE).write_text(json.dumps(recipe))
    text = card(staged, report_of(staged, right=True))
    assert "No single command made these weights: they learned in three rounds." in text
    assert "All settings are in" not in text and "`history`" not in text
    assert "No single command" not in card(folder, report_of(folder, right=True))


def test_a_checkpoint_that_was_trained_further_gets_no_card_that_would_be_wrong(folder, tmp_path):
    tuned = tmp_path / folder.name
    shutil.copytree(folder, tuned)
    recipe = json.loads((tuned / RECIPE).read_text()) | {"start_from": "/robots/released-2b"}
    (tuned / RECIPE).write_text(json.dumps(recipe))
    with pytest.raises(InputFileError, match="went on from /robots/released-2b"):
        card(tuned, report_of(tuned, right=True))


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
    (folder / "config.json").write_text("{}")
    save_file({"weights": torch.zeros(11_000_000, dtype=torch.uint8)}, folder / "model.safetensors")
    (folder / "recipe.json").write_text(json.dumps({"seed": 3, "image_size": 128, "parameters": 1_900_000}))
    score = {"mean": 0.91, "objects": 40}
    scores = {"first_frame_j": {"box": score, "point": score}}
    scores |= {"j_and_f": {"no occluder": score, "occluder": score, "full occlusion": score | {"mean": 0.5}}}
    file = tmp_path / "scores.json"
    name = content_name(folder)
    report = {"split": "test", "seed": 0, "scenes": 50, "tracker_model": name, "tracker": scores}
    file.write_text(json.dumps(report))
    assert main([str(folder), "--scores", str(file)]) == 0
    text = (folder / "README.md").read_text()
    assert "pixelrefer train tracker --out sam2-shapes --seed 3 --image-size 128" in text
    for row in TRACKER_GOALS:
        assert (f"| {row} |" in text) == (not row.startswith("category")), "no whole system was scored"
    assert "Goals not reached: J&F, after full occlusion." in text
    assert "larger than the 10 MB" in text
    assert f"`{name}`" in text
    for other in ("another", "sam2-shapes", "sam2-shapes@000000000000"):
        file.write_text(json.dumps(report | {"tracker_model": other}))
        assert main([str(folder), "--scores", str(file)]) == 2
        assert f"the scores are of {other}, the folder holds {name}" in capsys.readouterr().err


def test_an_evaluation_names_the_weights_of_a_tracker_by_their_content(tmp_path):
    folder = write_tiny_sam2(tmp_path / "tracker")
    report = evaluate_shapes(None, folder, seed=0, scenes=1, tracker_frames=2)
    assert report["tracker_model"] == f"tracker@{content_hash(folder)[:12]}"


@pytest.mark.parametrize(
    "folder", sorted(path.parent for path in MODELS.glob("*/README.md")), ids=lambda path: path.name
)
def test_a_shipped_card_is_of_the_files_beside_it(folder):
    text, recipe = (folder / "README.md").read_text(), json.loads((folder / RECIPE).read_text())
    megabytes = (folder / "model.safetensors").stat().st_size / 1e6
    assert f"{recipe['parameters'] / 1e6:.1f} million parameters in {megabytes:.1f} MB" in text
    named = re.findall(rf"`({re.escape(folder.name)}@[0-9a-f]+)`", text)  # cards of before have none
    assert set(named) <= {content_name(folder)}
