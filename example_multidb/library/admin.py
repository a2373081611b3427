"""The indexed library in the admin, beside djjp's own pages for the jobs."""

from django.contrib import admin

from example_multidb.library.models import Module, Package


@admin.register(Module)
class ModuleAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # generic in its stubs only
    list_display = ("name", "lines", "classes", "functions", "docstrings", "indexed_at")
    ordering = ("-lines",)
    search_fields = ("name",)


@admin.register(Package)
class PackageAdmin(admin.ModelAdmin):  # type: ignore[type-arg]  # generic in its stubs only
    list_display = ("name", "modules", "lines", "reason", "summarised_at")
    ordering = ("-lines",)
    search_fields = ("name",)
