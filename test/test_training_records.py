# SPDX-License-Identifier: Apache-2.0
"""A user's records in the published layout: what is read, what is left out and told, and training on them."""

from __future__ import annotations

import argparse
import json
import shutil
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest

from pixelrefer_ros import cli
from pixelrefer_ros.errors import BadQuestion, EmptyRegion, ImageError, InputFileError, ParameterError
from pixelrefer_ros.model import PixelReferLite, write_tiny_checkpoint
from pixelrefer_ros.training import train
from pixelrefer_ros.training.checkpoints import tokenizer_of, trainable_network
from pixelrefer_ros.training.coco_masks import encode_rle
from pixelrefer_ros.training.data import loader, make_batch
from pixelrefer_ros.training.record_data import SKIPPED, Failures, RecordBatches, held_back, read_turn
from pixelrefer_ros.training.records import MAX_VIEWS, read_records
from pixelrefer_ros.training.text_rows import IGNORED

HEIGHT, WIDTH = 48, 64


pytestmark = pytest.mark.usefixtures("one_thread")


def run(*given: object) -> int:
    parser = argparse.ArgumentParser()
    train.add_arguments(parser)
    return train.run(parser.parse_args([str(value) for value in given]))


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


NOTHING = encode_rle(np.zeros((HEIGHT, WIDTH), bool))
OUTSIDE = [[WIDTH + 5, 5, WIDTH + 9, 5, WIDTH + 9, 9]]


@pytest.mark.parametrize("nothing", [NOTHING, encode_rle(np.zeros((HEIGHT, WIDTH), bool), compressed=False)])
def test_of_an_object_that_is_hidden_in_some_frames_the_others_are_looked_at(nothing, media, tmp_path):
    hidden = {str(number): nothing for number in range(300)}
    some = {"0": nothing, "1": RLE, "4": RLE, "5": nothing}
    seen_late = hidden | {str(number): RLE for number in range(300, 304)}
    turns, skipped = read_records(
        written(tmp_path, [video(masks=[own]) for own in (some, seen_late, hidden)]), media, most_broken=0.5
    )
    assert [list(turn.regions[0][1]) for turn in turns] == [[1, 4], [300, 301, 302, 303]]
    assert skipped.counts == {"an empty mask": 1}, "a record is left out where no frame is left"


@pytest.mark.parametrize("nothing", [None, [], {"segmentation": None}, {"segmentation": []}])
def test_a_frame_that_says_nothing_of_an_object_does_not_show_it(nothing, media, tmp_path, checkpoint):
    records = [video(masks=[{"0": nothing, "1": RLE}]), image(masks=[nothing]), video(masks=[{"0": nothing}])]
    turns, skipped = read_records(written(tmp_path, records), media, most_broken=0.7)
    assert [list(turn.regions[0][1]) for turn in turns] == [[1]]
    assert skipped.counts == {"an empty mask": 2}
    config, tokenizer = trainable_network(checkpoint).config, tokenizer_of(checkpoint)
    assert len(read_turn(turns[0], tokenizer, config).regions[0]) == 1


def test_a_line_may_hold_any_text_and_one_that_is_wrong_is_named(media, tmp_path):
    said = "A red\u2028striped\x85box\x1d."
    lines = [json.dumps(image(conversations=talk("What is <region>?", said)), ensure_ascii=False), "", "{"]
    (tmp_path / "a.jsonl").write_text("\r\n".join(lines[:2]), encoding="utf-8", newline="")
    [turn], _ = read_records(tmp_path / "a.jsonl", media, most_broken=0)
    assert turn.answer == said
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(InputFileError, match=r"a\.jsonl, line 3 cannot be read"):
        read_records(tmp_path / "a.jsonl", media, most_broken=0)


def test_a_polygon_that_lies_outside_of_its_frame_is_not_looked_at(media, tmp_path, checkpoint):
    """Whether it does, only the picture tells: the record gives no size."""
    records = [video(masks=[{"1": RLE, "4": OUTSIDE}]), video(masks=[{"1": OUTSIDE}])]
    some, none = read_records(written(tmp_path, records), media, most_broken=0)[0]
    config, tokenizer = trainable_network(checkpoint).config, tokenizer_of(checkpoint)
    [region] = read_turn(some, tokenizer, config).regions
    assert [view.time_s for view in region] == [0.1]
    with pytest.raises(EmptyRegion, match=r"object 0 has no pixel in frames \[1\]"):
        read_turn(none, tokenizer, config)


def test_a_path_may_be_a_list_of_one(media, tmp_path):
    records = [image(image=["0.png"]), video(video=["film.mp4"]), image(image=["0.png", "1.png"])]
    turns, skipped = read_records(written(tmp_path, records), media, most_broken=0.5)
    assert [turn.media for turn in turns] == [media / "0.png", media / "film.mp4"]
    assert skipped.counts == {"the media's path is no text": 1}


def test_what_comes_before_the_first_question_is_left_out_and_told(media, tmp_path):
    begins = [{"from": "system", "value": "You are a robot."}, {"from": "gpt", "value": "Hello!"}]
    records = [image(conversations=begins[:count] + talk("What is <region>?", "A box.")) for count in (1, 2)]
    turns, skipped = read_records(written(tmp_path, records), media, most_broken=0)
    assert [(turn.question, turn.answer) for turn in turns] == [("What is <region>?", "A box.")] * 2
    assert skipped.counts == {"what comes before the first question": 2}


def test_a_folder_of_frames_that_says_no_rate_is_of_three_frames_a_second(media, tmp_path, checkpoint):
    record = video(video="frames", masks=[{"0": RLE, "3": RLE}])
    [turn], _ = read_records(written(tmp_path, [record]), media, most_broken=0)
    [region] = read_turn(turn, tokenizer_of(checkpoint), trainable_network(checkpoint).config).regions
    assert [view.time_s for view in region] == [0.0, 1.0]


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
    image(masks=[NOTHING]),
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

    batches = RecordBatches(turns, checkpoint, config, seed=0, questions=4, limit=1)
    assert len(Failures(batches, tmp_path).sifted(batches[0]).rows.ids) == 4
    told = [json.loads(line) for line in (tmp_path / SKIPPED).read_text().splitlines()]
    assert [line["record"] for line in told] == [3]
    assert "broken.png" in told[0]["reason"]
    batches = RecordBatches(turns, checkpoint, config, seed=0, questions=4, limit=0)
    with pytest.raises(InputFileError, match=r"1 of 4 questions cannot be read.*max-broken"):
        Failures(batches, tmp_path).sifted(batches[0])


def test_failures_are_counted_over_all_processes_that_read(media, tmp_path, checkpoint):
    records = [image(image="broken.png" if number in (4, 8, 11) else "0.png") for number in range(12)]
    turns, _ = read_records(written(tmp_path, records), media, most_broken=0)
    config = trainable_network(checkpoint).config
    batches = RecordBatches(turns, checkpoint, config, seed=0, questions=3, limit=2)
    failures, read = Failures(batches, tmp_path), list(loader(batches, range(4), workers=2))
    of_worker = [{f.place for r in read[first::2] for f in r.failed} for first in range(2)]
    assert max(map(len, of_worker)) <= 2, "none of the two has seen too many by itself"
    with pytest.raises(InputFileError, match="3 of 12 questions cannot be read") as raised:
        [failures.sifted(one) for one in read]
    assert "Traceback" not in str(raised.value)
    told = [json.loads(line)["record"] for line in (tmp_path / SKIPPED).read_text().splitlines()]
    assert sorted(told) == [4, 8, 11]


def test_a_run_whose_workers_find_too_much_broken_ends_in_one_clear_line(media, tmp_path, checkpoint, capsys):
    records = written(tmp_path, [image(image="broken.png") for _ in range(4)])
    given = ["train", "language", "--out", tmp_path / "x", "--from", checkpoint, "--data", records]
    given += ["--media", media, "--steps", 1, 0, "--questions", 2, "--workers", 1, "--device", "cpu"]
    assert cli.main([str(value) for value in given]) == cli.BAD_INPUT
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("pixelrefer: 1 of 4 questions cannot be read, the last one because ")
    assert "Traceback" not in said and "broken.png is no picture that can be decoded" in said


@pytest.mark.parametrize(
    ("record", "error"),
    [
        (image(masks=[encode_rle(np.ones((8, 8), bool))]), ImageError),
        (image(masks=[POLYGON], height=2 * HEIGHT, width=2 * WIDTH), ImageError),
        (video(masks=[{"4": POLYGON}], height=WIDTH, width=HEIGHT), ImageError),
        (video(masks=[{"50": RLE}]), ImageError),
        (video(video="0.png", masks=[{"1": RLE}]), ImageError),
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
    batches = RecordBatches(turns, checkpoint, config, seed=1, questions=4, limit=0)
    answers = [
        tokenizer.decode(row[row != IGNORED].tolist())
        for number in range(3)
        for row in batches[number].batch.rows.labels
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


def test_one_command_fine_tunes_on_records_and_tells_how_often_they_are_shown(
    media, tmp_path, checkpoint, capsys
):
    records = [image(image="broken.png"), *[image()] * 24, *[video()] * 24]
    out = tmp_path / "tuned"
    given = ["language", "--out", out, "--from", checkpoint, "--data", written(tmp_path, records)]
    given += ["--media", media, "--steps", 2, 1, "--questions", 3, "--workers", 0, "--device", "cpu"]
    assert run(*given, "--validate-every", 1) == 0
    said = capsys.readouterr().err
    assert "stage 1: 47 questions to learn from, 2 held back; 2 steps of 3 show each 0.13 times" in said
    assert "stage 2: 47 questions to learn from, 2 held back; 1 steps of 3 show each 0.064 times" in said
    PixelReferLite.from_pretrained(out)
    assert (out / "training" / "validation.csv").read_text().count("\n") == 4


def test_every_file_is_checked_before_anything_is_written(media, tmp_path, checkpoint):
    given = ("language", "--from", checkpoint, "--media", media, "--steps", 1, 1, "--device", "cpu")
    good, bad = written(tmp_path / "good", [image()]), written(tmp_path / "bad", [image(image="gone.png")])
    for second in (bad, tmp_path / "nowhere.json"):
        with pytest.raises(InputFileError, match=str(second)):
            run(*given, "--out", tmp_path / "out", "--data", good, second)
    assert not (tmp_path / "out").exists()


def test_the_folder_and_the_media_of_records_may_have_moved_when_a_run_goes_on(media, tmp_path, checkpoint):
    given = ("language", "--out", tmp_path / "out", "--workers", 0, "--device", "cpu", "--questions", 2)
    given += ("--validate-every", 0, "--steps", 1, 0)
    first = written(tmp_path / "first", [image()])
    assert run(*given, "--from", checkpoint, "--data", first, "--media", media) == 0
    moved = shutil.copytree(media, tmp_path / "moved"), shutil.copy(first, tmp_path)
    again = shutil.copytree(checkpoint, tmp_path / checkpoint.name)
    assert run(*given, "--from", again, "--data", moved[1], "--media", moved[0], "--max-broken", 0.5) == 0
    with pytest.raises(ParameterError, match=r"--data was .* and is .*other\.json"):
        run(*given, "--from", again, "--data", shutil.copy(first, tmp_path / "other.json"), "--media", media)


@pytest.mark.parametrize("given", [("--media", "x"), ("--questions", 3), ("--data", "a", "b", "c")])
def test_settings_of_records_need_records(given, tmp_path):
    with pytest.raises(ParameterError, match="--data"):
        run("language", "--out", tmp_path / "x", *given)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--data", "a"), "--data needs --from"),
        (("--data", "a", "--from", "b", "--scenes", 3), "--scenes is of the shapes world"),
    ],
)
def test_records_teach_no_new_model_and_have_no_scenes(given, told, tmp_path):
    with pytest.raises(ParameterError, match=told):
        run("language", "--out", tmp_path / "x", *given)
    assert not (tmp_path / "x").exists()
