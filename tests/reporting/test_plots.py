"""Pictures: the file, its alt text, the numbers beside it, and that nothing of the user's matplotlib is touched."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from hf_contrastive.evaluation import nearest_neighbours
from hf_contrastive.reporting import (
    plot_accuracy_bars,
    plot_contrastive_trace,
    plot_embedding_map,
    plot_neighbours,
    plot_reward_courses,
    plot_run,
    plot_similarity_heatmap,
    plot_similarity_histogram,
    plot_training_curves,
    plot_views,
    save_embeddings,
)
from hf_contrastive.reporting.images import to_display


@pytest.fixture(scope="module")
def digits():
    data = load_digits()
    return data.images[:60] / 16, data.data[:60].astype(np.float32), data.target[:60]


def check(picture):
    """A readable PNG that is not blank, with title and alt text inside; returns the CSV as a list of dictionaries."""
    with Image.open(picture.path) as image:
        assert image.info["Description"] == picture.alt_text
        assert image.info["Title"] == picture.title
        assert image.convert("L").getextrema()[0] < 200
        assert min(image.size) > 200
    with open(picture.data_path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_embedding_map_is_the_pca(tmp_path, digits):
    _, z, labels = digits
    picture = plot_embedding_map(z, labels, tmp_path / "map.png", data="digits")
    rows = check(picture)
    drawn = np.array([[float(row["x"]), float(row["y"])] for row in rows])
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    centered = unit - unit.mean(0)
    values, axes = np.linalg.eigh(centered.T @ centered)
    for i in range(2):
        expected = centered @ axes[:, -1 - i]
        assert np.allclose(np.abs(drawn[:, i]), np.abs(expected), atol=1e-5)
    share = values[-2:].sum() / values.sum()
    assert picture.title == "Embedding map (PCA): digits"
    assert f"hold {share:.0%} of the variance" in picture.alt_text
    assert [int(row["label"]) for row in rows] == labels.tolist()


def test_embedding_map_of_many_classes_many_points_and_other_methods(tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 50, 500)
    picture = plot_embedding_map(rng.normal(size=(500, 4)), labels, tmp_path / "many", max_points=200)
    rows = check(picture)
    assert picture.path.name == "many.png"
    assert len({row["row"] for row in rows}) == 200
    assert all(labels[int(row["row"])] == int(row["label"]) for row in rows)
    z = rng.normal(size=(30, 4))
    assert "t-SNE" in plot_embedding_map(z, None, tmp_path / "tsne.png", method="tsne").title
    with pytest.raises(ValueError, match="`method` is 'mds'; expected one of 'pca', 'tsne', 'umap'"):
        plot_embedding_map(z, None, tmp_path / "x.png", method="mds")
    with pytest.raises(ValueError, match="1 of 30 rows hold NaN"):
        plot_embedding_map(np.where(np.arange(30)[:, None] == 3, np.nan, z), None, tmp_path / "x.png")
    with pytest.raises(ValueError, match="at least 3 rows and 2 features"):
        plot_embedding_map(z[:2], None, tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"pictures are written as PNG: use 'map\.png'"):
        plot_embedding_map(z, None, tmp_path / "map.jpg")


def test_heat_map_diagonal_glows(tmp_path):
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(60, 32, generator=generator)
    other = z + 0.3 * torch.randn(60, 32, generator=generator)
    picture = plot_similarity_heatmap(z, other, tmp_path / "heat.png", max_pairs=20)
    rows = check(picture)
    ids = [int(row["first_view_row"]) for row in rows]
    assert len(set(ids)) == 20
    drawn = np.array([[float(row[f"second_view_row_{j}"]) for j in ids] for row in rows])
    expected = torch.nn.functional.cosine_similarity(z[ids][:, None], other[ids][None], dim=-1).numpy()
    assert np.allclose(drawn, expected, atol=1e-6)
    assert "largest of its row in 100% of the rows" in picture.alt_text
    # the picture itself: pixels on the diagonal are far brighter than those of the field
    pixels = np.asarray(Image.open(picture.path).convert("L")).astype(float)
    dark = pixels < 245
    columns = np.flatnonzero(dark.mean(0) > 0.5)  # the picture's square, by its filled columns and rows
    square_columns = columns[: np.flatnonzero(np.append(np.diff(columns), 99) > 5)[0] + 1]
    lines = np.flatnonzero(dark[:, square_columns].mean(1) > 0.8)
    square = pixels[lines[0] : lines[-1] + 1, square_columns[0] : square_columns[-1] + 1]
    centers = [((np.arange(20) + 0.5) * side / 20).astype(int) for side in square.shape]
    cells = square[np.ix_(*centers)]
    assert np.diag(cells).mean() > cells[~np.eye(20, dtype=bool)].mean() + 100


def test_histogram_is_a_histogram(tmp_path):
    rng = np.random.default_rng(1)
    z = rng.normal(size=(50, 6))
    other = z + 0.5 * rng.normal(size=(50, 6))
    rows = check(plot_similarity_histogram(z, other, tmp_path / "histogram.png", bins=30))
    unit, unit_other = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (z, other))
    cosines = unit @ unit_other.T
    edges = [float(rows[0]["from"]), *(float(row["to"]) for row in rows)]
    assert 20 <= len(rows) <= 30
    positives = np.array([float(row["share_of_positives"]) for row in rows])
    negatives = np.array([float(row["share_of_negatives"]) for row in rows])
    assert positives.sum() == pytest.approx(1, abs=1e-5)
    assert negatives.sum() == pytest.approx(1, abs=1e-5)
    assert np.allclose(positives, np.histogram(np.diag(cosines), edges)[0] / 50, atol=1e-6)
    assert np.allclose(negatives, np.histogram(cosines[~np.eye(50, dtype=bool)], edges)[0] / 2450, atol=1e-6)
    # collapse: every similarity is 1, nothing is lost at the edge
    rows = check(plot_similarity_histogram(np.ones((5, 3)), np.ones((5, 3)), tmp_path / "collapse.png"))
    assert float(rows[-1]["share_of_negatives"]) == float(rows[-1]["share_of_positives"]) == 1.0


def test_neighbours_are_the_nearest(tmp_path, digits):
    images, z, labels = digits
    picture = plot_neighbours(
        images, z, tmp_path / "neighbours.png", labels=labels, queries=[3, 17], k=4, data="digits"
    )
    rows = check(picture)
    scores, found = nearest_neighbours(z, k=4)
    assert [int(row["neighbour"]) for row in rows] == [*found[3], *found[17]]
    assert [float(row["similarity"]) for row in rows] == pytest.approx([*scores[3], *scores[17]], abs=1e-6)
    same = sum(row["query_label"] == row["neighbour_label"] for row in rows)
    assert f"{same} of 8 neighbours have the class of their query" in picture.alt_text
    # drawn queries: one of every class before a second one of any
    rows = check(plot_neighbours(list(images), z, tmp_path / "drawn.png", labels=labels, n_queries=10, k=1))
    assert {row["query_label"] for row in rows} == {str(digit) for digit in range(10)}


def test_neighbours_refusals(tmp_path, digits):
    images, z, _ = digits
    with pytest.raises(ValueError, match="`images` has 59 images but `embeddings` has 60 rows"):
        plot_neighbours(images[1:], z, tmp_path / "x.png")
    with pytest.raises(ValueError, match="`queries` must name rows 0 to 59"):
        plot_neighbours(images, z, tmp_path / "x.png", queries=[60])
    with pytest.raises(ValueError, match="`k` is 60 but a query has only 59 other rows"):
        plot_neighbours(images, z, tmp_path / "x.png", k=60)


def test_views_undo_the_normalisation(tmp_path):
    rng = np.random.default_rng(2)
    clean = rng.random((3, 2, 3, 8, 8))
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
    normalised = (clean - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    originals = [Image.fromarray((clean[i, 0, 0] * 255).astype(np.uint8)) for i in range(3)]
    views = torch.tensor(normalised, dtype=torch.bfloat16)
    picture = plot_views(views, tmp_path / "views.png", originals=originals, mean=mean, std=std, data="noise")
    rows = check(picture)
    assert [(row["image"], row["view"]) for row in rows] == [(str(i), str(v)) for i in range(3) for v in (1, 2)]
    assert [float(row["mean"]) for row in rows] == pytest.approx(clean.mean((2, 3, 4)).flatten().tolist(), abs=0.01)
    assert "beside the original" in picture.alt_text
    assert len(check(plot_views(normalised[:, :, :1], tmp_path / "grey.png", max_images=2))) == 4


def test_views_refusals(tmp_path):
    views = np.zeros((2, 2, 3, 4, 4))
    with pytest.raises(ValueError, match=r"`views` has shape \[2, 3, 4, 4\]; expected \[images, views, channels"):
        plot_views(views[:, 0], tmp_path / "x.png")
    with pytest.raises(ValueError, match="`originals` has 1 images but 2 rows"):
        plot_views(views, tmp_path / "x.png", originals=[views[0, 0]])
    with pytest.raises(ValueError, match="`std` has 2 values but the views have 3 channels"):
        plot_views(views, tmp_path / "x.png", mean=0.5, std=[1, 2])


def test_accuracy_bars(tmp_path):
    rows = [
        {"encoder": "raw pixels", "knn": 0.9, "knn_interval": (0.85, 0.95), "seconds": 12.0, "k": 20},
        {"encoder": "SimCLR", "knn": 0.97, "linear": 0.98},
    ]
    picture = plot_accuracy_bars(rows, tmp_path / "bars.png", data="digits")
    assert [(row["encoder"], row["metric"], row["accuracy"], row["low"]) for row in check(picture)] == [
        ("raw pixels", "knn", "0.9", "0.85"),
        ("SimCLR", "knn", "0.97", ""),
        ("SimCLR", "linear", "0.98", ""),
    ]
    assert "best knn: SimCLR with 97.0 %" in picture.alt_text
    with pytest.raises(ValueError, match="row 0 has no 'encoder'; it has knn"):
        plot_accuracy_bars([{"knn": 0.5}], tmp_path / "x.png")
    with pytest.raises(ValueError, match="no accuracy"):
        plot_accuracy_bars([{"encoder": "a", "seconds": 12.0}], tmp_path / "x.png")


def test_training_curves_take_what_is_there(tmp_path):
    lines = [
        {"step": step, "epoch": step / 10, "loss": 5 / step, "learning_rate": 1e-3, "note": "text", "flag": True}
        for step in range(1, 21)
    ]
    lines[4]["grad_norm"] = float("nan")
    lines.append({"step": 20, "eval_knn_top1": 0.8, "eval_runtime": 3.0})
    lines.append({"step": 20, "train_loss": 1.0})
    rows = check(plot_training_curves(lines, tmp_path / "curves.png", data="a run"))
    assert list(rows[0]) == ["step", "epoch", "loss", "eval_knn_top1", "learning_rate", "grad_norm"]
    assert len(rows) == 20
    assert (rows[19]["eval_knn_top1"], rows[0]["eval_knn_top1"], rows[4]["grad_norm"]) == ("0.8", "", "nan")
    with pytest.raises(ValueError, match="no metric that can be drawn; found step, speed"):
        plot_training_curves([{"step": 1, "speed": 1.0}], tmp_path / "x.png")


def test_plot_run_draws_what_the_folder_has(tmp_path, digits):
    images, z, labels = digits
    (tmp_path / "metrics.jsonl").write_text("\n".join(json.dumps({"step": s, "loss": 1 / s}) for s in (1, 2, 3)))
    assert [picture.path for picture in plot_run(tmp_path)] == [tmp_path / "pictures" / "training_curves.png"]
    save_embeddings(tmp_path, embeddings=z, labels=labels, images=images, z_i=z, z_j=z, data="digits")
    pictures = plot_run(tmp_path, tmp_path / "elsewhere")
    assert [picture.path.stem for picture in pictures] == [
        "training_curves",
        "embedding_map",
        "neighbours",
        "similarity_heatmap",
        "similarity_histogram",
    ]
    for picture in pictures:
        assert check(picture)
        assert str(tmp_path) not in picture.title + picture.alt_text  # no path of this machine


def test_the_users_matplotlib_is_left_alone(tmp_path):
    code = f"""
import sys, matplotlib
matplotlib.rcParams["font.size"] = 23
from hf_contrastive.reporting import plot_training_curves
plot_training_curves([{{"step": 1, "loss": 1.0}}], {str(tmp_path / "c.png")!r})
assert matplotlib.rcParams["font.size"] == 23
assert "matplotlib.pyplot" not in sys.modules and "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_same_input_same_picture(tmp_path, digits):
    _, z, labels = digits
    first, second = (plot_embedding_map(z, labels, tmp_path / name, data="x").path for name in ("a.png", "b.png"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize(
    "image",
    [
        Image.new("L", (5, 4), 255),
        Image.new("RGBA", (5, 4), (255, 255, 255, 10)),
        Image.new("P", (5, 4), 0).convert("P"),
        Image.fromarray(np.full((4, 5), 65535, np.uint16)),
        np.ones((4, 5)),
        np.full((1, 4, 5), 255, np.uint8),
        np.ones((4, 5, 3), np.float32),
        torch.ones(3, 4, 5, dtype=torch.bfloat16),
    ],
)
def test_images_of_every_kind(image):
    shown = to_display(image)
    assert shown.shape == (4, 5, 3)
    black = isinstance(image, Image.Image) and image.mode == "P"
    assert np.allclose(shown, 0.0 if black else 1.0)


def test_odd_images():
    assert to_display(np.array([[-2.0, 2.0]]))[0, :, 0].tolist() == [0.0, 1.0]  # stretched
    with pytest.raises(ValueError, match="an image has 7 channels"):
        to_display(np.zeros((7, 6, 7)))
    with pytest.raises(ValueError, match=r"an image has shape \[3\]"):
        to_display(np.zeros(3))


def test_contrastive_search_token_by_token(tmp_path):
    step = {"most_probable": " dog", "most_probable_confidence": 0.5, "most_probable_penalty": 0.9}
    tokens = [" cat", "\n", "$x_1$", "\ufffd", "a very long token indeed", " dog"]
    steps = [
        {"token": token, "confidence": 0.1 * n, "penalty": 0.9 - 0.1 * n, "rank": n % 2, **step}
        for n, token in enumerate(tokens)
    ]
    picture = plot_contrastive_trace(
        steps, tmp_path / "trace.png", penalty_alpha=0.6, per_line=4, max_tokens=5, data="a model, after $x_{ and $"
    )
    rows = check(picture)
    assert [row["token"] for row in rows] == tokens  # all of them, though five are drawn
    assert float(rows[2]["confidence"]) == pytest.approx(0.2)
    assert "5 tokens; 2 of them are not the most probable" in picture.alt_text
    with pytest.raises(ValueError, match="`steps` is empty"):
        plot_contrastive_trace([], tmp_path / "none.png", penalty_alpha=0.6)
    with pytest.raises(ValueError, match=r"`per_line` \(0\)"):
        plot_contrastive_trace(steps, tmp_path / "none.png", penalty_alpha=0.6, per_line=0)


def test_rewards_are_no_spread_of_embeddings(tmp_path):
    lines = [{"step": step, "reward_margin": 0.1 * step, "test_reward_std": 0.5} for step in (1, 2)]
    picture = plot_training_curves(lines, tmp_path / "curves.png")
    assert set(check(picture)[0]) == {"step", "epoch", "reward_margin", "test_reward_std"}
    assert "Rewards" in picture.alt_text
    assert "Spread" not in picture.alt_text


def test_courses_along_right_and_wrong_answers(tmp_path):
    rewards, q_values = [[0.0, 1.0], [0.0, 0.5, 3.0, 2.0], [0.0, -1.0]], [[0.1, 0.2], [0.1] * 4, [0.3, -0.5]]
    picture = plot_reward_courses(rewards, q_values, [True, True, False], tmp_path / "courses.png", data="a model")
    rows = check(picture)
    assert len(rows) == 2 * 2 * 20  # two panels, two kinds of answers
    ends = {(row["what"], row["answers"]): float(row["mean"]) for row in rows if float(row["share"]) == 1.0}
    assert ends == {
        ("reward", "right"): 1.5,
        ("reward", "wrong"): -1.0,
        ("q_value", "right"): pytest.approx(0.15),
        ("q_value", "wrong"): -0.5,
    }
    half = [
        row for row in rows if row["what"] == "reward" and row["answers"] == "right" and float(row["share"]) == 0.5
    ]
    assert float(half[0]["mean"]) == pytest.approx(0.25)  # of two tokens the first, of four the second
    assert "reward at the end 1.50 for right answers" in picture.alt_text
    with pytest.raises(ValueError, match="there are 3 courses and 2 labels"):
        plot_reward_courses(rewards, None, [True, False], tmp_path / "x.png")
