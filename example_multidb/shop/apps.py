"""The app of the shop, which has jobs and no tables: `make demo-site` and compose.yaml run it."""

from django.apps import AppConfig


class ShopConfig(AppConfig):
    name = "example_multidb.shop"
    label = "shop"
