"""Tables as vectors: scales, gaps, words, what is left out and what is refused."""

import json

import numpy as np
import pytest

from ranvier.train.data.table import TableEncoder, read_table

pandas = pytest.importorskip("pandas", reason="needs the extra `recipes`")


def test_numbers_are_scaled_and_gaps_are_told():
    table = pandas.DataFrame({"a": [1.0, 3.0, np.nan, 2.0], "b": [True, False, True, False]})
    encoder = TableEncoder.fit(table)
    assert encoder.feature_names == ["a", "a missing", "b"]
    vectors = encoder(table)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors[:, 0], np.array([-1, 1, 0, 0]) * np.sqrt(2), rtol=1e-6)
    np.testing.assert_array_equal(vectors[:, 1:], [[0, 1], [0, -1], [1, 1], [0, -1]])


def test_a_long_tail_is_taken_in_logarithms_and_cut():
    values = np.exp(np.linspace(0, 8, 50)) - 1
    encoder = TableEncoder.fit(pandas.DataFrame({"money": values}))
    np.testing.assert_allclose(np.diff(encoder(pandas.DataFrame({"money": values}))[:, 0], n=2), 0, atol=1e-5)
    np.testing.assert_array_equal(encoder(pandas.DataFrame({"money": [1e30, -7.0]}))[0], [5])


def test_words_become_ones_and_zeros_and_unknown_words_all_zeros():
    encoder = TableEncoder.fit(pandas.DataFrame({"home": ["rent", "owner", "rent"], "n": [1, 2, 3]}))
    assert encoder.feature_names[:2] == ["home=owner", "home=rent"]
    np.testing.assert_array_equal(
        encoder(pandas.DataFrame({"n": [2, 2], "home": ["rent", "tent"], "more": [1, 1]}))[:, :2], [[0, 1], [0, 0]]
    )


def test_columns_of_no_use_are_left_out():
    table = pandas.DataFrame({"n": range(40), "name": [f"person {i}" for i in range(40)], "same": [7] * 40})
    assert TableEncoder.fit(table).feature_names == ["n"]
    with pytest.raises(ValueError, match="expected columns of numbers or of few different words, got none"):
        TableEncoder.fit(table[["name", "same"]])


def test_it_comes_back_from_json():
    table = pandas.DataFrame({"a": [1.0, 50.0, np.nan, 2.0], "b": ["x", "y", "x", "y"]})
    encoder = TableEncoder.fit(table)
    again = TableEncoder(json.loads(json.dumps(encoder.columns)))
    np.testing.assert_array_equal(again(table), encoder(table))


def test_bad_tables_are_refused(tmp_path):
    encoder = TableEncoder.fit(pandas.DataFrame({"a": [1, 2], "b": [3, 4]}))
    with pytest.raises(ValueError, match="got a table without b"):
        encoder(pandas.DataFrame({"a": [1]}))
    with pytest.raises(ValueError, match=r"expected numbers in the column 'b'.*'four'"):
        encoder(pandas.DataFrame({"a": [1], "b": ["four"]}))
    with pytest.raises(ValueError, match="expected finite numbers in the column 'a'"):
        encoder(pandas.DataFrame({"a": [np.inf], "b": [1]}))
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(ValueError, match=r"expected .*empty\.csv as CSV"):
        read_table(tmp_path / "empty.csv", "fraud")
