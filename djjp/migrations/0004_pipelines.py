from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("djjp", "0003_relayed"),
    ]

    operations = [
        migrations.CreateModel(
            name="Dependency",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "parent",
                        "child",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("parent", models.UUIDField(editable=False)),
                ("child", models.UUIDField(editable=False)),
                ("place", models.TextField(blank=True)),
            ],
            options={
                "db_table": "djjp_dependency",
                "indexes": [models.Index(fields=["child"], name="djjp_dependency_child")],
            },
        ),
        migrations.AddField(
            model_name="job",
            name="traits",
            field=models.SmallIntegerField(db_default=0, default=0),
        ),
        migrations.AddField(
            model_name="job",
            name="pipeline",
            field=models.UUIDField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="job",
            name="waits_for",
            field=models.IntegerField(db_default=0, default=0),
        ),
        migrations.AddField(
            model_name="job",
            name="received",
            field=models.TextField(blank=True, null=True),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                condition=models.Q(("pipeline__isnull", False)),
                fields=["pipeline"],
                name="djjp_job_pipeline",
            ),
        ),
    ]
