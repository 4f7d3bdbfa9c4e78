"""A training on the workers of a Ray cluster, by Ray Train's TensorflowTrainer.

    pip install ".[ray]"
    python scripts/launch/ray_train.py --num-workers 4 --use-gpu -- --train-dir /shared/run --dataset-dir /shared/data

Behind the two dashes stands what finetune-train takes; paths are absolute, on a file system that all nodes share. Ray
says in TF_CONFIG who trains. A worker that dies ends all, and Ray starts them again, --max-failures times: the run goes
on from its newest checkpoint.
"""

import argparse
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.tensorflow import TensorflowTrainer


def train(config: Mapping[str, Any]) -> None:
    """What each worker does.

    Args:
        config: `words`: those of finetune-train.

    Raises:
        RuntimeError: The training ended with another status than 0; standard error says why.
    """
    from finetune.commands.train import main

    words = list(config["words"])
    folder = argparse.ArgumentParser(allow_abbrev=False)
    folder.add_argument("--train-dir", "--train_dir", type=Path, required=True)
    if (folder.parse_known_args(words)[0].train_dir / "checkpoint").exists():
        words.append("--resume")
    status = main(words)
    if status:
        raise RuntimeError(f"finetune-train ended with status {status}")


def main(argv: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num-workers", type=int, default=2, help="processes that train in step")
    parser.add_argument("--use-gpu", action="store_true", help="give each of them a GPU")
    parser.add_argument("--cpus-per-worker", type=float, default=1, help="of each")
    parser.add_argument("--max-failures", type=int, default=3, help="how often all are started again")
    parser.add_argument("--storage", help="where Ray keeps its own notes; not given: ~/ray_results")
    parser.add_argument("words", nargs="+", metavar="FLAG", help="of finetune-train, behind --")
    given = parser.parse_args(argv)
    trainer = TensorflowTrainer(
        train,
        train_loop_config={"words": given.words},
        scaling_config=ScalingConfig(
            num_workers=given.num_workers,
            use_gpu=given.use_gpu,
            resources_per_worker={"CPU": given.cpus_per_worker, **({"GPU": 1} if given.use_gpu else {})},
        ),
        run_config=RunConfig(storage_path=given.storage, failure_config=FailureConfig(max_failures=given.max_failures)),
    )
    trainer.fit()


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stderr)
    main()
