"""A network that finds the rare bad case in a table: spam among mail, defaults among loans, or your own CSV file.

Where one row in ten or in thirty is bad, a model that calls everything good is 90 or 97 % right and useless. So three
things differ from an ordinary classifier. The loss is weighted: a bad row counts as many times as a missed one costs
more than a false alarm. The measure is the precision-recall curve (of what was flagged, how much was bad; of what was
bad, how much was flagged) and the area below it, average precision. And the threshold from which on a row is flagged is
chosen by cost, on validation data, instead of taken to be one half.

The baseline is logistic regression on the same columns. It is a network without a hidden layer, so what the network
gains over it is what lies in how columns act together. `--table email` (3,921 mails, 9 % spam) has much of that,
`--table default` (10,000 card holders, 3 % default) has none: there the two are equal. `--data FILE --target COLUMN`
takes a table of yours.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import ranvier as rv

from .. import metrics, pictures, run_folder
from ..data import ArrayDataset, DataLoader, TableEncoder, need, random_split, rdataset, read_table
from ..trainer import Trainer

# R package and set, target column, the value that means bad, columns that are no property of the row
TABLES = {
    "email": ("openintro", "email", "spam", "1", ["rownames", "time"]),
    "default": ("ISLR", "Default", "default", "Yes", ["rownames"]),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(epochs=40)
    parser.add_argument("--table", choices=TABLES, default="email", help="the packaged table (%(default)s)")
    parser.add_argument("--data", type=Path, metavar="CSV", help="your own table instead")
    parser.add_argument("--target", metavar="COLUMN", help="of your table: the column that says which rows are bad")
    parser.add_argument("--bad", metavar="VALUE", default="1", help="what that column holds in them (%(default)s)")
    parser.add_argument("--missed-cost", type=float, default=5, help="of a bad row that passes (%(default)s)")
    parser.add_argument("--alarm-cost", type=float, default=1, help="of a good row that is flagged (%(default)s)")


def build(features: int) -> rv.Layer:
    return rv.Sequential(
        rv.Dense(features, 64, activation="relu"),
        rv.Dropout(0.3),
        rv.Dense(64, 64, activation="relu"),
        rv.Dropout(0.3),
        rv.Dense(64, 1),
        rv.Flatten(0),
    )


def load(options: argparse.Namespace):
    """The table without its target, and the target: [rows] int64, 1 where bad."""
    if options.data is None:
        package, name, target, bad, ignored = TABLES[options.table]
        table = rdataset(package, name, "fraud").drop(columns=ignored)
    else:
        table, target, bad = read_table(options.data, "fraud"), options.target, options.bad
        if target not in table.columns:
            raise ValueError(f"fraud: expected --target as a column ({', '.join(table.columns)}), got {target!r}")
    labels = (table[target].astype(str) == bad).to_numpy().astype(np.int64)
    if not 10 <= labels.sum() <= len(labels) - 10:
        raise ValueError(f"fraud: expected 10 rows or more with {target} = {bad!r} and 10 without, got {labels.sum()}")
    return table.drop(columns=target), labels


def run(options: argparse.Namespace) -> dict:
    linear_model = need("sklearn.linear_model", "fraud")
    table, labels = load(options)
    parts = random_split(ArrayDataset(np.arange(len(table)), labels), [0.6, 0.15, 0.25], stratify=labels)
    rows = [part.indices for part in parts]
    encoder = TableEncoder.fit(table.iloc[rows[0]])
    run_folder.write_json(options.run_dir / "columns.json", encoder.columns)
    features = encoder(table)
    training, validation, test = (ArrayDataset(features[r], labels[r]) for r in rows)

    epochs = min(15, options.epochs) if options.quick else options.epochs
    weight = options.missed_cost / options.alarm_cost

    def loss(scores, labels):
        """Binary cross entropy in which a bad row counts `weight` times."""
        labels = labels.float()
        each = 1 + (weight - 1) * labels
        return rv.functional.binary_cross_entropy_with_logits(scores, labels, weight=each)

    model = build(features.shape[1])
    optimizer = rv.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    train_loader = DataLoader(training, batch_size=64, shuffle=True)
    trainer = Trainer(
        model,
        loss,
        optimizer,
        max_epochs=epochs,
        schedule=rv.optim.OneCycleLR(optimizer, max_lr=4e-3, total_steps=epochs * len(train_loader)),
        schedule_interval="step",
        metrics={"average_precision": metrics.AveragePrecision()},
        capture=True,
        device=options.device,
        run_dir=options.run_dir,
    )
    trainer.fit(train_loader, DataLoader(validation, batch_size=512), resume=options.resume)

    baseline = linear_model.LogisticRegression(max_iter=2000).fit(*training.arrays)
    scores = {
        "network": [_sigmoid(trainer.predict(DataLoader(part, batch_size=512))) for part in (validation, test)],
        "logistic regression": [baseline.predict_proba(part.arrays[0])[:, 1] for part in (validation, test)],
    }
    return report(options, scores, validation.arrays[1], test.arrays[1])


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return rv.functional.sigmoid(rv.tensor(logits)).numpy()


def cost(scores: np.ndarray, labels: np.ndarray, threshold: float, options) -> float:
    """What flagging the rows from `threshold` on costs, for every 1,000 rows."""
    flagged = scores >= threshold
    missed, alarms = (~flagged & (labels == 1)).sum(), (flagged & (labels == 0)).sum()
    return float(1000 * (options.missed_cost * missed + options.alarm_cost * alarms) / len(labels))


def cheapest_threshold(scores: np.ndarray, labels: np.ndarray, options) -> float:
    """The threshold of the least cost: one of the scores, or one that none reaches."""
    candidates = np.append(np.unique(scores), 2.0)
    return float(candidates[np.argmin([cost(scores, labels, c, options) for c in candidates])])


def report(options, scores: dict, validation_labels: np.ndarray, test_labels: np.ndarray) -> dict:
    """Thresholds from validation data, figures and picture from test data."""
    share = float(test_labels.mean())
    result = {"test_rows": len(test_labels), "share_of_bad": share}
    print(f"\n{len(test_labels)} test rows, {share:.1%} of them bad. Costs are for 1,000 rows,")
    print(f"{options.missed_cost:g} for a bad row that passes, {options.alarm_cost:g} for a false alarm.\n")
    print(f"{'':20} average precision   threshold   precision   recall     cost")
    nothing = cost(test_labels, test_labels, 2.0, options)
    print(f"{'flag nothing':20} {share:17.3f}   {'':9}   {'':9}   {0:6.1%} {nothing:8.1f}")
    for name, (validation_scores, test_scores) in scores.items():
        threshold = cheapest_threshold(validation_scores, validation_labels, options)
        flagged = test_scores >= threshold
        hits = int((flagged & (test_labels == 1)).sum())
        average_precision = metrics.AveragePrecision()
        average_precision.update(test_scores, test_labels)
        one = {
            "average_precision": average_precision.compute(),
            "threshold": threshold,
            "precision": hits / max(1, int(flagged.sum())),
            "recall": hits / int(test_labels.sum()),
            "cost": cost(test_scores, test_labels, threshold, options),
        }
        result |= {f"{name.replace(' ', '_')}_{key}": value for key, value in one.items()}
        print(
            f"{name:20} {one['average_precision']:17.3f}   {threshold:9.3f}   {one['precision']:9.1%}   "
            f"{one['recall']:6.1%} {one['cost']:8.1f}"
        )
    draw(options, scores, test_labels, result, options.run_dir / "precision_recall.png")
    run_folder.write_result(options.run_dir, result)
    print(
        f"\nrun folder  {options.run_dir}/  (precision_recall.png, curves.png, metrics.csv, result.json, checkpoint/)"
    )
    return result


def draw(options, scores: dict, labels: np.ndarray, result: dict, path: Path) -> None:
    """The precision-recall curves with the chosen thresholds on them, and the cost over the threshold."""
    figure, (curve, price) = pictures.new_figure(11, 4.2, 1, 2)
    for (name, (_, test_scores)), colour in zip(scores.items(), ("tab:blue", "tab:orange")):
        key = name.replace(" ", "_")
        order = np.argsort(-test_scores, kind="stable")
        hits = np.cumsum(labels[order])
        label = f"{name}: average precision {result[f'{key}_average_precision']:.3f}"
        curve.plot(hits / labels.sum(), hits / np.arange(1, len(labels) + 1), color=colour, label=label)
        chosen = result[f"{key}_recall"], result[f"{key}_precision"]
        curve.plot(*chosen, "o", color=colour, markeredgecolor="black")
        thresholds = np.linspace(0.001, 0.999, 200)
        price.plot(thresholds, [cost(test_scores, labels, t, options) for t in thresholds], color=colour, label=name)
        price.plot(result[f"{key}_threshold"], result[f"{key}_cost"], "o", color=colour, markeredgecolor="black")
    curve.axhline(labels.mean(), color="gray", linestyle=":", label="flagging at random")
    curve.set(
        xlabel="recall: of the bad rows, part flagged", ylabel="precision: of the flagged, part bad", ylim=(0, 1.02)
    )
    price.set(xlabel="threshold", ylabel="cost of 1,000 rows", title="dots: threshold chosen on validation data")
    for axis in (curve, price):
        axis.grid(alpha=0.3)
        axis.legend()
    figure.savefig(path, dpi=90)


def predict(run: run_folder.Run, paths: list[Path]) -> Iterator[str]:
    """Which rows of a CSV file with the training data's columns are to be flagged, the most suspicious first."""
    encoder = TableEncoder(json.loads((run.folder / "columns.json").read_text()))
    threshold = json.loads((run.folder / "result.json").read_text())["network_threshold"]
    model = run.load_weights(build(len(encoder.feature_names)))
    for path in paths:
        with rv.no_grad():
            scores = _sigmoid(model(rv.tensor(encoder(read_table(path, "fraud")))).numpy())
        flagged = [row for row in np.argsort(-scores, kind="stable") if scores[row] >= threshold]
        yield f"{path}: {len(flagged)} of {len(scores)} rows flagged (score from {threshold:.3f} on)"
        yield from (f"  row {row + 1:6}  score {scores[row]:.3f}" for row in flagged[:20])
