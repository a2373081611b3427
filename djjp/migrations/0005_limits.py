from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("djjp", "0004_pipelines"),
    ]

    operations = [
        migrations.CreateModel(
            name="Queue",
            fields=[
                ("name", models.CharField(max_length=100, primary_key=True, serialize=False)),
                ("paused_at", models.DateTimeField()),
                ("paused_until", models.DateTimeField(blank=True, null=True)),
            ],
            options={
                "db_table": "djjp_queue",
            },
        ),
        migrations.CreateModel(
            name="Start",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("key", models.CharField(max_length=200)),
                ("at", models.FloatField()),
            ],
            options={
                "db_table": "djjp_start",
            },
        ),
        migrations.AddField(
            model_name="job",
            name="expires_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="job",
            name="limit_key",
            field=models.CharField(blank=True, max_length=200, null=True),
        ),
        migrations.AddField(
            model_name="job",
            name="limit_most",
            field=models.PositiveIntegerField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="job",
            name="limit_per",
            field=models.FloatField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="job",
            name="unique_key",
            field=models.CharField(blank=True, max_length=200, null=True),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                condition=models.Q(
                    ("limit_key__isnull", False),
                    ("waits_for", 0),
                    models.Q(
                        ("state", "blocked"),
                        ("state", "ready"),
                        ("state", "running"),
                        _connector="OR",
                    ),
                ),
                fields=["state", "limit_key", "queue", "-priority", "id"],
                name="djjp_job_limit",
            ),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                condition=models.Q(("limit_key__isnull", False), ("state", "scheduled")),
                fields=["limit_key", "run_after"],
                name="djjp_job_put_off",
            ),
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                condition=models.Q(
                    ("expires_at__isnull", False), ("state__in", ["scheduled", "blocked", "ready"])
                ),
                fields=["expires_at"],
                name="djjp_job_expires",
            ),
        ),
        migrations.AddConstraint(
            model_name="job",
            constraint=models.UniqueConstraint(
                condition=models.Q(
                    ("unique_key__isnull", False),
                    ("state__in", ["scheduled", "blocked", "ready", "running"]),
                ),
                fields=("unique_key",),
                name="djjp_job_unique_key",
            ),
        ),
        migrations.AddIndex(
            model_name="start",
            index=models.Index(fields=["key", "at"], name="djjp_start_key"),
        ),
    ]
