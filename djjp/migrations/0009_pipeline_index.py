from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("djjp", "0008_rates"),
    ]

    operations = [
        migrations.RemoveIndex(
            model_name="job",
            name="djjp_job_pipeline",
        ),
        migrations.AddIndex(
            model_name="job",
            index=models.Index(
                condition=models.Q(("pipeline__isnull", False)),
                fields=["pipeline", "id"],
                name="djjp_job_pipeline",
            ),
        ),
    ]
