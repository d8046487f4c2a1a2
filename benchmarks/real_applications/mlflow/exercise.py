"""Experiments, runs, datasets, traces and the registry of models, by the public client."""

import os
import tempfile

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag

URL = os.environ["DATABASE_URL"]
mlflow.set_tracking_uri(URL)
mlflow.set_registry_uri(URL)
client = MlflowClient(URL, URL)

experiment = client.create_experiment("one", artifact_location=tempfile.mkdtemp(), tags={"team": "a"})
client.set_experiment_tag(experiment, "stage", "test")
client.rename_experiment(experiment, "first")
run = client.create_run(experiment, tags={"k": "v"}, run_name="r").info.run_id
client.log_param(run, "lr", 0.1)
client.log_metric(run, "loss", 1.5, step=1)
client.log_metric(run, "loss", float("nan"), step=2)
client.log_batch(run, [Metric("acc", 0.5, 1, 1)], [Param("depth", "3")], [RunTag("a", "b")])
client.set_tag(run, "t", "1")
client.delete_tag(run, "t")
client.update_run(run, name="s")
client.set_terminated(run)
print(client.get_run(run), client.get_metric_history(run, "loss"))
print(client.search_runs([experiment], "metrics.loss > 1 and params.lr = '0.1'", order_by=["metrics.acc DESC"]))
print(client.search_experiments(filter_string="name LIKE 'f%'"), client.get_experiment_by_name("first"))

client.create_registered_model("m", tags={"a": "b"}, description="d")
version = client.create_model_version("m", tempfile.mkdtemp(), run, tags={"x": "y"}).version
client.update_model_version("m", version, description="e")
client.set_registered_model_tag("m", "k", "v")
client.set_model_version_tag("m", version, "k", "v")
client.set_registered_model_alias("m", "champion", version)
print(client.get_model_version_by_alias("m", "champion"), client.get_latest_versions("m"))
print(client.search_registered_models("name = 'm'"), client.search_model_versions("name = 'm'"))
client.delete_registered_model_alias("m", "champion")
client.delete_model_version_tag("m", version, "k")
client.rename_registered_model("m", "n")
client.delete_model_version("n", version)
client.delete_registered_model("n")

mlflow.set_experiment("first")
with mlflow.start_span("outer") as span:
    span.set_inputs({"a": 1})
mlflow.flush_trace_async_logging()
print(mlflow.search_traces(locations=[experiment]))
client.delete_run(run)
client.restore_run(run)
client.delete_experiment(experiment)
