# SPDX-License-Identifier: Apache-2.0
"""A user's records in the published layout: what is read, what is left out and told, and training on them."""

from __future__ import annotations

import argparse
import json
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from pixelrefer_ros.errors import BadQuestion, ImageError, InputFileError, ParameterError
from pixelrefer_ros.model import PixelReferLite, write_tiny_checkpoint
from pixelrefer_ros.training import train
from pixelrefer_ros.training.checkpoints import tokenizer_of, trainable_network
from pixelrefer_ros.training.coco_masks import encode_rle
from pixelrefer_ros.training.data import make_batch
from pixelrefer_ros.training.record_data import SKIPPED, RecordBatches, held_back, read_turn
from pixelrefer_ros.training.records import MAX_VIEWS, read_records
from pixelrefer_ros.training.text_rows import IGNORED

HEIGHT, WIDTH = 48, 64


pytestmark = pytest.mark.usefixtures("one_thread")


def picture(number: int) -> np.ndarray:
    rgb = np.full((HEIGHT, WIDTH, 3), 40 * number % 256, np.uint8)
    rgb[10:30, 10:40] = (250, 20, 20)
    return rgb


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    for number in range(3):
        cv2.imwrite(str(folder / f"{number}.png"), picture(number)[..., ::-1])
    (folder / "frames").mkdir()
    for number in range(4):
        cv2.imwrite(str(folder / "frames" / f"{number:05}.png"), picture(number)[..., ::-1])
    (folder / "broken.png").write_bytes(b"no picture")
    with av.open(str(folder / "film.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(10))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for number in range(6):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        container.mux(stream.encode())
    return folder


def mask() -> np.ndarray:
    found = np.zeros((HEIGHT, WIDTH), bool)
    found[10:30, 10:40] = True
    return found


RLE = encode_rle(mask())
POLYGON = [[10, 10, 40, 10, 40, 30, 10, 30]]


def talk(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]


def image(**changed: object) -> dict[str, object]:
    record = {"image": "0.png", "conversations": talk("<image>\nWhat is <region>?", "A box."), "masks": [RLE]}
    return {key: value for key, value in (record | changed).items() if value is not None}


def video(**changed: object) -> dict[str, object]:
    masks = [{"1": RLE, "4": POLYGON}]
    record = {
        "video": "film.mp4",
        "conversations": talk("<video>\nWhat is <region>?", "A box."),
        "masks": masks,
    }
    return {key: value for key, value in (record | changed).items() if value is not None}


def written(folder, records: list[object]):
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "records.json"
    file.write_text(json.dumps(records))
    return file


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_tiny_checkpoint(tmp_path_factory.mktemp("released"), mask_num=4, tied=False)


def test_images_and_videos_in_every_spelling_are_read(media, tmp_path, checkpoint):
    records = [
        image(),
        image(masks=[POLYGON]),
        image(masks=[POLYGON], height=HEIGHT, width=WIDTH),
        image(masks=[encode_rle(mask(), compressed=False)]),
        image(masks=None, annotation=[{"0": {"segmentation": RLE}}]),
        image(conversations=talk("What is it?", "A box.")),
        image(conversations=talk("Is <region> as <region>?", "Yes."), masks=[RLE, POLYGON]),
        video(),
        video(video="frames", fps=5, masks=[{"0": RLE, "3": RLE}]),
        video(masks=None, annotation=[{"2": {"segmentation": RLE}}]),
    ]
    turns, skipped = read_records(written(tmp_path, records), media, most_broken=0)
    assert not skipped.counts
    assert [turn.number for turn in turns] == list(range(len(records)))
    assert not any("<image>" in turn.question or "<video>" in turn.question for turn in turns)
    config, tokenizer = trainable_network(checkpoint).config, tokenizer_of(checkpoint)
    read = [read_turn(turn, tokenizer, config) for turn in turns]
    for turn in read:
        for region in turn.regions:
            for view in region:
                union = np.count_nonzero(view.mask | mask())
                assert np.count_nonzero(view.mask & mask()) > 0.85 * union  # a polygon's edge is a pixel wide
    assert [view.time_s for view in read[7].regions[0]] == [0.1, 0.4]
    assert [view.time_s for view in read[8].regions[0]] == [0.0, 0.6]
    assert [view.time_s for view in read[0].regions[0]] == [None]
    # Lossy compression moves colours a little; another frame differs by 40 in all of the background.
    assert abs(int(read[7].regions[0][1].rgb[2, 60].mean()) - 160) < 20
    batch = make_batch(read, tokenizer, config)
    answer = batch.rows.labels[0][batch.rows.labels[0] != IGNORED].tolist()
    assert tokenizer.decode(answer) == "A box."


def test_turns_take_their_masks_in_the_order_of_reading(media, tmp_path):
    texts = ("What is <region>?", "A.", "And <region> beside <region>?", "B.", "Why?", "C.")
    record = image(conversations=talk(*texts), masks=[RLE, RLE, RLE])
    turns, skipped = read_records(written(tmp_path, [record]), media, most_broken=0)
    assert [[name for name, _ in turn.regions] for turn in turns] == [[0], [1, 2]]
    assert skipped.counts == {"a turn without <region>": 1}


def test_an_object_of_many_frames_is_looked_at_in_a_few(media, tmp_path):
    record = video(masks=[{str(number): RLE for number in range(0, 200, 2)}])
    turns, _ = read_records(written(tmp_path, [record]), media, most_broken=0)
    numbers = list(turns[0].regions[0][1])
    assert len(numbers) == MAX_VIEWS
    assert (numbers[0], numbers[-1]) == (0, 198)


BROKEN = [
    "text",
    image(image=None),
    image(video="film.mp4"),
    image(image="nowhere.png"),
    image(image="../outside.png"),
    image(conversations=[]),
    image(conversations=talk("Only <region>?")),
    image(conversations=talk("What is <region>?", "")),
    image(conversations=[{"from": "gpt", "value": "?"}, {"from": "human", "value": "!"}]),
    image(masks=[]),
    image(masks=[RLE, RLE]),
    image(masks=[{"size": [HEIGHT, WIDTH], "counts": [1]}]),
    image(masks=[encode_rle(np.zeros((HEIGHT, WIDTH), bool))]),
    image(height=5, width="wide"),
    image(height=HEIGHT + 1, width=WIDTH),
    video(masks=[{"one": RLE}]),
    video(masks=[{}]),
    video(fps=0),
]


def test_broken_records_are_counted_by_reason_and_shown(media, tmp_path):
    (media.parent / "outside.png").write_bytes(b"")
    file = written(tmp_path, [image(), *BROKEN, *[image(image="gone.png")] * 5])
    turns, skipped = read_records(file, media, most_broken=1.0)
    assert [turn.number for turn in turns] == [0]
    assert sum(skipped.counts.values()) == len(BROKEN) + 5
    assert skipped.counts["media that is not there"] == 6
    lines = "\n".join(skipped.lines())
    assert "6 x media that is not there: record 4: nowhere.png" in lines
    assert "record 23" not in lines  # the first few are enough


def test_too_many_broken_records_stop_the_run(media, tmp_path):
    file = written(tmp_path, [image()] * 8 + [image(image="gone.png")] * 2)
    assert len(read_records(file, media, most_broken=0.2)[0]) == 8
    with pytest.raises(InputFileError, match=r"2 of 10 records.*\n2 x media that is not there"):
        read_records(file, media, most_broken=0.1)


@pytest.mark.parametrize("text", ["", "{}", "[", "[]"])
def test_a_file_that_is_no_list_of_records_is_refused(text, media, tmp_path):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputFileError):
        read_records(tmp_path / "x.json", media, most_broken=1.0)


def test_pictures_that_fail_are_told_replaced_and_bounded(media, tmp_path, checkpoint):
    records = [image(image=f"{number}.png") for number in range(3)] + [image(image="broken.png")]
    turns, _ = read_records(written(tmp_path, records), media, most_broken=0)
    config = trainable_network(checkpoint).config

    def batches(limit: int) -> RecordBatches:
        return RecordBatches(turns, checkpoint, config, seed=0, questions=4, log=tmp_path, limit=limit)

    assert len(batches(1)[0].rows.ids) == 4
    told = [json.loads(line) for line in (tmp_path / SKIPPED).read_text().splitlines()]
    assert [line["record"] for line in told] == [3]
    assert "broken.png" in told[0]["reason"]
    with pytest.raises(InputFileError, match="max-broken"):
        batches(0)[0]


@pytest.mark.parametrize(
    ("record", "error"),
    [
        (image(masks=[encode_rle(np.ones((8, 8), bool))]), ImageError),
        (video(masks=[{"50": RLE}]), ImageError),
        (video(video="frames", masks=[{"0": RLE, "1": RLE}]), BadQuestion),
        (image(conversations=talk("<region> " + "why " * 5000, "Because.")), BadQuestion),
    ],
)
def test_what_only_the_pictures_tell_is_refused(record, error, media, tmp_path, checkpoint):
    turns, _ = read_records(written(tmp_path, [record]), media, most_broken=0)
    with pytest.raises(error):
        read_turn(turns[0], tokenizer_of(checkpoint), trainable_network(checkpoint).config)


def test_every_question_comes_once_per_pass(media, tmp_path, checkpoint):
    records = [image(conversations=talk("What is <region>?", f"Box {number}.")) for number in range(6)]
    turns, _ = read_records(written(tmp_path, records), media, most_broken=0)
    tokenizer, config = tokenizer_of(checkpoint), trainable_network(checkpoint).config
    batches = RecordBatches(turns, checkpoint, config, seed=1, questions=4, log=tmp_path, limit=0)
    answers = [
        tokenizer.decode(row[row != IGNORED].tolist())
        for number in range(3)
        for row in batches[number].rows.labels
    ]
    assert sorted(answers[:6]) == sorted(answers[6:]) == sorted(turn.answer for turn in turns)


def test_held_back_records_are_whole_and_few(media, tmp_path):
    texts = ("What is <region>?", "A.", "What is <region>?", "B.")
    records = [image(conversations=talk(*texts), masks=[RLE, RLE])] * 60
    turns, _ = read_records(written(tmp_path, records), media, most_broken=0)
    shown, others = held_back(turns)
    assert len(shown) + len(others) == len(turns)
    assert len(others) == 6
    assert not {turn.number for turn in shown} & {turn.number for turn in others}


def test_one_command_fine_tunes_on_records(media, tmp_path, checkpoint):
    records = [image(image="broken.png"), *[image()] * 24, *[video()] * 24]
    out = tmp_path / "tuned"
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    given = ["language", "--out", out, "--from", checkpoint, "--data", written(tmp_path, records)]
    given += ["--media", media, "--steps", 2, 1, "--questions", 3, "--workers", 0, "--device", "cpu"]
    assert train.run(parser.parse_args([str(value) for value in [*given, "--validate-every", 1]])) == 0
    PixelReferLite.from_pretrained(out)
    assert (out / "training" / "validation.csv").read_text().count("\n") == 4


@pytest.mark.parametrize("given", [("--media", "x"), ("--questions", 3), ("--data", "a", "b", "c")])
def test_settings_of_records_need_records(given, tmp_path):
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    with pytest.raises(ParameterError, match="--data"):
        train.run(parser.parse_args([str(v) for v in ("language", "--out", tmp_path / "x", *given)]))
