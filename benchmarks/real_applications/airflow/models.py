"""All models of a release: Airflow imports them when they are needed."""

from airflow.models import import_all_models
from airflow.models.base import Base


def base():
    """The declarative base, when all of them are imported."""
    import_all_models()
    return Base
