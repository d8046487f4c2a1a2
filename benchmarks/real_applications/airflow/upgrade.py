"""To this release's schema, as ``airflow db migrate`` does it: an empty database gets it from the models."""

import os

os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] = os.environ["DATABASE_URL"]
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"

import sqlalchemy as sa
from airflow.utils import db
from alembic import command

if sa.inspect(sa.create_engine(os.environ["DATABASE_URL"])).get_table_names():
    command.upgrade(db._get_alembic_config(), "heads")
else:
    db.initdb()
