"""The contract suite of the engine: what each verb promises, stated once for both databases.

The fixture `engine` enrols each database. Tests of one database are marked `sqlite_only` or `postgresql_only`.
"""
