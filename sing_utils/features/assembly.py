"""Results that arrive in any order, put together as shards and tables.

>>> from sing_utils.features.batches import plan
>>> first, second = plan(3, shard_rows=4, batch_size=2)
>>> waiting = Waiting([first, second])
>>> waiting.add(BatchResult(second, ["c"], [""], {}))  # its shard is not whole yet
>>> [r.hashes for r in waiting.add(BatchResult(first, ["a", "b"], ["", ""], {}))]
[['a', 'b'], ['c']]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from sing_utils.errors import SingError
from sing_utils.features.batches import Batch, BatchResult
from sing_utils.features.shards import written

_INDEX = ("path", "label", "split", "sha256")
_REJECTS = ("path", "reason")
_ROW_GROUP = 8192  # rows of a table that are in memory at one time


class Waiting:
    """Results of shards that are not whole yet."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.left = Counter(batch.shard for batch in batches)
        self.parts: dict[int, dict[int, BatchResult]] = {}

    def add(self, result: BatchResult) -> list[BatchResult] | None:
        """Keep a result; all of its shard's, in order, if it was the last one.

        A result that came before (of a worker that was thought dead) is left out.

        Raises:
            SingError: if it has not one entry a picture.
        """
        batch = result.batch
        if not len(result.hashes) == len(result.reasons) == len(batch.rows):
            raise SingError(
                f"an engine gave {len(result.hashes)} hashes and {len(result.reasons)} reasons for "
                f"{len(batch.rows)} pictures, expected one of each a picture."
            )
        if batch.shard not in self.left:
            return None
        parts = self.parts.setdefault(batch.shard, {})
        parts.setdefault(batch.number, result)
        if len(parts) < self.left[batch.shard]:
            return None
        del self.left[batch.shard], self.parts[batch.shard]
        return [parts[number] for number in sorted(parts)]

    def require_none_left(self) -> None:
        """Raise a SingError if a shard is not whole."""
        if self.left:
            raise SingError(
                f"an engine ended without all batches of shard {min(self.left)} and {len(self.left) - 1} "
                "others: run again with the same arguments, it resumes."
            )


def write_tables(out: Path, index: pd.DataFrame, hashes: Iterator[str], reasons: Iterator[str]) -> None:
    """index.parquet and rejects.parquet, some rows at a time.

    Args:
        out: folder of the store.
        index: path, label, split of each picture.
        hashes: SHA-256 of each.
        reasons: why it could not be read; "" if it could.

    Raises:
        SingError: if the disk is full.
    """
    with _table(out / "index.parquet", _INDEX) as good, _table(out / "rejects.parquet", _REJECTS) as bad:
        for start in range(0, len(index), _ROW_GROUP):
            rows = index.iloc[start : start + _ROW_GROUP].astype("str")
            rows["sha256"] = list(islice(hashes, len(rows)))
            rows["reason"] = list(islice(reasons, len(rows)))
            good(rows[rows["reason"] == ""])
            bad(rows[rows["reason"] != ""])


@contextmanager
def _table(path: Path, columns: Sequence[str]) -> Iterator[Callable[[pd.DataFrame], None]]:
    """A function that appends rows to a Parquet file, which appears when all are there."""
    schema = pa.schema([(name, pa.large_string()) for name in columns])
    with written(path) as file:
        writer = pq.ParquetWriter(file, schema)

        def append(rows: pd.DataFrame) -> None:
            if len(rows):
                writer.write_table(pa.Table.from_pandas(rows[list(columns)], schema, preserve_index=False))

        try:
            yield append
        except BaseException:
            with suppress(OSError):  # it would like to finish the file, later
                writer.close()
            raise
        writer.close()
