"""A recurrent network that forecasts a time series: electricity demand, sunspots, or a column of your own CSV file.

A GRU reads the past step by step and keeps in its state what matters for what comes; a dense layer turns the state into
the next step; that forecast is read in turn, until the horizon is reached. A step is one year of sunspots, or one day
of 48 half-hours. Two things make it work on little data. Every window is scaled by the mean and deviation of its own
past, so that a high summer looks like a low one. And what is known of the future goes in beside the past: the time of
day and of the week, and whether it is a working day.

The last fifth of the series is held back, and forecasts start at every moment in it. First the network is fitted to the
first seven tenths and validated on the next, to see that it neither learns too little nor too much; then afresh to all
eight, because the recent past is what resembles the future most.

Baselines: seasonal-naive (as a season ago), and autoregression (AR), a linear function of the last season's values,
fitted by least squares to everything before the test and iterated as the network is.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import ranvier as rv

from .. import metrics, pictures, run_folder
from ..data import ArrayDataset, DataLoader, need, package_file, rdataset, read_table
from ..trainer import Trainer


@dataclass(frozen=True)
class Plan:
    """What is to be forecast, in rows of the table.

    Args:
        column: whose values; known: columns that are known in advance.
        season: after how many rows things repeat; horizon: how many to forecast; step: how many the network reads at
            once; past: how many it sees. `horizon` and `past` are multiples of `step`.
        clock: periods that repeat exactly, as a day does (a sunspot cycle does not).
        hidden: size of the state; rate: the learning rate.
    """

    column: str
    known: tuple[str, ...]
    season: int
    horizon: int
    step: int
    past: int
    clock: tuple[int, ...]
    hidden: int
    rate: float


PLANS = {
    "electricity": Plan("Demand", ("WorkDay",), 336, 48, 48, 672, (48, 336), 64, 0.003),
    "sunspots": Plan("SUNACTIVITY", (), 11, 11, 1, 33, (), 16, 0.005),
}
EPOCHS = {"electricity": 8, "sunspots": 40}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--series", choices=PLANS, default="electricity", help="the packaged series (%(default)s)")
    parser.add_argument("--data", type=Path, metavar="CSV", help="your own table instead, a row for each moment")
    parser.add_argument("--column", help="of your table: what to forecast")
    parser.add_argument("--season", type=int, metavar="ROWS", help="of your table: after how many rows things repeat")
    parser.add_argument("--horizon", type=int, metavar="ROWS", help="of your table: how far to forecast (a season)")


class Forecaster(rv.Layer):
    """Reads steps of the past and foretells steps of the future.

    Args:
        step: values in a step.
        known: what is known of each step in advance, so many numbers.
        hidden: size of the state.
    """

    def __init__(self, step: int, known: int, hidden: int):
        super().__init__()
        self.gru = rv.GRU(step + known, hidden, batch_first=True)
        self.output = rv.Dense(hidden + known, step)

    def forward(self, past, known):
        """past [N, T, step], known [N, T + S, known] -> the S steps after the past [N, S * step]."""
        steps = past.shape[1]
        inputs, state, forecasts = rv.functional.cat([past, known[:, :steps]], dim=2), None, []
        for index in range(steps, known.shape[1]):
            output, state = self.gru(inputs, state)
            features = rv.functional.cat([output[:, -1], known[:, index]], dim=1)
            forecasts.append(self.output(features))
            inputs = rv.functional.cat([forecasts[-1], known[:, index]], dim=1).unsqueeze(1)
        return rv.functional.cat(forecasts, dim=1)


def known_numbers(plan: Plan) -> int:
    return 6 * len(plan.clock) + min(4, plan.step) * len(plan.known)


def build(plan: Plan) -> rv.Layer:
    return Forecaster(plan.step, known_numbers(plan), plan.hidden)


def load(options: argparse.Namespace) -> tuple[Plan, object]:
    """The plan and the table."""
    if options.data is None:
        plan = PLANS[options.series]
        if options.series == "electricity":
            return plan, rdataset("fpp2", "elecdemand", "forecast")
        return plan, read_table(package_file("statsmodels", "datasets/sunspots/sunspots.csv", "forecast"), "forecast")
    table = read_table(options.data, "forecast")
    if options.column not in table.columns or not options.season or options.season < 2:
        raise ValueError(
            f"forecast: expected beside --data a --season of 2 or more and a --column of {', '.join(table.columns)}, "
            f"got {options.season} and {options.column!r}"
        )
    season, horizon = options.season, options.horizon or options.season
    step = season if season >= 24 and horizon % season == 0 else 1
    plan = Plan(options.column, (), season, horizon, step, 3 * season, (season,), 32, 0.005)
    if len(table) < 5 * (plan.past + plan.horizon):
        raise ValueError(
            f"forecast: expected {5 * (plan.past + plan.horizon)} rows or more (for this season and horizon), "
            f"got {len(table)}"
        )
    return plan, table


def series(plan: Plan, table) -> tuple[np.ndarray, np.ndarray]:
    """The column's values [rows], and what is known of each row [rows, known columns]; no gaps in either."""
    missing = [name for name in (plan.column, *plan.known) if name not in table.columns]
    if missing:
        raise ValueError(
            f"forecast: expected the columns {plan.column}, {', '.join(plan.known)}, got none {missing[0]}"
        )
    values, known = table[plan.column].to_numpy(np.float64), table[list(plan.known)].to_numpy(np.float64)
    last = np.flatnonzero(np.isfinite(values)).max(initial=-1) + 1
    if not np.isfinite(values[:last]).all() or not np.isfinite(known).all():
        raise ValueError(f"forecast: expected numbers without gaps in {plan.column} up to its last value")
    return values[:last], known


def windows(plan: Plan, values: np.ndarray, known: np.ndarray, origins: np.ndarray) -> tuple[np.ndarray, ...]:
    """What the network sees of the forecasts that start at rows `origins`, each scaled by its own past.

    Returns:
        past [N, T, step], known [N, T + S, ...], both float32; mean and deviation [N, 1].
    """
    rows = origins[:, None] + np.arange(-plan.past, 0)
    past = values[rows]
    mean, deviation = past.mean(axis=1, keepdims=True), past.std(axis=1, keepdims=True) + 1e-6
    starts = origins[:, None] + np.arange(-plan.past, plan.horizon, plan.step)  # of each step
    phases = [2 * np.pi * k * starts / period for period in plan.clock for k in (1, 2, 3)]
    parts = np.arange(min(4, plan.step)) * plan.step // min(4, plan.step)
    features = [f(phase) for phase in phases for f in (np.sin, np.cos)]
    features += [known[starts + part, column] for part in parts for column in range(known.shape[1])]
    told = np.stack(features, axis=2) if features else np.zeros((*starts.shape, 0))
    steps = ((past - mean) / deviation).reshape(len(origins), -1, plan.step)
    return steps.astype(np.float32), told.astype(np.float32), mean, deviation


def dataset(plan: Plan, values: np.ndarray, known: np.ndarray, start: int, end: int, every: int = 1) -> ArrayDataset:
    """All windows whose targets lie in rows start..end."""
    origins = np.arange(max(start, plan.past), end - plan.horizon + 1, every)
    past, told, mean, deviation = windows(plan, values, known, origins)
    targets = (values[origins[:, None] + np.arange(plan.horizon)] - mean) / deviation
    return ArrayDataset(past, told, targets.astype(np.float32))


def fit(options, plan: Plan, training: ArrayDataset, validation: ArrayDataset | None, run_dir, resume=None) -> Trainer:
    epochs = options.epochs or (EPOCHS[options.series] if options.data is None else 20)
    train_loader = DataLoader(training, batch_size=64 if len(training) > 2000 else 16, shuffle=True)
    model = build(plan)
    optimizer = rv.optim.AdamW(model.parameters(), lr=plan.rate, weight_decay=0.1)
    trainer = Trainer(
        model,
        rv.L1Loss(),  # absolute errors: one heat wave must not outweigh all other days
        optimizer,
        max_epochs=epochs,
        schedule=rv.optim.OneCycleLR(optimizer, max_lr=plan.rate, total_steps=epochs * len(train_loader)),
        schedule_interval="step",
        metrics={"squared_error": metrics.MSE()},
        capture=True,
        device=options.device,
        run_dir=run_dir,
    )
    trainer.fit(train_loader, validation and DataLoader(validation, batch_size=512), resume=resume)
    return trainer


def run(options: argparse.Namespace) -> dict:
    need("statsmodels.tsa.ar_model", "forecast")
    plan, table = load(options)
    values, known = series(plan, table)
    rows = len(values)
    seven, eight = int(0.7 * rows), int(0.8 * rows)
    every = 4 if options.quick and rows > 5000 else 1
    run_folder.write_json(options.run_dir / "plan.json", asdict(plan))

    print("fitted to 70 % of the series, validated on the next 10 %")
    first = dataset(plan, values, known, 0, seven, every), dataset(plan, values, known, seven, eight, every)
    tried = fit(options, plan, *first, None)
    pictures.save_curves(tried.history, options.run_dir / "validation.png")
    print("fitted afresh to 80 %")
    trainer = fit(
        options, plan, dataset(plan, values, known, 0, eight, every), None, options.run_dir, resume=options.resume
    )

    origins = np.arange(eight, rows - plan.horizon + 1)
    past, told, mean, deviation = windows(plan, values, known, origins)
    scaled = trainer.predict(DataLoader(ArrayDataset(past, told, mean), batch_size=512))
    forecasts = {
        "GRU": scaled * deviation + mean,
        f"AR({plan.season})": autoregression(plan, values, eight, origins),
        "seasonal-naive": values[origins[:, None] + np.arange(plan.horizon) % plan.season - plan.season],
    }
    return report(options, plan, values, origins, forecasts)


def autoregression(plan: Plan, values: np.ndarray, end: int, origins: np.ndarray) -> np.ndarray:
    """Forecasts [N, horizon] of an AR model of one season's lags, fitted to the rows before `end`."""
    ar_model = need("statsmodels.tsa.ar_model", "forecast")
    constant, *weights = ar_model.AutoReg(values[:end], lags=plan.season).fit().params
    path = values[origins[:, None] + np.arange(-plan.season, 0)]
    for _ in range(plan.horizon):
        following = constant + path[:, : -plan.season - 1 : -1] @ np.array(weights)
        path = np.concatenate([path, following[:, None]], axis=1)
    return path[:, plan.season :]


def report(options, plan: Plan, values: np.ndarray, origins: np.ndarray, forecasts: dict) -> dict:
    true = values[origins[:, None] + np.arange(plan.horizon)]
    print(f"\n{plan.column}: {len(origins)} forecasts of {plan.horizon} rows each, none seen in training")
    print(f"{'':16} root mean square error   mean absolute error")
    result = {"forecasts": len(origins)}
    for name, forecast in forecasts.items():
        error = forecast - true
        squared, absolute = float(np.sqrt(np.mean(error**2))), float(np.mean(np.abs(error)))
        key = {"GRU": "gru", "seasonal-naive": "naive"}.get(name, "ar")
        result |= {f"{key}_rmse": squared, f"{key}_mae": absolute}
        print(f"{name:16} {squared:22.4g}   {absolute:19.4g}")
    draw(plan, values, origins, forecasts, true, options.run_dir / "forecast.png")
    run_folder.write_result(options.run_dir, result)
    print(f"\nrun folder  {options.run_dir}/  (forecast.png, validation.png, metrics.csv, result.json, checkpoint/)")
    return result


def draw(plan: Plan, values: np.ndarray, origins: np.ndarray, forecasts: dict, true: np.ndarray, path: Path) -> None:
    """Three forecasts with their past, and the error over the horizon."""
    styles = dict(zip(forecasts, ("tab:blue", "tab:orange", "tab:green")))
    figure, axes = pictures.new_figure(11, 10, 4, 1)
    for axis, index in zip(axes, np.linspace(0, len(origins) - 1, 3).astype(int)):
        origin = origins[index]
        seen = np.arange(origin - min(plan.past, 5 * plan.horizon), origin)
        future = np.arange(origin, origin + plan.horizon)
        axis.plot(seen, values[seen], color="gray", label="past")
        axis.plot(future, true[index], color="black", linewidth=2, label="what came")
        for name, forecast in forecasts.items():
            axis.plot(future, forecast[index], color=styles[name], linestyle="-" if name == "GRU" else "--", label=name)
        axis.axvline(origin - 0.5, color="gray", linewidth=0.8)
        axis.set(ylabel=plan.column)
    axes[0].legend(loc="upper left", ncol=5, fontsize=8)
    axes[2].set(xlabel="row")
    for name, forecast in forecasts.items():
        error = np.sqrt(np.mean((forecast - true) ** 2, axis=0))
        axes[3].plot(np.arange(1, plan.horizon + 1), error, color=styles[name], label=name)
    axes[3].set(xlabel="rows ahead", ylabel="root mean square error")
    axes[3].legend(fontsize=8)
    for axis in axes:
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=80)


def predict(run: run_folder.Run, paths: list[Path]) -> Iterator[str]:
    """The rows that follow a CSV file's last value. Columns known in advance must go on beyond it."""
    kept = json.loads((run.folder / "plan.json").read_text())
    plan = Plan(**{name: tuple(value) if isinstance(value, list) else value for name, value in kept.items()})
    model = run.load_weights(build(plan))
    for path in paths:
        values, known = series(plan, read_table(path, "forecast"))
        if len(values) < plan.past:
            raise ValueError(f"forecast: expected {plan.past} rows or more in {path}, got {len(values)}")
        if plan.known and len(known) < len(values) + plan.horizon:
            raise ValueError(
                f"forecast: expected {plan.horizon} rows more in {path}, with {', '.join(plan.known)} filled and "
                f"{plan.column} empty, got {len(known) - len(values)}"
            )
        past, told, mean, deviation = windows(plan, values, known, np.array([len(values)]))
        with rv.no_grad():
            forecast = model(rv.tensor(past), rv.tensor(told)).numpy() * deviation + mean
        yield f"{path}: the {plan.horizon} rows after row {len(values)}"
        yield from (f"  {len(values) + 1 + ahead:6}  {value:.4g}" for ahead, value in enumerate(forecast[0]))
