"""Settings of a Django project with two databases: the application's, and the queue's.

What is djjp's is marked so; the rest is what any small project with an admin has. It serves this
machine only: `DEBUG` is on and the secret key is no secret.
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
        "CONN_MAX_AGE": 60,  # seconds; without it each job would open a connection anew
        # Jobs on several threads write here: let them wait for one another, not fail.
        "OPTIONS": {
            "transaction_mode": "IMMEDIATE",
            "timeout": 30,
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL",
        },
    },
    # djjp: the queue's own database. DJJP_DATABASE_URL wins where it is set.
    "queue": queue_database(BASE_DIR / "queue.sqlite3"),
}
DATABASE_ROUTERS = ["djjp.routers.QueueRouter"]  # djjp

# djjp: Django's own tasks run there too.
TASKS = {"default": {"BACKEND": "djjp.backend.DjjpBackend"}}

# djjp: parsing keeps the interpreter busy, and threads share it: more would only take turns.
DJJP = {"concurrency_limit": 2}

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

# djjp logs under its own name and configures nothing: here is where its lines go.
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "{asctime} {levelname} {name}: {message}", "style": "{"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {"djjp": {"handlers": ["stderr"], "level": "INFO"}},
}
