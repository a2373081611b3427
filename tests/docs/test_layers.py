"""The layers in the docs are those that the imports are checked against."""

from __future__ import annotations

import re

from tests.docs.markdown import blocks, table
from tests.support.imports import LAYER, LAYERS, PLANNED, between_packages, import_graph

#: The packages of each layer, except packages that do not exist yet.
EXISTING = {
    layer: [package for package in packages if package not in PLANNED]
    for layer, packages in LAYERS.items()
}


def test_the_table_shows_the_layers_as_the_imports_are_checked() -> None:
    shown = {
        layer: re.findall(r"`([a-z_]+)/?`", packages)
        for layer, packages, _ in table("docs/internals.md", "Layer")
    }

    assert shown == EXISTING
    assert list(shown) == list(reversed(EXISTING)), "the highest layer comes first"


def picture() -> str:
    (block,) = [block for block in blocks("docs/internals.md") if block.language == "mermaid"]
    return block.text


def test_the_picture_shows_each_layer_above_the_foundation_with_its_packages() -> None:
    layers = re.findall(r"subgraph (\w+)\n(.*?)\n    end", picture(), re.DOTALL)

    assert {layer: packages.split() for layer, packages in layers} == {
        layer: packages for layer, packages in EXISTING.items() if layer != "foundation"
    }


def test_the_picture_shows_each_import_but_those_that_its_text_excepts() -> None:
    excepted = {*LAYERS["foundation"]}
    expected = {
        (package, other)
        for package, others in between_packages(import_graph()).items()
        if package in LAYER and LAYER[package] != "foundation"
        for other in others - excepted
        if LAYER[other] != "storage" or LAYER[package] == "storage"
    }

    assert set(re.findall(r"(\w+) --> (\w+)", picture())) == expected
