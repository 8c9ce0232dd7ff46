"""The recipe `detect`: scenes and their targets, from the grid back to boxes, the command end to end."""

import json
from pathlib import Path

import numpy as np
import pytest

from ranvier.__main__ import main
from ranvier.train.boxes import box_iou
from ranvier.train.data.scenes import compose_scene, random_texture, tight_box
from ranvier.train.recipes import detect

DATA = Path("/usr/share/datasets/fashion-mnist")
needs_data = pytest.mark.skipif(not DATA.exists(), reason="needs Debian's dataset-fashion-mnist")


def discs(count=20):
    """Stand-ins for garments: ellipses of several shapes, bright on black, [count, 28, 28], and labels."""
    rows, columns = np.mgrid[:28, :28] - 13.5
    widths = np.linspace(5, 13, count)[:, None, None]
    return ((columns / widths) ** 2 + (rows / 12) ** 2 < 1).astype(np.float32), np.arange(count) % 10


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detect")
    assert main(["train", "detect", "--quick", "--run-dir", str(folder)]) == 0
    return folder


@needs_data
@pytest.mark.slow
def test_it_finds_garments_after_a_short_training(run):
    result = json.loads((run / "result.json").read_text())
    assert result["test_scenes"] == 40
    assert result["located_map"] > 0.4
    assert result["map"] > 0.2
    assert 0.05 < result["template_matching_map"] < result["located_map"]
    assert set(result["average_precision"]) == set(detect.CLASSES)
    for picture in ("test.png", "scene.png", "curves.png"):
        assert (run / picture).read_bytes()[:4] == b"\x89PNG"


@needs_data
@pytest.mark.slow
def test_it_answers_for_pictures_of_any_size(run, capsys, tmp_path):
    from PIL import Image

    large = Image.open(run / "scene.png").resize((301, 250))
    large.convert("RGB").save(tmp_path / "large.jpg")
    assert main(["predict", str(run), str(run / "scene.png"), str(tmp_path / "large.jpg")]) == 0
    answers = capsys.readouterr().out.splitlines()
    assert [answer.split(": ")[0] for answer in answers] == [str(run / "scene.png"), str(tmp_path / "large.jpg")]
    assert (run / "found-scene.png").is_file()
    assert (run / "found-large.png").is_file()


def test_scenes_differ_and_a_seed_repeats_them():
    objects, labels = discs()
    pairs = [[compose_scene(objects, labels, np.random.default_rng(seed)) for _ in range(2)] for seed in range(30)]
    for one, same in pairs:
        for a, b in zip(one, same):
            np.testing.assert_array_equal(a, b)
    scenes = [one for one, _ in pairs]
    assert len({scene.tobytes() for scene, _, _ in scenes}) == 30
    assert len({len(boxes) for _, boxes, _ in scenes}) > 3
    for scene, boxes, kinds in scenes:
        assert scene.shape == (96, 96)
        assert scene.dtype == np.float32
        assert 0 <= scene.min() <= scene.max() <= 1
        assert len(boxes) == len(kinds) >= 1
        assert (boxes >= 0).all()
        assert (boxes <= 96).all()
        overlap = box_iou(boxes, boxes) - np.eye(len(boxes))
        assert overlap.max() < 0.15
        for x1, y1, x2, y2 in boxes.astype(int):  # what is drawn is white in its middle
            assert scene[(y1 + y2) // 2, (x1 + x2) // 2] > 0.99


def test_a_box_is_tight_and_a_texture_is_no_scene_of_one_colour():
    inside = np.zeros((8, 9), bool)
    inside[2:5, 3] = inside[4, 3:7] = True
    assert tight_box(inside).tolist() == [3, 2, 7, 5]
    assert random_texture(96, np.random.default_rng(0)).std() > 0.01


def test_the_grid_gives_back_the_boxes_it_was_told():
    objects, labels = discs()
    rng = np.random.default_rng(1)
    scenes = [compose_scene(objects, labels, rng) for _ in range(20)]
    numbers, classes = detect.targets(scenes)
    assert (classes >= 0).sum() == sum(len(kinds) for _, _, kinds in scenes)
    for (_, boxes, kinds), number, label in zip(scenes, numbers, classes):
        scores = np.where(label == np.arange(10)[:, None, None], 9.0, 0.0)
        told = np.concatenate([np.where(label >= 0, 9.0, -9.0)[None], number, scores])
        found, _, found_kinds = detect.surest(detect.detections(told))
        assert len(found) == len(boxes)
        overlap = box_iou(boxes, found)
        np.testing.assert_allclose(overlap.max(axis=1), 1, atol=1e-5)
        np.testing.assert_array_equal(found_kinds[overlap.argmax(axis=1)], kinds)


def test_of_two_cells_that_report_one_object_the_surer_stays():
    told = np.full((15, 3, 3), -9.0)
    told[0, 1, 1], told[0, 1, 2] = 2.0, 1.0
    told[1:5, 1, 1], told[1:5, 1, 2] = [0.9, 0.5, 0, 0], [0.1, 0.5, 0, 0]
    told[5 + 3, 1, 1:] = 9.0
    boxes, scores, kinds = detect.surest(detect.detections(told))
    assert kinds.tolist() == [3]
    np.testing.assert_allclose(boxes[0], [15.2 - 12, 12 - 12, 15.2 + 12, 12 + 12])
    assert scores[0] == pytest.approx(1 / (1 + np.exp(-2)), rel=1e-3)


def test_a_hesitant_cell_reports_its_box_with_each_class():
    told = np.full((15, 1, 1), -9.0)
    told[0], told[1:5], told[5 + 2], told[5 + 4] = 5.0, 0.0, 1.0, 0.0
    boxes, scores, kinds = detect.detections(told)
    assert kinds.tolist() == [2, 4]
    assert scores[0] / scores[1] == pytest.approx(np.e)
    np.testing.assert_array_equal(boxes[0], boxes[1])


def test_template_matching_finds_a_template():
    objects, _ = discs(3)
    scene = np.zeros((96, 96), np.float32)
    scene[40:68, 20:48] = objects[1]
    boxes, scores, kinds = detect.match(scene, objects)
    assert kinds[0] == 1
    assert scores[0] > 0.8
    assert box_iou(boxes[:1], tight_box(objects[1] > 0.5)[None] + np.array([20, 40, 20, 40]))[0, 0] > 0.7


def test_scenes_go_on_after_a_resumed_run_as_they_would_have():
    objects, labels = discs()

    def batches(epochs, **place):
        loader = detect.Scenes(objects, labels, 3, 2, seed=5)
        for name, value in place.items():
            setattr(loader, name, value)
        return [batch[0] for _ in range(epochs) for batch in loader]

    whole, rest = batches(2), batches(1, epoch=1, skip=1)
    np.testing.assert_array_equal(whole[4:], rest)
    assert not np.array_equal(whole[0], whole[3])


def test_missing_data_comes_with_the_command_that_brings_it(capsys, tmp_path):
    assert main(["train", "detect", "--data", str(tmp_path), "--run-dir", str(tmp_path)]) == 1
    assert "`apt-get install dataset-fashion-mnist`" in capsys.readouterr().err
