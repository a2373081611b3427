"""The app that keeps what was counted in each module and package."""

import warnings

from django.apps import AppConfig


class LibraryConfig(AppConfig):
    name = "example_multidb.library"
    label = "library"

    def ready(self) -> None:
        # Python warns of odd escapes in the source that it parses; it is not ours to mend.
        warnings.filterwarnings("ignore", category=SyntaxWarning)
        warnings.filterwarnings("ignore", "invalid .* (escape|literal)", DeprecationWarning)
