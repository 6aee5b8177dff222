"""The recipes of the repository: each parses, names options that exist, and fits the shape of its data."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from scorefield.cli import COMMANDS
from scorefield.cli.parser import parse
from scorefield.data import names
from scorefield.networks import UNet
from scorefield.runs.recipe import check_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
SHAPES = {
    **{"digits": (1, 8, 8), "mnist": (1, 28, 28), "fashion-mnist": (1, 28, 28), "cifar10": (3, 32, 32)},
    **{"celeba": (3, 64, 64), "celeba-32": (3, 32, 32)},
}


def test_every_named_set_of_images_has_a_recipe():
    found = {path.stem for path in RECIPES}
    assert found >= {
        "digits",
        *(f"{n}{end}" for n in ("mnist", "fashion-mnist", "cifar10", "celeba") for end in ("", "-gpu")),
    }


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_parses_checks_and_fits_its_data(path):
    """By the very command that its first lines name."""
    content = yaml.safe_load(path.read_text())
    commands = [
        line.removeprefix("#   scorefield train ") for line in path.read_text().splitlines() if "#   sc" in line
    ]
    assert len(commands) == 1 and f"recipes/{path.name}" in commands[0]
    arguments = commands[0].replace(f"recipes/{path.name}", str(path)).split()
    recipe, _ = parse("train", *COMMANDS["train"][1:], arguments)
    check_recipe(recipe)
    assert (
        recipe.data == content["data"] and recipe.data in names() and path.stem.startswith(recipe.data.split("-32")[0])
    )
    assert (recipe.root is None) == (recipe.data == "digits")
    for key, value in content.items():
        assert getattr(recipe, key) == (type(recipe.unet)(**value) if key == "unet" else value)
    UNet(SHAPES[recipe.data], dataclasses.replace(recipe.unet, width=4))  # refused where a side is too short
