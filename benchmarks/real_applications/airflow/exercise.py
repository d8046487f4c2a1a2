"""What an operator does with the command line: variables, pools, connections, a DAG that is parsed, triggered and listed."""

import os
import subprocess
import sys
from pathlib import Path

DAG = """
from datetime import datetime
from airflow.sdk import dag, task

@dag(schedule=None, start_date=datetime(2024, 1, 1), catchup=False, tags=["x"])
def one():
    @task
    def first():
        return 1
    first()

one()
"""
folder = Path("dags")
folder.mkdir(exist_ok=True)
(folder / "one.py").write_text(DAG, encoding="utf-8")
environment = os.environ | {
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": os.environ["DATABASE_URL"],
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__DAGS_FOLDER": str(folder.absolute()),
}
COMMANDS = (
    "variables set a b", "variables get a", "variables list", "variables delete a", "pools set p 3 d", "pools list",
    "pools delete p", "connections add c --conn-type http --conn-host h", "connections list", "connections delete c",
    "dags reserialize", "dags list", "dags unpause one", "dags trigger one", "dags list-runs one", "tasks list one",
    "dags state one 2024-01-01", "jobs check --allow-multiple", "dags delete --yes one",
)  # fmt: skip
for command in COMMANDS:
    done = subprocess.run([sys.executable, "-m", "airflow", *command.split()], env=environment, check=False)
    print(command, done.returncode)
