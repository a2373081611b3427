from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("djjp", "0002_liveness"),
    ]

    operations = [
        migrations.CreateModel(
            name="Relayed",
            fields=[
                ("id", models.UUIDField(editable=False, primary_key=True, serialize=False)),
                ("relayed_at", models.DateTimeField()),
            ],
            options={
                "db_table": "djjp_relayed",
            },
        ),
    ]
