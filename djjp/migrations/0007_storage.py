from typing import Any

from django.db import migrations

from djjp import claims


def store(apps: Any, schema_editor: Any) -> None:
    for statement, _ in claims.on(schema_editor.connection.alias).storage():
        schema_editor.execute(statement)


def take_back(apps: Any, schema_editor: Any) -> None:
    for _, statement in claims.on(schema_editor.connection.alias).storage():
        schema_editor.execute(statement)


class Migration(migrations.Migration):
    dependencies = [
        ("djjp", "0006_schedules"),
    ]

    operations = [migrations.RunPython(store, take_back)]
