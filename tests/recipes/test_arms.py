"""The recipe that image systems share: arguments from configurations, equal budgets, and the comparison of all systems."""

from __future__ import annotations

import importlib.util
import json
from types import SimpleNamespace

import pytest
from helpers.recipes import ROOT, run_recipe

from hf_contrastive import get_system
from hf_contrastive.recipes.arms import _equal_budget, objective_arguments
from hf_contrastive.recipes.common import documented
from hf_contrastive.registry import REGISTRY


IMAGE_SYSTEMS = [slug for slug, row in REGISTRY.items() if row.domain == "image"]


@pytest.mark.parametrize("slug", IMAGE_SYSTEMS)
def test_every_own_field_of_a_configuration_is_an_argument_with_help(slug):
    import dataclasses

    config = get_system(slug).config_class()
    group = objective_arguments([get_system(slug)])
    for one in dataclasses.fields(group):
        assert one.default is None
        said = documented(config, one.name)
        assert len(said) > 10, f"{config.__name__}.{one.name} is not in the docstring as `name (type): text`"
        assert one.metadata["help"].startswith(said)


def test_help_of_a_field_is_its_sentence():
    config = get_system("moco").config_class()
    assert documented(config, "encoder_momentum") == "M of the momentum encoder, from 0 to 1 (MoCo, section 4.1)."
    # over several lines
    assert documented(config, "shuffle_batch_norm").endswith("without effect in a single process.")
    assert documented(config, "no_such_field") == ""


@pytest.mark.parametrize(
    ("max_steps", "views", "own", "expected"), [(100, 2, 5, 40), (100, 2, 1, 200), (-1, 2, 4, 15)]
)
def test_every_arm_sees_as_many_views(max_steps, views, own, expected):
    args = SimpleNamespace(
        per_device_train_batch_size=8,
        world_size=1,
        gradient_accumulation_steps=1,
        max_steps=max_steps,
        num_train_epochs=3,
    )
    assert _equal_budget(args, range(80), views, own) == expected


@pytest.fixture
def compare():
    spec = importlib.util.spec_from_file_location("compare", ROOT / "recipes" / "vision_ssl" / "compare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_all_image_systems_are_compared(compare):
    for name in ("digits.yaml", "small.yaml"):
        settings = compare.read_settings(ROOT / "recipes" / "vision_ssl" / name)
        assert set(settings["systems"]) == set(IMAGE_SYSTEMS)


@pytest.mark.recipe
def test_comparison_of_two_systems(compare, tmp_path, capsys):
    page, out = tmp_path / "page.md", tmp_path / "out"
    words = [
        "vision_ssl/compare.py",
        str(ROOT / "recipes" / "vision_ssl" / "digits.yaml"),
        "--systems",
        "simclr",
        "moco",
    ]
    words += ["--name", "a few steps", "--page", str(page), "--out", str(out)]
    extra = [
        "--",
        "--max_steps",
        "4",
        "--linear_probe",
        "false",
        "--max_train_samples",
        "200",
        "--max_test_samples",
        "100",
    ]
    run_recipe(*words, *extra)
    said = capsys.readouterr().out
    assert said.count("python recipes/") == 2
    text = page.read_text()
    for part in ("| raw pixels |", "| untrained encoder |", "| SimCLR |", "| MoCo v2 |", "peak memory MB"):
        assert part in text
    assert text.count("| raw pixels |") == 1
    assert (tmp_path / "comparison-a-few-steps.png").is_file()
    assert json.loads((out / "a-few-steps-moco-0" / "compare.json").read_text())["peak_memory"] > 1e8
    # what is finished is not run again
    run_recipe(*words, *extra)
    assert "python recipes/" not in capsys.readouterr().out.replace("    python recipes/", "")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("views: 3", "has no shared, systems"),
        ("{views: 3, shared: {}, systems: {simclrr: {}}}", "names simclrr; image systems are: simclr"),
    ],
)
def test_a_wrong_file_is_one_line(compare, content, message, tmp_path):
    path = tmp_path / "x.yaml"
    path.write_text(content)
    with pytest.raises(SystemExit, match=message):
        compare.read_settings(path)
