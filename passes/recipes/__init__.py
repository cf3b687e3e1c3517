"""Recipes: ordered lists of configured passes, as YAML that is checked, printed back resolved, and never branches."""

from qcompiler.passes.recipes.catalogue import catalogue
from qcompiler.passes.recipes.recipe import Recipe, load_recipe, recipe_names

__all__ = ["Recipe", "catalogue", "load_recipe", "recipe_names"]
