from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="OutboxJob",
            fields=[
                ("id", models.UUIDField(editable=False, primary_key=True, serialize=False)),
                ("job", models.TextField()),
                ("created_at", models.DateTimeField()),
                ("cancelled", models.BooleanField(db_default=False, default=False)),
                ("problem", models.TextField(blank=True, null=True)),
            ],
            options={
                "verbose_name": "job of the outbox",
                "verbose_name_plural": "jobs of the outbox",
                "db_table": "djjp_outbox",
                "default_permissions": (),
            },
        ),
    ]
