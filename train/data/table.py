"""Tables with numbers, words and gaps, as networks take them: every row a vector of numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .packages import need

_MOST_WORDS = 30  # a column with more different words than this is a name or a time, and no category
_FAR = 5.0  # deviations from the mean at which a value is cut: one wild row must not drown the others


def read_table(path: str | Path, extra: str):
    """A CSV file with a header line as a pandas DataFrame, gzipped or not; empty cells are gaps.

    Args:
        path: the file.
        extra: the extra of Ranvier that brings pandas, for the message where it is missing.

    Raises:
        ValueError: it is no table.
    """
    pandas = need("pandas", extra)
    try:
        return pandas.read_csv(path)
    except (pandas.errors.ParserError, pandas.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise ValueError(f"read_table: expected {path} as CSV with a header line: {error}") from None


class TableEncoder:
    """Turns the rows of a table into vectors, by what `fit` saw in the training rows.

    A column of numbers becomes one feature of mean 0 and deviation 1, cut at 5 deviations; where its tail is long
    (skewness above 1, no number below 0) the logarithm of 1 + x is taken first; gaps count as the median, and where
    there were any, a second feature says so. A column of words becomes one feature a word, 1 or 0. Columns with more
    than 30 different words, such as names and times, and columns that never change are left out.

    Args:
        columns: what `fit` found, a dict of plain values for each column: what a JSON file keeps.

    Attributes:
        columns: the same.
    """

    def __init__(self, columns: list[dict]):
        self.columns = columns

    @classmethod
    def fit(cls, table) -> TableEncoder:
        """Learns columns, medians, scales and words from a DataFrame's rows.

        Raises:
            ValueError: no column is of use.
        """
        columns = [column for name in table.columns if (column := _describe(str(name), table[name])) is not None]
        if not columns:
            raise ValueError("TableEncoder.fit: expected columns of numbers or of few different words, got none")
        return cls(columns)

    @property
    def feature_names(self) -> list[str]:
        """A name for each element of a vector."""
        names = []
        for column in self.columns:
            if "words" in column:
                names += [f"{column['name']}={word}" for word in column["words"]]
            else:
                names += [column["name"]] + [f"{column['name']} missing"] * column["gaps"]
        return names

    def __call__(self, table) -> np.ndarray:
        """The rows of a DataFrame as [rows, features] float32; columns that `fit` did not see are ignored.

        Raises:
            ValueError: a column is missing, or holds words where there were numbers.
        """
        missing = [column["name"] for column in self.columns if column["name"] not in table.columns]
        if missing:
            raise ValueError(
                f"TableEncoder: expected the columns of the training data, got a table without {', '.join(missing)}"
            )
        features = []
        for column in self.columns:
            values = table[column["name"]]
            if "words" in column:
                words = values.astype(str).to_numpy()
                features += [words == word for word in column["words"]]
                continue
            numbers = _numbers(column["name"], values)
            gaps = np.isnan(numbers)
            numbers = np.where(gaps, column["median"], numbers)
            numbers = np.log1p(np.maximum(numbers, 0)) if column["logarithm"] else numbers
            features.append(np.clip((numbers - column["mean"]) / column["std"], -_FAR, _FAR))
            features += [gaps] * column["gaps"]
        return np.stack(features, axis=1).astype(np.float32)


def _describe(name: str, values) -> dict | None:
    """What is to be kept of one column, or None where it is of no use."""
    if values.dtype.kind not in "iufb":
        words = sorted(values.dropna().astype(str).unique())
        return {"name": name, "words": words} if 1 < len(words) <= _MOST_WORDS else None
    numbers = _numbers(name, values)
    gaps = np.isnan(numbers)
    known = numbers[~gaps]
    if known.size == 0 or known.std() == 0:
        return None
    skewness = float((((known - known.mean()) / known.std()) ** 3).mean())
    logarithm = bool(known.min() >= 0 and np.unique(known).size > 2 and skewness > 1)
    median = float(np.median(known))
    scaled = np.where(gaps, median, numbers)
    scaled = np.log1p(scaled) if logarithm else scaled
    return {
        "name": name,
        "median": median,
        "logarithm": logarithm,
        "mean": float(scaled.mean()),
        "std": float(scaled.std()),
        "gaps": bool(gaps.any()),
    }


def _numbers(name: str, values) -> np.ndarray:
    try:
        numbers = values.to_numpy(np.float64, na_value=np.nan)
    except (ValueError, TypeError) as error:
        raise ValueError(f"TableEncoder: expected numbers in the column {name!r}: {error}") from None
    if np.isinf(numbers).any():
        raise ValueError(f"TableEncoder: expected finite numbers in the column {name!r}, got infinity")
    return numbers
