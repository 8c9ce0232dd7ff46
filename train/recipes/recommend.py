"""Embeddings that foretell how a person will rate a film (MovieLens, 100,004 ratings), and recommend from it.

Every person and every film gets a vector of 32 numbers, an embedding, and a rating is foretold as

    mean of all + bias of the person + bias of the film + person · film

The biases say that some people are kind and some films are liked. The product says more: what kind of film this is,
and whether that person likes the kind; what makes a kind, the network finds by itself. This is matrix factorisation: a
table of 671 x 9,066 ratings, 98 % of it empty, written as a product of two thin ones (Koren, Bell & Volinsky 2009). A
film's vector is the sum of one of its own and one for each of its genres, so that a film that few have rated is not
unknown. Weight decay, strong on the vectors and weak on the biases, keeps 300,000 numbers from learning 80,000 ratings
by heart.

The baseline is the same formula without the product: what biases alone can foretell.
"""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import ranvier as rv

from .. import metrics, pictures, run_folder
from ..data import ArrayDataset, DataLoader, random_split, rdataset, read_table
from ..trainer import Trainer

DIMENSIONS = 32
RIDGE_BIAS, RIDGE_VECTOR = 1.0, 10.0  # how strongly a new person is taken for an average one
WELL_KNOWN = 20  # ratings from which on a film is recommended


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(epochs=20)
    parser.add_argument(
        "--data",
        type=Path,
        metavar="CSV",
        help="your own ratings: userId, movieId, rating; title, year, genres if known",
    )


class Factorization(rv.Layer):
    """Foretells ratings from biases and, if there are dimensions, from the product of embeddings.

    Args:
        people, films: how many there are.
        genres: how many genres there are.
        dimensions: of the embeddings; 0 leaves biases only.
    """

    def __init__(self, people: int, films: int, genres: int, dimensions: int):
        super().__init__()
        self.register_buffer("mean", rv.zeros(1))
        self.register_buffer("genre_table", rv.zeros(films, genres))  # a film's row: its genres, of length 1
        self.person_bias, self.film_bias = rv.Embedding(people, 1), rv.Embedding(films, 1)
        rv.init.zeros_(self.person_bias.weight)
        rv.init.zeros_(self.film_bias.weight)
        self.dimensions = dimensions
        if dimensions:
            self.person, self.film = rv.Embedding(people, dimensions), rv.Embedding(films, dimensions)
            rv.init.normal_(self.person.weight, std=0.1)
            rv.init.normal_(self.film.weight, std=0.1)
            self.genre = rv.Dense(genres, dimensions, bias=False)

    def forward(self, people, films):
        rating = self.mean + self.person_bias(people)[:, 0] + self.film_bias(films)[:, 0]
        return rating + (self.person(people) * self.film_vector(films)).sum(dim=1) if self.dimensions else rating

    def film_vector(self, films):
        return self.film(films) + self.genre(rv.functional.embedding(films, self.genre_table))


def build(catalogue: dict, dimensions: int = DIMENSIONS) -> Factorization:
    sizes = (len(catalogue[kind]) for kind in ("people", "films", "genres"))
    return Factorization(*sizes, dimensions)


def load(options: argparse.Namespace) -> tuple[dict, tuple, np.ndarray]:
    """The catalogue (people, films, titles, genres), the ratings (person, film, rating), and the genre table."""
    table = read_table(options.data, "recommend") if options.data else rdataset("dslabs", "movielens", "recommend")
    missing = {"userId", "movieId", "rating"} - set(table.columns)
    if missing or len(table) < 100:
        got = f"without {', '.join(sorted(missing))}" if missing else f"of {len(table)} rows"
        raise ValueError(f"recommend: expected 100 rows or more of userId, movieId, rating, got a table {got}")
    people, person = np.unique(table["userId"].astype(str), return_inverse=True)
    films, first, film = np.unique(table["movieId"].astype(str), return_index=True, return_inverse=True)
    one_each = table.iloc[first]
    titles, genres = films.tolist(), [["any"]] * len(films)
    if "title" in table.columns:
        titles = one_each["title"].fillna("").astype(str).tolist()
    if "year" in table.columns:
        titles = [title if np.isnan(year) else f"{title} ({year:.0f})" for title, year in zip(titles, one_each["year"])]
    if "genres" in table.columns:
        genres = [names.split("|") for names in one_each["genres"].fillna("any").astype(str)]
    names = sorted({g for of_film in genres for g in of_film})
    genre_table = np.zeros((len(films), len(names)), np.float32)
    for row, of_film in zip(genre_table, genres):
        row[[names.index(g) for g in of_film]] = len(of_film) ** -0.5
    catalogue = {"people": people.tolist(), "films": films.tolist(), "titles": titles, "genres": names}
    return catalogue, (person, film, table["rating"].to_numpy(np.float32)), genre_table


def fit(options, model: Factorization, training, validation, epochs: int, run_dir, resume=None) -> Trainer:
    """Trains a model on squared errors; biases and vectors get weight decay of their own."""
    train_loader = DataLoader(training, batch_size=512, shuffle=True)
    biases = [p for name, p in model.named_parameters() if "bias" in name]
    vectors = [p for name, p in model.named_parameters() if "bias" not in name]
    groups = [{"params": biases, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.8}]
    optimizer = rv.optim.AdamW([group for group in groups if group["params"]], lr=0.01)
    trainer = Trainer(
        model,
        rv.MSELoss(),
        optimizer,
        max_epochs=epochs,
        schedule=rv.optim.OneCycleLR(optimizer, max_lr=0.01, total_steps=epochs * len(train_loader)),
        schedule_interval="step",
        metrics={"absolute_error": metrics.MAE()},
        capture=True,
        device=options.device,
        run_dir=run_dir,
    )
    trainer.fit(train_loader, DataLoader(validation, batch_size=4096), resume=resume)
    return trainer


def run(options: argparse.Namespace) -> dict:
    catalogue, ratings, genre_table = load(options)
    training, validation, test = random_split(ArrayDataset(*ratings), [0.8, 0.1, 0.1])
    known = training.fetch(slice(None))[2]
    epochs = min(8, options.epochs) if options.quick else options.epochs
    counts = np.bincount(training.fetch(slice(None))[1], minlength=len(catalogue["films"]))
    run_folder.write_json(options.run_dir / "catalogue.json", catalogue | {"ratings": counts.tolist()})

    rmse = {"mean of all ratings": _rmse(np.full(len(test), known.mean()), test)}
    trainers = {}
    for name, dimensions in (("biases only", 0), ("biases and embeddings", DIMENSIONS)):
        model = build(catalogue, dimensions)
        model.load_state_dict({"mean": known.mean(keepdims=True), "genre_table": genre_table}, strict=False)
        print(f"\n{name}")
        own = {"run_dir": options.run_dir, "resume": options.resume} if dimensions else {"run_dir": None}
        trainers[name] = fit(options, model, training, validation, epochs, **own)
        rmse[name] = _rmse(trainers[name].predict(DataLoader(test, batch_size=4096)), test, known.min(), known.max())

    print(f"\n{len(test)} ratings held back, of {known.min():g} to {known.max():g}; error as root mean square")
    for name, value in rmse.items():
        print(f"  {name:22} {value:.4f}")
    model = trainers["biases and embeddings"].model
    draw_map(model, catalogue, counts, options.run_dir / "films.png")
    print(f"\nrun folder  {options.run_dir}/  (films.png, curves.png, metrics.csv, result.json, checkpoint/)")
    result = {f"rmse_{name.replace(' ', '_')}": value for name, value in rmse.items()} | {"test_ratings": len(test)}
    run_folder.write_result(options.run_dir, result)
    return result


def _rmse(foretold: np.ndarray, test, least: float = -np.inf, most: float = np.inf) -> float:
    true = test.fetch(slice(None))[2]
    return float(np.sqrt(np.mean((np.clip(foretold, least, most) - true) ** 2)))


def _film_vectors(model: Factorization) -> np.ndarray:
    """[films, dimensions] float64."""
    with rv.no_grad():
        films = rv.arange(model.film.num_embeddings, device=model.mean.device)
        return model.film_vector(films).numpy().astype(np.float64)


def draw_map(model: Factorization, catalogue: dict, counts: np.ndarray, path: Path) -> None:
    """The 60 most rated films, by the two directions in which their vectors differ most."""
    often = np.argsort(-counts, kind="stable")[:60]
    vectors = _film_vectors(model)[often]
    centred = vectors - vectors.mean(axis=0)
    places = centred @ np.linalg.svd(centred, full_matrices=False)[2][:2].T
    figure, (axis,) = pictures.new_figure(12, 9)
    axis.scatter(*places.T, s=12, color="tab:orange")
    for (x, y), index in zip(places, often):
        title = textwrap.shorten(catalogue["titles"][index], 32, placeholder=" ...")
        axis.annotate(title, (x, y), fontsize=7, xytext=(3, 2), textcoords="offset points")
    axis.set(title="the 60 most rated films: those near each other are liked by the same people", xticks=[], yticks=[])
    axis.margins(x=0.12)
    figure.savefig(path, dpi=80)


def predict(run: run_folder.Run, paths: list[Path]) -> Iterator[str]:
    """Films for a person, from a CSV file of title (or movieId) and rating; or ratings, from userId and movieId."""
    catalogue = json.loads((run.folder / "catalogue.json").read_text())
    model = run.load_weights(build(catalogue))
    for path in paths:
        table = read_table(path, "recommend")
        if "rating" in table.columns and {"title", "movieId"} & set(table.columns):
            yield from _recommend(model, catalogue, path, table)
        elif {"userId", "movieId"} <= set(table.columns):
            yield from _foretell(model, catalogue, path, table)
        else:
            raise ValueError(
                f"recommend: expected the columns title (or movieId) and rating, or userId and movieId, in {path}, "
                f"got {', '.join(map(str, table.columns))}"
            )


def _foretell(model: Factorization, catalogue: dict, path: Path, table) -> Iterator[str]:
    """A rating for each pair; who or what was not in the training data is answered with None."""
    person = {name: i for i, name in enumerate(catalogue["people"])}
    film = {name: i for i, name in enumerate(catalogue["films"])}
    pairs = list(zip(table["userId"].astype(str), table["movieId"].astype(str)))
    known = [(person[p], film[f]) for p, f in pairs if p in person and f in film]
    with rv.no_grad():
        people, films = np.array(known, np.int64).reshape(-1, 2).T.copy()
        ratings = iter(model(rv.tensor(people), rv.tensor(films)).numpy().tolist())
    yield f"{path}: {len(known)} of {len(pairs)} pairs are of people and films in the training data"
    for p, f in pairs:
        if p in person and f in film:
            yield f"  user {p}, {catalogue['titles'][film[f]]}: {next(ratings):.2f}"
        else:
            yield f"  user {p}, movie {f}: unknown"


def _recommend(model: Factorization, catalogue: dict, path: Path, table) -> Iterator[str]:
    """The ten best of the well-known films for a person whom the training never saw.

    Their bias and vector w solve the least squares of (1, film vector) · w = rating - mean - film's bias, pulled to 0
    (ridge regression): one step of alternating least squares.
    """
    column = "movieId" if "movieId" in table.columns else "title"
    names = {name: i for i, name in enumerate(catalogue["films"])}
    if column == "title":  # with or without its year
        names = {title.lower().rpartition(" (")[0]: i for i, title in enumerate(catalogue["titles"])}
        names |= {title.lower(): i for i, title in enumerate(catalogue["titles"])}
    rated = [(names.get(str(name).lower()), rating) for name, rating in zip(table[column], table["rating"])]
    unknown = [str(name) for name, (film, _) in zip(table[column], rated) if film is None]
    if len(unknown) == len(rated):
        raise ValueError(
            f"recommend: expected films of the training data in {path}, such as {catalogue['titles'][0]!r}, "
            f"got {', '.join(unknown[:5]) or 'no rows'}"
        )
    films, ratings = np.array([pair for pair in rated if pair[0] is not None]).T
    films = films.astype(np.int64)
    inputs = np.column_stack([np.ones(len(catalogue["films"])), _film_vectors(model)])
    offsets = float(model.mean.item()) + model.film_bias.weight.numpy()[:, 0]
    own = inputs[films]
    ridge = np.diag([RIDGE_BIAS] + [RIDGE_VECTOR] * (inputs.shape[1] - 1))
    weights = np.linalg.solve(own.T @ own + ridge, own.T @ (ratings - offsets[films]))
    foretold = offsets + inputs @ weights
    candidates = np.setdiff1d(np.flatnonzero(np.array(catalogue["ratings"]) >= WELL_KNOWN), films)
    yield f"{path}: from {len(films)} ratings" + (f", not known: {', '.join(unknown)}" if unknown else "")
    yield from (
        f"  {foretold[i]:.2f}  {catalogue['titles'][i]}" for i in candidates[np.argsort(-foretold[candidates])][:10]
    )
