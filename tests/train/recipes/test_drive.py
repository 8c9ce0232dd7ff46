"""The recipe `drive`: the drawn world is consistent, the expert drives it, and a network learns to."""

import json

import numpy as np
import pytest

from ranvier.__main__ import main
from ranvier.train.recipes import drive

pytestmark = pytest.mark.slow


def road(seed=0):
    return drive.Road(np.random.default_rng(seed))


def test_offset_and_place_of_a_pose_are_what_was_asked():
    one = road()
    places = np.linspace(5, one.length - 5, 9)
    poses = one.pose(places, np.full(9, 1.5), np.zeros(9))
    aside, place = one.offset(poses[:, 0], poses[:, 1])
    np.testing.assert_allclose(np.abs(aside), 1.5, atol=0.1)
    np.testing.assert_allclose(place, places, atol=1.2)


def test_the_expert_steers_back_to_the_middle():
    one = road()
    left, middle, right = one.expert(one.pose(np.full(3, 50.0), np.array([3.0, 0.0, -3.0]), np.zeros(3)))
    assert left < middle < right  # left of the middle it steers to the right, which is negative


def test_the_camera_sees_road_ahead_grass_beside_sky_above():
    one = road()
    image = one.photograph(one.pose(np.array([50.0]), np.array([0.0]), np.array([0.0])))[0]
    assert image.shape == (3, drive.ROWS, drive.COLUMNS)
    red, green, blue = image[:, 0, 10]
    assert blue > green > red
    assert np.ptp(image[:, -1, 40]) < 0.1  # grey just before the car
    turned = one.photograph(one.pose(np.array([50.0]), np.array([0.0]), np.array([np.pi / 2])))[0]
    assert turned[1, 8, 32] > turned[0, 8, 32] + 0.1  # green where it looks away from the road


def test_a_lap_ends_when_completed_or_off_the_road():
    one = road()

    class Car:
        """Steers by the map; knows where it is by moving as `drive` moves it."""

        def __init__(self):
            self.pose = one.pose(np.float64(0), np.float64(0), 0.0)

        def __call__(self, images):
            steering = one.expert(self.pose[None])
            self.pose[2] += steering[0] * drive.SHARPEST / 2
            self.pose[:2] += np.array([np.cos(self.pose[2]), np.sin(self.pose[2])])
            self.pose[2] += steering[0] * drive.SHARPEST / 2
            return steering

    (lap,) = drive.drive([one], Car(), "the expert")
    assert lap["completed"]
    assert np.abs(lap["aside"]).max() < 1
    (straight,) = drive.drive([one], lambda images: np.zeros(1), "straight")
    assert not straight["completed"]
    assert straight["metres"] < 60


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("drive")
    assert main(["train", "drive", "--quick", "--run-dir", str(folder)]) == 0
    return folder


def test_the_network_drives_roads_it_never_saw(trained):
    result = json.loads((trained / "result.json").read_text())
    assert result["completed"] >= 0.5 * result["roads"]
    assert result["mean_metres"] > 3 * max(result["straight_mean_metres"], result["constant_mean_metres"])
    for name in ("paths.png", "camera.png", "curves.png", "checkpoint/state.json"):
        assert (trained / name).is_file()


def test_predict_steers_by_a_picture_and_the_other_way_by_its_mirror_image(trained, tmp_path, capsys):
    from PIL import Image, ImageOps

    one = road(3)
    pose = one.pose(np.array([50.0]), np.array([0.0]), np.array([0.35]))  # turned to the left: it must steer right
    pixels = (one.photograph(pose)[0].transpose(1, 2, 0) * 255).round().astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    ImageOps.mirror(Image.fromarray(pixels)).save(tmp_path / "b.png")
    assert main(["predict", str(trained), str(tmp_path / "a.png"), str(tmp_path / "b.png")]) == 0
    first, second = (float(line.split("steering ")[1].split(",")[0]) for line in capsys.readouterr().out.splitlines())
    assert first < -0.1
    assert second > 0.1
