"""Studies with one objective and with two, pruning, attributes, failures, and values that are no finite numbers."""

import math
import os

import optuna

optuna.logging.disable_propagation()
STORAGE = os.environ["DATABASE_URL"]


def objective(trial):
    x = trial.suggest_float("x", -10, 10)
    n = trial.suggest_int("n", 1, 8)
    kind = trial.suggest_categorical("kind", ["a", "b"])
    trial.set_user_attr("note", kind)
    for step in range(3):
        trial.report(x * n + step, step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return x * n


def two(trial):
    x = trial.suggest_float("x", 0, 1)
    return x, 1 - x


study = optuna.create_study(study_name="one", storage=STORAGE, pruner=optuna.pruners.MedianPruner(n_startup_trials=1))
study.set_user_attr("owner", "ada")
study.set_system_attr("kept", 1)
study.enqueue_trial({"x": 1.0, "n": 2, "kind": "a"})
study.optimize(objective, n_trials=6)
study.optimize(lambda _: math.inf, n_trials=1)
trial = study.ask()
trial.report(math.nan, 0)
study.tell(trial, state=optuna.trial.TrialState.FAIL)
print(study.best_value, len(study.trials), optuna.get_all_study_summaries(STORAGE))

both = optuna.create_study(study_name="two", storage=STORAGE, directions=["minimize", "maximize"])
both.optimize(two, n_trials=4)
print(both.best_trials, optuna.load_study(study_name="two", storage=STORAGE).trials)
optuna.delete_study(study_name="two", storage=STORAGE)
