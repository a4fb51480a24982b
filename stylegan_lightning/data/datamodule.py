"""Batches for training, following the schedule without ever rebuilding a loader."""

from __future__ import annotations

import lightning as L
import numpy as np
from torch.utils.data import DataLoader

from stylegan_lightning.data.base import PreparedDataset
from stylegan_lightning.data.labels import label_groups
from stylegan_lightning.data.sampler import Batch, BatchDataset, StageBatchSampler
from stylegan_lightning.data.streamed import NO_BALANCE, StreamedDataset
from stylegan_lightning.errors import UserError
from stylegan_lightning.schedule import Schedule


def _as_is(batch: Batch) -> Batch:
    return batch


class StageDataModule(L.LightningDataModule):
    """One pass over the loader is one tick. The position in the data is the training module's `nimg`.

    balance: show equal labels equally often, as reals and to the generator. Raises UserError for data without
    labels or with float vectors, and for streamed data.
    """

    def __init__(
        self, dataset: PreparedDataset, schedule: Schedule, seed: int, num_workers: int = 0, balance: bool = False
    ) -> None:
        super().__init__()
        if balance and isinstance(dataset, StreamedDataset):
            raise UserError(NO_BALANCE)
        self.dataset, self.schedule, self.seed, self.num_workers = dataset, schedule, seed, num_workers
        self.groups = np.resize(label_groups(dataset), len(dataset)) if balance else None  # mirrored items follow

    def train_dataloader(self) -> DataLoader[Batch]:
        trainer = self.trainer
        assert trainer is not None
        sampler = StageBatchSampler(
            len(self.dataset),
            self.schedule,
            self.seed,
            position=lambda: int(trainer.lightning_module.nimg),  # type: ignore[arg-type]
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            groups=self.groups,
            order=self.dataset.order(self.seed) if isinstance(self.dataset, StreamedDataset) else None,
        )
        return DataLoader(
            BatchDataset(self.dataset),
            batch_sampler=sampler,  # type: ignore[arg-type]
            collate_fn=_as_is,  # type: ignore[arg-type]
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=trainer.strategy.root_device.type == "cuda",
        )
