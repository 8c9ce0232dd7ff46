"""A car that learns to steer from camera pictures by watching an expert, and then drives roads it has never seen.

The recipe draws its own world: closed roads of random shape, and the picture that a camera on the car takes of them. An
expert who knows the map (pure pursuit: steer at a point of the centre line 8 m ahead) says at many places how it would
steer, and a convolutional network learns to say the same from the picture alone. This is imitation learning, a
regression from 32 x 64 pixels to one number, in the manner of Pomerleau's ALVINN (1989) and Bojarski et al. (2016).

What a beginner gets wrong: an expert never leaves the middle, so a network that only watched has not seen how to get
back there, and small errors of its own can add up until it is off the road. So the training pictures are taken from all
over the road, turned away from its direction, with the steering that leads back (recovery).

Then the network drives, in closed loop: what it sees next is what its own steering led to. A road counts as completed
after a whole lap without leaving it. Baselines: always straight on, and the constant curve that is best in hindsight.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

import ranvier as rv

from .. import metrics, pictures, run_folder
from ..data import ArrayDataset, DataLoader, read_image
from ..trainer import Trainer

HALF_WIDTH = 4.0  # of the road, m
STEP = 1.0  # between two decisions, m (a tenth of a second at 36 km/h)
SHARPEST = 0.125  # the curvature of the tightest turn that the car can make, 1/m
ROWS, COLUMNS = 32, 64  # of the picture
HEIGHT = 1.5  # of the camera above the road, m


class Road:
    """A closed road around the origin, its centre line given by the radius at each angle: r(t) = R (1 + waves).

    Args:
        rng: draws shape, direction and light.
    """

    def __init__(self, rng: np.random.Generator):
        self.angle = np.linspace(-np.pi, np.pi, 4097)
        tightest = 0.0
        while tightest < 1.3 / SHARPEST:
            self.radius = np.full(self.angle.shape, rng.uniform(35, 55))
            for wave, size in ((2, 0.2), (3, 0.15), (4, 0.1), (5, 0.06)):
                phase = rng.uniform(0, 2 * np.pi)
                self.radius = self.radius * (1 + rng.uniform(-size, size) * np.cos(wave * self.angle + phase))
            self.points = self.radius[:, None] * np.stack([np.cos(self.angle), np.sin(self.angle)], axis=1)
            tangent = np.gradient(self.points, self.angle, axis=0)
            curvature = _cross(tangent, np.gradient(tangent, self.angle, axis=0)) / np.linalg.norm(tangent, axis=1) ** 3
            tightest = 1 / np.abs(curvature[5:-5]).max()
        self.tilt = np.cos(np.arctan2(np.gradient(self.radius, self.angle), self.radius))
        steps = np.linalg.norm(np.diff(self.points, axis=0), axis=1)
        self.arc = np.concatenate([[0], np.cumsum(steps)])
        self.length = float(self.arc[-1])
        self.direction = rng.choice([-1.0, 1.0])
        self.light = rng.uniform(0.75, 1.15)
        self.grass = np.array([0.25, 0.5, 0.2]) + rng.uniform(-0.08, 0.08, 3)
        self.asphalt = np.array([0.4, 0.4, 0.42]) + rng.uniform(-0.08, 0.08)

    def offset(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distance from the centre line (+ outside, to first order in it) and place along it, both m."""
        place = np.rint((np.arctan2(y, x) + np.pi) / (2 * np.pi) * 4096).astype(np.int64)
        return (np.hypot(x, y) - self.radius[place]) * self.tilt[place], self.arc[place]

    def centre(self, place: np.ndarray) -> np.ndarray:
        """Points [..., 2] of the centre line at places along it."""
        place = place % self.length
        return np.stack([np.interp(place, self.arc, self.points[:, axis]) for axis in (0, 1)], axis=-1)

    def pose(self, place, aside, turned) -> np.ndarray:
        """(x, y, heading) [..., 3] of a car at a place, so far aside of the centre line and turned away from it."""
        here, ahead = self.centre(place), self.centre(place + 0.1 * self.direction)
        heading = np.arctan2(*np.moveaxis(ahead - here, -1, 0)[::-1])
        normal = np.stack([-np.sin(heading), np.cos(heading)], axis=-1)
        return np.concatenate([here + normal * np.asarray(aside)[..., None], (heading + turned)[..., None]], axis=-1)

    def expert(self, poses: np.ndarray, ahead: float = 8.0) -> np.ndarray:
        """Pure pursuit: the curvature of the circle from the car, along its heading, to a point ahead; in -1..1."""
        _, place = self.offset(poses[..., 0], poses[..., 1])
        to = self.centre(place + ahead * self.direction) - poses[..., :2]
        heading = np.stack([np.cos(poses[..., 2]), np.sin(poses[..., 2])], axis=-1)
        return np.clip(2 * _cross(heading, to) / (to**2).sum(axis=-1) / SHARPEST, -1, 1)

    def photograph(self, poses: np.ndarray) -> np.ndarray:
        """What the camera sees from poses [N, 3]: [N, 3, ROWS, COLUMNS] float32 in 0..1."""
        below = np.radians(np.linspace(-3, 38, ROWS))[:, None]  # the horizon: so far below it each row looks
        beside = np.radians(np.linspace(40, -40, COLUMNS))[None, :]
        forward = HEIGHT / np.tan(np.maximum(below, np.radians(1.5))) * np.ones_like(beside)
        left = forward * np.tan(beside)
        cos, sin = np.cos(poses[:, 2, None, None]), np.sin(poses[:, 2, None, None])
        x = poses[:, 0, None, None] + forward * cos - left * sin
        y = poses[:, 1, None, None] + forward * sin + left * cos
        aside, along = self.offset(x, y)
        grain = np.modf(np.abs(np.sin(np.floor(2 * x) * 12.99 + np.floor(2 * y) * 78.23)) * 43758.5)[0][..., None]
        image = np.where(np.abs(aside)[..., None] < HALF_WIDTH, self.asphalt, self.grass) + 0.1 * (grain - 0.5)
        image = np.where((np.abs(np.abs(aside) - HALF_WIDTH + 0.2) < 0.2)[..., None], 0.9, image)
        dashes = (np.abs(aside) < 0.15) & (along % 6 < 3)
        image = np.where(dashes[..., None], [0.9, 0.8, 0.3], image)
        image = np.where(below[..., None] < 0, [0.6, 0.75, 0.95], image)
        return np.clip(image * self.light, 0, 1).astype(np.float32).transpose(0, 3, 1, 2)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(epochs=12)


def build() -> rv.Layer:
    return rv.Sequential(
        rv.Conv2d(3, 16, 5, stride=2, padding=2),
        rv.ReLU(),
        rv.Conv2d(16, 32, 3, stride=2, padding=1),
        rv.ReLU(),
        rv.Conv2d(32, 48, 3, stride=2, padding=1),
        rv.ReLU(),
        rv.Flatten(),
        rv.Dropout(0.1),
        rv.Dense(48 * 4 * 8, 64, activation="relu"),
        rv.Dense(64, 1),
        rv.Flatten(0),
    )


def lessons(roads: list[Road], each: int, rng: np.random.Generator) -> ArrayDataset:
    """Pictures from all over the roads, and how the expert steers there."""
    images, steering = [], []
    for road in tqdm(roads, desc="taking pictures", unit="road"):
        place, aside = rng.uniform(0, road.length, each), rng.uniform(-0.8, 0.8, each) * HALF_WIDTH
        poses = road.pose(place, aside, rng.normal(0, 0.2, each))
        images.append(road.photograph(poses))
        steering.append(road.expert(poses).astype(np.float32))
    return ArrayDataset(np.concatenate(images), np.concatenate(steering))


def drive(roads: list[Road], steer, name: str) -> list[dict]:
    """One lap on each road at once.

    Args:
        steer: pictures [N, 3, ROWS, COLUMNS] -> steering [N] in -1..1, + to the left.

    Returns:
        for each road: `path` [steps, 3] of poses, `aside` [steps] m from the centre line, `metres` driven on the road,
        `completed`.
    """
    cars = np.stack([road.pose(np.float64(0), np.float64(0), 0.0) for road in roads])
    laps = [{"path": [], "aside": [], "metres": 0.0, "completed": False} for _ in roads]
    active = np.arange(len(roads))
    with tqdm(desc=f"driving, {name}", unit="step", leave=False) as bar:
        while len(active):
            images = np.concatenate([roads[i].photograph(cars[i : i + 1]) for i in active])
            curvature = np.clip(steer(images), -1, 1) * SHARPEST
            for i, bend in zip(active, curvature):
                lap, before = laps[i], roads[i].offset(cars[i, 0], cars[i, 1])
                lap["path"].append(cars[i].copy())
                lap["aside"].append(float(before[0]))
                cars[i, 2] += bend * STEP / 2  # the middle heading of the step
                cars[i, :2] += STEP * np.array([np.cos(cars[i, 2]), np.sin(cars[i, 2])])
                cars[i, 2] += bend * STEP / 2
                aside, place = roads[i].offset(cars[i, 0], cars[i, 1])
                gained = (place - before[1]) * roads[i].direction
                lap["metres"] += float((gained + roads[i].length / 2) % roads[i].length - roads[i].length / 2)
                lap["completed"] = lap["metres"] >= roads[i].length
                lap["off"] = abs(aside) > HALF_WIDTH or lap["metres"] < -5 or len(lap["path"]) > 3 * roads[i].length
            active = np.array([i for i in active if not (laps[i]["completed"] or laps[i]["off"])], np.int64)
            bar.update()
    return [lap | {"path": np.array(lap["path"]), "aside": np.array(lap["aside"])} for lap in laps]


def run(options: argparse.Namespace) -> dict:
    rng = np.random.default_rng(options.seed)
    seen, each, epochs = (12, 125, min(8, options.epochs)) if options.quick else (60, 125, options.epochs)
    roads = [Road(rng) for _ in range(seen + 16)]
    training, validation, test = roads[:seen], roads[seen : seen + 4], roads[seen + 4 :]
    model = build()
    train_loader = DataLoader(lessons(training, each, rng), batch_size=64, shuffle=True)
    optimizer = rv.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    trainer = Trainer(
        model,
        rv.MSELoss(),
        optimizer,
        max_epochs=epochs,
        schedule=rv.optim.OneCycleLR(optimizer, max_lr=2e-3, total_steps=epochs * len(train_loader)),
        schedule_interval="step",
        metrics={"absolute_error": metrics.MAE()},
        device=options.device,
        run_dir=options.run_dir,
    )
    trainer.fit(train_loader, DataLoader(lessons(validation, each, rng), batch_size=250), resume=options.resume)

    model.eval()

    def network(images: np.ndarray) -> np.ndarray:
        with rv.no_grad():
            return model(rv.tensor(images, device=options.device)).numpy()

    best_curve = max(  # in hindsight: the one that gets farthest on these very roads
        np.linspace(-0.3, 0.3, 13),
        key=lambda c: sum(lap["metres"] for lap in drive(test, _always(c), "constant curves")),
    )
    laps = {
        "the network": drive(test, network, "the network"),
        "always straight": drive(test, _always(0.0), "straight"),
        f"constant curve {best_curve:+.2f}": drive(test, _always(best_curve), "a constant curve"),
    }
    return report(options, test, laps, network)


def _always(steering: float):
    return lambda images: np.full(len(images), steering)


def report(options, roads: list[Road], laps: dict, network) -> dict:
    print(f"\n{len(roads)} roads never seen before, {sum(road.length for road in roads):.0f} m in all, 8 m wide")
    print(f"{'':22} laps completed   metres before leaving   mean distance from the middle")
    for name, driven in laps.items():
        completed, metres = sum(lap["completed"] for lap in driven), np.mean([lap["metres"] for lap in driven])
        print(f"{name:22} {completed:7} of {len(roads)} {metres:17.0f} m {_mean_aside(driven):25.2f} m")
    driven, straight, constant = laps.values()
    result = {
        "roads": len(roads),
        "completed": sum(lap["completed"] for lap in driven),
        "mean_metres": float(np.mean([lap["metres"] for lap in driven])),
        "mean_aside_metres": _mean_aside(driven),
        "straight_completed": sum(lap["completed"] for lap in straight),
        "straight_mean_metres": float(np.mean([lap["metres"] for lap in straight])),
        "constant_completed": sum(lap["completed"] for lap in constant),
        "constant_mean_metres": float(np.mean([lap["metres"] for lap in constant])),
    }
    draw_paths(roads, laps, options.run_dir / "paths.png")
    draw_camera(roads[0], driven[0]["path"], network, options.run_dir)
    run_folder.write_result(options.run_dir, result)
    print(
        f"\nrun folder  {options.run_dir}/  (paths.png, camera.png, camera-*.png, curves.png, result.json, checkpoint/)"
    )
    return result


def _mean_aside(driven: list[dict]) -> float:
    return float(np.mean(np.abs(np.concatenate([lap["aside"] for lap in driven]))))


def draw_paths(roads: list[Road], laps: dict, path: Path) -> None:
    """The roads from above with the paths on them; a cross where a car left the road."""
    figure, axes = pictures.new_figure(14, 10.5, 3, 4)
    for index, (axis, road) in enumerate(zip(axes, roads)):
        for side in (-HALF_WIDTH, HALF_WIDTH):
            edge = (road.radius + side / road.tilt)[:, None] * road.points / road.radius[:, None]
            axis.plot(*edge.T, color="black", linewidth=0.8)
        for (name, driven), colour in zip(laps.items(), ("tab:blue", "tab:orange", "tab:green")):
            lap = driven[index]
            axis.plot(*lap["path"][:, :2].T, color=colour, linewidth=1.5, label=name)
            if not lap["completed"]:
                axis.plot(*lap["path"][-1, :2], "x", color=colour)
        axis.set(xticks=[], yticks=[], aspect="equal")
        axis.set_title(f"{laps['the network'][index]['metres']:.0f} of {road.length:.0f} m", fontsize=9)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncol=3)
    figure.savefig(path, dpi=70)


def draw_camera(road: Road, path: np.ndarray, network, folder: Path) -> None:
    """What the camera saw on a lap, with the network's steering and the expert's; four frames also as files."""
    from matplotlib.image import imsave

    poses = path[np.linspace(0, len(path) - 1, 12).astype(int)]
    images, true = road.photograph(poses), road.expert(poses)
    figure, axes = pictures.new_figure(13, 6, 3, 4)
    for axis, image, own, experts in zip(axes, images, network(images), true):
        axis.imshow(image.transpose(1, 2, 0), interpolation="nearest")
        for steering, colour in ((own, "tab:blue"), (experts, "yellow")):
            distance = np.linspace(2.5, 9, 20)  # m along the arc that this steering drives
            bend = steering * SHARPEST
            row = (np.degrees(np.arctan(HEIGHT / distance)) + 3) / 41 * (ROWS - 1)
            column = (40 - np.degrees(np.arctan(bend * distance / 2))) / 80 * (COLUMNS - 1)
            axis.plot(column, row, color=colour, linewidth=2)
        axis.set(xticks=[], yticks=[], xlim=(-0.5, COLUMNS - 0.5), ylim=(ROWS - 0.5, -0.5))
        axis.set_title(f"network {own:+.2f}   expert {experts:+.2f}", fontsize=9)
    figure.suptitle(
        "what the camera saw on a lap; the steering of the network (blue) and the expert's (yellow), + is left"
    )
    figure.savefig(folder / "camera.png", dpi=75)
    for index in (0, 3, 6, 9):
        imsave(folder / f"camera-{index}.png", images[index].transpose(1, 2, 0))


def predict(run: run_folder.Run, paths: list[Path]) -> Iterator[str]:
    """How to steer where a camera picture was taken (such as the run folder's camera-*.png)."""
    model = run.load_weights(build())
    for path in paths:
        with rv.no_grad():
            steering = float(model(rv.tensor(read_image(path, size=(ROWS, COLUMNS))[None])).item())
        side = "left" if steering > 0 else "right"
        turn = (
            f"to the {side}, radius {1 / max(1e-6, abs(steering) * SHARPEST):.0f} m" if abs(steering) > 0.02 else "on"
        )
        yield f"{path}: steering {steering:+.2f}, {turn}"
