"""RecBole's side of recsys.py: run by the python of RecBole's environment, and imports nothing of this repository.

Requests and answers are lines of JSON on stdin and stdout. Settings of each model come with the requests.
"""

import importlib
import logging
import os
import platform
import sys
import time
import types

import answering
import numpy as np
import torch


for name, kind in (("float", float), ("int", int), ("bool", bool), ("object", object), ("str", str)):
    if name not in np.__dict__:  # names that numpy has dropped and RecBole 1.2.1 uses
        setattr(np, name, kind)
load = torch.load
# RecBole's checkpoints are pickles of its own making
setattr(torch, "load", lambda *args, **kwargs: load(*args, **{"weights_only": False, **kwargs}))  # noqa: B010
# imported by recbole's quick start, for searches that are not run here
sys.modules.setdefault("ray", types.ModuleType("ray")).__dict__.setdefault("tune", None)

config_class = importlib.import_module("recbole.config").Config
data_module, utils = importlib.import_module("recbole.data"), importlib.import_module("recbole.utils")
logging.disable(logging.WARNING)


class First:
    """The first batches of a loader."""

    def __init__(self, loader, steps):
        self.loader, self.steps, self.shuffle = loader, steps, loader.shuffle

    def __len__(self):
        return self.steps

    def __iter__(self):
        for _, batch in zip(range(self.steps), self.loader):  # noqa: B905, the shorter one ends it
            yield batch


class Server:
    def hello(self):
        versions = (
            f"python {platform.python_version()}, torch {torch.__version__.partition('+')[0]}, numpy {np.__version__}"
        )
        return {"versions": f"{versions}, recbole {importlib.import_module('recbole').__version__}"}

    def prepare(self, model, data, folder, settings):
        given = {
            "data_path": folder,
            "checkpoint_dir": os.path.join(folder, "saved"),
            "benchmark_filename": ["train", "valid", "test"],
            "load_col": {"inter": ["user_id", "item_id"]},
            "metrics": ["Recall", "NDCG", "Precision", "MAP", "MRR", "Hit"],
            "valid_metric": "Recall@20",
            "metric_decimal_place": 12,
            "use_gpu": False,
            "show_progress": False,
            **settings,
        }
        sys.argv = sys.argv[:1]  # RecBole reads settings from there
        self.config = config_class(model=model, dataset=data, config_dict=given)
        utils.init_seed(self.config["seed"], self.config["reproducibility"])
        self.dataset = data_module.create_dataset(self.config)
        self.train, _, test = data_module.data_preparation(self.config, self.dataset)
        self.tests = {None: test}
        self.model = utils.get_model(model)(self.config, self.train._dataset)
        self.trainer = utils.get_trainer(self.config["MODEL_TYPE"], model)(self.config, self.model)
        self.trainer.eval_collector.data_collect(self.train)
        self.drawing = 0.0
        if hasattr(self.model, "graph_construction"):
            self.model.graph_construction = self.timed(self.model.graph_construction)
        return {"users": self.dataset.user_num - 1, "items": self.dataset.item_num - 1, "steps": len(self.train)}

    def timed(self, method):
        def run():
            start = time.perf_counter()
            method()
            self.drawing += time.perf_counter() - start

        return run

    def epoch(self, steps):
        """Seconds of an epoch, of them for what is drawn once an epoch; mean loss."""
        self.drawing = 0.0
        count = len(self.train) if steps is None else min(steps, len(self.train))
        batches = self.train if count == len(self.train) else First(self.train, count)
        start, own = time.perf_counter(), time.process_time()
        loss = self.trainer._train_epoch(batches, 0, show_progress=False)
        seconds, own = time.perf_counter() - start, time.process_time() - own
        return {"seconds": seconds, "cpu": own, "drawing": self.drawing, "loss": loss / count}

    def evaluate(self, block):
        """Full ranking of the test part with RecBole's default block (none), or with so many scores at a time."""
        if block is not None and block not in self.tests:
            self.config["eval_batch_size"] = block
            make = importlib.import_module("recbole.data.utils").get_dataloader(self.config, "test")
            default = self.tests[None]
            self.tests[block] = make(self.config, default._dataset, default._sampler, shuffle=False)
        for name in ("restore_user_e", "restore_item_e"):  # final vectors are part of the work
            if hasattr(self.model, name):
                setattr(self.model, name, None)
        start, own = time.perf_counter(), time.process_time()
        found = self.trainer.evaluate(self.tests[block], load_best_model=False, show_progress=False)
        return {
            "seconds": time.perf_counter() - start,
            "cpu": time.process_time() - own,
            "metrics": {name: float(value) for name, value in found.items()},
        }

    def vectors(self, users, items, path):
        """Final vectors by our numbers, which are RecBole's tokens."""
        with torch.no_grad():
            if hasattr(self.model, "restore_user_e"):
                interaction = importlib.import_module("recbole.data.interaction").Interaction
                self.model.eval()
                self.model.full_sort_predict(interaction({self.dataset.uid_field: torch.tensor([1])}))
                both = self.model.restore_user_e, self.model.restore_item_e
            else:
                both = self.model.user_embedding.weight, self.model.item_embedding.weight
        fields = ((self.dataset.uid_field, users, both[0]), (self.dataset.iid_field, items, both[1]))
        for side, (name, count, rows) in zip(("users", "items"), fields, strict=True):
            numbers = self.dataset.token2id(name, [str(number) for number in range(count)])
            np.save(os.path.join(path, f"{side}.npy"), rows.detach().numpy()[numbers])
        return {}


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]))
    answering.serve(Server)
