"""To this release's schema: as ``jupyterhub upgrade-db`` does it; an empty database gets it at once."""

import os

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from jupyterhub import dbutil, orm

url = os.environ["DATABASE_URL"]
engine = sa.create_engine(url)
if sa.inspect(engine).get_table_names():
    with dbutil._temp_alembic_ini(url) as ini:
        command.upgrade(Config(ini), "head")
else:
    orm.new_session_factory(url)()
