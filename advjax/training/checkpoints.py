"""Checkpoints: the last one to resume from, the best one on the validation split, and every n-th one if asked for."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy as policy

SCORE = "score"


class Checkpoints:
    """The folder `checkpoints/` of a run; checkpoints are numbered by epochs done.

    A checkpoint appears under its name only once it is complete, so a run that is killed while saving resumes from the
    one before. The best checkpoint is the one of the highest score, the later one of equals.
    """

    def __init__(self, directory: pathlib.Path, every: int = 0) -> None:
        """Opens the folder, creating it if need be.

        Args:
            directory: absolute path.
            every: keep every n-th epoch's checkpoint for good; 0 keeps none but the last and the best.
        """
        rules = [
            policy.LatestN(1),
            policy.BestN(n=1, get_metric_fn=lambda metrics: metrics[SCORE], keep_checkpoints_without_metrics=False),
        ]
        if every:
            rules.append(policy.EveryNSteps(every))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=policy.AnyPreservationPolicy(rules),
            best_fn=lambda metrics: metrics[SCORE],
            best_mode="max",
        )
        self._manager = ocp.CheckpointManager(directory.resolve(), options=options)

    @property
    def last(self) -> int | None:
        """Number of the last checkpoint; None if there is none."""
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """Number of the checkpoint with the highest score; None if none was scored."""
        scored = {
            step: metrics[SCORE]
            for step in self._manager.all_steps()
            if (metrics := self._manager.metrics(step)) and SCORE in metrics
        }
        return max(scored, key=lambda step: (scored[step], step)) if scored else None

    def save(self, epoch: int, state: Any, score: float | None = None) -> None:
        """Saves in the background; the arrays are copied before this returns.

        Args:
            epoch: epochs done.
            state: a pytree of arrays.
            score: robust accuracy on the validation split, if there is one.
        """
        metrics = None if score is None else {SCORE: score}
        self._manager.save(epoch, args=ocp.args.StandardSave(state), metrics=metrics)

    def restore(self, epoch: int, like: Any) -> Any:
        """The state of checkpoint `epoch`; `like` is a pytree of arrays or shapes of the same structure."""
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), like)
        return self._manager.restore(epoch, args=ocp.args.StandardRestore(shapes))

    def restore_networks(self, epoch: int) -> dict[str, Any]:
        """`{"params": {name: ...}, "stats": {name: ...}}` of a checkpoint, as NumPy arrays."""
        saved = self._manager.restore(epoch, args=ocp.args.StandardRestore())
        return jax.tree.map(np.asarray, {"params": saved["params"], "stats": saved["stats"]})

    def close(self) -> None:
        """Waits for what is being saved."""
        self._manager.wait_until_finished()
        self._manager.close()
