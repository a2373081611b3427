"""The rows that the jobs of the test project write into the application's database."""

from django.db import models


class Execution(models.Model):
    """One execution of a job function, written by the function itself."""

    key = models.CharField(max_length=100)
    process = models.IntegerField()
    at = models.FloatField()
