import django.db.models.expressions
import django.db.models.lookups
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("djjp", "0007_storage"),
    ]

    operations = [
        migrations.RemoveIndex(
            model_name="job",
            name="djjp_job_put_off",
        ),
        migrations.RemoveIndex(
            model_name="start",
            name="djjp_start_key",
        ),
        migrations.RenameField(
            model_name="start",
            old_name="at",
            new_name="until",
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                condition=models.Q(
                    ("limit_key__isnull", False),
                    ("attempts", 0),
                    ("state", "scheduled"),
                    django.db.models.lookups.GreaterThan(
                        django.db.models.expressions.CombinedExpression(
                            models.F("traits"), "&", models.Value(512)
                        ),
                        0,
                    ),
                ),
                fields=["limit_key", "run_after"],
                name="djjp_job_put_off",
            ),
        ),
        migrations.AddIndex(
            model_name="start",
            index=models.Index(fields=["key", "until"], name="djjp_start_key"),
        ),
        migrations.AddIndex(
            model_name="start",
            index=models.Index(fields=["until"], name="djjp_start_until"),
        ),
    ]
