"""To this release's schema: as ``mlflow db upgrade`` does it, and as a server does it with an empty database."""

import os

import sqlalchemy as sa
from mlflow.store.db import utils

engine = sa.create_engine(os.environ["DATABASE_URL"])
if sa.inspect(engine).get_table_names():
    utils._upgrade_db(engine)
else:
    utils._initialize_tables(engine)
