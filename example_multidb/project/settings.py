"""Settings of a Django project with two databases: the application's, and the queue's.

Lines for djjp are marked `djjp`; the rest is the same in any small project with an admin. The settings are for
local use only: `DEBUG` is on and the secret key is public.
"""

from pathlib import Path

from djjp.databases import queue_database

BASE_DIR = Path(__file__).resolve().parent.parent

DEBUG = True
SECRET_KEY = "a demo has nothing to hide"  # noqa: S105  (see above)
ROOT_URLCONF = "example_multidb.project.urls"
STATIC_URL = "static/"
TIME_ZONE = "UTC"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "djjp",  # djjp
    "example_multidb.library",
]

DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": BASE_DIR / "db.sqlite3",
        "CONN_MAX_AGE": 60,  # seconds; without it each job would open a new connection
        # Jobs on several threads write here, so they must wait for each other instead of failing.
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 30,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
        },
    },
    # djjp: the queue's own database. DJJP_DATABASE_URL takes precedence.
    "queue": queue_database(BASE_DIR / "queue.sqlite3"),
}
DATABASE_ROUTERS = ["djjp.routers.QueueRouter"]  # djjp

# djjp: Django's own tasks run on the queue too.
TASKS = {"default": {"BACKEND": "djjp.backend.DjjpBackend"}}

# djjp: parsing keeps the interpreter busy, so more threads would not be faster. The dashboard marks new releases.
DJJP = {"concurrency_limit": 2, "release": "2026.11.2"}

MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]

# djjp configures no logging; this sends its lines to stderr.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {
        "djjp": {"handlers": ["stderr"], "level": "INFO"},
        "djjp.consumer.jobs": {"level": "WARNING"},  # without it: a line for each job
    },
}
