from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("djjp", "0005_limits"),
    ]

    operations = [
        migrations.CreateModel(
            name="Schedule",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.CharField(max_length=200)),
                ("job", models.CharField(max_length=200)),
                (
                    "source",
                    models.CharField(
                        choices=[("code", "Code"), ("admin", "Admin")],
                        default="admin",
                        max_length=5,
                    ),
                ),
                ("cron", models.CharField(blank=True, max_length=200)),
                ("tz", models.CharField(blank=True, max_length=64, verbose_name="time zone")),
                ("every", models.DurationField(blank=True, null=True)),
                ("arguments", models.TextField()),
                (
                    "catch_up",
                    models.CharField(
                        choices=[("none", "None"), ("once", "Once"), ("all", "All")],
                        default="once",
                        max_length=4,
                    ),
                ),
                ("enabled", models.BooleanField(default=True)),
                ("settled", models.FloatField()),
                ("last_slot", models.FloatField(blank=True, null=True)),
                ("last_job", models.UUIDField(blank=True, null=True)),
            ],
            options={
                "db_table": "djjp_schedule",
                "constraints": [
                    models.UniqueConstraint(fields=("source", "name"), name="djjp_schedule_name")
                ],
            },
        ),
        migrations.CreateModel(
            name="Slot",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "schedule",
                        "slot",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("schedule", models.BigIntegerField()),
                ("slot", models.FloatField()),
            ],
            options={"db_table": "djjp_slot"},
        ),
    ]
