"""Messages that name row and column."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
import torch

from hf_contrastive.data import column_names_of, integer_column, require_columns


def test_missing_column_lists_what_was_found_and_what_to_pass():
    data = datasets.Dataset.from_dict({"picture": [1], "text": ["a"]})
    with pytest.raises(
        ValueError, match="'image' not found; the dataset has picture, text; pass image_column='picture'"
    ):
        require_columns(data, {"image": "image_column"})
    with pytest.raises(ValueError, match=r"column 'label' not found; the dataset has picture, text$"):
        require_columns(data, ["picture", "label"])
    require_columns(data, ["picture", "text"])
    with pytest.raises(ValueError, match="the dataset has no columns"):
        require_columns({}, ["a"])


def test_column_names_of_everything():
    rows = [{"a": 1, "b": 2}]
    assert column_names_of(rows) == column_names_of(datasets.Dataset.from_list(rows)) == ["a", "b"]
    stream = datasets.IterableDataset.from_generator(lambda: iter(rows))
    assert column_names_of(stream) == ["a", "b"]
    assert column_names_of(3) == []


@pytest.mark.parametrize(
    "values", [[1, 2], (1, np.int32(2)), np.array([1, 2], np.int16), torch.tensor([1, 2]), [1.0, 2.0], [True, 2]]
)
def test_whole_numbers_in_any_form(values):
    result = integer_column(values, "label")
    assert result.tolist() == [1, 2]
    assert result.dtype == np.int64


@pytest.mark.parametrize("bad", [None, "2", 2.5, float("nan"), float("inf"), [2], np.array([2, 3])])
def test_the_row_that_is_no_whole_number_is_named(bad):
    with pytest.raises(ValueError, match=r"column 'label', row 1: .* is not a whole number"):
        integer_column([1, bad, None], "label")
    assert integer_column([], "label").shape == (0,)
