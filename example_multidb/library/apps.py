"""The app that stores the counts of each module and package."""

import warnings

from django.apps import AppConfig


class LibraryConfig(AppConfig):
    name = "example_multidb.library"
    label = "library"

    def ready(self) -> None:
        # Python warns of invalid escapes in the files that are parsed; these warnings are of no use here.
        warnings.filterwarnings("ignore", category=SyntaxWarning)
        warnings.filterwarnings("ignore", "invalid .* (escape|literal)", DeprecationWarning)
