"""Alembic's environment: `versions` holds one numbered file per schema, `views` the reporting views each one made."""
