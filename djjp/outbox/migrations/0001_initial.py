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
            ],
            options={
                "db_table": "djjp_outbox",
            },
        ),
    ]
